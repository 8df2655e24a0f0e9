//! Makes dirty namespaces good: compares both sides as a whole and hands what differs to the replicator.
//!
//! - one namespace after the other, in the background; live writes go first, and a rate cap bounds the reading
//! - documents are compared by their raw bytes, in ranges of `_id`; no document is written from here
//! - options and indexes are compared and repaired as well, as far as that is safe; what is not is *held*, by name
//! - documents, or a whole collection, that only the target has are deleted only when that is known to be meant
//!
//! Why this is right, together with the worker's own steps: design, sections 3 and 7, and the replicator's model.
//!
//! The data's way: `run.rs` picks a namespace, `scan.rs` goes through it with `documents.rs` and `shape.rs`, which
//! read through `side.rs`; `progress.rs` is what others see.
//!
//! A comparison that a restart interrupts goes on where it was (`passes.rs`); one of a capped or time-series collection
//! begins anew. Not here: several ranges at once.

mod capped;
mod documents;
mod progress;
mod run;
mod scan;
mod shape;
mod side;
mod timeseries;

pub use progress::{Phase, Progress, View};
pub use run::Reconciler;

/// What the reconciler needs to know.
pub struct Config {
    /// The local mongod, with the credentials of dualsync's own reads.
    pub source_uri: String,
    /// Atlas.
    pub target_uri: String,
    /// Documents compared in a second, at most.
    pub documents_per_second_max: u64,
    /// What becomes of collections that are dropped on the source.
    pub drops: replicator::Drops,
}
