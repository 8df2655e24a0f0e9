//! Writes that could not be recorded: what they may have touched becomes dirty.

use std::time::{Duration, Instant};

use tracing::debug;

use super::Pump;
use crate::Miss;
use crate::notes::{self, Noted, UNRECORDED};
use crate::remember::Saved;
use crate::state::Cause;

/// Between two looks at the log's reserve.
const NOTES_INTERVAL: Duration = Duration::from_secs(1);

impl Pump {
    /// Writes that are in no log. Their notes go when the namespaces are dirty on disk, and the writes have ended.
    pub(super) fn take_misses(&mut self) {
        // In this order: a write that is noted either is under way still, or is among the misses.
        let noted = self.look_at_notes();
        let under_way = (self.config.unrecorded)();
        let misses = (self.config.misses)();
        if misses.is_empty() && noted.is_none() {
            return;
        }
        if noted.as_ref().is_some_and(|noted| noted.everything) {
            self.everything_dirty(UNRECORDED);
        }
        // A namespace that is noted is missed as well, when its write has ended: that counts.
        for miss in &misses {
            match miss {
                Miss::Everything(reason) => self.everything_dirty(reason),
                Miss::Namespace(ns, reason) => self.executor.make_dirty_by(ns, reason, Cause::Written),
            }
        }
        let saved = tokio::task::block_in_place(|| self.executor.save_state());
        let clearable = saved == Saved::Here && under_way == 0;
        let Some(noted) = noted.filter(|_| clearable) else { return };
        if let Err(error) = tokio::task::block_in_place(|| self.log.clear_notes(noted.upto)) {
            debug!(%error, "the log's reserve cannot be cleared: it will be told again");
        }
    }

    /// What is noted; looked up once a second.
    fn look_at_notes(&mut self) -> Option<Noted> {
        if self.notes_looked.elapsed() < NOTES_INTERVAL {
            return None;
        }
        self.notes_looked = Instant::now();
        let noted = tokio::task::block_in_place(|| notes::noted(&self.log));
        (!noted.is_empty()).then_some(noted)
    }
}
