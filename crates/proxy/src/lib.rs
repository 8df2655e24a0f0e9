//! Listener, sessions and relays between clients and the local mongod.
//!
//! - one connection to mongod per client connection; bytes pass unchanged, but for hello (`wire::hello`), inserts
//!   without an `_id`, and the fence after a write that gets no reply
//! - a frame that needs no look is forwarded while it arrives; of a captured write only the last byte waits for its
//!   mark, and its reply for its entry
//! - watching cannot fail: what could not be seen or recorded becomes *missed* in `capture`, and bytes flow on
//! - bounds: connections ([`Config::connections_max`]), bytes held to be looked at ([`Config::held_bytes_max`]),
//!   outstanding requests per session, one read buffer of at most 64 KiB per direction otherwise
//!
//! Not here yet: TLS, idle timeouts.

mod config;
mod held;
mod listener;
mod members;
mod metrics;
mod outstanding;
mod relay;
mod session;
mod source;
mod watch;

pub use config::Config;
pub use listener::{BindError, Listener};
pub use members::Member;
pub use metrics::Metrics;
pub use watch::Watch;
pub use wire::Address;
