//! How many entries wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many entries are in the log and not applied.
#[derive(Debug, Default)]
pub struct Pending {
    /// Entries appended, by whomever; those that an earlier run left count as well.
    pub appended: Arc<AtomicU64>,
    applied: AtomicU64,
}

impl Pending {
    pub(crate) fn add(&self, entries: u64) {
        self.appended.fetch_add(entries, Ordering::Relaxed);
    }

    pub(crate) fn done(&self, entries: u64) {
        self.applied.fetch_add(entries, Ordering::Relaxed);
    }

    pub(crate) fn appended(&self) -> u64 {
        self.appended.load(Ordering::SeqCst)
    }

    /// Of the entries that were appended so far, none waits.
    pub(crate) fn settle(&self, appended: u64) {
        self.applied.fetch_max(appended, Ordering::SeqCst);
    }

    /// Entries that wait.
    pub fn entries(&self) -> u64 {
        let applied = self.applied.load(Ordering::Relaxed);
        self.appended.load(Ordering::Relaxed).saturating_sub(applied)
    }
}
