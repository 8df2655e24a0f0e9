//! Errors, by what the caller can do about them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::Lsn;

/// Why a log could not be opened. Nothing was lost: the files are as they were found, or as recovery left them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has this folder.
    #[error("the log folder {} is in use by {}: stop it, or give this one a folder of its own", dir.display(), owner(*pid))]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// Who holds it, when the lock file tells.
        pid: Option<u32>,
    },
    /// Others on this host could read what is in the log.
    #[error("{} has mode {mode:04o} and others could read the log: run `chmod {should:o} {}`", path.display(), path.display())]
    TooOpen {
        /// The folder or file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        should: u32,
    },
    /// There is nothing to look at.
    #[error("no sync log is in {}: name the folder that has the `.seg` files", dir.display())]
    NotALog {
        /// The folder.
        dir: PathBuf,
    },
    /// A newer dualsync wrote this; nothing was touched.
    #[error(
        "{} is of log format {version}, this program reads up to {}: start the newer program, let it empty the log, and only then go back",
        path.display(), crate::format::VERSION
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u16,
    },
    /// The settings make no log.
    #[error("the log's settings are wrong: {0}")]
    Config(String),
    /// The disk or the folder's permissions are in the way.
    #[error("cannot {doing} {}: {source}", path.display())]
    Disk {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a record was not appended. Nothing of it is in the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// It will never fit: append less.
    #[error("a record of {bytes} bytes is larger than record_bytes_max = {max}: append less of it")]
    TooLarge {
        /// The payload's size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The disk refused: a later append may work, for instance once there is space.
    #[error("cannot append to the log in {}: {source}", dir.display())]
    Disk {
        /// The log's folder.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk does not answer: an append, or the making of a segment, has not returned for
    /// [`crate::Config::hang_after`]. Later appends fail at once, until it has.
    #[error("the disk of the log in {} has not answered for {} ms", dir.display(), after.as_millis())]
    Hung {
        /// The log's folder.
        dir: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// This process must not write any more.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    /// [`crate::SyncLog::close`] was called.
    #[error("the log is closed")]
    Closed,
}

impl AppendError {
    /// Whether space (or quota) is what is missing.
    pub fn is_full(&self) -> bool {
        matches!(self, AppendError::Disk { source, .. } if is_full(source))
    }
}

/// The log cannot promise anything more in this process: after a failed sync nobody knows what the disk holds.
/// Reading goes on. A restart recovers what is there.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the log takes no more records in this process: {reason}")]
pub struct Poisoned {
    /// What failed, and what to do.
    pub reason: Arc<str>,
}

/// Why a reader cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The position was trimmed: start at `first`.
    #[error("position {lsn} is trimmed, the log starts at {first}")]
    Trimmed {
        /// What was asked for.
        lsn: Lsn,
        /// The first position that is still there.
        first: Lsn,
    },
    /// The position was never written.
    #[error("position {lsn} is beyond the log's head {head}")]
    Ahead {
        /// What was asked for.
        lsn: Lsn,
        /// The log's head.
        head: Lsn,
    },
    /// Records from `lsn` up to `resume_at` (exclusive) cannot be read: everything is to be verified.
    /// The reader stands at `resume_at`; its next call goes on there.
    #[error("the log is damaged at position {lsn} in {}: {what}; reading can go on at {resume_at}", path.display())]
    Damaged {
        /// The first position that is lost.
        lsn: Lsn,
        /// Where the log is whole again.
        resume_at: Lsn,
        /// The file.
        path: PathBuf,
        /// What is wrong there.
        what: &'static str,
    },
    /// The disk refused. The reader's position is unchanged; the call may be repeated, and in the end
    /// [`crate::Reader::skip_segment`] goes on without what cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why segments were not deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrimError {
    /// Only what a durable cursor covers may go: store the cursor first.
    #[error(
        "cannot trim up to {upto}: the durable cursor is at {applied}; store the cursor with CursorSync::Now first"
    )]
    NotCovered {
        /// What was asked for.
        upto: Lsn,
        /// The durable cursor; zero when there is none.
        applied: Lsn,
    },
    /// The disk refused; what was not deleted stays readable, a later trim tries again.
    #[error("cannot delete {}: {source}", path.display())]
    Disk {
        /// The segment.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// [`crate::SyncLog::close`] was called.
    #[error("the log is closed")]
    Closed,
}

/// Why a cursor was not stored. The one before it still holds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CursorError {
    /// More than [`crate::CURSOR_DATA_MAX`].
    #[error("a cursor carries at most {} bytes of data, not {bytes}", crate::CURSOR_DATA_MAX)]
    TooLarge {
        /// The data's size.
        bytes: usize,
    },
    /// A cursor outside of the log is a mistake of the caller.
    #[error("cannot store a cursor at {applied}: the log reaches from {first} to {head}")]
    Outside {
        /// What was asked for.
        applied: Lsn,
        /// The first position that is still there.
        first: Lsn,
        /// The log's head.
        head: Lsn,
    },
    /// The disk refused; the call may be repeated.
    #[error("cannot write {}: {source}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A sync failed, now or earlier.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    /// [`crate::SyncLog::close`] was called.
    #[error("the log is closed")]
    Closed,
}

/// Why a note is not on disk. Unless the log is closed, it counts in memory as *everything*: see
/// [`crate::Notes::everything`]. That is lost with this process: act on it, or do not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// The disk refused the note, and then the flag that would have stood for it.
    #[error("cannot note anything in {}: {source}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk does not answer.
    #[error("cannot note anything: the log's disk does not answer")]
    Hung,
    /// [`crate::SyncLog::close`] was called.
    #[error("the log is closed")]
    Closed,
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}
