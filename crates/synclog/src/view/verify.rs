//! Reads a whole log and tells what is wrong with it.

use std::io;
use std::path::{Path, PathBuf};

use super::{LogView, SegmentView};
use crate::Lsn;
use crate::cursor::slot::Loaded;
use crate::disk::Disk;
use crate::folder::open_to_read;
use crate::format::{self, SEGMENT_HEADER_BYTES};
use crate::walk::{Step, Walk};

/// A bad place.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Fault {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// The position of the record that is due there.
    pub lsn: Lsn,
    /// The next position that can be read.
    pub resume_at: Option<Lsn>,
    /// What is wrong.
    pub what: String,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Verified {
    /// Whole records.
    pub records: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
    /// Bad places that were told.
    pub faults: u64,
    /// Bytes behind the last whole record of all: torn, or being written. No fault.
    pub torn_bytes: u64,
    /// Segments that were trimmed before they were read. No fault.
    pub trimmed: u64,
}

pub(super) fn verify(view: &LogView, mut tell: impl FnMut(Fault)) -> Verified {
    let mut verified = Verified::default();
    // Behind the end there is nothing to go on with: that is told last.
    let (inside, end): (Vec<_>, Vec<_>) =
        view.missing.iter().cloned().partition(|missing| missing.resume_at.is_some());
    verified.faults += view.missing.len() as u64;
    inside.into_iter().for_each(&mut tell);
    let mut due = None;
    for (nth, segment) in view.segments.iter().enumerate() {
        let mut count = |fault: Fault| {
            verified.faults += 1;
            tell(fault);
        };
        if let Some(what) = &segment.fault {
            count(fault(&segment.path, 0, segment.base, Some(segment.base), what.clone()));
        }
        match due {
            Some(due) if due < segment.base && !segment.gap_before => {
                let what = "the records before this segment are missing".to_owned();
                count(fault(&segment.path, 0, due, Some(segment.base), what));
            }
            _ => {}
        }
        let last = nth + 1 == view.segments.len();
        match read(segment, format::seed(&view.id), last, &mut count) {
            Ok(read) => {
                due = Some(read.next);
                verified.records += read.records;
                verified.bytes += read.bytes;
                verified.torn_bytes += read.torn_bytes;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                verified.trimmed += 1;
                due = None;
            }
            // Told above.
            Err(_) if segment.fault.is_some() => due = None,
            Err(error) => {
                let resume_at = view.segments.get(nth + 1).map(|next| next.base);
                count(fault(
                    &segment.path,
                    0,
                    segment.base,
                    resume_at,
                    format!("the disk cannot read it: {error}"),
                ));
                due = None;
            }
        }
    }
    end.into_iter().for_each(tell);
    verified
}

/// What must be there: all from what is applied, by the cursor as it is now, up to what the view had reached.
pub(super) fn missing(view: &LogView, loaded: Option<&Loaded>) -> Vec<Fault> {
    let cursor = view.dir.join("cursor");
    let mut missing = Vec::new();
    if view.end() < view.reached {
        let (path, offset) = view.segments.last().map_or((&view.dir, 0), |last| (&last.path, last.bytes));
        let what =
            format!("the log ends here, but had reached {}; or it was copied while in use", view.reached);
        missing.push(fault(path, offset, view.end(), None, what));
    }
    let first = view.segments.first();
    let Some(slot) = loaded.and_then(|loaded| loaded.slot.as_ref()) else {
        if view.end() > Lsn::FIRST || loaded.is_some_and(|loaded| loaded.unreadable) {
            let what = "the cursor is missing or unreadable: how far the log reached is not known".to_owned();
            missing.push(fault(&cursor, 0, view.first(), Some(view.first()), what));
        }
        return missing;
    };
    let applied = slot.cursor.as_ref().map_or(Lsn::FIRST, |cursor| cursor.applied);
    if let Some(first) = first.filter(|first| first.base > applied && !first.gap_before) {
        let what =
            "the files before this one are missing; or they were deleted while it was copied".to_owned();
        missing.push(fault(&first.path, 0, applied, Some(first.base), what));
    }
    if slot.gap {
        let what = "a start found a gap and did not get to its end, or notes could not be kept".to_owned();
        missing.push(fault(&cursor, 0, view.end(), Some(view.head()), what));
    }
    missing
}

struct Read {
    next: Lsn,
    records: u64,
    bytes: u64,
    torn_bytes: u64,
}

fn read(segment: &SegmentView, seed: u32, last: bool, tell: &mut impl FnMut(Fault)) -> io::Result<Read> {
    let file = open_to_read(&segment.path)?;
    // As long as it is now: a live log has grown since the folder was looked at.
    let end = file.metadata()?.len();
    let mut walk = Walk::new(Disk::new(None), file, seed, end);
    let mut read = Read { next: segment.base, records: 0, bytes: 0, torn_bytes: 0 };
    loop {
        let offset = walk.offset();
        let what = match walk.step(read.next)? {
            Step::Record(header, _) => {
                read.next = read.next.next();
                read.records += 1;
                read.bytes += header.total_bytes();
                continue;
            }
            Step::End => return Ok(read),
            Step::Bad(what) => what.to_owned(),
        };
        let found = walk.find_whole(read.next)?;
        match found {
            Some((offset_behind, header)) => {
                tell(fault(&segment.path, offset, read.next, Some(header.lsn), what));
                walk.skip_to(offset_behind);
                read.next = header.lsn;
            }
            None if last => {
                read.torn_bytes = end.saturating_sub(offset.max(SEGMENT_HEADER_BYTES));
                return Ok(read);
            }
            None => {
                tell(fault(&segment.path, offset, read.next, segment.end, what));
                read.next = segment.end.unwrap_or(read.next);
                return Ok(read);
            }
        }
    }
}

fn fault(path: &Path, offset: u64, lsn: Lsn, resume_at: Option<Lsn>, what: String) -> Fault {
    Fault { path: path.to_owned(), offset, lsn, resume_at, what }
}
