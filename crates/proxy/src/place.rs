//! Where somebody listens: a host and a port, or a Unix socket.

use std::{fmt, path::PathBuf};

/// `host:port`, or the path of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// `host:port`; a host with colons in brackets.
    Tcp(String),
    /// The socket's file.
    Unix(PathBuf),
}

/// `unix:/path`, or a path that begins with a slash, is a Unix socket; all else is taken as `host:port`.
impl From<&str> for Place {
    fn from(text: &str) -> Place {
        match text.strip_prefix("unix:") {
            Some(path) => Place::Unix(path.into()),
            None if text.starts_with('/') => Place::Unix(text.into()),
            None => Place::Tcp(text.to_owned()),
        }
    }
}

impl From<String> for Place {
    fn from(text: String) -> Place {
        Place::from(text.as_str())
    }
}

/// As it is read; a socket's path without the prefix, as drivers name it in hello replies.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp(address) => f.write_str(address),
            Place::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_ports_are_told_apart() {
        for (text, expected) in [
            ("127.0.0.1:27018", Place::Tcp("127.0.0.1:27018".to_owned())),
            ("[::1]:27018", Place::Tcp("[::1]:27018".to_owned())),
            ("/run/mongo.sock", Place::Unix("/run/mongo.sock".into())),
            ("unix:/run/mongo.sock", Place::Unix("/run/mongo.sock".into())),
        ] {
            assert_eq!(Place::from(text), expected);
        }
        assert_eq!(Place::from("unix:/run/mongo.sock").to_string(), "/run/mongo.sock");
    }
}
