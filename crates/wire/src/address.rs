//! Addresses of members, compared as drivers do.

use std::fmt;
use std::net::IpAddr;

/// A host and a port. Equal without regard to case, to how an IPv6 address is written, and to whether the default port
/// is (`wire-facts.md` 2.3: drivers put addresses into lower case before they compare them).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Reads `host`, `host:port`, `[ipv6]`, `[ipv6]:port` or a bare IPv6 address; `None` for anything else.
    pub fn parse(text: &str) -> Option<Address> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']')?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        } else if text.matches(':').count() > 1 {
            (text, None)
        } else {
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        };
        let port = match port {
            None => PORT_DEFAULT,
            // The number alone: no sign, no blanks.
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().ok().filter(|port| *port > 0)?
            }
            Some(_) => return None,
        };
        let ip = host.parse::<IpAddr>();
        let is_name = !host.is_empty() && !host.contains([':', '[', ']', '/', '@', ',', ' ', '\0']);
        let host = ip.map_or_else(|_| is_name.then(|| host.to_lowercase()), |ip| Some(ip.to_string()))?;
        Some(Address { host, port })
    }

    /// The host in lower case; an IPv6 address without brackets, in its shortest form.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// As one would dial it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

const PORT_DEFAULT: u16 = 27017;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_one_address_are_equal() {
        for (forms, shown) in [
            (&["db1", "DB1:27017", "db1:27017", "Db1:027017"][..], "db1:27017"),
            (&["127.0.0.1:1", "127.0.0.1:01"], "127.0.0.1:1"),
            (&["::1", "[::1]", "[0:0::0001]:27017", "[::1]:27017"], "[::1]:27017"),
            (&["[2001:DB8::A]:5"], "[2001:db8::a]:5"),
        ] {
            for form in forms {
                let address = Address::parse(form).unwrap_or_else(|| panic!("{form} is one"));
                assert_eq!(address.to_string(), shown, "{form}");
                assert_eq!(Some(address), Address::parse(shown));
            }
        }
        assert_ne!(Address::parse("a:1"), Address::parse("a:2"));
        assert_ne!(Address::parse("a"), Address::parse("b"));
    }

    #[test]
    fn what_is_no_address() {
        for text in [
            "", ":1", "a:", "a:0", "a:65536", "a:x", "a:+1", "[::1", "[::1]1", "[]:1", "a:b:c", "a b", "a,b",
            "u@a",
        ] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }
}
