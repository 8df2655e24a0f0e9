//! What capture has seen, for metrics and the report.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use record::Doubt;

/// What a captured write was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `insert`.
    Insert,
    /// `update`.
    Update,
    /// `delete`.
    Delete,
    /// `findAndModify`.
    FindAndModify,
    /// `bulkWrite`.
    BulkWrite,
    /// A command that is followed by its namespace only: `drop`, `$out`, an unknown one, and their like.
    Coarse,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 6] =
        [Kind::Insert, Kind::Update, Kind::Delete, Kind::FindAndModify, Kind::BulkWrite, Kind::Coarse];

    /// Its name in metrics and in the report.
    pub fn code(self) -> &'static str {
        match self {
            Kind::Insert => "insert",
            Kind::Update => "update",
            Kind::Delete => "delete",
            Kind::FindAndModify => "find_and_modify",
            Kind::BulkWrite => "bulk_write",
            Kind::Coarse => "coarse",
        }
    }
}

/// Totals since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Entries by kind of write.
    pub entries: BTreeMap<Kind, u64>,
    /// Entries in doubt, by reason.
    pub in_doubt: BTreeMap<Doubt, u64>,
    /// Writes that did nothing.
    pub closed: u64,
    /// Entries that keep what was touched and not the statements, because the log was nearly full.
    pub touches_only: u64,
    /// Writes to namespaces that are not captured.
    pub excluded: u64,
    /// Writes that could not be recorded (see [`crate::Missed`]).
    pub missed: u64,
    /// Commands that change what dualsync does not replicate, by name.
    pub not_replicated: BTreeMap<String, u64>,
    /// Commands that dualsync does not know, by name.
    pub unknown: BTreeMap<String, u64>,
}

/// The counters while they count.
pub(crate) struct Counting {
    entries: [AtomicU64; Kind::ALL.len()],
    in_doubt: Vec<AtomicU64>,
    pub(crate) closed: Count,
    pub(crate) touches_only: Count,
    pub(crate) excluded: Count,
    pub(crate) missed: Count,
    pub(crate) not_replicated: Names,
    pub(crate) unknown: Names,
}

impl Counting {
    pub(crate) fn new(names_max: usize) -> Counting {
        Counting {
            entries: Default::default(),
            in_doubt: Doubt::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            closed: Count::default(),
            touches_only: Count::default(),
            excluded: Count::default(),
            missed: Count::default(),
            not_replicated: Names::new(names_max),
            unknown: Names::new(names_max),
        }
    }

    pub(crate) fn entry(&self, kind: Kind, doubt: Option<Doubt>) {
        self.entries[kind as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(at) = doubt.and_then(|doubt| Doubt::ALL.iter().position(|other| *other == doubt)) {
            self.in_doubt[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Counters {
        let value = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counters {
            entries: Kind::ALL.into_iter().zip(self.entries.iter().map(value)).collect(),
            in_doubt: Doubt::ALL.iter().copied().zip(self.in_doubt.iter().map(value)).collect(),
            closed: value(&self.closed.0),
            touches_only: value(&self.touches_only.0),
            excluded: value(&self.excluded.0),
            missed: value(&self.missed.0),
            not_replicated: self.not_replicated.read(),
            unknown: self.unknown.read(),
        }
    }
}

/// One number that only grows.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts by a name that a client chose: at most `max` names, and one for all others.
pub(crate) struct Names {
    counts: Mutex<BTreeMap<String, u64>>,
    max: usize,
}

impl Names {
    fn new(max: usize) -> Names {
        Names { counts: Mutex::default(), max }
    }

    pub(crate) fn add(&self, name: &str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts.contains_key(name) || counts.len() < self.max;
        let name = if known && name.len() <= NAME_BYTES_MAX { name } else { "(other)" };
        *counts.entry(name.to_owned()).or_default() += 1;
    }

    fn read(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Longer names are no server's (`wire::COMMAND_NAME_BYTES_MAX`).
const NAME_BYTES_MAX: usize = wire::COMMAND_NAME_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        let names = Names::new(2);
        for name in ["a", "b", "c", "d", "a", &"x".repeat(1_000)] {
            names.add(name);
        }
        let expected = [("(other)", 3), ("a", 2), ("b", 1)].map(|(name, n)| (name.to_owned(), n));
        assert_eq!(names.read(), BTreeMap::from(expected));
    }

    #[test]
    fn entries_count_by_kind_and_reason() {
        let counting = Counting::new(1);
        counting.entry(Kind::Update, Some(Doubt::Contended));
        counting.entry(Kind::Coarse, None);
        let read = counting.read();
        assert_eq!((read.entries[&Kind::Update], read.entries[&Kind::Coarse]), (1, 1));
        assert_eq!((read.in_doubt[&Doubt::Contended], read.in_doubt[&Doubt::Orphan]), (1, 0));
    }
}
