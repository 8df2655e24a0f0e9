//! What the admin port is told at the start: where to listen, who may ask, how much of everything.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use subtle::ConstantTimeEq as _;

/// Settings of the admin port.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address and port; port 0 takes a free one ([`crate::Admin::local_addr`] tells which).
    pub listen: SocketAddr,
    /// The token that may do everything.
    pub token: Option<Token>,
    /// A token that may only read.
    pub read_token: Option<Token>,
    /// Bounds of every connection and request.
    pub limits: Limits,
}

impl Config {
    /// A port without tokens, with the default limits.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Config {
        Config { listen, token: None, read_token: None, limits: Limits::default() }
    }

    /// Whether only this host can reach the port.
    pub(crate) fn on_loopback(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }
}

/// Bounds of the port. The defaults let 64 connections hold at most 64 * (64 + 16) KiB = 5 MiB.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; further ones wait in the kernel's backlog.
    pub connections_max: usize,
    /// Bytes of a request's line and headers; more is answered with 431. At least 8192.
    pub header_bytes_max: usize,
    /// Bytes of a request's body; more is answered with 413.
    pub body_bytes_max: usize,
    /// Time for a whole header to arrive, also on an idle connection that is kept alive.
    pub header_timeout: Duration,
    /// Time from the header to the answer, the body's arrival included; then 503.
    pub request_timeout: Duration,
    /// A connection is ended at the next answer after this time, so that a reader who stalls frees its place.
    pub connection_life: Duration,
    /// Time that open requests get when the port is closed.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 64,
            header_bytes_max: 16 * 1024,
            body_bytes_max: 64 * 1024,
            header_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            connection_life: Duration::from_secs(300),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// A bearer token. Compared in constant time, never shown.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes the token as the operator wrote it.
    #[must_use]
    pub fn new(token: String) -> Token {
        Token(token)
    }

    /// Whether `given` is this token; the time taken tells the length at most. An empty token opens nothing.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        !self.0.is_empty() && self.0.as_bytes().ct_eq(given).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}
