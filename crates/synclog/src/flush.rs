//! The flusher: syncs in groups and publishes the durable position.
//!
//! - on request, every `flush_interval`, and every 8 MiB; all who wait share one sync. With `Process` nobody waits, and
//!   only bytes count: a larger backlog of dirty pages would stall the appends themselves
//! - published is what the head was before the sync began; names of new segments are synced before their records count
//! - a failed sync poisons the log for this process: afterwards nobody knows what the disk holds, and a second sync
//!   would report success for pages that the kernel has given up
//! - notes are synced every `flush_interval` whatever the durability, and in a poisoned log, too: they are for it
//!
//! Not here: `sync_file_range`, which no safe crate offers. The sync every 8 MiB keeps the backlog of dirty pages as small.

use crate::sync::atomic::Ordering;
use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use crate::Lsn;
use crate::config::Durability;
use crate::error::Poisoned;
use crate::log::{Segment, Shared};

/// A segment that may hold records that are not synced.
#[derive(Debug, Clone)]
pub(crate) struct Unsynced {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<File>,
    /// Its name is on disk.
    pub(crate) named: bool,
}

/// What the flusher is asked to do.
#[derive(Debug, Default)]
pub(crate) struct Ask {
    /// Somebody waits until everything below is durable.
    wanted: Lsn,
    nudged: bool,
    pub(crate) stop: bool,
}

/// Runs until the log is closed; syncs a last time then. In a poisoned log it goes on for the notes.
pub(crate) fn run(shared: &Shared) {
    loop {
        let due = shared.wait_until_due();
        // The first that fails poisons; afterwards nothing but notes is synced.
        let _ = shared.sync_records(&due);
        // What does not get to the disk is tried again next time.
        let _ = shared.reserve.sync_pending();
        if due.stop {
            return;
        }
    }
}

struct Due {
    sync: bool,
    stop: bool,
}

impl Shared {
    pub(crate) async fn wait_durable(&self, upto: Lsn) -> Result<(), Poisoned> {
        if self.config.durability == Durability::Process {
            // Durable is what is appended: there is no sync to wait for.
            self.wait_appended(Lsn(upto.0.saturating_sub(1))).await;
            return Ok(());
        }
        let mut asked = false;
        loop {
            let synced_more = self.synced_more.notified();
            if self.durable() >= upto {
                return Ok(());
            }
            self.healthy()?;
            if upto > self.head() && self.is_closed() {
                return Err(Poisoned { reason: "the log is closed".into() });
            }
            if !asked {
                asked = true;
                let mut ask = self.ask.lock();
                ask.wanted = ask.wanted.max(upto);
                drop(ask);
                self.wake.notify_one();
            }
            synced_more.await;
        }
    }

    /// Asks for a sync that nobody waits for.
    pub(crate) fn nudge_flusher(&self) {
        self.ask.lock().nudged = true;
        self.wake.notify_one();
    }

    fn sync_records(&self, due: &Due) -> Result<(), Poisoned> {
        self.healthy()?;
        if due.sync {
            self.sync_now()?;
        }
        self.cursor.sync_pending().map_err(|error| self.poison("sync the cursor", &error))
    }

    /// Syncs everything that is appended, on the caller's thread.
    pub(crate) fn sync_now(&self) -> Result<(), Poisoned> {
        let _one = self.syncing.lock();
        self.healthy()?;
        // The head first: the list then has every segment with a record below it.
        let head = self.head();
        let files = self.unsynced.lock().clone();
        if head == self.synced() && files.iter().all(|unsynced| unsynced.named) {
            return Ok(());
        }
        for unsynced in &files {
            let doing = || format!("sync {}", unsynced.segment.path.display());
            self.disk.sync_file(&unsynced.file).map_err(|error| self.poison(&doing(), &error))?;
        }
        if files.iter().any(|unsynced| !unsynced.named) {
            self.folder.sync(&self.disk).map_err(|error| self.poison("sync the log folder", &error))?;
        }
        self.synced.store(head.0, Ordering::SeqCst);
        self.synced_more.notify_waiters();
        self.retire(&files);
        Ok(())
    }

    /// Lets go of the segments that were full when the sync began: they will not change any more.
    fn retire(&self, files: &[Unsynced]) {
        let Some((_, full)) = files.split_last() else { return };
        for unsynced in full {
            // Gives back what was reserved beyond the end; if that fails, it is only space.
            let _ = self.disk.truncate(&unsynced.file, unsynced.segment.end.load(Ordering::Acquire));
        }
        let mut unsynced = self.unsynced.lock();
        unsynced.drain(..full.len());
        if let Some(last) = unsynced.first_mut() {
            last.named = true;
        }
    }

    fn wait_until_due(&self) -> Due {
        let deadline = Instant::now() + self.config.flush_interval;
        let mut ask = self.ask.lock();
        loop {
            let more = self.head() > self.synced() && self.healthy().is_ok();
            let waited_for = more && ask.wanted > self.synced();
            if ask.stop || ask.nudged || waited_for {
                ask.nudged = false;
                return Due { sync: true, stop: ask.stop };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Due { sync: self.config.durability != Durability::Process, stop: false };
            }
            self.wake.wait_for(&mut ask, left);
        }
    }
}
