//! What the replicator looks like now.

use std::collections::BTreeMap;

use super::now_ms;

/// What the worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activity {
    /// Told to stop, or not started yet.
    #[default]
    Stopped,
    /// Told to pause.
    Paused,
    /// Finding the servers, waiting for late commands of an earlier run.
    Connecting,
    /// Nothing to do.
    Idle,
    /// Writing.
    Applying,
    /// The source does not answer.
    WaitingForSource,
    /// The target does not answer, or refuses us.
    WaitingForTarget,
}

/// The connection to one server.
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// Whether it answered last.
    pub connected: bool,
    /// Milliseconds since 1970 of the last change.
    pub since_ms: u64,
    /// The last error and when it was.
    pub last_error: Option<(String, u64)>,
    /// `standalone`, the replica set's name, or empty when never seen.
    pub topology: String,
    /// As the server says; empty when never seen.
    pub version: String,
}

/// Numbers since the start, or the last reset.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Entries by way.
    pub replayed: u64,
    /// Entries whose documents were copied.
    pub converged: u64,
    /// Entries that made a namespace dirty.
    pub dirty: u64,
    /// Documents that the target refused.
    pub failed: u64,
    /// Batches that could not go on at once because a server was away.
    pub stalls: u64,
    /// Milliseconds from capture to the target's confirmation, over all entries.
    pub delay_ms: u64,
    /// Collections that were written to past dualsync, and when that was noticed last, in milliseconds since 1970.
    pub past: BTreeMap<String, u64>,
}

/// What the replicator looks like now.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// What it does.
    pub activity: Activity,
    /// Milliseconds since 1970 when it began to do that.
    pub since_ms: u64,
    /// Tries in a row that failed, and when the next one is due.
    pub attempt: u32,
    /// See `attempt`.
    pub next_try_ms: Option<u64>,
    /// The local mongod.
    pub source: Link,
    /// Atlas.
    pub target: Link,
    /// Why this log must not feed the target, where that is so.
    pub refused: Option<String>,
    /// Everything below is applied.
    pub applied: u64,
    /// Entries applied since the start of the process; never reset.
    pub entries_applied: u64,
    /// When the oldest entry that is not applied was captured, in milliseconds since 1970.
    pub oldest_pending_ms: Option<u64>,
    /// Since the start or the last reset.
    pub counts: Counts,
    /// Milliseconds since 1970 of the last batch.
    pub last_sync_ms: Option<u64>,
    /// Marks whose outcome is still being looked for.
    pub orphans: u64,
}

impl Status {
    pub(crate) fn set_activity(&mut self, activity: Activity) {
        if self.activity != activity || self.since_ms == 0 {
            self.activity = activity;
            self.since_ms = now_ms();
        }
    }
}
