//! The keys that were written to the target lately, on disk: a source that crashed takes back up to 100 ms of writes
//! that it had acknowledged, and nothing else tells which documents on the target came from them.
//!
//! - two files in the log's folder, in turns: each takes notes for [`PERIOD_MS`], so a note is kept at least that long
//! - a file: BSON documents, first `{at}`, then `{ns, ids}`, for all documents of a namespace `{ns}`, or for one that was
//!   made on the target `{ns, made: at}`. One without that time, of an earlier version, counts as of long ago
//! - a note is in the page cache before its keys are read or sent, so it survives this process. After a crash of the
//!   host everything is compared anyhow
//! - about 30 bytes a key; beyond [`BYTES_MAX`] a file takes whole namespaces only

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::{cstr, rawdoc};
use record::{Key, Namespace};

/// How long a note is kept, at least: far longer than a read and its write may take.
const PERIOD_MS: u64 = 60_000;
/// A file changes only with the next note: on a quiet system a note may be hours old, and this tells what is lately.
pub const LATELY_MS: u64 = 2 * PERIOD_MS;
/// One file: about 300,000 keys.
const BYTES_MAX: u64 = 8 << 20;
/// The last note may go beyond: keys of one step.
const NOTE_BYTES_MAX: u64 = 32 << 20;
const FILES: [&str; 2] = ["recent.0", "recent.1"];

/// Takes notes.
#[derive(Debug)]
pub struct Recent {
    dir: PathBuf,
    current: Option<Current>,
    /// A note could not be written, in this run.
    lost: bool,
}

#[derive(Debug)]
struct Current {
    slot: usize,
    file: File,
    since_ms: u64,
    bytes: u64,
    /// Noted as a whole in this file.
    whole: HashSet<Namespace>,
}

/// One note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// These documents.
    Keys(Namespace, Vec<Key>),
    /// Any of its documents.
    Whole(Namespace),
    /// All of its documents: it was not on the target before this time, in ms.
    Made(Namespace, u64),
}

impl Recent {
    /// Goes on with the notes in `dir`.
    pub fn open(dir: &Path) -> Recent {
        Recent { dir: dir.to_owned(), current: None, lost: false }
    }

    /// These documents are about to be read, or written to the target.
    pub fn note<'a>(&mut self, ns: &Namespace, keys: impl IntoIterator<Item = &'a Key>, now_ms: u64) {
        let mut ids = RawArrayBuf::new();
        keys.into_iter().for_each(|key| ids.push(key.id()));
        let mut note = rawdoc! {"ns": ns.as_str()};
        note.append(cstr!("ids"), ids);
        self.write(ns, Some(note), now_ms);
    }

    /// Any document of `ns` may be written to.
    pub fn note_whole(&mut self, ns: &Namespace, now_ms: u64) {
        self.write(ns, None, now_ms);
    }

    /// `ns` is about to be made on the target.
    pub fn note_made(&mut self, ns: &Namespace, now_ms: u64) {
        let note = rawdoc! {"ns": ns.as_str(), "made": i64::try_from(now_ms).unwrap_or(i64::MAX)};
        if self.current(now_ms).and_then(|current| current.append(&note)).is_err() {
            self.lost = true;
        }
    }

    fn write(&mut self, ns: &Namespace, keys: Option<RawDocumentBuf>, now_ms: u64) {
        if self.try_write(ns, keys, now_ms).is_err() {
            self.lost = true;
        }
    }

    fn try_write(&mut self, ns: &Namespace, keys: Option<RawDocumentBuf>, now_ms: u64) -> io::Result<()> {
        let current = self.current(now_ms)?;
        let note = keys.filter(|_| current.bytes < BYTES_MAX);
        if current.whole.contains(ns) {
            return Ok(());
        }
        if note.is_none() {
            current.whole.insert(ns.clone());
        }
        current.append(&note.unwrap_or_else(|| rawdoc! {"ns": ns.as_str()}))
    }

    /// The file that takes notes now.
    fn current(&mut self, now_ms: u64) -> io::Result<&mut Current> {
        let fresh = |since_ms: u64| now_ms.checked_sub(since_ms).is_some_and(|age| age < PERIOD_MS);
        let next = match &self.current {
            Some(current) if fresh(current.since_ms) => None,
            Some(current) => Some(Current::begin(&self.dir, 1 - current.slot, now_ms)?),
            None => {
                let files = FILES.map(|name| read(&self.dir.join(name)));
                let since = |slot: usize| files[slot].as_ref().map_or(0, |file: &Contents| file.since_ms);
                let newer = usize::from(since(1) > since(0));
                Some(match &files[newer] {
                    Some(file) if fresh(file.since_ms) => Current::go_on(&self.dir, newer, file)?,
                    _ => Current::begin(&self.dir, 1 - newer, now_ms)?,
                })
            }
        };
        self.current = next.or(self.current.take());
        self.current.as_mut().ok_or_else(|| io::Error::other("no file takes notes"))
    }

    /// Hands out what was noted, the older file first; `false`: a note is missing.
    pub fn for_each(&self, take: impl FnMut(Note)) -> bool {
        let mut files: Vec<Contents> = FILES.iter().filter_map(|name| read(&self.dir.join(name))).collect();
        files.sort_by_key(|file| file.since_ms);
        files.into_iter().flat_map(|file| file.notes).for_each(take);
        !self.lost
    }
}

/// A file as it was read; what a crash has left of a last note was not acted on.
struct Contents {
    since_ms: u64,
    notes: Vec<Note>,
    /// Whole documents.
    bytes: u64,
}

impl Current {
    /// Instead of what is in it.
    fn begin(dir: &Path, slot: usize, now_ms: u64) -> io::Result<Current> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(dir.join(FILES[slot]))?;
        let mut current = Current { slot, file, since_ms: now_ms, bytes: 0, whole: HashSet::new() };
        current.append(&rawdoc! {"at": i64::try_from(now_ms).unwrap_or(i64::MAX)})?;
        Ok(current)
    }

    /// Behind what an earlier run has written.
    fn go_on(dir: &Path, slot: usize, contents: &Contents) -> io::Result<Current> {
        let mut file = OpenOptions::new().write(true).open(dir.join(FILES[slot]))?;
        file.set_len(contents.bytes)?;
        file.seek(SeekFrom::Start(contents.bytes))?;
        let whole = contents.notes.iter().filter_map(|note| match note {
            Note::Whole(ns) => Some(ns.clone()),
            Note::Keys(..) | Note::Made(..) => None,
        });
        let Contents { since_ms, bytes, .. } = *contents;
        Ok(Current { slot, file, since_ms, bytes, whole: whole.collect() })
    }

    fn append(&mut self, note: &RawDocumentBuf) -> io::Result<()> {
        let written = self.file.write_all(note.as_bytes());
        if written.is_err() {
            // What is there of it must not hide what comes behind.
            self.file.set_len(self.bytes)?;
            self.file.seek(SeekFrom::Start(self.bytes))?;
            return written;
        }
        self.bytes += note.as_bytes().len() as u64;
        Ok(())
    }
}

fn read(path: &Path) -> Option<Contents> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(BYTES_MAX + NOTE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let mut rest = bytes.as_slice();
    let mut next = || {
        let length = u32::from_le_bytes(*rest.first_chunk::<4>()?) as usize;
        let (document, behind) = rest.split_at_checked(length)?;
        let document = RawDocumentBuf::from_bytes(document.to_owned()).ok()?;
        rest = behind;
        Some(document)
    };
    let since_ms = u64::try_from(next()?.get_i64("at").ok()?).ok()?;
    let mut notes = Vec::new();
    while let Some(note) = next() {
        let ns = Namespace::parse(note.get_str("ns").ok()?);
        notes.push(match note.get_array("ids") {
            Ok(ids) => Note::Keys(ns, ids.into_iter().flatten().filter_map(Key::new).collect()),
            Err(_) => match note.get("made") {
                Ok(Some(at)) => {
                    Note::Made(ns, at.as_i64().and_then(|at| u64::try_from(at).ok()).unwrap_or(0))
                }
                _ => Note::Whole(ns),
            },
        });
    }
    let whole = bytes.len() - rest.len();
    Some(Contents { since_ms, notes, bytes: whole as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: i32) -> Key {
        Key::of(&rawdoc! {"_id": id}).unwrap()
    }

    fn ids(recent: &Recent) -> Vec<i32> {
        let mut found = Vec::new();
        recent.for_each(|note| {
            if let Note::Keys(_, keys) = note {
                found.extend(keys.iter().filter_map(|key| key.id().as_i32()));
            }
        });
        found
    }

    #[test]
    fn a_note_is_kept_for_a_minute_at_least_and_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let ns = Namespace::new("d", "c");
        let mut recent = Recent::open(dir.path());
        recent.note(&ns, [&key(1)], 1_000);
        recent.note(&ns, [&key(2), &key(3)], 60_999);
        recent.note(&ns, [&key(4)], 61_000);
        assert_eq!(ids(&recent), [1, 2, 3, 4]);
        recent.note(&ns, [&key(5)], 121_000);
        assert_eq!(ids(&recent), [4, 5]);

        let mut recent = Recent::open(dir.path());
        assert_eq!(ids(&recent), [4, 5]);
        recent.note(&ns, [&key(6)], 122_000);
        assert_eq!(ids(&recent), [4, 5, 6]);
        let mut recent = Recent::open(dir.path());
        recent.note(&ns, [&key(7)], 300_000);
        assert_eq!(ids(&recent), [5, 6, 7]);
    }

    #[test]
    fn what_a_crash_has_left_of_a_note_hides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let ns = Namespace::new("d", "c");
        let mut recent = Recent::open(dir.path());
        recent.note(&ns, [&key(1)], 1_000);
        let path = dir.path().join(FILES[recent.current.as_ref().unwrap().slot]);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend([40, 0, 0, 0, 2]);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(ids(&Recent::open(dir.path())), [1]);
    }

    #[test]
    fn a_full_file_takes_whole_namespaces() {
        let dir = tempfile::tempdir().unwrap();
        let ns = Namespace::new("d", "c");
        let mut recent = Recent::open(dir.path());
        recent.note(&ns, [&key(1)], 1_000);
        recent.current.as_mut().unwrap().bytes = BYTES_MAX;
        recent.note(&ns, [&key(2)], 1_000);
        recent.note(&ns, [&key(3)], 1_000);
        recent.note_made(&ns, 1_000);
        let mut notes = Vec::new();
        recent.for_each(|note| notes.push(note));
        assert_eq!(
            notes,
            [Note::Keys(ns.clone(), vec![key(1)]), Note::Whole(ns.clone()), Note::Made(ns, 1_000)]
        );
    }
}
