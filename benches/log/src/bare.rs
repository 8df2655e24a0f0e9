//! Bare system calls: `pwrite` of the same bytes into files reserved as the log's are, and a shared `fdatasync`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use anyhow::Result;
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
}

pub(crate) fn make(dir: &Path) -> Result<Arc<dyn Way>> {
    let tail = Tail { file: Arc::new(file(dir, 0)?), end: 0, written: 0, files: 1 };
    Ok(Arc::new(Bare {
        dir: dir.to_owned(),
        tail: Mutex::new(tail),
        syncing: Mutex::default(),
        synced: Condvar::new(),
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
}

impl Way for Bare {
    fn append(&self, payload: &[u8]) -> Result<()> {
        self.write(payload).map(drop)
    }

    /// Whoever comes while a sync runs waits for the next one, which one of them makes for all.
    fn append_synced(&self, payload: &[u8]) -> Result<()> {
        let own = self.write(payload)?;
        let mut syncing = self.syncing.lock().expect("no thread panics");
        loop {
            if syncing.upto >= own {
                return Ok(());
            }
            if syncing.busy {
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
