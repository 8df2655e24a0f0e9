//! Writes that go to mongod without a mark, because the log takes none.
//!
//! - the namespaces are noted before the write leaves (see [`crate::Note`]): so nothing is lost with the process
//! - until its end, however that comes, the write counts as under way: nobody may take its note for dealt with
//! - so goes a commit that may bring writes which are not held (`strays.rs`)
//! - at its end its namespaces are missed, not before: a comparison that began meanwhile has to begin again

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use record::Namespace;

use crate::Capture;

/// One write without a mark, while it is under way. Dropping it is the write's end.
pub struct Unmarked {
    capture: Arc<Capture>,
    namespaces: BTreeSet<Namespace>,
    /// Nobody knows which they are.
    anywhere: bool,
}

/// Writes that went to mongod without a mark, in numbers.
///
/// Whoever clears notes reads first the notes, then this, then takes what was missed: while one is under way its note
/// is to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unrecorded {
    /// Since the start.
    pub writes: u64,
    /// Of these, those that have not ended.
    pub under_way: u64,
}

/// The numbers while they count.
#[derive(Default)]
pub(crate) struct Counting {
    began: AtomicU64,
    ended: AtomicU64,
}

impl Counting {
    pub(crate) fn read(&self) -> Unrecorded {
        // In this order: one that begins and ends in between counts as under way.
        let ended = self.ended.load(Ordering::SeqCst);
        let writes = self.began.load(Ordering::SeqCst);
        Unrecorded { writes, under_way: writes.saturating_sub(ended) }
    }
}

impl Unmarked {
    pub(crate) fn begin(capture: &Arc<Capture>, namespaces: BTreeSet<Namespace>) -> Unmarked {
        // Counted first: who has read its note finds it under way.
        capture.unrecorded.began.fetch_add(1, Ordering::SeqCst);
        namespaces.iter().for_each(|ns| capture.note(ns));
        Unmarked { capture: Arc::clone(capture), namespaces, anywhere: false }
    }

    /// A commit that may bring these writes, `None` among them: to any namespace.
    pub(crate) fn bringing(capture: &Arc<Capture>, strays: BTreeSet<Option<Namespace>>) -> Unmarked {
        let anywhere = strays.contains(&None);
        let mut unmarked = Unmarked::begin(capture, strays.into_iter().flatten().collect());
        if anywhere {
            capture.note_anywhere();
        }
        unmarked.anywhere = anywhere;
        unmarked
    }

    /// Whether its end raises this namespace, `None`: any.
    pub(crate) fn raises(&self, ns: Option<&Namespace>) -> bool {
        self.anywhere || ns.is_some_and(|ns| self.namespaces.contains(ns))
    }

    /// One whose mark names no namespace: at its end everything is missed. The mark stands for its note.
    pub(crate) fn anywhere(capture: &Arc<Capture>) -> Unmarked {
        capture.unrecorded.began.fetch_add(1, Ordering::SeqCst);
        Unmarked { capture: Arc::clone(capture), namespaces: BTreeSet::new(), anywhere: true }
    }

    /// The write has ended and did nothing.
    pub(crate) fn did_nothing(mut self) {
        self.namespaces.clear();
        self.anywhere = false;
    }
}

impl Drop for Unmarked {
    fn drop(&mut self) {
        self.namespaces.iter().for_each(|ns| self.capture.missed(ns));
        if self.anywhere {
            self.capture.missed_everything();
        }
        // Last: while it counts as under way, its note stays.
        self.capture.unrecorded.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Unmarked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unmarked")
            .field("namespaces", &self.namespaces)
            .field("anywhere", &self.anywhere)
            .finish_non_exhaustive()
    }
}
