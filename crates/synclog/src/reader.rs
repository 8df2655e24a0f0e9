//! Reads behind the writer.
//!
//! - never beyond the published head; any number of readers; none of them holds a lock while it reads
//! - records come in order, each whole: both checksums and the position are checked
//! - damage is an error that names what is lost and where reading goes on; a gap that was reported at open is crossed
//!
//! Not here: an index. Readers move forward; only [`crate::SyncLog::reader`] searches, within one segment.

use crate::sync::atomic::Ordering;
use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::Lsn;
use crate::error::ReadError;
use crate::log::{Segment, Shared};
use crate::walk::{Step, Walk};

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its position.
    pub lsn: Lsn,
    /// What the writer called it.
    pub kind: u8,
    /// What was appended. A slice of a larger read (1 MiB, or one record): copy what is kept for long.
    pub payload: Bytes,
}

/// Goes through the log in order, up to its head as it is at each call. Outlives the log's handles.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    at: Lsn,
    segment: Arc<Segment>,
    walk: Walk,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, from: Lsn) -> Result<Reader, ReadError> {
        let head = shared.head();
        let first = shared.trimmed();
        let from = if from == Lsn::ZERO { first } else { from };
        if from < first {
            return Err(ReadError::Trimmed { lsn: from, first });
        }
        if from > head {
            return Err(ReadError::Ahead { lsn: from, head });
        }
        let found = shared.list().iter().rev().find(|segment| segment.base <= from).cloned();
        let Some(segment) = found else {
            return Err(ReadError::Trimmed { lsn: from, first: shared.trimmed() });
        };
        let mut walk = open(&shared, &segment, from)?;
        let (last, end, head) = shared.tail_now();
        if from == head && last.base == segment.base {
            // Nothing to search: the usual place of one who follows.
            walk.skip_to(end);
            return Ok(Reader { shared, at: from, segment, walk });
        }
        let mut reader = Reader { shared, at: segment.base, segment, walk };
        while reader.at < from {
            match reader.next() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                // Damage below `from` is behind the caller.
                Err(ReadError::Damaged { resume_at, .. }) if resume_at <= from => {}
                Err(error) => return Err(error),
            }
        }
        Ok(reader)
    }

    /// The next record, or `None` when the reader has caught up with the head.
    ///
    /// After [`ReadError::Damaged`] the next call goes on behind the damage; after any other error it tries the same
    /// position again.
    #[expect(clippy::should_implement_trait, reason = "an iterator that ends stays ended; this one does not")]
    pub fn next(&mut self) -> Result<Option<Record>, ReadError> {
        loop {
            // The head first: the segment's end then lies behind every record below it.
            if self.at >= self.shared.head() {
                return Ok(None);
            }
            self.walk.set_end(self.segment.end.load(Ordering::Acquire));
            match self.walk.step(self.at).map_err(|error| self.failed(error))? {
                Step::Record(header, payload) => {
                    let lsn = self.at;
                    self.at = lsn.next();
                    return Ok(Some(Record { lsn, kind: header.kind, payload }));
                }
                Step::End => self.leave_segment()?,
                Step::Bad(what) => return Err(self.pass_damage(what)),
            }
        }
    }

    /// The position of the record that [`Reader::next`] gives next, once it is appended.
    pub fn position(&self) -> Lsn {
        self.at
    }

    /// Behind the last record of a segment, with more to come.
    fn leave_segment(&mut self) -> Result<(), ReadError> {
        match self.following() {
            Some(next) if next.base <= self.at || next.gap_before => self.enter(next),
            _ => Err(self.pass_damage("its last records are missing")),
        }
    }

    /// Moves to the next whole record and tells what lies between. If that fails, tells why and stays.
    fn pass_damage(&mut self, what: &'static str) -> ReadError {
        let (lsn, path) = (self.at, self.segment.path.clone());
        let passed = match self.walk.find_whole(lsn).map_err(|error| self.failed(error)) {
            Ok(Some((offset, header))) => {
                self.walk.skip_to(offset);
                self.at = header.lsn;
                Ok(())
            }
            Ok(None) => match self.following() {
                Some(next) => self.enter(next),
                None => self.go_to_head(),
            },
            Err(error) => Err(error),
        };
        match passed {
            Ok(()) => ReadError::Damaged { lsn, resume_at: self.at, path, what },
            Err(error) => error,
        }
    }

    fn following(&self) -> Option<Arc<Segment>> {
        self.shared.list().iter().find(|segment| segment.base > self.segment.base).cloned()
    }

    fn enter(&mut self, next: Arc<Segment>) -> Result<(), ReadError> {
        let first = self.shared.trimmed();
        if first > self.at {
            return Err(ReadError::Trimmed { lsn: self.at, first });
        }
        self.walk = open(&self.shared, &next, self.at)?;
        self.at = self.at.max(next.base);
        self.segment = next;
        Ok(())
    }

    fn go_to_head(&mut self) -> Result<(), ReadError> {
        let (segment, end, head) = self.shared.tail_now();
        self.walk = open(&self.shared, &segment, head)?;
        self.walk.skip_to(end);
        self.at = head;
        self.segment = segment;
        Ok(())
    }

    fn failed(&self, source: io::Error) -> ReadError {
        ReadError::Disk { path: self.segment.path.clone(), source }
    }
}

impl Shared {
    /// The last segment, where it ends, and the head: all of one moment.
    fn tail_now(&self) -> (Arc<Segment>, u64, Lsn) {
        let tail = self.tail.lock();
        (Arc::clone(&tail.segment), tail.end, self.head())
    }
}

/// Opens a segment for one who stands at `at`.
fn open(shared: &Shared, segment: &Segment, at: Lsn) -> Result<Walk, ReadError> {
    match File::open(&segment.path) {
        Ok(file) => {
            Ok(Walk::new(shared.disk.clone(), file, shared.seed, segment.end.load(Ordering::Acquire)))
        }
        Err(source) => {
            // A trim that is under way has deleted the file and says so only when it is done.
            drop(shared.trimming.lock());
            let first = shared.trimmed();
            match source.kind() {
                io::ErrorKind::NotFound if first > at => Err(ReadError::Trimmed { lsn: at, first }),
                _ => Err(ReadError::Disk { path: segment.path.clone(), source }),
            }
        }
    }
}
