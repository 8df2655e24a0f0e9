//! Looks into a log's folder without owning it.
//!
//! - reads only: no lock, no recovery, nothing made or changed; a live log is not held up, a copy may be read-only
//! - what a live log appends and trims meanwhile is no damage: a half-written end is the end, a segment that is gone
//!   was trimmed
//! - permissions are not looked at: who can read the files may look into them
//!
//! Not here: what records mean.

mod records;
mod verify;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

pub use self::records::ViewReader;
pub use self::verify::{Fault, Verified};
use crate::Lsn;
use crate::cursor::Cursor;
use crate::cursor::slot;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::folder::{Listing, disk};
use crate::format::{self, BlockFault, LogId, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::reserve::page;
use crate::walk::{Step, Walk};

/// A log's folder as it was when it was opened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LogView {
    /// The folder.
    pub dir: PathBuf,
    /// The log's id, zeros when nothing tells it.
    pub id: [u8; 16],
    /// Oldest first.
    pub segments: Vec<SegmentView>,
    /// How far the log is applied.
    pub cursor: Option<Cursor>,
    /// Everything below it was synced when the cursor was written last.
    pub durable: Lsn,
    /// It was closed in order, and nothing was written since.
    pub closed: bool,
    /// Notes that are not cleared.
    pub notes: Vec<Bytes>,
    /// Notes are missing: everything counts as noted.
    pub noted_everything: bool,
    /// What recovery has set aside.
    pub set_aside: Vec<PathBuf>,
}

/// One segment file.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SegmentView {
    /// The file.
    pub path: PathBuf,
    /// The position of its first record, by its name.
    pub base: Lsn,
    /// The position behind its last record, where that is known without reading all of it.
    pub end: Option<Lsn>,
    /// The file's length.
    pub bytes: u64,
    /// When it was begun, in milliseconds since 1970.
    pub created_ms: u64,
    /// The host's boot in which it was written.
    pub boot: [u8; 16],
    /// Records before it may be missing; a start of the log has reported that.
    pub gap_before: bool,
    /// What is wrong with its header; the fields above that come from it are zero then.
    pub fault: Option<String>,
}

impl LogView {
    /// Looks at the folder: names, headers, cursor and notes, and the last segment's records.
    pub fn open(dir: impl Into<PathBuf>) -> Result<LogView, OpenError> {
        let dir = dir.into();
        let listing = Listing::read(&dir)?;
        let cursor_path = dir.join("cursor");
        let cursor_bytes = read_file(&cursor_path).map_err(disk("read", &cursor_path))?;
        if listing.segments.is_empty() && cursor_bytes.is_none() {
            return Err(OpenError::NotALog { dir });
        }
        let slot = slot::newest(&cursor_path, &cursor_bytes.unwrap_or_default())?.slot;

        let mut segments = Vec::new();
        let mut id = slot.as_ref().map(|slot| slot.id);
        for (base, path) in listing.segments {
            // One that is gone was trimmed meanwhile.
            if let Some((segment, header)) = SegmentView::read(base, path)? {
                id = id.or(header.map(|header| header.id));
                segments.push(segment);
            }
        }
        let id = id.unwrap_or_default();
        link(&mut segments, format::seed(&id));
        let (notes, noted_everything) = notes(&dir.join("reserve"), &id)?;
        let set_aside = listing.torn.into_iter().chain(listing.damaged).collect();
        Ok(LogView {
            dir,
            id,
            segments,
            durable: slot.as_ref().map_or(Lsn::FIRST, |slot| slot.durable),
            closed: slot.as_ref().is_some_and(|slot| slot.closed),
            cursor: slot.and_then(|slot| slot.cursor),
            notes,
            noted_everything,
            set_aside,
        })
    }

    /// The first position that was there.
    pub fn first(&self) -> Lsn {
        self.segments.first().map_or(Lsn::FIRST, |segment| segment.base)
    }

    /// The position that the next record was to get.
    pub fn head(&self) -> Lsn {
        self.segments.last().map_or(Lsn::FIRST, |segment| segment.end.unwrap_or(segment.base))
    }

    /// The records from `from` on; [`Lsn::ZERO`] means the first one that is there.
    pub fn records(&self, from: Lsn) -> ViewReader {
        ViewReader::new(self.dir.clone(), format::seed(&self.id), from)
    }

    /// Reads all of the log and tells each bad place, in order. Goes on behind each.
    pub fn verify(&self, tell: impl FnMut(Fault)) -> Verified {
        verify::verify(self, tell)
    }
}

impl SegmentView {
    fn read(base: Lsn, path: PathBuf) -> Result<Option<(SegmentView, Option<SegmentHeader>)>, OpenError> {
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(disk("open", &path))?,
        };
        let bytes = file.metadata().map_err(disk("look at", &path))?.len();
        let mut head = Vec::new();
        let read = (&mut file).take(SEGMENT_HEADER_BYTES).read_to_end(&mut head);
        let (header, fault) = match (read, SegmentHeader::decode(&head)) {
            (Err(error), _) => (None, Some(format!("its header cannot be read: {error}"))),
            (_, Err(BlockFault::Newer(version))) => return Err(OpenError::Newer { path, version }),
            (_, Err(BlockFault::Damaged)) => (None, Some("its header is damaged".to_owned())),
            (_, Ok(header)) if header.base != base => {
                (Some(header), Some("its header tells another position than its name".to_owned()))
            }
            (_, Ok(header)) => (Some(header), None),
        };
        let segment = SegmentView {
            path,
            base,
            end: None,
            bytes,
            created_ms: header.map_or(0, |header| header.created_ms),
            boot: header.map_or([0; 16], |header| header.boot),
            gap_before: header.is_some_and(|header| header.gap_before),
            fault,
        };
        Ok(Some((segment, header)))
    }
}

/// Where each segment ends: where the next one begins, and the last one with its last whole record.
fn link(segments: &mut [SegmentView], seed: u32) {
    for nth in 1..segments.len() {
        segments[nth - 1].end = (!segments[nth].gap_before).then_some(segments[nth].base);
    }
    let Some(last) = segments.last_mut() else { return };
    let Ok(file) = File::open(&last.path) else { return };
    let mut walk = Walk::new(Disk::new(None), file, seed, last.bytes);
    let mut next = last.base;
    while let Ok(Step::Record(..)) = walk.step(next) {
        next = next.next();
    }
    last.end = Some(next);
}

/// What is noted, and whether everything is.
fn notes(path: &Path, id: &LogId) -> Result<(Vec<Bytes>, bool), OpenError> {
    let mut read = (Vec::new(), false);
    // A second look: the first one may have met a write half-way.
    for _ in 0..2 {
        let Some(bytes) = read_file(path).map_err(disk("read", path))? else {
            return Ok((Vec::new(), false));
        };
        read = page::read(&bytes.into(), id, path)?;
        if !read.1 {
            break;
        }
    }
    Ok(read)
}

fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
