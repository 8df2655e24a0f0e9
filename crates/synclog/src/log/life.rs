//! A log's beginning and end.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Closing, Owner, Segment, Shared, SyncLog};
use crate::append::{self, Tail};
use crate::config::Config;
use crate::cursor::{CursorFile, Ending, Gaps};
use crate::disk::Disk;
use crate::error::{OpenError, Poisoned};
use crate::flush;
use crate::folder::{Folder, disk, kernel_boot_id};
use crate::format::{self, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::index::Index;
use crate::level::{self, Gauge};
use crate::patient::{Patient, Turns};
use crate::recover::{Recovery, recover};
use crate::reserve::Reserve;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, RwLock, thread};
use crate::{maker, wall_ms};

impl SyncLog {
    /// Opens the log in `config.dir`, or makes it: locks the folder, recovers, starts both threads.
    ///
    /// What recovery found is in the second value; it is not an error. Nor is a full disk: such a log can be read,
    /// trimmed and noted to, and takes records as soon as there is space. Blocks; reads up to what was not synced when
    /// the log was last written, as a rule one segment.
    pub fn open(config: Config) -> Result<(SyncLog, Recovery), OpenError> {
        config.check()?;
        let disk_calls = Disk::new(config.faults.clone());
        let folder = Folder::prepare(&config.dir)?;
        let folder_lock = folder.lock()?;
        let boot = config.boot_id.unwrap_or_else(kernel_boot_id);
        let mut recovered = recover(&disk_calls, &folder, boot)?;
        let head = recovered.report.head;

        let (id, gap_before) = (recovered.id, recovered.gap_before_head);
        // First: what little space there is belongs to it.
        let (reserve, told) = Reserve::start(&disk_calls, &folder, id, recovered.fresh, config.hang_after)?;
        recovered.report.notes.extend(told);
        let header = SegmentHeader { id, base: head, created_ms: wall_ms(), boot, gap_before };
        let used = recovered.segments.iter().map(|kept| kept.end).sum::<u64>();
        let free = level::free_bytes(&folder).unwrap_or(u64::MAX).saturating_sub(config.free_bytes_min);
        let bytes_max = level::segment_bytes(&config, used, free);
        let first = append::begin(&disk_calls, &folder, bytes_max, &header)?;
        let used = if first.is_some() { used + SEGMENT_HEADER_BYTES } else { used };
        let gauge = Gauge::new(&config, used, free);
        // As a rule the segment tells of the gap from now on.
        let gaps = match gap_before && first.is_none() {
            _ if recovered.gaps_kept => Gaps::Kept,
            true => Gaps::Here,
            false => Gaps::Flagged,
        };
        let cursor = CursorFile::start(&disk_calls, &folder, id, recovered.cursor, head, gaps)?;
        folder.sync(&disk_calls).map_err(disk("sync", &folder.path))?;

        let kept = recovered.segments.into_iter().map(|kept| Segment {
            base: kept.header.base,
            path: kept.path,
            created_ms: kept.header.created_ms,
            gap_before: kept.header.gap_before,
            end: AtomicU64::new(kept.end),
        });
        let segments =
            kept.map(Arc::new).chain(first.as_ref().map(|first| Arc::clone(&first.segment))).collect();
        let shared = Arc::new(Shared {
            disk: disk_calls,
            folder,
            id,
            seed: format::seed(&id),
            boot,
            cursor,
            reserve,
            segments: RwLock::new(segments),
            index: Index::default(),
            trimming: Mutex::default(),
            trim_upto: AtomicU64::new(0),
            gauge,
            closed: AtomicBool::new(false),
            head: AtomicU64::new(head.0),
            tail: Patient::new(Tail::new(first.as_ref(), bytes_max, gap_before)),
            make: Condvar::new(),
            made: Turns::default(),
            appended: Notify::new(),
            append_waiters: AtomicUsize::new(0),
            synced: AtomicU64::new(head.0),
            unsynced: Mutex::new(first.into_iter().collect()),
            syncing: Mutex::default(),
            ask: Mutex::default(),
            wake: Condvar::new(),
            synced_more: Notify::new(),
            poisoned: OnceLock::new(),
            config,
        });
        // From here on the owner's drop ends whatever has been started.
        let closing = Closing { threads: Vec::new(), lock: folder_lock };
        let closing = Arc::new(Mutex::new(Some(closing)));
        let log = SyncLog { owner: Arc::new(Owner { shared, closing, ended: Arc::default() }) };
        log.start("synclog-flush", flush::run)?;
        log.start("synclog-make", maker::run)?;
        Ok((log, recovered.report))
    }

    fn start(&self, name: &'static str, run: fn(&Shared)) -> Result<(), OpenError> {
        let shared = Arc::clone(self.shared());
        let body = move || {
            // Nobody would sync or make segments any more, and nobody would know.
            shared.watched(name, || run(&shared));
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
        let thread = thread.map_err(disk("start a thread for", &self.shared().folder.path))?;
        if let Some(closing) = self.owner.closing.lock().as_mut() {
            closing.threads.push(thread);
        }
        Ok(())
    }
}

impl Owner {
    pub(super) fn close(&self) -> Result<(), Poisoned> {
        let shared = &self.shared;
        let closing = self.closing.lock();
        if closing.is_some() {
            let tail = shared.tail.lock_within(shared.config.hang_after);
            shared.closed.store(true, Ordering::SeqCst);
            if tail.is_none() {
                return Err(shared.not_in_order(shared.config.hang_after));
            }
            drop((tail, closing));
            self.end();
        } else {
            drop(closing);
        }
        let longest = CLOSE_HANGS * shared.config.hang_after;
        self.ended.wait_beyond(0, longest);
        if self.ended.turn() == 0 {
            return Err(shared.not_in_order(longest));
        }
        shared.healthy()
    }

    /// What is left to do, on a thread of its own: each step of it may hang.
    fn end(&self) {
        let (shared, closing, ended) =
            (Arc::clone(&self.shared), Arc::clone(&self.closing), Arc::clone(&self.ended));
        let end = move || {
            // One of those who close has it.
            let Some(closing) = closing.lock().take() else { return };
            shared.watched("synclog-close", || shared.end(closing));
            drop(shared);
            ended.next();
        };
        if thread::Builder::new().name("synclog-close".to_owned()).spawn(end.clone()).is_err() {
            end();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`; and one who was told that it hangs has waited for long enough.
        if self.closing.lock().is_some() {
            let _ = self.close();
        }
        if let Some(closing) = self.closing.lock().take() {
            // An append hangs: until this process ends, nobody else may have the folder.
            std::mem::forget(closing.lock);
            self.shared.stop();
        }
    }
}

impl Shared {
    /// Both threads end as soon as they can.
    fn stop(&self) {
        self.make.notify_all();
        self.made.next();
        self.ask.lock().stop = true;
        self.wake.notify_all();
    }

    /// Runs what nothing works without; a panic ends all promises.
    fn watched(&self, name: &str, run: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            self.poison(&format!("run {name}"), &io::Error::other("the thread panicked"));
            self.made.next();
        }
    }

    fn end(&self, closing: Closing) {
        self.stop();
        for thread in closing.threads {
            // A panic in there has poisoned the log already.
            let _ = thread.join();
        }
        // Whoever deletes or wipes still does so in a folder that is ours; later trims see that it is closed.
        drop(self.trimming.lock());
        let _no_clear = self.reserve.no_clearing();
        self.finish();
        drop(closing.lock);
    }

    fn not_in_order(&self, after: Duration) -> Poisoned {
        let after = after.as_millis();
        Poisoned {
            reason: format!("it is not closed in order: its disk has not answered for {after} ms").into(),
        }
    }

    /// After both threads have ended: gives back reserved space and says, on disk, that the log was closed.
    fn finish(&self) {
        let tail = self.tail.lock();
        // Whoever appends now is told at once that the log is closed.
        let last = tail.last.as_ref().map(|last| (Arc::clone(&last.file), tail.end));
        drop(tail);
        if self.poisoned.get().is_none() {
            // Neither matters for what was promised: the next open does the same.
            if let Some((file, end)) = last {
                let _ = self.disk.truncate(&file, end);
            }
            let _ = self.disk.remove(&self.folder.spare());
        }
        let ending = match self.reserve.close() {
            Ok(()) => Ending::InOrder,
            Err(_) => Ending::NotesLost,
        };
        // A poisoned log was not closed in order. That notes are missing must be said there, too.
        if (self.poisoned.get().is_none() || ending == Ending::NotesLost)
            && let Err(error) = self.cursor.write_last(self.synced(), ending)
        {
            self.poison("write the cursor", &error);
        }
        self.synced_more.notify_waiters();
    }
}

/// How often [`Config::hang_after`] a close waits: a last sync may well take as long as that on a slow disk.
const CLOSE_HANGS: u32 = 5;
