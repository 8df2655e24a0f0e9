//! How full the log is by all of its bounds: its size, its disk, and the entries that wait.
//!
//! Asked before each write, so it is a handful of loads. What is done at a level stands in `proxy/watch.rs`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use capture::Capture;
use replicator::Pending;
use synclog::{Bound, Level, SyncLog};

/// The bounds of an open log.
pub(crate) struct Bounds {
    log: SyncLog,
    pending: Arc<Pending>,
    entries_max: u64,
    capture: Arc<Capture>,
    seen: Mutex<Seen>,
}

/// What was seen last.
struct Seen {
    level: Level,
    since: SystemTime,
    /// Writes that the log had no mark of, and when there was one more.
    unrecorded: u64,
    refused: Option<Instant>,
}

/// A log that has refused a mark so shortly ago is shown as full, whatever its bounds say.
const REFUSED_SHOWN: Duration = Duration::from_secs(5);

/// How full the log is, exactly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fill {
    pub(crate) level: Level,
    /// Of what the bound allows; 1 is full, and more is possible.
    pub(crate) share: f64,
    pub(crate) by: FilledBy,
}

/// The bound that is nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilledBy {
    Bytes,
    Disk,
    Entries,
}

impl Bounds {
    pub(crate) fn new(
        log: SyncLog,
        pending: Arc<Pending>,
        entries_max: u64,
        capture: Arc<Capture>,
    ) -> Bounds {
        let (level, since) = (Level::Normal, SystemTime::now());
        let seen = Mutex::new(Seen { level, since, unrecorded: 0, refused: None });
        Bounds { log, pending, entries_max, capture, seen }
    }

    /// By the bounds alone: what decides over the next write.
    pub(crate) fn level(&self) -> Level {
        self.log.level().max(level_of(self.pending.entries(), self.entries_max))
    }

    pub(crate) fn fill(&self) -> Fill {
        let stats = self.log.stats();
        let entries = self.pending.entries();
        let share = entries as f64 / self.entries_max.max(1) as f64;
        let (level, _) = self.shown();
        if share > stats.fill.share {
            return Fill { level, share, by: FilledBy::Entries };
        }
        let by = match stats.fill.bound {
            Bound::Bytes => FilledBy::Bytes,
            Bound::Disk => FilledBy::Disk,
        };
        Fill { level, share: stats.fill.share, by }
    }

    /// The level that people are shown, and since when it is that. Seen once a second: what comes and goes in between
    /// does not show.
    pub(crate) fn shown(&self) -> (Level, SystemTime) {
        let unrecorded = self.capture.unrecorded().writes;
        let by_bounds = self.level();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.unrecorded != unrecorded {
            seen.unrecorded = unrecorded;
            // Such writes go on while a full log empties: it is not full because of them.
            seen.refused = (by_bounds > Level::Normal).then(Instant::now);
        }
        let refuses =
            by_bounds > Level::Normal && seen.refused.is_some_and(|at| at.elapsed() < REFUSED_SHOWN);
        let level = if refuses { Level::Full } else { by_bounds };
        if seen.level != level {
            (seen.level, seen.since) = (level, SystemTime::now());
        }
        (level, seen.since)
    }
}

fn level_of(used: u64, max: u64) -> Level {
    match u128::from(used) * 100 / u128::from(max.max(1)) {
        0..80 => Level::Normal,
        80..90 => Level::Warning,
        90..100 => Level::Tight,
        _ => Level::Full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_entries() {
        for (used, max, expected) in [
            (0, 100, Level::Normal),
            (79, 100, Level::Normal),
            (80, 100, Level::Warning),
            (90, 100, Level::Tight),
            (100, 100, Level::Full),
            (u64::MAX, 1, Level::Full),
            (0, 0, Level::Normal),
        ] {
            assert_eq!(level_of(used, max), expected, "{used} of {max}");
        }
    }
}
