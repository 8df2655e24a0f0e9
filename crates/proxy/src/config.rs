//! What a listener needs to know.

use std::time::Duration;

use synclog::Durability;
use wire::Address;

use crate::members::Member;

/// Settings of one listener.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect: `host:port`; port 0 takes a free one.
    pub listen: String,
    /// The local mongod: `host:port`. Resolved for each connection.
    pub upstream: String,
    /// The address that hello replies name; `None`: the one that the client dialled.
    pub advertise: Option<String>,
    /// The member that `upstream` is, as its replica set names it, where that matters: other listeners lead to other
    /// members.
    pub member: Option<Address>,
    /// The members that other listeners lead to.
    pub others: Vec<Member>,
    /// Connections at once; one more is closed at once, as mongod does. Each costs two sockets, and memory in the
    /// low tens of KiB while idle.
    pub connections_max: usize,
    /// Bytes of captured requests and their replies that are held to be looked at, over all sessions. A frame that
    /// finds no room passes unscanned: what it wrote to is missed, and compared later.
    pub held_bytes_max: usize,
    /// How long a captured request may take to arrive before it gives up its room among the held bytes to others that
    /// wait for some, and passes unscanned.
    pub held_patience: Duration,
    /// Who waits for the disk before a captured write's reply leaves.
    pub durability: Durability,
    /// How long a connection to mongod may take.
    pub connect_timeout: Duration,
    /// How long sessions may take to come to an end on shutdown.
    pub drain_timeout: Duration,
}

impl Config {
    /// The defaults: 127.0.0.1:27018 before 127.0.0.1:27017.
    pub fn new() -> Config {
        Config {
            listen: "127.0.0.1:27018".to_owned(),
            upstream: "127.0.0.1:27017".to_owned(),
            advertise: None,
            member: None,
            others: Vec::new(),
            connections_max: 10_000,
            // Five frames of the largest size, or 16,000 inserts of 16 KiB in flight.
            held_bytes_max: 256 * 1024 * 1024,
            // A frame of the largest size at 40 Mbit/s.
            held_patience: Duration::from_secs(10),
            durability: Durability::Journal,
            connect_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config::new()
    }
}
