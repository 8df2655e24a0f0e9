//! The log as a whole, and its handles. `log/life.rs` opens and closes it.
//!
//! - a [`SyncLog`] is a cheap handle; the last one to go closes the log
//! - two threads work beside the callers: one makes the next segment ahead, one syncs
//! - locks, in the order in which they may be taken: `trimming`, `syncing`, cursor, `tail`, `segments`, `unsynced`, `ask`;
//!   those of the notes, and of what the maker has made, are taken apart from these or last. Of these only `tail` is taken by `append`, and nobody syncs or deletes while holding it

mod life;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use crate::Lsn;
use crate::append::Tail;
use crate::config::{Config, Durability};
use crate::cursor::{Cursor, CursorFile, CursorSync};
use crate::disk::Disk;
use crate::error::{AppendError, CursorError, NoteError, Poisoned, ReadError, TrimError};
use crate::flush::{Ask, Unsynced};
use crate::folder::{Folder, FolderLock};
use crate::format::{BootId, LogId};
use crate::index::Index;
use crate::level::{Fill, Gauge, Level};
use crate::patient::{Patient, Turns};
use crate::reader::Reader;
use crate::reserve::{NoteLsn, Noted, Notes, Reserve};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::thread::JoinHandle;
use crate::sync::{Condvar, Mutex, RwLock, RwLockReadGuard};

/// An open log. Clones share it; [`SyncLog::close`] or the end of the last clone closes it.
#[derive(Debug, Clone)]
pub struct SyncLog {
    owner: Arc<Owner>,
}

/// Figures about an open log.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// The first position that can be read.
    pub first: Lsn,
    /// The position that the next append gets.
    pub head: Lsn,
    /// Everything below it is synced.
    pub durable: Lsn,
    /// Bytes in segments, headers included; without what is reserved for the records to come.
    pub bytes: u64,
    /// How full the log is, and what bounds it.
    pub fill: Fill,
    /// The same in steps.
    pub level: Level,
    /// Segment files.
    pub segments: usize,
    /// Positions from `first` to `head`: the records, if there is no gap.
    pub records: u64,
    /// When the oldest segment was begun, in milliseconds since 1970.
    pub oldest_ms: u64,
    /// Why the log takes no more records, if so.
    pub poisoned: Option<String>,
}

/// One segment, as readers see it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base: Lsn,
    pub(crate) path: PathBuf,
    pub(crate) created_ms: u64,
    pub(crate) gap_before: bool,
    /// Everything before this offset is written whole. Stored before `head` is.
    pub(crate) end: AtomicU64,
}

/// What the handles, the readers and both threads have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) disk: Disk,
    pub(crate) folder: Folder,
    pub(crate) id: LogId,
    pub(crate) seed: u32,
    pub(crate) boot: BootId,
    pub(crate) cursor: CursorFile,
    pub(crate) reserve: Reserve,
    pub(crate) segments: RwLock<VecDeque<Arc<Segment>>>,
    pub(crate) index: Index,
    /// One trim, or one new cursor, at a time.
    pub(crate) trimming: Mutex<()>,
    /// What was trimmed last; zero: nothing yet.
    pub(crate) trim_upto: AtomicU64,
    pub(crate) gauge: Gauge,

    /// Set while `tail` is held, unless the one who has that hangs: no record is begun afterwards.
    pub(crate) closed: AtomicBool,
    pub(crate) head: AtomicU64,
    pub(crate) tail: Patient<Tail>,
    /// To the maker: a segment is wanted. Goes with `tail`.
    pub(crate) make: Condvar,
    /// From the maker: it is there, or it failed.
    pub(crate) made: Turns,
    pub(crate) appended: Notify,
    pub(crate) append_waiters: AtomicUsize,

    pub(crate) synced: AtomicU64,
    pub(crate) unsynced: Mutex<Vec<Unsynced>>,
    /// One sync at a time.
    pub(crate) syncing: Mutex<()>,
    pub(crate) ask: Mutex<Ask>,
    /// To the flusher. Goes with `ask`.
    pub(crate) wake: Condvar,
    pub(crate) synced_more: Notify,
    pub(crate) poisoned: OnceLock<Poisoned>,
}

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    /// Taken by the one who ends it.
    closing: Arc<Mutex<Option<Closing>>>,
    /// Goes on when nothing is done in the folder any more, and the one who ended it has let go of its files.
    ended: Arc<Turns>,
}

/// What ends with the log.
#[derive(Debug)]
struct Closing {
    threads: Vec<JoinHandle<()>>,
    lock: FolderLock,
}

impl SyncLog {
    /// Appends one record, its payload given in parts, on the caller's thread: about a microsecond, and for a large
    /// record the time that its bytes take into the page cache.
    ///
    /// From its return on, the record survives the death of this process, and readers see it. After an error nothing
    /// of it is there and nothing else has changed.
    pub fn append(&self, kind: u8, parts: &[&[u8]]) -> Result<Lsn, AppendError> {
        self.shared().append(kind, parts)
    }

    /// The position that the next append gets: everything below it is appended.
    pub fn head(&self) -> Lsn {
        self.shared().head()
    }

    /// Everything below it is synced. With [`Durability::Process`] the same as [`SyncLog::head`].
    pub fn durable(&self) -> Lsn {
        self.shared().durable()
    }

    /// Everything below it is deleted: the first position that can still be read.
    pub fn trimmed(&self) -> Lsn {
        self.shared().trimmed()
    }

    /// Resolves once [`SyncLog::durable`] has reached `upto`; all who wait share one sync.
    /// An `upto` beyond the head waits for the appends, too. May be dropped at any time.
    pub async fn wait_durable(&self, upto: Lsn) -> Result<(), Poisoned> {
        self.shared().wait_durable(upto).await
    }

    /// Resolves once [`SyncLog::head`] is greater than `beyond`. On a closed log it may never.
    /// May be dropped at any time.
    pub async fn wait_appended(&self, beyond: Lsn) {
        self.shared().wait_appended(beyond).await;
    }

    /// How full the log is: of its own bound and of the disk, whichever is nearer. A few loads: fit to be asked
    /// before each append. Bytes count at once, what the disk has for us is up to 100 ms old.
    pub fn level(&self) -> Level {
        self.shared().gauge.level()
    }

    /// Keeps a short text where no record can be appended: on a full disk, in a log that is poisoned. As durable as a
    /// record: it survives the death of this process at once, that of the host after the next sync.
    ///
    /// The same note is kept once. There is room for about 250 KiB; what does not fit, and what the disk refuses, counts
    /// as [`Notes::everything`].
    pub fn note(&self, note: &[u8]) -> Result<Noted, NoteError> {
        self.shared().note(note)
    }

    /// What was noted and not cleared, by this process and earlier ones.
    pub fn notes(&self) -> Notes {
        self.shared().reserve.notes()
    }

    /// Forgets the notes that [`SyncLog::notes`] told of, once they are durable elsewhere. What was noted since stays,
    /// also when it is the same. Blocks for the disk. After an error they may be told again.
    pub fn clear_notes(&self, upto: NoteLsn) -> Result<(), NoteError> {
        self.shared().reserve.clear(upto)
    }

    /// A reader that begins at `from`; [`Lsn::ZERO`] means the first record that is kept. Reads nothing yet.
    pub fn reader(&self, from: Lsn) -> Result<Reader, ReadError> {
        Reader::new(Arc::clone(self.shared()), from)
    }

    /// Deletes the segments that lie wholly below `upto`, oldest first, never the last one.
    ///
    /// The durable cursor must cover `upto`. Blocks for the deletions; appends go on meanwhile.
    pub fn trim(&self, upto: Lsn) -> Result<(), TrimError> {
        self.shared().trim(upto)
    }

    /// The cursor that was stored last, in this run or an earlier one.
    pub fn cursor(&self) -> Option<Cursor> {
        self.shared().cursor.value()
    }

    /// Stores how far the log was applied. A cursor beyond [`SyncLog::durable`] waits for a sync of the log first,
    /// so that a cursor on disk is never ahead of the log on disk. Blocks for the disk unless `sync` is `Later`.
    ///
    /// A failed sync poisons the log.
    pub fn store_cursor(&self, cursor: &Cursor, sync: CursorSync) -> Result<(), CursorError> {
        self.shared().store_cursor(cursor, sync)
    }

    /// [`Recovery::gap`](crate::Recovery::gap) is not told again at the next open: what it means is kept elsewhere, on
    /// disk. A gap that is found later is. Blocks for the disk. After an error it may be told again.
    pub fn forget_gap(&self) -> Result<(), CursorError> {
        self.shared().forget_gap()
    }

    /// Figures, taken one after the other.
    pub fn stats(&self) -> Stats {
        let shared = self.shared();
        let segments = shared.list();
        let (first, head) = (shared.trimmed_of(&segments), shared.head());
        Stats {
            first,
            head,
            durable: shared.durable(),
            bytes: shared.gauge.used(),
            fill: shared.gauge.fill(),
            level: shared.gauge.level(),
            segments: segments.len(),
            records: head.0.saturating_sub(first.0),
            oldest_ms: segments.front().map_or(0, |segment| segment.created_ms),
            poisoned: shared.poisoned.get().map(|poisoned| poisoned.reason.to_string()),
        }
    }

    /// The log's random id: with an [`Lsn`] it names a record for good.
    pub fn id(&self) -> [u8; 16] {
        self.shared().id
    }

    /// Ends the log in order: no more appends, a last sync, both threads ended, the folder free for another process.
    ///
    /// Later calls do nothing and tell the same. Readers may go on.
    ///
    /// While the disk holds an append for longer than [`Config::hang_after`], or what is to be done last for longer than
    /// five times that, the log takes nothing more, but is not closed: the error says so, the folder stays locked, and a
    /// later call waits again. What was appended is as safe as after a kill.
    pub fn close(&self) -> Result<(), Poisoned> {
        self.owner.close()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }
}

impl Shared {
    pub(crate) fn head(&self) -> Lsn {
        Lsn(self.head.load(Ordering::SeqCst))
    }

    /// What was really synced, whatever the durability.
    pub(crate) fn synced(&self) -> Lsn {
        Lsn(self.synced.load(Ordering::SeqCst))
    }

    pub(crate) fn durable(&self) -> Lsn {
        match self.config.durability {
            Durability::Process => self.head(),
            Durability::Journal | Durability::Strict => self.synced(),
        }
    }

    pub(crate) fn trimmed(&self) -> Lsn {
        self.trimmed_of(&self.list())
    }

    fn trimmed_of(&self, segments: &VecDeque<Arc<Segment>>) -> Lsn {
        segments.front().map_or_else(|| self.head(), |segment| segment.base)
    }

    pub(crate) fn list(&self) -> RwLockReadGuard<'_, VecDeque<Arc<Segment>>> {
        self.segments.read()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn healthy(&self) -> Result<(), Poisoned> {
        self.poisoned.get().map_or(Ok(()), |poisoned| Err(poisoned.clone()))
    }

    /// Ends all promises; the first reason stays.
    pub(crate) fn poison(&self, doing: &str, error: &io::Error) -> Poisoned {
        let poisoned =
            self.poisoned.get_or_init(|| Poisoned { reason: format!("{doing}: {error}").into() }).clone();
        self.synced_more.notify_waiters();
        poisoned
    }
}
