//! How far the replicator came, kept in the log's cursor.
//!
//! - `applied`: below it every entry is on the target, in the dead letters, or its namespace is dirty
//! - `resume`: where a later run starts reading: at the oldest mark without an end
//! - `sent`: entries whose mark lies before this may have been sent, or their keys may be ahead
//!
//! A checkpoint is a lower bound for `applied` and an upper bound for `sent`: it is stored *before* anything is
//! written to the target, and again when it is there. A stale one only makes more be converged.

use synclog::{Cursor, CursorError, CursorSync, Lsn, SyncLog};

/// Positions in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// Everything below is applied.
    pub applied: u64,
    /// Reading starts here.
    pub resume: u64,
    /// What has a mark before this may be on the target already.
    pub sent: u64,
}

impl Checkpoint {
    /// The one in the log's cursor. One that cannot be read counts as if everything up to the head had been sent.
    pub fn load(log: &SyncLog) -> Checkpoint {
        let first = log.trimmed().0.max(1);
        let Some(cursor) = log.cursor() else {
            return Checkpoint { applied: first, resume: first, sent: log.head().0 };
        };
        let number =
            |at: usize| cursor.data.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        let (resume, sent) = (number(0).unwrap_or(first), number(8).unwrap_or(log.head().0));
        Checkpoint { applied: cursor.applied.0.max(first), resume: resume.max(first), sent }
    }

    /// Puts it into the log's cursor.
    pub fn store(&self, log: &SyncLog, sync: CursorSync) -> Result<(), CursorError> {
        let mut data = self.resume.to_le_bytes().to_vec();
        data.extend(self.sent.to_le_bytes());
        log.store_cursor(&Cursor { applied: Lsn(self.applied), data }, sync)
    }
}
