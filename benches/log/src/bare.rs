//! Bare system calls: `pwrite` of the same bytes into files reserved as the log's are, and a shared `fdatasync`: by one of
//! those who wait, or by a thread of its own. The faster of both is what the log is measured against.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::fs::{FallocateFlags, fallocate};

use crate::Way;

const FILE_BYTES: u64 = 64 << 20;
/// Header and payload of a record, as the log writes them.
const HEADER_BYTES: usize = 32;

struct Bare {
    dir: PathBuf,
    tail: Mutex<Tail>,
    syncing: Mutex<Syncing>,
    synced: Condvar,
    /// To the thread that syncs, where there is one.
    wanted: Condvar,
    syncer: Syncer,
}

#[derive(Clone, Copy, PartialEq)]
enum Syncer {
    Leader,
    Thread,
}

struct Tail {
    file: Arc<File>,
    end: u64,
    written: u64,
    files: u32,
}

#[derive(Default)]
struct Syncing {
    busy: bool,
    upto: u64,
    wanted: u64,
    failed: bool,
}

pub(crate) fn with_leader(dir: &Path) -> Result<Arc<dyn Way>> {
    Ok(make(dir, Syncer::Leader)?)
}

pub(crate) fn with_thread(dir: &Path) -> Result<Arc<dyn Way>> {
    let bare = make(dir, Syncer::Thread)?;
    let shared = Arc::downgrade(&bare);
    std::thread::spawn(move || {
        while let Some(bare) = shared.upgrade() {
            bare.sync_wanted();
        }
    });
    Ok(bare)
}

fn make(dir: &Path, syncer: Syncer) -> Result<Arc<Bare>> {
    let tail = Tail { file: Arc::new(file(dir, 0)?), end: 0, written: 0, files: 1 };
    Ok(Arc::new(Bare {
        dir: dir.to_owned(),
        tail: Mutex::new(tail),
        syncing: Mutex::default(),
        synced: Condvar::new(),
        wanted: Condvar::new(),
        syncer,
    }))
}

fn file(dir: &Path, nth: u32) -> Result<File> {
    let file = File::create_new(dir.join(nth.to_string()))?;
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, FILE_BYTES)?;
    Ok(file)
}

impl Bare {
    /// The count of records after this one.
    fn write(&self, payload: &[u8]) -> Result<u64> {
        let mut record = [0; HEADER_BYTES + crate::PAYLOAD_BYTES];
        record[HEADER_BYTES..].copy_from_slice(payload);
        let mut tail = self.tail.lock().expect("no thread panics");
        if tail.end + record.len() as u64 > FILE_BYTES {
            tail.file.sync_data()?;
            tail.file = Arc::new(file(&self.dir, tail.files)?);
            (tail.end, tail.files) = (0, tail.files + 1);
        }
        tail.file.write_all_at(&record, tail.end)?;
        tail.end += record.len() as u64;
        tail.written += 1;
        Ok(tail.written)
    }

    /// One sync of all that is written, once somebody wants it.
    fn sync_wanted(&self) {
        let syncing = self.syncing.lock().expect("no thread panics");
        let idle = |syncing: &mut Syncing| syncing.wanted <= syncing.upto;
        let wait = self.wanted.wait_timeout_while(syncing, Duration::from_millis(20), idle);
        let (mut syncing, waited) = wait.expect("no thread panics");
        if waited.timed_out() {
            return;
        }
        drop(syncing);
        let (file, written) = {
            let tail = self.tail.lock().expect("no thread panics");
            (tail.file.clone(), tail.written)
        };
        let outcome = file.sync_data();
        syncing = self.syncing.lock().expect("no thread panics");
        syncing.failed |= outcome.is_err();
        syncing.upto = written;
        drop(syncing);
        self.synced.notify_all();
    }
}

impl Way for Bare {
    fn append(&self, payload: &[u8]) -> Result<()> {
        self.write(payload).map(drop)
    }

    /// Whoever comes while a sync runs waits for the next one, which one of them makes for all.
    fn append_synced(&self, payload: &[u8]) -> Result<()> {
        let own = self.write(payload)?;
        let mut syncing = self.syncing.lock().expect("no thread panics");
        syncing.wanted = syncing.wanted.max(own);
        if self.syncer == Syncer::Thread {
            self.wanted.notify_one();
        }
        loop {
            if syncing.upto >= own {
                ensure!(!syncing.failed, "a sync failed");
                return Ok(());
            }
            if syncing.busy || self.syncer == Syncer::Thread {
                syncing = self.synced.wait(syncing).expect("no thread panics");
                continue;
            }
            syncing.busy = true;
            drop(syncing);
            let (file, written) = {
                let tail = self.tail.lock().expect("no thread panics");
                (tail.file.clone(), tail.written)
            };
            let outcome = file.sync_data();
            syncing = self.syncing.lock().expect("no thread panics");
            syncing.busy = false;
            outcome?;
            syncing.upto = written;
            self.synced.notify_all();
        }
    }
}
