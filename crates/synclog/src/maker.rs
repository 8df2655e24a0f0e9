//! Makes the next segment ahead, on a thread of its own.
//!
//! - the file is called `spare` until a roll names it; it is empty, its space is reserved, file and name are synced
//! - a full disk therefore shows at a roll, as an error of `append`, and not in the middle of a record
//! - after a failure it waits until an append asks again
//! - between two segments it looks, every 100 ms, how much room the disk has, and does what there was no room for

use std::fs::File;
use std::io;
use std::time::Duration;

use crate::disk::Disk;
use crate::error::is_full;
use crate::folder::Folder;
use crate::level;
use crate::log::Shared;
use crate::reserve::make::Tries;
use crate::sync::MutexGuard;

#[derive(Debug)]
pub(crate) enum Spare {
    Wanted,
    Ready(Made),
    Failed(io::Error),
}

/// A segment without a name.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) file: File,
    /// The size that is reserved for it, and at which it is to be closed.
    pub(crate) bytes: u64,
}

/// What a full disk means for a new segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Refused,
    /// At open: there may be room for a header, and reading, trimming and the cursor must work.
    Tolerated,
}

/// Runs until the log is closed.
pub(crate) fn run(shared: &Shared) {
    let mut tries = Tries::default();
    let mut tail = shared.tail.lock();
    while !shared.is_closed() {
        if !matches!(tail.spare, Spare::Wanted) {
            let waited = shared.make.wait_for(&mut tail, LOOK_INTERVAL);
            if waited.timed_out() {
                MutexGuard::unlocked(&mut tail, || {
                    shared.look_at_disk();
                    shared.trim_again();
                    shared.reserve.make_again(&shared.folder, &mut tries);
                });
            }
            continue;
        }
        let made = MutexGuard::unlocked(&mut tail, || {
            let free = shared.look_at_disk();
            let bytes = level::segment_bytes(&shared.config, shared.gauge.used(), free);
            let made = make(&shared.disk, &shared.folder, bytes, Full::Refused);
            shared.look_at_disk();
            made
        });
        tail.spare = made.map_or_else(Spare::Failed, Spare::Ready);
        tail.maker_late = false;
        shared.made.next();
    }
}

/// Makes the spare, synced. One that is there already, from a failed try, is replaced.
pub(crate) fn make(disk: &Disk, folder: &Folder, bytes: u64, full: Full) -> io::Result<Made> {
    let path = folder.spare();
    disk.remove(&path)?;
    let file = disk.create(&path)?;
    let made = match disk.allocate(&file, bytes) {
        Err(error) if full == Full::Tolerated && is_full(&error) => Ok(()),
        other => other,
    };
    let made = made.and_then(|()| disk.sync_file(&file)).and_then(|()| folder.sync(disk));
    if made.is_err() {
        // What it reserved may be just what others need.
        let _ = disk.remove(&path);
    }
    made.map(|()| Made { file, bytes })
}

/// The level is at most so old, as far as the disk's room goes.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
