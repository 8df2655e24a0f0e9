//! The log as the worker reads it: entries in order, a little ahead of what is applied.
//!
//! - bounded by entries and bytes; a part is taken from the front, and put back when it could not be applied
//! - what cannot be read is told, and passed: whoever reads on must make everything dirty first

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::past::{Sample, Touched};
use record::{Entry, Namespace, Record, RecordKind};
use synclog::{Lsn, ReadError, Reader};

/// A part is closed, and reading ahead ends, with so many bytes of entries: memory, and the time until they are applied.
const BYTES_MAX: usize = 12 << 20;
/// Tries to read from the log's disk, one a second, before a segment is given up.
const READ_TRIES: u32 = 5;

/// While fewer entries wait, what marks say is read as well.
const MARKS_READ: usize = 100;

/// Reads; used by one at a time.
pub(super) struct Feed {
    reader: Reader,
    /// Entries before this are applied already.
    from: u64,
    /// Marks that were read and have no end yet.
    open_marks: BTreeSet<u64>,
    queue: VecDeque<Read>,
    /// Of the queue's entries, in the log.
    bytes: usize,
    /// What was written to, and when.
    pub(super) touched: Touched,
    /// Times in a row that the disk refused to read.
    refusals: u32,
}

struct Read {
    lsn: u64,
    bytes: usize,
    entry: Arc<Entry>,
}

/// Entries to be applied together.
#[derive(Default)]
pub(super) struct Part {
    read: Vec<Read>,
    /// Everything before this position is applied when these are.
    pub(super) end: u64,
}

impl Part {
    pub(super) fn entries(&self) -> impl ExactSizeIterator<Item = &Arc<Entry>> {
        self.read.iter().map(|read| &read.entry)
    }
}

/// What became of reading.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// What could not be read: everything is dirty.
    pub(super) problems: Vec<String>,
    /// The disk refuses, for now.
    pub(super) later: bool,
    /// Entries were passed that nobody could count.
    pub(super) lost: bool,
}

impl Feed {
    pub(super) fn new(reader: Reader, from: u64) -> Feed {
        let (open_marks, queue, touched) = Default::default();
        Feed { reader, from, open_marks, queue, bytes: 0, touched, refusals: 0 }
    }

    /// Behind the last record that was read.
    pub(super) fn position(&self) -> Lsn {
        self.reader.position()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When the oldest entry was captured.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        self.queue.front().map(|read| read.entry.at_ms)
    }

    /// The oldest mark without an end.
    pub(super) fn oldest_open_mark(&self) -> Option<u64> {
        self.open_marks.first().copied()
    }

    /// The oldest mark that an entry which waits here names.
    pub(super) fn oldest_mark(&self) -> Option<u64> {
        self.queue.iter().map(|read| read.entry.mark).min()
    }

    /// Reads until `entries_max` entries, or enough bytes, wait. Blocks on the disk.
    pub(super) fn fill(&mut self, entries_max: usize) -> Looked {
        let mut looked = Looked::default();
        while self.queue.len() < entries_max && self.bytes < BYTES_MAX {
            let raw = match self.reader.next() {
                Ok(Some(raw)) => raw,
                Ok(None) => break,
                // The reader already stands behind the damage.
                Err(error @ ReadError::Damaged { .. }) => {
                    looked.problems.push(error.to_string());
                    looked.lost = true;
                    continue;
                }
                Err(error @ ReadError::Disk { .. }) if self.refusals >= READ_TRIES => {
                    let at = self.reader.skip_segment();
                    looked
                        .problems
                        .push(format!("{error}; what the disk does not read is given up, up to record {at}"));
                    (self.refusals, looked.lost) = (0, true);
                    continue;
                }
                Err(error) => {
                    self.refusals += 1;
                    looked.problems.push(error.to_string());
                    looked.later = true;
                    break;
                }
            };
            self.refusals = 0;
            if raw.kind == RecordKind::Mark as u8 {
                self.open_marks.insert(raw.lsn.0);
                // Of a mark its place is all that is needed to apply entries; reading a backlog should cost no more.
                if self.queue.len() > MARKS_READ {
                    self.touched.skipped(raw.lsn.0);
                    continue;
                }
            }
            match Record::decode(raw.kind, &raw.payload) {
                Ok(Record::Mark(mark)) => self.touched.mark(raw.lsn.0, &mark),
                Ok(Record::Closed { mark }) => {
                    self.touched.closed(raw.lsn.0, mark);
                    self.open_marks.remove(&mark);
                }
                Ok(Record::Entry(entry)) => {
                    self.touched.entry(raw.lsn.0, &entry);
                    self.open_marks.remove(&entry.mark);
                    if raw.lsn.0 >= self.from {
                        self.bytes += raw.payload.len();
                        let entry = Arc::new(entry);
                        self.queue.push_back(Read { lsn: raw.lsn.0, bytes: raw.payload.len(), entry });
                    }
                }
                Err(error) => looked.problems.push(format!("record {}: {error}", raw.lsn)),
            }
        }
        looked
    }

    /// Collections that were written to between the samples, and not by what the log knows of.
    pub(super) fn written_past(&self, last: &Sample, next: &Sample) -> Vec<Namespace> {
        match self.touched.knows(self.open_marks.len()) {
            true => self.touched.compare(last, next),
            false => Vec::new(),
        }
    }

    /// Takes entries from the front, at most so many.
    pub(super) fn take(&mut self, entries_max: usize) -> Part {
        let read: Vec<Read> = self.queue.drain(..entries_max.min(self.queue.len())).collect();
        self.bytes -= read.iter().map(|read| read.bytes).sum::<usize>();
        let end = self.queue.front().map_or(self.position().0, |next| next.lsn);
        Part { read, end }
    }

    /// They could not be applied.
    pub(super) fn put_back(&mut self, part: Part) {
        for read in part.read.into_iter().rev() {
            self.bytes += read.bytes;
            self.queue.push_front(read);
        }
    }
}
