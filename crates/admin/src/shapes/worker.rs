//! What the replicator does, and how much of the target it may take.

use serde::Serialize;

use super::At;

/// `/api/sync/worker`: the replicator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Worker {
    /// What it does.
    pub state: WorkerState,
    /// Since when.
    pub since: At,
    /// Tries of the present batch that failed so far.
    pub attempt: u32,
    /// Time to the next try, in milliseconds, while it backs off.
    pub next_try_ms: Option<u64>,
    /// Commands under way to the target at a time, at most.
    pub lanes: u64,
    /// Entries in a batch at most.
    pub batch_entries_max: u64,
    /// Entries in a second at most; 0: no bound.
    pub rate_max: u64,
}

/// What the replicator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerState {
    /// Applies, or waits for entries.
    Running,
    /// Waits before it tries the target again.
    BackingOff,
    /// Paused by an operator.
    Paused,
    /// Stopped by an operator.
    Stopped,
    /// Syncing is switched off.
    Off,
    /// Its task has died; the program must be restarted.
    Dead,
}
