//! Makes opaque bytes durable, in order: segments, recovery, reader, cursor, trim.
//!
//! - [`SyncLog::append`] puts a record into the page cache: from then on it survives the death of this process;
//!   [`SyncLog::wait_durable`] says when it survives the death of the host
//! - records come back in the order of their [`Lsn`], whole and unchanged, or the loss is reported; never in silence
//! - positions are exclusive: `trimmed <= applied <= durable <= head`, each means "everything below it"
//! - one process per folder; any number of threads append, any number of [`Reader`]s follow
//! - [`SyncLog::level`] says how near the log is to its bounds; it appends for as long as the disk lets it
//! - [`SyncLog::note`] keeps short notes where no record can be appended: on a full disk, in a file made ahead
//! - [`LogView`] looks into a folder that another process may have open
//!
//! Folder: `<first Lsn, 16 hex>.seg`, `cursor`, `reserve` (the notes), `LOCK`, `spare` (the next segment, made ahead), and what recovery
//! set aside (`*.torn`, `*.damaged`). Files are 0600, the folder 0700. The bytes are described in `format.rs`.
//!
//! Not here: what the bytes mean, what is done when the log is full, compression, encryption.

mod append;
mod config;
mod cursor;
mod disk;
mod error;
mod flush;
mod folder;
mod format;
mod index;
mod level;
mod log;
mod maker;
mod patient;
mod reader;
mod recover;
mod reserve;
mod sync;
mod trim;
mod view;
mod walk;

pub use config::{Config, Durability};
pub use cursor::{CURSOR_DATA_MAX, Cursor, CursorSync};
pub use disk::{Call, Change, Faults, Verdict};
pub use error::{AppendError, CursorError, NoteError, OpenError, Poisoned, ReadError, TrimError};
pub use level::{Bound, Fill, Level};
pub use log::{Stats, SyncLog};
pub use reader::{Reader, Record};
pub use recover::Recovery;
pub use reserve::{NoteLsn, Noted, Notes};
pub use view::{Fault, LogView, SegmentView, Verified, ViewReader};

use std::fmt;

/// A position in the log: dense, from 1. Zero is before everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before everything; no record has it.
    pub const ZERO: Lsn = Lsn(0);

    /// The first record of a new log.
    pub(crate) const FIRST: Lsn = Lsn(1);

    /// The position after this one.
    pub fn next(self) -> Lsn {
        Lsn(self.0.saturating_add(1))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since 1970, for people; nothing depends on it.
pub(crate) fn wall_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
