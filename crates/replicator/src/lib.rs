//! Reads the sync log, plans, replays or converges, and remembers how far it came.
//!
//! - [`recover`] looks through the log before the proxy takes connections: which writes have no outcome
//! - [`Replicator::run`] follows the log until it is told to stop
//! - [`Shared`] is what others see of it and how they steer it
//!
//! The data's way: `pump.rs` reads a batch, `plan.rs` decides, `execute.rs` does it with `replay.rs`, `source.rs`
//! and `target.rs`, `checkpoint.rs` and `state.rs` remember.

mod asks;
mod capped;
mod checkpoint;
mod collide;
mod converge;
mod error;
mod execute;
mod expiry;
mod feeds;
mod find;
mod indexes;
mod joined;
mod meet;
mod notes;
mod orphans;
mod over;
mod pending;
pub mod plan;
mod pump;
mod recent;
mod recover;
mod remember;
pub mod replay;
mod server;
mod shared;
mod source;
mod start;
mod state;
mod target;
mod timeseries;
mod transactions;
mod tuning;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use record::Namespace;

pub use asks::{Documents, Ended, Handed, Made, NotNow};
pub use capped::POSITION_LOST;
pub use error::{Class, ServerError};
pub use execute::Drops;
pub use expiry::{EXPIRY, Expiry};
pub use feeds::Feeding;
pub use indexes::{by_name, fields, indexes, unwanted};
pub use notes::{Noted, note, noted};
pub use orphans::Orphan;
pub use pending::Pending;
pub use pump::lost::{Lost, LostError, Unknown};
pub use recover::{Recovered, recover};
pub use server::{Collection, Concern, answer, collection, concern, connect, cursor, integer, next};
pub use shared::{Activity, ControlError, Counts, Link, Shared, Status, Way, now_ms};
pub use source::{Dial, Dialled, Duplex};
pub use start::{Replicator, StartError, capture_is_off, ordered_filter};
pub use state::{Bypass, Cause, DeadLetter, Desired, Dirty, Filter, Keep, Reached, Verdict};
pub use target::{OWN_DATABASE, Reply, Validation, WriteError};
pub use timeseries::{Span, Spanned, end_of_time, time_field};
pub use tuning::{Retuned, Tuning};

/// What the replicator needs to know.
pub struct Config {
    /// The local mongod, with the credentials of dualsync's own reads.
    pub source_uri: String,
    /// How the proxy connects to it for its clients, one for each listener.
    pub dials: Vec<Dial>,
    /// Atlas.
    pub target_uri: String,
    /// The log's id in hexadecimal: names the feed on the target.
    pub log_id: String,
    /// The log's folder, which also holds the replicator's own small file.
    pub dir: PathBuf,
    /// How much at once and how fast, unless an order says otherwise.
    pub tuning: Tuning,
    /// Longest wait between two looks at the log.
    pub idle_wait: Duration,
    /// Between two looks for writes that went past dualsync.
    pub past_interval: Duration,
    /// What becomes of collections that are dropped.
    pub drops: Drops,
    /// Between two looks for what has expired on the source.
    pub sweep_interval: Duration,
    /// Tries for a document that the target refuses.
    pub max_retries: u32,
    /// Entries that wait, shared with whoever appends.
    pub pending: Arc<Pending>,
    /// How this log feeds the target.
    pub feeding: Feeding,
    /// Which namespaces are captured.
    pub filter: Filter,
    /// Whether a filter captures a namespace; of a database, whether it captures any of it.
    pub captures: fn(&Filter, &Namespace) -> bool,
    /// Takes what capture could not record since the last call.
    pub misses: Box<dyn Fn() -> Vec<Miss> + Send + Sync>,
    /// How many writes are under way that the log has no mark of: their notes must stay.
    pub unrecorded: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// A write that could not be recorded.
#[derive(Debug, Clone)]
pub enum Miss {
    /// It may have touched anything.
    Everything(String),
    /// It may have touched this collection, or database.
    Namespace(Namespace, String),
}
