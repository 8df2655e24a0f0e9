//! How much at once, and how fast: by how long batches take, by what the target says, by what people allow.
//!
//! - a batch is about a second of work: small when the target is slow, large when there is much to do
//! - after a failure one small batch goes first, to see whether the target bears it
//! - a target that sheds load gets fewer commands at a time, and one more again with each batch that it takes

use std::time::{Duration, Instant};

use crate::tuning::Tuning;

/// A batch that takes less may be followed by a larger one.
const QUICK: Duration = Duration::from_millis(700);
/// One that takes longer is followed by a smaller one: orders, and the end, wait for it.
const SLOW: Duration = Duration::from_millis(2_000);
/// A batch that takes next to no time may be followed by one so many times as large.
pub(super) const GROWTH_MAX: usize = 4;
/// The first batch, and the one after a failure.
const ENTRIES_FIRST: usize = 1_000;
/// Never less.
const ENTRIES_LEAST: usize = 50;
/// With a rate cap, a batch is so much of what is allowed in a second.
const PARTS_OF_A_SECOND: u64 = 5;

#[derive(Debug)]
pub(super) struct Pace {
    tuning: Tuning,
    entries: usize,
    lanes: usize,
    /// When the next batch is due, under a rate cap.
    due: Instant,
}

impl Pace {
    pub(super) fn new(tuning: Tuning) -> Pace {
        Pace { tuning, entries: ENTRIES_FIRST, lanes: tuning.lanes, due: Instant::now() }
    }

    /// What people allow now.
    pub(super) fn allow(&mut self, tuning: Tuning) {
        if tuning.lanes != self.tuning.lanes {
            self.lanes = tuning.lanes;
        }
        self.tuning = tuning;
    }

    /// Entries in the next batch, at most.
    pub(super) fn entries(&self) -> usize {
        let most = match self.tuning.rate_max {
            0 => usize::MAX,
            rate => usize::try_from(rate.div_ceil(PARTS_OF_A_SECOND)).unwrap_or(usize::MAX),
        };
        self.entries.min(self.tuning.batch_entries_max).min(most)
    }

    /// Commands under way at a time, at most.
    pub(super) fn lanes(&self) -> usize {
        self.lanes.clamp(1, self.tuning.lanes)
    }

    /// How long the next batch must wait.
    pub(super) fn rest(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }

    /// A batch was applied; `shed`: the target turned some of it away at first.
    pub(super) fn applied(&mut self, entries: usize, began: Instant, shed: bool) {
        let took = began.elapsed();
        if shed {
            (self.lanes, self.entries) = (self.lanes() / 2, self.entries / 2);
        } else {
            self.lanes = self.lanes().saturating_add(1).min(self.tuning.lanes);
            if took > SLOW {
                self.entries = entries.min(self.entries) / 2;
            } else if took < QUICK && entries >= self.entries() {
                // Over a long line each batch costs round trips, however small it is.
                let factor = if took < QUICK / 4 { GROWTH_MAX } else { 2 };
                self.entries = self.entries.saturating_mul(factor).min(self.tuning.batch_entries_max);
            }
        }
        self.entries = self.entries.max(ENTRIES_LEAST);
        if self.tuning.rate_max > 0 {
            let due = Duration::from_secs_f64(entries as f64 / self.tuning.rate_max as f64);
            self.due = began + due;
        }
    }

    /// A batch failed.
    pub(super) fn failed(&mut self) {
        self.entries = self.entries.min(ENTRIES_FIRST * 2) / 2;
        self.entries = self.entries.max(ENTRIES_LEAST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUNING: Tuning = Tuning { lanes: 8, batch_entries_max: 50_000, rate_max: 0 };

    #[test]
    fn batches_grow_while_they_are_quick_and_shrink_when_they_are_not() {
        let mut pace = Pace::new(TUNING);
        assert_eq!(pace.entries(), 1_000);
        pace.applied(10, Instant::now(), false);
        assert_eq!(pace.entries(), 1_000); // near: there was not more to do
        for _ in 0..10 {
            pace.applied(pace.entries(), Instant::now(), false);
        }
        assert_eq!(pace.entries(), 50_000);
        let long_ago = Instant::now().checked_sub(SLOW * 2).unwrap();
        pace.applied(50_000, long_ago, false);
        assert_eq!(pace.entries(), 25_000);
        pace.failed();
        assert_eq!(pace.entries(), 1_000);
        for _ in 0..20 {
            pace.failed();
        }
        assert_eq!(pace.entries(), ENTRIES_LEAST);
    }

    #[test]
    fn a_target_that_sheds_load_gets_less_at_a_time() {
        let mut pace = Pace::new(TUNING);
        for lanes in [4, 2, 1, 1] {
            pace.applied(100, Instant::now(), true);
            assert_eq!(pace.lanes(), lanes);
        }
        for lanes in 2..=8 {
            pace.applied(100, Instant::now(), false);
            assert_eq!(pace.lanes(), lanes);
        }
        pace.applied(100, Instant::now(), false);
        assert_eq!(pace.lanes(), 8);
    }

    #[test]
    fn a_rate_is_not_exceeded() {
        let mut pace = Pace::new(Tuning { rate_max: 1_000, ..TUNING });
        assert_eq!(pace.entries(), 200);
        pace.applied(200, Instant::now(), false);
        assert!(pace.rest() > Duration::from_millis(100) && pace.rest() <= Duration::from_millis(200));
        pace.allow(TUNING);
        assert!(pace.entries() >= 1_000);
    }
}
