//! Deletes whole segments at the front.
//!
//! - only what the cursor on disk covers; oldest first
//! - never the last segment; but when a log that is rather full is applied to its end, a new one is begun, so that the
//!   full one can go. Should that not be possible now, it is done as soon as it is
//! - never before the name of the segment that comes next is on disk
//! - a segment leaves the list after its file is gone: a failure leaves it readable
//! - nothing is deleted under the append lock; readers that have the file open read on

use std::sync::Arc;

use crate::Lsn;
use crate::error::TrimError;
use crate::level::Level;
use crate::log::{Segment, Shared};
use crate::maker::Spare;
use crate::sync::atomic::Ordering;

/// What to do where others have a lock, or where a sync is due first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Waits,
    Skips,
}

impl Shared {
    pub(crate) fn trim(&self, upto: Lsn) -> Result<(), TrimError> {
        let _one = self.trimming.lock();
        if self.is_closed() {
            return Err(TrimError::Closed);
        }
        let applied = self.cursor.durable_applied();
        if upto > applied {
            return Err(TrimError::NotCovered { upto, applied });
        }
        self.trim_upto.store(upto.0, Ordering::Relaxed);
        self.free(upto, Pace::Waits)
    }

    /// What an earlier trim could not free, now that the log is rather full. On the maker's thread, which rolls wait for:
    /// whatever somebody else is at is left for the next turn.
    pub(crate) fn trim_again(&self) {
        let upto = Lsn(self.trim_upto.load(Ordering::Relaxed));
        if upto == Lsn::ZERO || self.gauge.level() < Level::Warning {
            return;
        }
        let Some(_one) = self.trimming.try_lock() else { return };
        if self.cursor.try_durable_applied().is_some_and(|applied| upto <= applied) {
            // Whoever trims next is told why it does not work.
            let _ = self.free(upto, Pace::Skips);
        }
    }

    fn free(&self, upto: Lsn, pace: Pace) -> Result<(), TrimError> {
        self.delete_below(upto, pace)?;
        if self.gauge.level() >= Level::Warning && self.leave_full_segment(upto, pace) {
            self.delete_below(upto, pace)?;
        }
        Ok(())
    }

    fn delete_below(&self, upto: Lsn, pace: Pace) -> Result<(), TrimError> {
        while let Some((oldest, next)) = self.oldest_below(upto) {
            if self.is_closed() {
                return Err(TrimError::Closed);
            }
            if pace == Pace::Skips && !self.is_named(&next) {
                return Ok(());
            }
            if !self.is_named(&next) && (self.sync_now().is_err() || !self.is_named(&next)) {
                // After a power loss, neither of both might be there.
                return Ok(());
            }
            self.disk
                .remove(&oldest.path)
                .map_err(|source| TrimError::Disk { path: oldest.path.clone(), source })?;
            self.segments.write().pop_front();
            self.gauge.subtract(oldest.end.load(Ordering::Acquire));
        }
        Ok(())
    }

    /// The first segment, if all of it lies below `upto`, and the one behind it.
    fn oldest_below(&self, upto: Lsn) -> Option<(Arc<Segment>, Arc<Segment>)> {
        let segments = self.list();
        let (oldest, next) = (segments.front()?, segments.get(1)?);
        (next.base <= upto).then(|| (Arc::clone(oldest), Arc::clone(next)))
    }

    fn is_named(&self, segment: &Segment) -> bool {
        self.unsynced.lock().iter().all(|begun| begun.named || begun.segment.base != segment.base)
    }

    /// Begins a segment if the last one holds nothing but what is below `upto`, and if a spare is there.
    fn leave_full_segment(&self, upto: Lsn, pace: Pace) -> bool {
        let tail = match pace {
            Pace::Waits => self.tail.lock_within(self.config.hang_after),
            Pace::Skips => self.tail.try_lock(),
        };
        let Some(mut tail) = tail else { return false };
        if self.is_closed()
            || tail.last.is_none()
            || tail.is_empty()
            || upto < self.head()
            || self.healthy().is_err()
        {
            return false;
        }
        match std::mem::replace(&mut tail.spare, Spare::Wanted) {
            Spare::Ready(file) => return self.roll(&mut tail, file).is_ok(),
            Spare::Wanted | Spare::Failed(_) => self.make.notify_one(),
        };
        false
    }
}
