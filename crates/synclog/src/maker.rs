//! Makes the next segment ahead, on a thread of its own.
//!
//! - the file is called `spare` until a roll names it; it is empty, its space is reserved, file and name are synced
//! - a full disk therefore shows at a roll, as an error of `append`, and not in the middle of a record
//! - after a failure it waits until an append asks again

use std::fs::File;
use std::io;
use std::sync::PoisonError;

use crate::config::Config;
use crate::disk::Disk;
use crate::error::is_full;
use crate::folder::Folder;
use crate::lock;
use crate::log::Shared;

#[derive(Debug)]
pub(crate) enum Spare {
    Wanted,
    Ready(File),
    Failed(io::Error),
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
    let mut tail = lock(&shared.tail);
    while !tail.closed {
        if !matches!(tail.spare, Spare::Wanted) {
            tail = shared.make.wait(tail).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        drop(tail);
        let made = make(&shared.disk, &shared.folder, &shared.config, Full::Refused);
        tail = lock(&shared.tail);
        tail.spare = match made {
            Ok(file) => Spare::Ready(file),
            Err(error) => Spare::Failed(error),
        };
        tail.maker_late = false;
        shared.made.notify_all();
    }
}

/// Makes the spare, synced. One that is there already, from a failed try, is replaced.
pub(crate) fn make(disk: &Disk, folder: &Folder, config: &Config, full: Full) -> io::Result<File> {
    let path = folder.spare();
    disk.remove(&path)?;
    let file = disk.create(&path)?;
    let made = match disk.allocate(&file, config.segment_bytes_max) {
        Err(error) if full == Full::Tolerated && is_full(&error) => Ok(()),
        other => other,
    };
    let made = made.and_then(|()| disk.sync_file(&file)).and_then(|()| folder.sync(disk));
    if made.is_err() {
        // What it reserved may be just what others need.
        let _ = disk.remove(&path);
    }
    made.map(|()| file)
}
