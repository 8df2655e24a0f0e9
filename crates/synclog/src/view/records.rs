//! Reads records of a log that somebody else may be writing.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::Lsn;
use crate::disk::Disk;
use crate::error::ReadError;
use crate::folder::{Listing, open_to_read};
use crate::reader::Record;
use crate::walk::{Step, Walk};

/// Goes through the records of a folder in order.
#[derive(Debug)]
pub struct ViewReader {
    dir: PathBuf,
    seed: u32,
    at: Lsn,
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    base: Lsn,
    path: PathBuf,
    walk: Walk,
    file: File,
}

/// What is behind a segment.
struct Next {
    base: Lsn,
    gap_before: bool,
}

impl ViewReader {
    pub(super) fn new(dir: PathBuf, seed: u32, from: Lsn) -> ViewReader {
        ViewReader { dir, seed, at: from, place: None }
    }

    /// The next record, or `None` at the end as it is now: a later call may find more.
    ///
    /// After [`ReadError::Damaged`] the next call goes on behind the damage. [`ReadError::Trimmed`] says that the log has
    /// deleted what comes next; the reader goes on where the log begins now. After [`ReadError::Disk`] it stays.
    #[expect(clippy::should_implement_trait, reason = "an iterator that ends stays ended; this one does not")]
    pub fn next(&mut self) -> Result<Option<Record>, ReadError> {
        loop {
            let mut place = match self.place.take() {
                Some(place) => place,
                None => match self.look_up()? {
                    Some(place) => place,
                    None => return Ok(None),
                },
            };
            let mut step = place.walk.step(self.at).map_err(|source| failed(&place.path, source))?;
            let mut next = None;
            if !matches!(step, Step::Record(..)) {
                // What was read may have been half-written. With a segment behind it, it is not any more.
                next = self.following(place.base)?;
                step = place.step_again(self.at).map_err(|source| failed(&place.path, source))?;
            }
            let Place { path, walk, .. } = self.place.insert(place);
            let what = match step {
                Step::Record(header, payload) => {
                    let lsn = self.at;
                    self.at = lsn.next();
                    return Ok(Some(Record { lsn, kind: header.kind, payload }));
                }
                Step::End => match next {
                    None => return Ok(None),
                    Some(next) if next.base <= self.at || next.gap_before => {
                        self.at = self.at.max(next.base);
                        self.place = None;
                        continue;
                    }
                    Some(_) => "its last records are missing",
                },
                Step::Bad(what) => what,
            };
            let (lsn, path) = (self.at, path.clone());
            if !path.exists() {
                // It was trimmed, and with it, perhaps, what came behind it.
                self.place = None;
                continue;
            }
            match (walk.find_whole(lsn).map_err(|source| failed(&path, source))?, next) {
                (Some((offset, header)), _) => {
                    walk.skip_to(offset);
                    self.at = header.lsn;
                }
                (None, Some(next)) => {
                    self.at = next.base.max(self.at);
                    self.place = None;
                }
                // Torn, or being written.
                (None, None) => return Ok(None),
            }
            return Err(ReadError::Damaged { lsn, resume_at: self.at, path, what });
        }
    }

    /// The position of the record that [`ViewReader::next`] gives next.
    pub fn position(&self) -> Lsn {
        self.at
    }

    /// Gives up what is left of this segment, after [`ReadError::Disk`]. `false`: it was the last one.
    pub fn skip_segment(&mut self) -> bool {
        self.place = None;
        let next = self
            .list()
            .ok()
            .and_then(|list| list.into_iter().map(|(base, _)| base).find(|base| *base > self.at));
        self.at = next.unwrap_or(self.at);
        next.is_some()
    }

    fn look_up(&mut self) -> Result<Option<Place>, ReadError> {
        let mut gone = None;
        let (base, path, file) = loop {
            let list = self.list()?;
            let Some((first, _)) = list.first().cloned() else { return Ok(None) };
            if self.at < first {
                let lsn = std::mem::replace(&mut self.at, first);
                if lsn > Lsn::ZERO {
                    return Err(ReadError::Trimmed { lsn, first });
                }
            }
            let Some((base, path)) = list.into_iter().rev().find(|(base, _)| *base <= self.at) else {
                return Ok(None);
            };
            match open_to_read(&path) {
                // Trimmed just now: the next look says so. What is listed again leads nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound && gone.as_ref() != Some(&path) => {
                    gone = Some(path);
                }
                other => {
                    let file = other.map_err(|source| failed(&path, source))?;
                    break (base, path, file);
                }
            }
        };
        let failed = |source| failed(&path, source);
        let reads = file.try_clone().map_err(failed)?;
        let end = file.metadata().map_err(failed)?.len();
        let walk = Walk::new(Disk::new(None), reads, self.seed, end);
        let mut place = Place { base, path: path.clone(), walk, file };
        let mut lsn = base;
        while lsn < self.at {
            match place.walk.step(lsn).map_err(failed)? {
                Step::Record(..) => lsn = lsn.next(),
                // It is not written yet.
                Step::End if self.following(base)?.is_none() => return Ok(None),
                Step::End => break,
                Step::Bad(_) => {
                    // Damage below the position is behind the caller.
                    if let Some((offset, _)) = place.walk.find_whole(Lsn(self.at.0 - 1)).map_err(failed)? {
                        place.walk.skip_to(offset);
                    }
                    break;
                }
            }
        }
        Ok(Some(place))
    }

    fn following(&self, base: Lsn) -> Result<Option<Next>, ReadError> {
        let next = self.list()?.into_iter().find(|(other, _)| *other > base);
        Ok(next.map(|(base, path)| {
            let segment = super::SegmentView::read(base, path).ok().flatten();
            Next { base, gap_before: segment.is_some_and(|(segment, _)| segment.gap_before) }
        }))
    }

    fn list(&self) -> Result<Vec<(Lsn, PathBuf)>, ReadError> {
        let listing = Listing::read(&self.dir);
        listing.map(|listing| listing.segments).map_err(|error| {
            let source = io::Error::other(error.to_string());
            ReadError::Disk { path: self.dir.clone(), source }
        })
    }
}

impl Place {
    /// Reads anew, up to where the file ends now.
    fn step_again(&mut self, expected: Lsn) -> io::Result<Step> {
        self.walk.set_end(self.file.metadata()?.len());
        self.walk.forget();
        self.walk.step(expected)
    }
}

fn failed(path: &Path, source: io::Error) -> ReadError {
    ReadError::Disk { path: path.to_owned(), source }
}
