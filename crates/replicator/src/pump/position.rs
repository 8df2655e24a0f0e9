//! How far the worker has read, and how far it came: what cannot be read makes everything dirty, what is applied is
//! remembered, and the log may delete it.

use std::time::{Duration, Instant};

use synclog::{CursorSync, Lsn};
use tracing::{error, warn};

use super::Pump;
use super::feed::Looked;
use crate::shared::now_ms;
use crate::state::{Cause, Dirty};

/// The cursor reaches the disk at least this often, so that segments can go.
const CURSOR_SYNC_INTERVAL: Duration = Duration::from_millis(300);

impl Pump {
    /// Reads until so many entries, or enough bytes, are together.
    pub(super) fn fill(&mut self, entries_max: usize) {
        let appended = self.config.pending.appended();
        let looked = tokio::task::block_in_place(|| self.feed().fill(entries_max));
        self.heed(looked);
        // Caught up: every entry that was counted before has been read, or is lost.
        let caught_up = self.feed().is_empty() && self.feed().position() >= self.log.head();
        if self.lost && caught_up {
            self.lost = false;
            self.config.pending.settle(appended);
        }
    }

    pub(super) fn heed(&mut self, looked: Looked) {
        self.unreadable_now = looked.later;
        self.lost |= looked.lost;
        for problem in looked.problems {
            self.unreadable(&problem);
        }
    }

    /// Something in the log cannot be read: what it said is lost, so everything needs a full comparison.
    pub(super) fn unreadable(&mut self, problem: &str) {
        if self.last_problem.as_deref() != Some(problem) {
            error!(problem, "the sync log cannot be read here: everything is dirty");
            self.everything_dirty(&format!("the sync log could not be read: {problem}"));
            self.last_problem = Some(problem.to_owned());
        }
    }

    pub(super) fn everything_dirty(&mut self, reason: &str) {
        self.executor.planner().set_everything_dirty();
        let dirty = Dirty::new(reason, Cause::Unknown, now_ms());
        if self.shared.state().set_everything_dirty(dirty) {
            warn!(reason, "everything is dirty: only a full comparison can make it good");
        }
        self.save_state();
    }

    /// Everything before `end` is applied: remembers it, and lets the log delete what nobody needs.
    pub(super) fn advance(&mut self, end: u64) {
        let (oldest, oldest_named) = {
            let feed = self.feed();
            let open = feed.oldest_open_mark().unwrap_or(end).min(end);
            (open, feed.oldest_mark().unwrap_or(open).min(open))
        };
        self.executor.planner().forget(oldest_named);
        let moved = {
            let checkpoint = &mut self.executor.positions().checkpoint;
            let moved = checkpoint.applied < end || checkpoint.resume < oldest;
            checkpoint.applied = checkpoint.applied.max(end);
            checkpoint.resume = oldest;
            self.shared.status_mut().applied = checkpoint.applied;
            moved
        };
        if moved || self.trimmed_to < oldest {
            let due = self.cursor_synced.elapsed() >= CURSOR_SYNC_INTERVAL;
            self.park(if due { CursorSync::Now } else { CursorSync::Later });
            if due {
                self.cursor_synced = Instant::now();
                self.trimmed_to = oldest;
                if let Err(error) = tokio::task::block_in_place(|| self.log.trim(Lsn(oldest))) {
                    warn!(%error, "applied segments cannot be deleted");
                }
            }
        }
    }

    /// The disk may take its time: other tasks of this thread go on elsewhere meanwhile.
    pub(super) fn park(&mut self, sync: CursorSync) {
        tokio::task::block_in_place(|| self.executor.park(sync));
    }

    pub(super) fn save_state(&mut self) {
        tokio::task::block_in_place(|| self.executor.save_state());
    }
}
