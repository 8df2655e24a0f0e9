//! What the log's reserve holds: namespaces with writes that are in no log.
//!
//! - a note is the namespace's name; an empty one is everything
//! - it is made before such a write leaves for mongod, and cleared when the namespace is dirty on disk and the write has
//!   ended: so whenever this process dies, what it touched is dirty at the next start

use record::Namespace;
use synclog::{NoteError, NoteLsn, SyncLog};

/// Why what is noted is dirty.
pub(crate) const UNRECORDED: &str = "a write to it could not be recorded";

/// What was noted and is not cleared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noted {
    /// Anything may have been written to.
    pub everything: bool,
    /// These; one without a collection is a whole database.
    pub namespaces: Vec<Namespace>,
    pub(crate) upto: NoteLsn,
}

impl Noted {
    pub(crate) fn is_empty(&self) -> bool {
        !self.everything && self.namespaces.is_empty()
    }
}

/// Notes that a write to `ns`, or with `None` to any namespace, may be in no log. Survives this process at once.
pub fn note(log: &SyncLog, ns: Option<&Namespace>) -> Result<(), NoteError> {
    log.note(ns.map_or("", Namespace::as_str).as_bytes()).map(drop)
}

/// What is noted now.
pub fn noted(log: &SyncLog) -> Noted {
    let notes = log.notes();
    // Written by `note` only; anything else is damage that no checksum saw.
    let names = notes.notes.iter().map(|note| std::str::from_utf8(note).unwrap_or_default());
    let (everything, named): (Vec<&str>, Vec<&str>) = names.partition(|name| name.is_empty());
    Noted {
        everything: notes.everything || !everything.is_empty(),
        namespaces: named.into_iter().map(Namespace::parse).collect(),
        upto: notes.upto,
    }
}
