//! Opens the reserve, or makes it.
//!
//! - a new one is written and synced as a whole, its header last; nobody who notes waits for that
//! - one that is not whole, or another log's, is made anew in the blocks that it has, and *everything* is noted
//! - without space there is none: the log opens, and it is tried again when the disk has room, ever more rarely when that
//!   fails all the same

use std::fs::File;
use std::io::{self, IoSlice, Read as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::page::{FILE_BYTES, HALF_BYTES, HEADER_BYTES, Header, half_range, scan};
use super::{Half, Live, Reserve, State};
use crate::disk::Disk;
use crate::error::OpenError;
use crate::folder::{Folder, disk, open_to_read, refuse_too_open};
use crate::format::{self, BlockFault, LogId};
use crate::level;
use crate::patient::Patient;
use crate::sync::Mutex;
use crate::sync::atomic::AtomicU64;

impl Reserve {
    /// What must not be opened is refused before anything is changed.
    pub(crate) fn refuse(folder: &Folder) -> Result<(), OpenError> {
        let path = folder.reserve();
        if !path.exists() {
            return Ok(());
        }
        refuse_too_open(&path, 0o600)?;
        let mut header = Vec::new();
        let file = open_to_read(&path).map_err(disk("open", &path))?;
        // What cannot be read is as good as damaged.
        let _ = file.take(HEADER_BYTES as u64).read_to_end(&mut header);
        match Header::decode(&header) {
            Err(BlockFault::Newer(version)) => Err(OpenError::Newer { path, version }),
            Ok(_) | Err(BlockFault::Damaged) => Ok(()),
        }
    }

    /// `new`: the log had nothing, so nothing can have been noted. The texts are for people.
    pub(crate) fn start(
        disk_calls: &Disk,
        folder: &Folder,
        id: LogId,
        new: bool,
        hang_after: Duration,
    ) -> Result<(Reserve, Vec<String>), OpenError> {
        let path = folder.reserve();
        let reserve = Reserve {
            disk: disk_calls.clone(),
            path: path.clone(),
            id,
            hang_after,
            state: Patient::new(State { next: 1, ..State::default() }),
            clearing: Mutex::default(),
            lost: AtomicU64::new(0),
            lost_cleared: AtomicU64::new(0),
        };
        let mut told = Vec::new();
        if path.exists() {
            let file = disk_calls.open(&path).map_err(disk("open", &path))?;
            // What cannot be read is as good as damaged.
            let bytes: Bytes = disk_calls.read(&file, 0, FILE_BYTES + 1).unwrap_or_default().into();
            match Header::decode(&bytes) {
                Ok(header) if header.id == id && bytes.len() == FILE_BYTES => {
                    told.extend(reserve.read(file, &header, &bytes));
                }
                _ => {
                    // A death while it was made leaves zeros.
                    if !new || bytes.iter().take(HEADER_BYTES).any(|byte| *byte != 0) {
                        reserve.lose();
                        told.push(format!("{} is damaged: everything counts as noted", path.display()));
                    }
                    let made = reserve.prepare(&file).and_then(|()| reserve.adopt(file));
                    told.extend(
                        made.err().map(|error| format!("{} cannot be made anew: {error}", path.display())),
                    );
                }
            }
        } else {
            if !new {
                reserve.lose();
                told.push(format!("{} is missing: everything counts as noted", path.display()));
            }
            told.extend(
                reserve.make(folder).err().map(|error| format!("{} cannot be made: {error}", path.display())),
            );
        }
        Ok((reserve, told))
    }

    /// Makes the file if it is not there. Until it is, a note is *everything*, in memory.
    fn make(&self, folder: &Folder) -> io::Result<()> {
        if !self.lacks_file() {
            return Ok(());
        }
        self.disk.remove(&self.path)?;
        let file = self.disk.create(&self.path)?;
        let made = self.prepare(&file).and_then(|()| folder.sync(&self.disk)).and_then(|()| self.adopt(file));
        if made.is_err() && self.lacks_file() {
            let _ = self.disk.remove(&self.path);
        }
        made
    }

    /// Zeros, in all of it. A header that is there says everything first; without one, the file reads as that.
    fn prepare(&self, file: &File) -> io::Result<()> {
        let len = file.metadata()?.len();
        if len > 0 {
            let on_the_way = Header { id: self.id, everything: true, wiping: [true; 2], cleared: 0 };
            self.disk.write(file, &[IoSlice::new(&on_the_way.encode())], 0)?;
            self.disk.sync_file(file)?;
        } else {
            self.disk.write(file, &[IoSlice::new(&[0; 4096])], 0)?;
        }
        for half in 0..2 {
            self.wipe(file, half)?;
        }
        if len > FILE_BYTES as u64 {
            self.disk.truncate(file, FILE_BYTES as u64)?;
        }
        self.disk.sync_file(file)
    }

    /// Puts the header that holds now into a file of zeros: from then on it is used.
    fn adopt(&self, file: File) -> io::Result<()> {
        let mut state = self.take().map_err(io::Error::other)?;
        if state.closed {
            return Err(io::Error::other("the log is closed"));
        }
        state.file = Some(Arc::new(file));
        let header = self.header(&state);
        if let Err(error) = self.write_header(&mut state, &header) {
            state.file = None;
            return Err(error);
        }
        drop(state);
        self.sync_pending().map_err(io::Error::other)
    }

    pub(super) fn wipe(&self, file: &File, half: usize) -> io::Result<()> {
        self.disk.write(file, &[IoSlice::new(&[0; HALF_BYTES])], half_range(half).start as u64)
    }

    /// Takes over what an earlier process has noted. Gives what a person may want to know.
    fn read(&self, file: File, header: &Header, bytes: &Bytes) -> Option<String> {
        let mut state = self.state.lock();
        state.cleared = header.cleared;
        state.next = header.cleared.max(1);
        let mut damaged = false;
        for half in 0..2 {
            if header.wiping[half] {
                // Wiped by the next clearing.
                state.halves[half] = Half { wiping: true, ..Half::default() };
                continue;
            }
            let scanned = scan(&bytes.slice(half_range(half)), format::seed(&self.id));
            damaged |= scanned.damaged;
            let last = scanned.notes.last().map_or(0, |(number, _)| *number);
            state.halves[half] = Half { end: scanned.end, last, shut: scanned.damaged, wiping: false };
            state.next = state.next.max(last + 1);
            for (number, note) in scanned.notes {
                if number >= header.cleared {
                    // A copy: a note does not keep the whole file in memory.
                    let note = Bytes::copy_from_slice(&note);
                    let live = state.live.entry(note).or_insert(Live { written: number, wanted: number });
                    live.written = live.written.max(number);
                    live.wanted = live.written;
                }
            }
        }
        if state.halves[1].last > state.halves[0].last || state.halves[0].wiping {
            state.active = 1;
        }
        state.file = Some(Arc::new(file));
        // The process before may have died before it synced them.
        state.unsynced = true;
        if header.everything || damaged {
            let number = state.number();
            // Not on disk, it is found again by the next one who reads the damage.
            if self.flag_everything(&mut state, number).is_err() {
                state.everything = Some(number);
            }
        }
        drop(state);
        damaged.then(|| format!("a note in {} is damaged: everything counts as noted", self.path.display()))
    }

    /// Makes the file, where there was no space for it and there is some now.
    pub(crate) fn make_again(&self, folder: &Folder, tries: &mut Tries) {
        if !self.lacks_file() {
            return;
        }
        if level::free_bytes(folder).is_some_and(|free| free < FILE_BYTES as u64) {
            *tries = Tries::default();
        } else if tries.is_due() && self.make(folder).is_err() {
            tries.failed();
        }
    }

    fn lacks_file(&self) -> bool {
        self.take().is_ok_and(|state| state.file.is_none() && !state.closed)
    }
}

/// When to try again what fails though there seems to be room: after 100 ms, and twice as long each time, up to 10 s.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    wait: Duration,
    next: Option<Instant>,
}

impl Tries {
    fn is_due(&self) -> bool {
        self.next.is_none_or(|next| Instant::now() >= next)
    }

    fn failed(&mut self) {
        self.wait = (self.wait * 2).clamp(Duration::from_millis(100), Duration::from_secs(10));
        self.next = Some(Instant::now() + self.wait);
    }
}
