//! Reads behind the writer.
//!
//! - never beyond the published head; any number of readers; none of them holds a lock while it reads
//! - records come in order, each whole: both checksums and the position are checked
//! - damage is an error that names what is lost and where reading goes on; a gap that was reported at open is crossed
//! - what the disk refuses to read stays an error until the caller gives that segment up
//! - a file is opened when a record in it is wanted; its place is looked up in the index

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::Lsn;
use crate::error::ReadError;
use crate::format::SEGMENT_HEADER_BYTES;
use crate::index::STRIDE_BYTES;
use crate::log::{Segment, Shared};
use crate::sync::atomic::Ordering;
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
    /// `None`: to be looked up.
    place: Option<Place>,
}

/// Where a reader stands.
#[derive(Debug)]
struct Place {
    segment: Arc<Segment>,
    walk: Walk,
    /// The offset up to which the index was told.
    indexed: u64,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, from: Lsn) -> Result<Reader, ReadError> {
        let (first, head) = (shared.trimmed(), shared.head());
        let at = if from == Lsn::ZERO { first } else { from };
        if at < first {
            return Err(ReadError::Trimmed { lsn: at, first });
        }
        if at > head {
            return Err(ReadError::Ahead { lsn: at, head });
        }
        Ok(Reader { shared, at, place: None })
    }

    /// The next record, or `None` when the reader has caught up with the head.
    ///
    /// After [`ReadError::Damaged`] the next call goes on behind the damage; after any other error it tries the same
    /// position again: see [`Reader::skip_segment`].
    #[expect(clippy::should_implement_trait, reason = "an iterator that ends stays ended; this one does not")]
    pub fn next(&mut self) -> Result<Option<Record>, ReadError> {
        loop {
            // The head first: the segment's end then lies behind every record below it.
            if self.at >= self.shared.head() {
                return Ok(None);
            }
            if self.place.is_none() {
                self.place = Some(self.look_up()?);
            }
            let Some(place) = &mut self.place else { continue };
            place.walk.set_end(place.segment.end.load(Ordering::Acquire));
            let offset = place.walk.offset();
            let step = place.walk.step(self.at);
            if offset >= place.indexed + STRIDE_BYTES && matches!(step, Ok(Step::Record(..))) {
                self.shared.index.add(place.segment.base, self.at, offset);
                place.indexed = offset;
            }
            match step {
                Ok(Step::Record(header, payload)) => {
                    let lsn = self.at;
                    self.at = lsn.next();
                    return Ok(Some(Record { lsn, kind: header.kind, payload }));
                }
                Ok(Step::End) => {
                    let next = self.shared.following(&place.segment);
                    match next.filter(|next| next.base <= self.at || next.gap_before) {
                        Some(next) => self.enter(next)?,
                        None => return Err(self.pass_damage("its last records are missing")),
                    }
                }
                Ok(Step::Bad(what)) => return Err(self.pass_damage(what)),
                Err(source) => return Err(failed(&place.segment, source)),
            }
        }
    }

    /// The position of the record that [`Reader::next`] gives next, once it is appended.
    pub fn position(&self) -> Lsn {
        self.at
    }

    /// Gives up what is left of this segment, after [`ReadError::Disk`]: the reader moves to the next segment, or to
    /// the head. Gives where it stands then. The records in between are lost to it: everything is to be verified.
    pub fn skip_segment(&mut self) -> Lsn {
        self.place = None;
        // The head first: a segment that begins later does not matter.
        let head = self.shared.head();
        let next = self.shared.list().iter().map(|segment| segment.base).find(|base| *base > self.at);
        self.at = next.unwrap_or(head);
        self.at
    }

    /// Opens the segment that holds this position and goes there.
    fn look_up(&mut self) -> Result<Place, ReadError> {
        let found = self.shared.list().iter().rev().find(|segment| segment.base <= self.at).cloned();
        let Some(segment) = found else {
            return Err(ReadError::Trimmed { lsn: self.at, first: self.shared.trimmed() });
        };
        let mut place = open(&self.shared, segment, self.at)?;
        let start = (place.segment.base, SEGMENT_HEADER_BYTES);
        let (mut lsn, offset) = self.shared.index.before(place.segment.base, self.at).unwrap_or(start);
        place.walk.skip_to(offset);
        place.indexed = offset;
        while lsn < self.at {
            let offset = place.walk.offset();
            match place.walk.step(lsn).map_err(|source| failed(&place.segment, source))? {
                Step::Record(..) => {
                    if offset >= place.indexed + STRIDE_BYTES {
                        self.shared.index.add(place.segment.base, lsn, offset);
                        place.indexed = offset;
                    }
                    lsn = lsn.next();
                }
                Step::End => break,
                Step::Bad(_) => {
                    // Damage below the position is behind the caller.
                    let whole = place.walk.find_whole(Lsn(self.at.0 - 1));
                    if let Some((offset, _)) = whole.map_err(|source| failed(&place.segment, source))? {
                        place.walk.skip_to(offset);
                    }
                    break;
                }
            }
        }
        Ok(place)
    }

    /// Moves to the next whole record and tells what lies between. If that fails, tells why and stays.
    fn pass_damage(&mut self, what: &'static str) -> ReadError {
        let Some(place) = &mut self.place else {
            return ReadError::Trimmed { lsn: self.at, first: self.shared.trimmed() };
        };
        let (lsn, path) = (self.at, place.segment.path.clone());
        match place.walk.find_whole(lsn) {
            Ok(Some((offset, header))) => {
                place.walk.skip_to(offset);
                self.at = header.lsn;
            }
            Ok(None) => match self.shared.following(&place.segment) {
                Some(next) => {
                    if let Err(error) = self.enter(next) {
                        return error;
                    }
                }
                None => {
                    self.place = None;
                    self.at = self.shared.head();
                }
            },
            Err(source) => return failed(&place.segment, source),
        }
        ReadError::Damaged { lsn, resume_at: self.at, path, what }
    }

    fn enter(&mut self, next: Arc<Segment>) -> Result<(), ReadError> {
        let first = self.shared.trimmed();
        if first > self.at {
            return Err(ReadError::Trimmed { lsn: self.at, first });
        }
        let base = next.base;
        self.place = Some(open(&self.shared, next, self.at)?);
        self.at = self.at.max(base);
        Ok(())
    }
}

impl Shared {
    fn following(&self, segment: &Segment) -> Option<Arc<Segment>> {
        self.list().iter().find(|other| other.base > segment.base).cloned()
    }
}

/// Opens a segment for one who stands at `at`.
fn open(shared: &Shared, segment: Arc<Segment>, at: Lsn) -> Result<Place, ReadError> {
    match File::open(&segment.path) {
        Ok(file) => {
            let end = segment.end.load(Ordering::Acquire);
            let walk = Walk::new(shared.disk.clone(), file, shared.seed, end);
            Ok(Place { segment, walk, indexed: SEGMENT_HEADER_BYTES })
        }
        Err(source) => {
            // A trim that is under way has deleted the file and says so only when it is done.
            drop(shared.trimming.lock());
            let first = shared.trimmed();
            match source.kind() {
                io::ErrorKind::NotFound if first > at => Err(ReadError::Trimmed { lsn: at, first }),
                _ => Err(failed(&segment, source)),
            }
        }
    }
}

fn failed(segment: &Segment, source: io::Error) -> ReadError {
    ReadError::Disk { path: segment.path.clone(), source }
}
