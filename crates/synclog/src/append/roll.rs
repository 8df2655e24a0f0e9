//! The end of one segment and the beginning of the next.
//!
//! - a roll takes the segment that was made ahead: a header, a rename, no sync. It waits only when the maker is behind
//! - an open begins a segment, too, and syncs it; on a full disk it does without

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;

use super::{Last, Tail};
use crate::disk::Disk;
use crate::error::{AppendError, OpenError, is_full};
use crate::flush::Unsynced;
use crate::folder::{Folder, disk};
use crate::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::log::{Segment, Shared};
use crate::maker::{self, Made, Spare};
use crate::sync::MutexGuard;
use crate::sync::atomic::AtomicU64;
use crate::wall_ms;

impl Shared {
    /// Makes sure that the tail has room, by a roll when it has not.
    pub(super) fn room<'a>(
        &'a self,
        mut tail: MutexGuard<'a, Tail>,
        bytes: u64,
    ) -> Result<MutexGuard<'a, Tail>, AppendError> {
        let mut asked = false;
        loop {
            // Before all that is looked at: what changes after that is waited for no longer.
            let turn = self.made.turn();
            self.healthy()?;
            if self.is_closed() {
                return Err(AppendError::Closed);
            }
            if tail.has_room(bytes) {
                return Ok(tail);
            }
            match std::mem::replace(&mut tail.spare, Spare::Wanted) {
                Spare::Ready(made) => self.roll(&mut tail, made)?,
                Spare::Failed(error) if asked => {
                    let source = copy_of(&error);
                    tail.spare = Spare::Failed(error);
                    return Err(self.refused(source));
                }
                // The failure may be long past: one more try, then the truth.
                Spare::Failed(_) => {
                    asked = true;
                    self.make.notify_one();
                }
                // A device that hangs must stop the others once at most.
                Spare::Wanted if tail.maker_late => return Err(self.hangs()),
                Spare::Wanted => {
                    // Without the lock, and asked for like any other: somebody may come to hang in it meanwhile.
                    drop(tail);
                    self.made.wait_beyond(turn, self.config.hang_after);
                    tail = self.take_tail()?;
                    tail.maker_late = self.made.turn() == turn;
                }
            }
        }
    }

    /// Ends the last segment and begins the next.
    pub(crate) fn roll(&self, tail: &mut Tail, made: Made) -> Result<(), AppendError> {
        let (id, boot, base) = (self.id, self.boot, self.head());
        let header = SegmentHeader { id, base, created_ms: wall_ms(), boot, gap_before: tail.gap_before };
        let next = match name(&self.disk, &self.folder, &made.file, &header) {
            Ok(segment) => Unsynced { segment: Arc::new(segment), file: Arc::new(made.file), named: false },
            Err(error) => {
                tail.spare = Spare::Ready(made);
                return Err(self.refused(error));
            }
        };
        tail.last = Some(Last::new(&next));
        (tail.gap_before, tail.indexed) = (false, SEGMENT_HEADER_BYTES);
        tail.end = SEGMENT_HEADER_BYTES;
        tail.bytes_max = made.bytes;
        self.gauge.add(SEGMENT_HEADER_BYTES);
        self.segments.write().push_back(Arc::clone(&next.segment));
        self.unsynced.lock().push(next);
        self.make.notify_one();
        self.nudge_flusher();
        Ok(())
    }
}

/// Makes the segment that an open begins with, and syncs it. `None`: there is no space for it.
pub(crate) fn begin(
    disk_calls: &Disk,
    folder: &Folder,
    bytes: u64,
    header: &SegmentHeader,
) -> Result<Option<Unsynced>, OpenError> {
    let begun = maker::make(disk_calls, folder, bytes, maker::Full::Tolerated).and_then(|made| {
        let segment = name(disk_calls, folder, &made.file, header)?;
        disk_calls.sync_file(&made.file)?;
        folder.sync(disk_calls)?;
        Ok(Unsynced { segment: Arc::new(segment), file: Arc::new(made.file), named: true })
    });
    match begun {
        Err(error) if is_full(&error) => {
            // Empty, at most; it goes at the next try in any case.
            let _ = disk_calls.remove(&folder.spare());
            Ok(None)
        }
        other => other.map(Some).map_err(disk("make a segment in", &folder.path)),
    }
}

/// Turns the spare into the segment that `header` describes. Nothing is synced.
fn name(disk_calls: &Disk, folder: &Folder, file: &File, header: &SegmentHeader) -> io::Result<Segment> {
    disk_calls.write(file, &[IoSlice::new(&header.encode())], 0)?;
    let path = folder.segment(header.base);
    disk_calls.rename(&folder.spare(), &path)?;
    Ok(Segment {
        base: header.base,
        path,
        created_ms: header.created_ms,
        gap_before: header.gap_before,
        end: AtomicU64::new(SEGMENT_HEADER_BYTES),
    })
}

/// The same error once more, for the next one who asks.
fn copy_of(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}
