//! Values that must not be seen: tokens, and connection strings with credentials.

use std::fmt;
use std::path::PathBuf;

use mongodb::error::ErrorKind;
use mongodb::options::{ConnectionString, HostInfo, ServerAddress, Tls};
use proxy::UpstreamTlsFiles;

/// A text that Debug and Display never show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Hides a text.
    pub(crate) fn new(text: String) -> Secret {
        Secret(text)
    }

    /// The text itself, for the one place that needs it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// A connection string that the driver understands. Shown with user, password and secret options masked.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Uri {
    text: Secret,
    hosts: Vec<(String, u16)>,
    is_direct: bool,
    sockets: Vec<PathBuf>,
    tls: Option<UpstreamTlsFiles>,
}

impl Uri {
    /// Checks a connection string without asking the network.
    ///
    /// # Errors
    /// A reason that repeats nothing of the text: a slip of the pen puts passwords in odd places.
    pub(super) fn parse(text: &str) -> Result<Uri, String> {
        if text.to_ascii_lowercase().contains("tlsallowinvalidhostnames=true") {
            return Err(NO_SUCH_CHECK.to_owned());
        }
        let parsed = ConnectionString::parse(text).map_err(|error| reason(&error))?;
        let is_direct = parsed.direct_connection == Some(true);
        let tls = parsed.tls.and_then(forwarded);
        let (mut hosts, mut sockets) = (Vec::new(), Vec::new());
        if let HostInfo::HostIdentifiers(addresses) = parsed.host_info {
            for address in addresses {
                match address {
                    ServerAddress::Tcp { host, port } => {
                        hosts.push((host.to_lowercase(), port.unwrap_or(PORT_DEFAULT)))
                    }
                    ServerAddress::Unix { path } => sockets.push(path),
                    _ => {}
                }
            }
        }
        Ok(Uri { text: Secret::new(text.to_owned()), hosts, is_direct, sockets, tls })
    }

    /// The connection string with its credentials, for the driver.
    pub(crate) fn expose(&self) -> &str {
        self.text.expose()
    }

    /// Host (lower case) and port of each server that is named; none for `mongodb+srv://`.
    pub(crate) fn hosts(&self) -> &[(String, u16)] {
        &self.hosts
    }

    /// Whether it asks for a connection to one server, whatever set that belongs to.
    pub(super) fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// The path of each server that is named by its Unix socket.
    pub(crate) fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    /// TLS as clients' connections to this server need it; `None`: plain.
    ///
    /// dualsync's own certificate is not among it: every client could log in as its user (MONGODB-X509).
    pub(crate) fn tls(&self) -> Option<&UpstreamTlsFiles> {
        self.tls.as_ref()
    }

    /// Whether it carries a user, a password, or an option that is one.
    pub(super) fn has_secrets(&self) -> bool {
        mask(self.expose()) != self.expose()
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask(self.expose()))
    }
}

/// A connection string as it may be shown; one that the driver refuses is not shown at all.
pub(super) fn shown(text: &str) -> String {
    match Uri::parse(text) {
        Ok(uri) => uri.to_string(),
        Err(_) => MASK.to_owned(),
    }
}

fn mask(valid: &str) -> String {
    let Some((scheme, rest)) = valid.split_once("://") else { return MASK.to_owned() };
    let (place, options) = match rest.split_once('?') {
        Some((place, options)) => (place, Some(options)),
        None => (rest, None),
    };
    let place = match place.rsplit_once('@') {
        Some((_credentials, place)) => format!("{MASK}:{MASK}@{place}"),
        None => place.to_owned(),
    };
    match options {
        Some(options) => format!("{scheme}://{place}?{}", mask_options(options)),
        None => format!("{scheme}://{place}"),
    }
}

fn mask_options(options: &str) -> String {
    // An '@' behind the '?' is most likely the end of a password with a '?' in it.
    if options.contains('@') {
        return MASK.to_owned();
    }
    let masked = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_secret_option(name) => format!("{name}={MASK}"),
        _ => pair.to_owned(),
    };
    options.split('&').map(masked).collect::<Vec<_>>().join("&")
}

fn is_secret_option(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "properties", "token", "secret", "username"].iter().any(|part| name.contains(part))
}

fn forwarded(tls: Tls) -> Option<UpstreamTlsFiles> {
    let Tls::Enabled(tls) = tls else { return None };
    Some(UpstreamTlsFiles {
        ca_file: tls.ca_file_path,
        cert_key_file: None,
        allow_invalid_certificates: tls.allow_invalid_certificates.unwrap_or(false),
    })
}

/// The driver's reason, if it is one of those that quote nothing of the text.
fn reason(error: &mongodb::error::Error) -> String {
    match &*error.kind {
        ErrorKind::InvalidArgument { message, .. }
            if QUOTES_NOTHING.iter().any(|it| message.starts_with(it)) =>
        {
            message.clone()
        }
        _ => "check host, port and options; encode special characters of user and password with %".to_owned(),
    }
}

const QUOTES_NOTHING: &[&str] = &[
    "connection string `",
    "connection string contains no scheme",
    "username must",
    "username cannot",
    "password must",
    "password cannot",
    "a port cannot be specified",
    "exactly one host",
    "repeated options",
    "cannot specify multiple seeds",
    "empty authSource",
];
const NO_SUCH_CHECK: &str = "tlsAllowInvalidHostnames is not available: name the host as its certificate does, or check \
                             nothing at all with tlsAllowInvalidCertificates=true";
const MASK: &str = "***";
const PORT_DEFAULT: u16 = 27017;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let secret = Secret::new("hunter2".into());
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn connection_strings_are_masked() {
        for (given, expected) in [
            ("mongodb://localhost", "mongodb://localhost"),
            ("mongodb://a:1,b:2/shop?replicaSet=rs", "mongodb://a:1,b:2/shop?replicaSet=rs"),
            ("mongodb://u:p@h:1/shop", "mongodb://***:***@h:1/shop"),
            ("mongodb+srv://u:p%40@h.example/?w=majority", "mongodb+srv://***:***@h.example/?w=majority"),
            ("mongodb+srv://u@h.example", "mongodb+srv://***:***@h.example"),
            (
                "mongodb://u:p@h/?tls=true&authMechanismProperties=X:pw&appName=a",
                "mongodb://***:***@h/?tls=true&authMechanismProperties=***&appName=a",
            ),
            ("mongodb://u:27?appName=x@host/", "mongodb://u:27?***"),
        ] {
            let uri = Uri::parse(given).unwrap();
            assert_eq!((uri.to_string(), format!("{uri:?}")), (expected.into(), expected.into()));
            assert_eq!(uri.expose(), given);
        }
    }

    #[test]
    fn a_refused_connection_string_is_not_repeated() {
        for given in [
            "hunter2",
            "mongodb://user:hunter2",
            "mongodb://user:hunter2@",
            "mongodb://user:hunt?er2@host/",
            "mongodb://user:hunter2/x@host",
            "mongodb://user:hunter2@@host",
            "hunter2://host",
            "mongodb://host/?hunter2",
            "mongodb://host/?hunter2=x",
            "mongodb+srv://user:hunter2@a,b",
            "mongodb://user:hunter2@host:99999",
        ] {
            let reason = Uri::parse(given).unwrap_err();
            assert!(!reason.contains("hunt"), "{given}: {reason}");
            assert_eq!(shown(given), "***");
        }
    }

    #[test]
    fn hosts_are_told_apart() {
        let hosts = |text| Uri::parse(text).unwrap().hosts().to_vec();
        assert_eq!(hosts("mongodb://A,b:2"), [("a".into(), 27017), ("b".into(), 2)]);
        assert_eq!(hosts("mongodb+srv://a.example.com"), []);
        let socket = Uri::parse("mongodb://u:p@%2Ftmp%2Fmongodb-27017.sock/?authSource=admin").unwrap();
        assert_eq!((socket.hosts(), socket.sockets()), (&[][..], &["/tmp/mongodb-27017.sock".into()][..]));
    }

    #[test]
    fn our_own_certificate_is_not_shown_for_clients() {
        let tls = |text: &str| Uri::parse(text).unwrap().tls().cloned();
        assert_eq!(tls("mongodb://a"), None);
        let files = UpstreamTlsFiles {
            ca_file: Some("ca.pem".into()),
            cert_key_file: None,
            allow_invalid_certificates: false,
        };
        let options = "tls=true&tlsCAFile=ca.pem&tlsCertificateKeyFile=me.pem";
        assert_eq!(tls(&format!("mongodb://a/?{options}")), Some(files.clone()));
        assert_eq!(tls(&format!("mongodb://a/?{options}&authMechanism=MONGODB-X509")), Some(files));
    }
}
