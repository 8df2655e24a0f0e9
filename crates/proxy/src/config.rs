//! What a listener needs to know.

use std::{sync::Arc, time::Duration};

use synclog::Durability;
use wire::Address;

use crate::{members::Member, place::Place, tls::ServerTls, upstream::Upstream};

/// Settings of one listener.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect; port 0 takes a free one.
    pub listen: Place,
    /// Who may connect to a Unix socket: its file's mode.
    pub unix_mode: u32,
    /// TLS towards clients, over TCP; `None`: plain.
    pub tls: Option<Arc<ServerTls>>,
    /// The local mongod.
    pub upstream: Upstream,
    /// Whether clients are served only while mongod takes no commands without authentication.
    pub guarded: bool,
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
    /// How long a client may take for its TLS handshake and its first request.
    pub handshake_timeout: Duration,
    /// How long a client may take to go on with a frame that it has begun; zero: any time.
    pub frame_timeout: Duration,
    /// How long a client may be silent while nothing is owed to it; zero: any time, as with mongod.
    pub idle_timeout: Duration,
    /// How long sessions may take to come to an end on shutdown.
    pub drain_timeout: Duration,
}

impl Config {
    /// The defaults: 127.0.0.1:27018 before 127.0.0.1:27017.
    pub fn new() -> Config {
        Config {
            listen: "127.0.0.1:27018".into(),
            unix_mode: 0o700,
            tls: None,
            upstream: Upstream::plain("127.0.0.1:27017"),
            guarded: false,
            advertise: None,
            member: None,
            others: Vec::new(),
            connections_max: 10_000,
            // Five frames of the largest size, or 16,000 inserts of 16 KiB in flight.
            held_bytes_max: 256 * 1024 * 1024,
            // A frame of the largest size at 40 Mbit/s.
            held_patience: Duration::from_secs(10),
            durability: Durability::Journal,
            handshake_timeout: Duration::from_secs(10),
            frame_timeout: Duration::from_secs(60),
            idle_timeout: Duration::ZERO,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config::new()
    }
}
