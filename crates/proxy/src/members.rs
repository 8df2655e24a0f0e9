//! Which address of ours stands for which member of a replica set.
//!
//! - a listener leads to one member for good: drivers order what they hear by who says it (`wire-facts.md` 2.3)
//! - a client is told addresses that it can dial: the advertised one, else the listener's own; where that is every
//!   address of this host, the one that this client has dialled, with the listener's port
//! - over TLS that address is the host that the client has asked for (SNI): the name that it found in our certificate
//!
//! Not here: the rewriting (`wire::hello`).

use std::net::SocketAddr;

use wire::{Address, hello::Names};

use crate::config::Config;

/// A member of the replica set that has a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// As the set's configuration names it.
    pub address: Address,
    /// Where its listener listens; not port 0.
    pub listen: SocketAddr,
    /// What clients are told to dial instead.
    pub advertise: Option<String>,
}

impl Member {
    fn name(&self, dialled: &Dialled<'_>) -> String {
        let ip = self.listen.ip();
        let here = dialled.address.map(|it| it.ip()).filter(|here| ip.is_unspecified() || ip == *here);
        let address = SocketAddr::new(here.unwrap_or(ip), self.listen.port());
        let own = || match here {
            Some(_) => dialled.name(address),
            None => address.to_string(),
        };
        self.advertise.clone().unwrap_or_else(own)
    }
}

/// Where a client has found us.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dialled<'a> {
    /// `None`: our Unix socket.
    pub(crate) address: Option<SocketAddr>,
    /// By this name, as far as it is known.
    pub(crate) host: Option<&'a str>,
}

impl Dialled<'_> {
    /// Our address as the client knows it.
    fn name(&self, address: SocketAddr) -> String {
        self.host.map_or_else(|| address.to_string(), |host| format!("{host}:{}", address.port()))
    }
}

/// What hello replies name for such a client.
pub(crate) fn names(config: &Config, dialled: &Dialled<'_>) -> Names {
    let own = || dialled.address.map_or_else(|| config.listen.to_string(), |address| dialled.name(address));
    Names {
        here: config.advertise.clone().unwrap_or_else(own),
        others: config.others.iter().map(|other| (other.address.clone(), other.name(dialled))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_what_it_can_dial() {
        let over =
            |host: Option<&str>, listen: &str, advertise: Option<&str>, dialled: &str, expected: &str| {
                let address = Address::parse("db2:27017").unwrap();
                let other = Member {
                    address: address.clone(),
                    listen: listen.parse().unwrap(),
                    advertise: advertise.map(str::to_owned),
                };
                let config = Config { others: vec![other], ..Config::new() };
                let dialled = Dialled { address: Some(dialled.parse().unwrap()), host };
                let names = names(&config, &dialled);
                assert_eq!(names.here, dialled.name(dialled.address.unwrap()));
                assert_eq!(names.others, [(address, expected.to_owned())]);
            };
        let check = |listen: &str, advertise: Option<&str>, dialled: &str, expected: &str| {
            over(None, listen, advertise, dialled, expected);
        };
        check("127.0.0.1:5", None, "127.0.0.1:4", "127.0.0.1:5");
        check("0.0.0.0:5", None, "10.1.2.3:4", "10.1.2.3:5");
        check("[::]:5", None, "[2001:db8::1]:4", "[2001:db8::1]:5");
        check("[::]:5", None, "10.1.2.3:4", "10.1.2.3:5");
        check("0.0.0.0:5", Some("db.example:9"), "10.1.2.3:4", "db.example:9");
        over(Some("p.example"), "0.0.0.0:5", None, "10.1.2.3:4", "p.example:5");
        over(Some("p.example"), "10.1.2.3:5", None, "10.1.2.3:4", "p.example:5");
        over(Some("p.example"), "10.1.2.9:5", None, "10.1.2.3:4", "10.1.2.9:5");
        over(Some("p.example"), "0.0.0.0:5", Some("db.example:9"), "10.1.2.3:4", "db.example:9");
    }
}
