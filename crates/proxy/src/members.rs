//! Which address of ours stands for which member of a replica set.
//!
//! - a listener leads to one member for good: drivers order what they hear by who says it (`wire-facts.md` 2.3)
//! - a client is told addresses that it can dial: the advertised one, else the listener's own; where that is every
//!   address of this host, the one that this client has dialled, with the listener's port
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
    fn name(&self, dialled: Option<SocketAddr>) -> String {
        let ip = dialled.map(|it| it.ip()).filter(|_| self.listen.ip().is_unspecified());
        let ip = ip.unwrap_or(self.listen.ip());
        let own = || SocketAddr::new(ip, self.listen.port()).to_string();
        self.advertise.clone().unwrap_or_else(own)
    }
}

/// What hello replies name for a client that has dialled this address; `None`: our Unix socket.
pub(crate) fn names(config: &Config, dialled: Option<SocketAddr>) -> Names {
    let own = || dialled.map_or_else(|| config.listen.to_string(), |address| address.to_string());
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
        let check = |listen: &str, advertise: Option<&str>, dialled: &str, expected: &str| {
            let address = Address::parse("db2:27017").unwrap();
            let other = Member {
                address: address.clone(),
                listen: listen.parse().unwrap(),
                advertise: advertise.map(str::to_owned),
            };
            let config = Config { others: vec![other], ..Config::new() };
            let names = names(&config, Some(dialled.parse().unwrap()));
            assert_eq!(names.here, dialled);
            assert_eq!(names.others, [(address, expected.to_owned())]);
        };
        check("127.0.0.1:5", None, "127.0.0.1:4", "127.0.0.1:5");
        check("0.0.0.0:5", None, "10.1.2.3:4", "10.1.2.3:5");
        check("[::]:5", None, "[2001:db8::1]:4", "[2001:db8::1]:5");
        check("[::]:5", None, "10.1.2.3:4", "10.1.2.3:5");
        check("0.0.0.0:5", Some("db.example:9"), "10.1.2.3:4", "db.example:9");
    }
}
