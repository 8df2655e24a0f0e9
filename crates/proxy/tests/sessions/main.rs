//! Sessions seen from both ends of the wire.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a failed setup fails the test")]

mod bypass;
mod capturing;
mod ending;
mod forwarding;
mod full;
mod gate;
mod handshakes;
mod limits;
mod old;
mod packed;
mod stage;
mod tls;
