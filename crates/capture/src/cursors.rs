//! Cursors of `$out` and `$merge` aggregates that were asked for no first batch: their `getMore` does the writing
//! (`wire-facts.md` section 4).
//!
//! Not here: when a cursor ends. A number stays until newer ones push it out; a stale one costs an entry, no more.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use record::Target;

/// Which cursor will write where.
pub(crate) struct Cursors {
    known: Mutex<Known>,
    any: AtomicBool,
    max: usize,
}

#[derive(Default)]
struct Known {
    /// `None`: it may write anywhere.
    targets: HashMap<i64, Option<Target>>,
    order: VecDeque<i64>,
}

impl Cursors {
    pub(crate) fn new(max: usize) -> Cursors {
        Cursors { known: Mutex::default(), any: AtomicBool::new(false), max }
    }

    /// Whether a `getMore` may write at all.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    /// Where this cursor writes, `Some(None)`: it may be anywhere. `None`: it is none of those that write.
    pub(crate) fn target(&self, cursor: i64) -> Option<Option<Target>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).targets.get(&cursor).cloned()
    }

    /// Remembers where a cursor writes. Returns the target that is forgotten for it, when there are too many.
    pub(crate) fn remember(&self, cursor: i64, target: Option<Target>) -> Option<Option<Target>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(true, Ordering::SeqCst);
        if known.targets.insert(cursor, target).is_none() {
            known.order.push_back(cursor);
        }
        if known.order.len() <= self.max {
            return None;
        }
        let oldest = known.order.pop_front()?;
        known.targets.remove(&oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::{Namespace, Touch};

    #[test]
    fn the_oldest_is_forgotten_aloud() {
        let target = |name: &str| Some(Target::new(Namespace::parse(name), Touch::Namespace));
        let cursors = Cursors::new(2);
        assert!(!cursors.any());
        assert_eq!(cursors.remember(1, target("a.b")), None);
        assert_eq!(cursors.remember(2, target("a.c")), None);
        assert_eq!(cursors.remember(3, target("a.d")), Some(target("a.b")));
        assert_eq!((cursors.target(1), cursors.target(2)), (None, Some(target("a.c"))));
        assert!(cursors.any());
    }
}
