//! Walks the records of one segment, both checksums checked.
//!
//! - reads 256 KiB at a time, up to an end that the caller names: the published end, never just the file's length
//! - a payload is a slice of what was read, not a copy
//! - nothing larger than what lies before that end is ever allocated, whatever a length field says
//!
//! Used by recovery, readers and views.

use std::fs::File;
use std::io;

use bytes::Bytes;

use crate::Lsn;
use crate::disk::Disk;
use crate::format::{RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES};

#[derive(Debug)]
pub(crate) struct Walk {
    disk: Disk,
    file: File,
    seed: u32,
    offset: u64,
    end: u64,
    chunk: Bytes,
    chunk_at: u64,
}

pub(crate) enum Step {
    Record(RecordHeader, Bytes),
    /// All up to the end was walked.
    End,
    /// No whole record with the expected position is here.
    Bad(&'static str),
}

impl Walk {
    /// Stands before the first record.
    pub(crate) fn new(disk: Disk, file: File, seed: u32, end: u64) -> Walk {
        Walk { disk, file, seed, offset: SEGMENT_HEADER_BYTES, end, chunk: Bytes::new(), chunk_at: 0 }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn set_end(&mut self, end: u64) {
        self.end = end;
    }

    /// Reads anew what it needs next: the file may have changed.
    pub(crate) fn forget(&mut self) {
        self.chunk = Bytes::new();
    }

    pub(crate) fn skip_to(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// Reads the record `expected` and moves behind it. After `Bad` or an error it stays where it was.
    pub(crate) fn step(&mut self, expected: Lsn) -> io::Result<Step> {
        if self.offset >= self.end {
            return Ok(Step::End);
        }
        let Some(start) = self.load(self.offset, RECORD_HEADER_BYTES as u64)? else {
            return Ok(Step::Bad("a record's header is cut off"));
        };
        let Some(header) = RecordHeader::decode(&self.chunk[start..], self.seed) else {
            return Ok(Step::Bad("a record's header has a wrong checksum"));
        };
        if header.lsn != expected {
            return Ok(Step::Bad("a record has another position than the one that is due"));
        }
        let Some(payload) = self.payload(self.offset, &header)? else {
            return Ok(Step::Bad("a record's payload is cut off or has a wrong checksum"));
        };
        self.offset += header.total_bytes();
        Ok(Step::Record(header, payload))
    }

    /// From the current offset on, the first whole record with a position above `after`.
    pub(crate) fn find_whole(&mut self, after: Lsn) -> io::Result<Option<(u64, RecordHeader)>> {
        let align = RECORD_ALIGN as u64;
        let mut at = self.offset;
        while at + RECORD_HEADER_BYTES as u64 <= self.end {
            let window_bytes = (self.end - at).min(CHUNK_BYTES);
            let Some(start) = self.load(at, window_bytes)? else { return Ok(None) };
            let window = self.chunk.slice(start..start + window_bytes as usize);
            // A dense log cannot hold more records than headers fit: most offsets are ruled out by this alone.
            let most = after.0.saturating_add((self.end - self.offset) / RECORD_HEADER_BYTES as u64);
            for (nth, bytes) in window.windows(RECORD_HEADER_BYTES).enumerate().step_by(RECORD_ALIGN) {
                let lsn = u64::from_le_bytes(crate::format::array(bytes, 8));
                if lsn <= after.0 || lsn > most {
                    continue;
                }
                let Some(header) = RecordHeader::decode(bytes, self.seed) else { continue };
                let found_at = at + nth as u64;
                if self.payload(found_at, &header)?.is_some() {
                    return Ok(Some((found_at, header)));
                }
            }
            // The next window begins at the first offset whose header this one did not hold whole.
            at += (window_bytes - RECORD_HEADER_BYTES as u64) / align * align + align;
        }
        Ok(None)
    }

    fn payload(&mut self, offset: u64, header: &RecordHeader) -> io::Result<Option<Bytes>> {
        let Some(start) = self.load(offset, header.total_bytes())? else { return Ok(None) };
        let payload = start + RECORD_HEADER_BYTES..start + RECORD_HEADER_BYTES + header.len as usize;
        let matches = crc32c::crc32c(&self.chunk[payload.clone()]) == header.payload_crc;
        Ok(matches.then(|| self.chunk.slice(payload)))
    }

    /// Where in the chunk so many bytes from `offset` on begin, or `None` when the end comes first.
    fn load(&mut self, offset: u64, bytes: u64) -> io::Result<Option<usize>> {
        if offset + bytes > self.end {
            return Ok(None);
        }
        let chunk_end = self.chunk_at + self.chunk.len() as u64;
        if offset < self.chunk_at || offset + bytes > chunk_end {
            let wanted = bytes.max(CHUNK_BYTES).min(self.end - offset);
            // New memory for each chunk would cost more than reading does, in page faults.
            let unused =
                std::mem::take(&mut self.chunk).try_into_mut().map_or_else(|_| Vec::new(), Vec::from);
            self.chunk = self.disk.read_into(unused, &self.file, offset, wanted as usize)?.into();
            self.chunk_at = offset;
        }
        let start = (offset - self.chunk_at) as usize;
        Ok((start + bytes as usize <= self.chunk.len()).then_some(start))
    }
}

/// Large enough that the calls do not show, small enough to lie in a processor's own cache for the checksums.
const CHUNK_BYTES: u64 = 256 << 10;
