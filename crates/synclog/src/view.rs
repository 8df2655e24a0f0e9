//! Looks into a log's folder without owning it.
//!
//! - reads only: no lock, no recovery, nothing made or changed; a live log is not held up, a copy may be read-only
//! - what a live log appends and trims meanwhile is no damage: a half-written end is the end, a segment that is gone
//!   was trimmed
//! - what a log has lost is missed: the cursor, as it was before the files were listed, says where they must end, and as
//!   it was after, where they must begin
//! - permissions are not looked at: who can read the files may look into them
//!
//! Not here: what records mean.

mod records;
mod verify;

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

pub use self::records::ViewReader;
pub use self::verify::{Fault, Verified};
use crate::Lsn;
use crate::cursor::Cursor;
use crate::cursor::slot::{self, Loaded};
use crate::disk::Disk;
use crate::error::OpenError;
use crate::folder::{Listing, disk, open_to_read};
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
    /// Everything below it was synced, by the cursor as it was before the files were listed.
    pub durable: Lsn,
    /// It was closed in order, and nothing was written since.
    pub closed: bool,
    /// Notes that are not cleared.
    pub notes: Vec<Bytes>,
    /// Notes are missing: everything counts as noted.
    pub noted_everything: bool,
    /// What recovery has set aside.
    pub set_aside: Vec<PathBuf>,
    /// What must be there and is not, as far as names, headers and the cursor tell.
    pub missing: Vec<Fault>,
    /// The records below it had been written when the files were listed.
    reached: Lsn,
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
        let mut view = LogView::look(&dir)?;
        // A live log changes its folder while it is listed: what is missing is so each time.
        for _ in 1..LOOKS {
            if view.missing.is_empty() {
                break;
            }
            view = LogView::look(&dir)?;
        }
        Ok(view)
    }

    fn look(dir: &Path) -> Result<LogView, OpenError> {
        let cursor_path = dir.join("cursor");
        let before = read_cursor(&cursor_path)?.and_then(|loaded| loaded.slot);
        let listing = Listing::read(dir)?;
        let mut segments = Vec::new();
        let mut headers = Vec::new();
        let listed = !listing.segments.is_empty();
        for (base, path) in listing.segments {
            // One that is gone was trimmed meanwhile.
            if let Some((segment, header)) = SegmentView::read(base, path)? {
                headers.push(header);
                segments.push(segment);
            }
        }
        let loaded = read_cursor(&cursor_path)?;
        if loaded.is_none() && !listed {
            return Err(OpenError::NotALog { dir: dir.to_owned() });
        }
        let after = loaded.as_ref().and_then(|loaded| loaded.slot.clone());
        let newest = || headers.iter().rev().find_map(|header| header.map(|header| header.id));
        let id = after.as_ref().map(|slot| slot.id).or_else(newest).unwrap_or_default();
        for (segment, header) in segments.iter_mut().zip(&headers) {
            if header.is_some_and(|header| header.id != id) {
                segment.fault.get_or_insert_with(|| "it belongs to another log".to_owned());
            }
        }
        link(&mut segments, format::seed(&id));
        let (notes, noted_everything) = notes(&dir.join("reserve"), &id)?;
        let set_aside = listing.torn.into_iter().chain(listing.damaged).collect();
        let applied = before.as_ref().and_then(|slot| slot.cursor.as_ref()).map(|cursor| cursor.applied);
        let durable = before.as_ref().map_or(Lsn::FIRST, |slot| slot.durable);
        let mut view = LogView {
            dir: dir.to_owned(),
            id,
            segments,
            durable,
            closed: after.as_ref().is_some_and(|slot| slot.closed),
            cursor: None,
            notes,
            noted_everything,
            set_aside,
            missing: Vec::new(),
            reached: durable.max(applied.unwrap_or(Lsn::FIRST)),
        };
        view.missing = verify::missing(&view, loaded.as_ref());
        view.cursor = after.and_then(|slot| slot.cursor);
        Ok(view)
    }

    /// The first position that was there.
    pub fn first(&self) -> Lsn {
        self.segments.first().map_or(Lsn::FIRST, |segment| segment.base)
    }

    /// The position that the next record was to get, also where records before it are missing.
    pub fn head(&self) -> Lsn {
        self.end().max(self.reached)
    }

    /// The position behind the last record that is there.
    fn end(&self) -> Lsn {
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
        let file = match open_to_read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(error),
            other => Ok(other.map_err(disk("open", &path))?),
        };
        let mut bytes = 0;
        let mut head = Vec::new();
        let read = file.and_then(|file| {
            bytes = file.metadata()?.len();
            file.take(SEGMENT_HEADER_BYTES).read_to_end(&mut head)
        });
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
    let Ok(file) = open_to_read(&last.path) else { return };
    let mut walk = Walk::new(Disk::new(None), file, seed, last.bytes);
    let mut next = last.base;
    loop {
        match walk.step(next) {
            Ok(Step::Record(..)) => next = next.next(),
            Ok(Step::Bad(_)) => match walk.find_whole(next) {
                Ok(Some((offset, header))) => {
                    walk.skip_to(offset);
                    next = header.lsn;
                }
                Ok(None) | Err(_) => break,
            },
            Ok(Step::End) | Err(_) => break,
        }
    }
    last.end = Some(next);
}

/// What is noted, and whether everything is.
fn notes(path: &Path, id: &LogId) -> Result<(Vec<Bytes>, bool), OpenError> {
    let mut read = (Vec::new(), false);
    // A second look: the first one may have met a write half-way.
    for _ in 0..2 {
        let Some(bytes) = read_file(path).map_err(disk("read", path))? else {
            // It is there before the first record is, where the disk has room for it.
            return Ok((Vec::new(), true));
        };
        read = page::read(&bytes.into(), id, path)?;
        if !read.1 {
            break;
        }
    }
    Ok(read)
}

/// `None`: there is none.
fn read_cursor(path: &Path) -> Result<Option<Loaded>, OpenError> {
    let mut read = None;
    // As above: a slot that is torn may be half-way.
    for _ in 0..LOOKS {
        let Some(bytes) = read_file(path).map_err(disk("read", path))? else { return Ok(None) };
        let loaded = slot::newest(path, &bytes)?;
        let torn = loaded.torn;
        read = Some(loaded);
        if !torn {
            break;
        }
    }
    Ok(read)
}

fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match open_to_read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other?.read_to_end(&mut bytes).map(|_| Some(bytes)),
    }
}

/// Before something counts as missing, or as torn.
const LOOKS: usize = 3;
