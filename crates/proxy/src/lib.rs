//! Listener, sessions and relays between clients and the local mongod.
//!
//! - one connection to mongod per client connection; bytes pass unchanged, but for hello (`wire::hello`), inserts
//!   without an `_id`, and the fence after a write that gets no reply
//! - a frame that needs no look is forwarded while it arrives; of a captured write only the last byte waits for its
//!   mark, and its reply for its entry
//! - watching cannot fail: what could not be seen or recorded becomes *missed* in `capture`, and bytes flow on
//! - bounds: connections ([`Config::connections_max`]), bytes held to be looked at ([`Config::held_bytes_max`]),
//!   outstanding requests per session, one read buffer of at most 64 KiB per direction otherwise, and the time that a
//!   client takes for its first request and to go on with a frame
//!

mod bind;
mod bypass;
mod config;
mod gate;
mod held;
mod limits;
mod line;
mod listener;
mod members;
mod metrics;
mod nudge;
mod outstanding;
mod place;
mod rarely;
mod refusal;
mod relay;
mod session;
mod source;
mod stream;
mod tls;
mod upstream;
mod watch;

pub use bind::BindError;
pub use bypass::Bypass;
pub use config::Config;
pub use gate::{Entry, Gate};
pub use listener::Listener;
pub use members::Member;
pub use metrics::Metrics;
pub use place::Place;
pub use stream::Stream;
pub use tls::{ServerTls, ServerTlsFiles, TlsError, UpstreamTls, UpstreamTlsFiles};
pub use upstream::{Dialled, Upstream};
pub use watch::Watch;
pub use wire::Address;
