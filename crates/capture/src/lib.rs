//! Pairs requests with replies and yields marks and entries.
//!
//! - a [`Session`] looks at one client's requests; what may change data becomes a [`Write`]
//! - a write gives its mark before its last byte leaves, and with its reply an [`Ended`]: its entry, certain or
//!   in doubt, or a closing record when it did nothing
//! - writes in flight together that may touch the same document are both in doubt ([`Ticket`])
//! - watching cannot fail: what cannot be understood is followed by its namespace only, or, without a name,
//!   raised as [`Missed`]; bytes from the network never panic
//!
//! No sockets, no clock, no log: the caller hands in frames and times, and appends what it is given.
//! Not here: the default collation of a collection: two spellings of one text key do not contend, for whoever applies
//! their entries never replays a text key of such a collection.

mod bulk;
mod capture;
mod coarse;
mod commands;
mod config;
mod contention;
mod counters;
mod cursors;
mod insert;
mod outcome;
mod purity;
mod read;
mod request;
mod statement;
mod strays;
mod transactions;
mod unmarked;
mod weight;
mod write;

pub use capture::{Capture, Missed, Note};
pub use config::{Config, Pattern, PatternError};
pub use contention::Ticket;
pub use counters::{Counters, Kind};
pub use request::{Class, DOCUMENT_BYTES_MAX, Session};
pub use unmarked::{Unmarked, Unrecorded};
pub use write::{Detail, Ended, Lost, Orphan, Unended, Write};
