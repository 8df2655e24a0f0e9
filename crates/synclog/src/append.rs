//! Append and roll.
//!
//! - checksum of the payload, lock, position, one `pwritev`, unlock, publish: nothing else on a good day
//! - a failed write is undone by cutting the file back; when even that fails, the log is poisoned
//! - an append that the disk does not answer keeps the lock: the others give up after a while, later ones at once
//! - a roll takes the segment that was made ahead: a header, a rename, no sync. It waits only when the maker is behind
//!
//! The payload's checksum is made outside of the lock, over the very slices that are written.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::config::Durability;
use crate::disk::Disk;
use crate::error::{AppendError, OpenError, is_full};
use crate::flush::Unsynced;
use crate::folder::{Folder, disk};
use crate::format::{
    RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, payload_crc, record_bytes,
};
use crate::index::STRIDE_BYTES;
use crate::log::{Segment, Shared};
use crate::maker::{self, Made, Spare};
use crate::sync::MutexGuard;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{Lsn, wall_ms};

/// Where the next record goes.
#[derive(Debug)]
pub(crate) struct Tail {
    /// `None`: at open there was no space for a segment; the next append tries again.
    pub(crate) last: Option<Last>,
    pub(crate) end: u64,
    /// The size at which the segment is closed.
    bytes_max: u64,
    /// Where the index was told of a record.
    indexed: u64,
    /// The next segment is the first one behind a gap.
    gap_before: bool,
    /// Written since the flusher was last nudged.
    unsynced_bytes: u64,
    pub(crate) spare: Spare,
    /// An append has waited in vain for the spare: the others do not, until it is there.
    pub(crate) maker_late: bool,
    pub(crate) closed: bool,
}

/// The segment that is written to.
#[derive(Debug)]
pub(crate) struct Last {
    segment: Arc<Segment>,
    pub(crate) file: Arc<File>,
}

impl Tail {
    /// `gap_before` is for a `first` that could not be made.
    pub(crate) fn new(first: Option<&Unsynced>, bytes_max: u64, gap_before: bool) -> Tail {
        Tail {
            last: first.map(Last::new),
            gap_before: gap_before && first.is_none(),
            indexed: SEGMENT_HEADER_BYTES,
            end: SEGMENT_HEADER_BYTES,
            bytes_max,
            unsynced_bytes: 0,
            spare: Spare::Wanted,
            maker_late: false,
            closed: false,
        }
    }

    /// Whether a record of so many bytes on disk goes into this segment.
    fn has_room(&self, bytes: u64) -> bool {
        self.last.is_some() && (self.is_empty() || self.end + bytes <= self.bytes_max)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end <= SEGMENT_HEADER_BYTES
    }
}

impl Last {
    fn new(begun: &Unsynced) -> Last {
        Last { segment: Arc::clone(&begun.segment), file: Arc::clone(&begun.file) }
    }
}

impl Shared {
    pub(crate) fn append(&self, kind: u8, parts: &[&[u8]]) -> Result<Lsn, AppendError> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let max = self.config.record_bytes_max;
        // `record_bytes_max` is at most 1 GiB: what passes here fits the header's u32.
        let len = match u32::try_from(len) {
            Ok(fits) if len <= max => fits,
            _ => return Err(AppendError::TooLarge { bytes: len, max }),
        };
        let payload_crc = payload_crc(parts);
        let bytes = record_bytes(len as usize);

        let mut guard = self.room(self.take_tail()?, bytes)?;
        let tail = &mut *guard;
        // Where there is room, there is a segment.
        let Some(last) = &tail.last else { return Err(self.refused(io::ErrorKind::StorageFull.into())) };
        // Only the holder of `tail` moves the head.
        let lsn = self.head();
        let header = RecordHeader { len, lsn, durable: self.synced(), payload_crc, kind }.encode(self.seed);
        let padding = &[0; 8][..bytes as usize - RECORD_HEADER_BYTES - len as usize];
        if let Err(error) = write_record(&self.disk, &last.file, tail.end, &header, parts, padding) {
            return Err(self.undo(last, tail.end, error));
        }
        if tail.end >= tail.indexed + STRIDE_BYTES {
            self.index.add(last.segment.base, lsn, tail.end);
            tail.indexed = tail.end;
        }
        self.gauge.add(bytes);
        tail.end += bytes;
        last.segment.end.store(tail.end, Ordering::Release);
        self.head.store(lsn.0 + 1, Ordering::SeqCst);
        tail.unsynced_bytes += bytes;
        let nudge = tail.unsynced_bytes >= NUDGE_BYTES && self.config.durability != Durability::Process;
        if nudge {
            tail.unsynced_bytes = 0;
        }
        drop(guard);
        if nudge {
            self.nudge_flusher();
        }
        if self.append_waiters.load(Ordering::SeqCst) > 0 {
            self.appended.notify_waiters();
        }
        Ok(lsn)
    }

    pub(crate) async fn wait_appended(&self, beyond: Lsn) {
        // Counted before the head is looked at, and the head is stored before the count is: one of both sees the other.
        self.append_waiters.fetch_add(1, Ordering::SeqCst);
        let _counted = Counted(self);
        loop {
            let appended = self.appended.notified();
            if self.head() > beyond {
                return;
            }
            appended.await;
        }
    }

    /// The append lock, unless the disk does not answer the one who has it.
    fn take_tail(&self) -> Result<MutexGuard<'_, Tail>, AppendError> {
        self.tail.lock_within(self.config.hang_after).ok_or_else(|| self.hangs())
    }

    /// Makes sure that the tail has room, by a roll when it has not.
    fn room<'a>(
        &'a self,
        mut tail: MutexGuard<'a, Tail>,
        bytes: u64,
    ) -> Result<MutexGuard<'a, Tail>, AppendError> {
        let mut asked = false;
        loop {
            self.healthy()?;
            if tail.closed {
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
                    let waited = self.made.wait_for(&mut tail, self.config.hang_after);
                    tail.maker_late = waited.timed_out() && matches!(tail.spare, Spare::Wanted);
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

    /// After a failed write: any part of it may be in the file.
    fn undo(&self, last: &Last, end: u64, error: io::Error) -> AppendError {
        match self.disk.truncate(&last.file, end) {
            Ok(()) => self.refused(error),
            Err(also) => {
                let doing =
                    format!("cut {} back after a failed write ({error})", last.segment.path.display());
                AppendError::Poisoned(self.poison(&doing, &also))
            }
        }
    }

    fn hangs(&self) -> AppendError {
        AppendError::Hung { dir: self.folder.path.clone(), after: self.config.hang_after }
    }

    fn refused(&self, source: io::Error) -> AppendError {
        AppendError::Disk { dir: self.folder.path.clone(), source }
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

fn write_record(
    disk_calls: &Disk,
    file: &File,
    at: u64,
    header: &[u8],
    parts: &[&[u8]],
    padding: &[u8],
) -> io::Result<()> {
    let mut slices = [IoSlice::new(&[]); PARTS_MAX + 2];
    let joined;
    let parts = if parts.len() <= PARTS_MAX {
        parts
    } else {
        joined = parts.concat();
        &[&joined[..]]
    };
    slices[0] = IoSlice::new(header);
    for (slice, part) in slices[1..].iter_mut().zip(parts) {
        *slice = IoSlice::new(part);
    }
    slices[parts.len() + 1] = IoSlice::new(padding);
    disk_calls.write(file, &slices[..parts.len() + 2], at)
}

/// The same error once more, for the next one who asks.
fn copy_of(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

struct Counted<'a>(&'a Shared);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.append_waiters.fetch_sub(1, Ordering::SeqCst);
    }
}

/// More parts than this are joined first; nobody gathers a record from so many.
const PARTS_MAX: usize = 14;

/// The flusher starts early after so many bytes: a larger backlog of dirty pages would stall the appends themselves.
const NUDGE_BYTES: u64 = 8 << 20;
