//! Append.
//!
//! - checksum of the payload, lock, position, one `pwritev`, unlock, publish: nothing else on a good day
//! - a failed write is undone by cutting the file back; when even that fails, the log is poisoned
//! - an append that the disk does not answer keeps the lock: the others give up after a while, later ones at once
//!
//! The payload's checksum is made outside of the lock, over the very slices that are written.

mod roll;

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::Lsn;
use crate::disk::Disk;
use crate::error::AppendError;
use crate::flush::Unsynced;
use crate::format::{RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, payload_crc, record_bytes};
use crate::index::STRIDE_BYTES;
use crate::log::{Segment, Shared};
use crate::maker::Spare;
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;

pub(crate) use self::roll::begin;

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
        let nudge = tail.unsynced_bytes >= NUDGE_BYTES;
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
