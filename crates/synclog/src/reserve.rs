//! The reserve: a small file, written at open, for short notes that must find a place when the disk is full.
//!
//! - a note is as durable as a record: it survives the death of this process when [`SyncLog::note`] returns, and that of
//!   the host after the next sync. It goes into blocks that the file has already
//! - what cannot be noted becomes the flag *everything*, in the header, which is its own sector. If the disk refuses that
//!   as well, it is kept in memory, and the error says so; it is tried again at every sync, and at last by the cursor
//! - anything in the file that is not whole reads as *everything*, and so does a file that is gone
//! - two halves: notes are added to one; the other is wiped when none of its notes counts any more. What counts is never
//!   written over
//! - a note that is there already is not written twice. If it was told to the reader in between, it is written again
//!   before the reader's clearing takes effect: so each note that came after [`SyncLog::notes`] outlives the clearing
//!
//! Not here: what a note says. `reserve/page.rs` has the bytes.
//!
//! [`SyncLog::note`]: crate::SyncLog::note
//! [`SyncLog::notes`]: crate::SyncLog::notes

mod clear;
pub(crate) mod make;
pub(crate) mod page;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::page::{HALF_BYTES, Header, encode_note, half_range, note_bytes};
use crate::disk::Disk;
use crate::error::NoteError;
use crate::format::{self, LogId};
use crate::log::Shared;
use crate::patient::Patient;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// How a note was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// It is among [`Notes::notes`].
    Itself,
    /// There was no room, or the disk refused it: [`Notes::everything`] stands for it.
    AsEverything,
}

/// What was noted and is not cleared.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// Notes are missing: whatever could have been noted is to be taken as noted.
    pub everything: bool,
    /// Oldest first, none twice.
    pub notes: Vec<Bytes>,
    /// For [`SyncLog::clear_notes`](crate::SyncLog::clear_notes).
    pub upto: NoteLsn,
}

/// A moment among the notes: what was noted before it and what after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NoteLsn {
    number: u64,
    lost: u64,
}

#[derive(Debug)]
pub(crate) struct Reserve {
    disk: Disk,
    path: PathBuf,
    id: LogId,
    hang_after: Duration,
    state: Patient<State>,
    /// One at a time wipes.
    clearing: Mutex<()>,
    /// How often something could not be put on disk in any way, and how many of these the reader knows of.
    lost: AtomicU64,
    lost_cleared: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: there was no space for it yet.
    file: Option<Arc<File>>,
    live: HashMap<Bytes, Live>,
    /// The number that the next note gets. Each event has one, though not each is written.
    next: u64,
    cleared: u64,
    /// When the flag was wanted last.
    everything: Option<u64>,
    halves: [Half; 2],
    active: usize,
    unsynced: bool,
    /// A write of the header failed: what it says now is not known. Nothing is noted before it is written again.
    unsure: bool,
    /// The header says everything, as far as it was written and no sync has failed since.
    says_everything: bool,
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Live {
    /// The number that it has on disk.
    written: u64,
    /// When it was wanted last.
    wanted: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Half {
    /// Where the next note goes.
    end: usize,
    /// The highest number in it.
    last: u64,
    /// Takes no more notes until it is wiped.
    shut: bool,
    wiping: bool,
}

impl Half {
    fn is_clean(&self) -> bool {
        self.end == 0 && !self.shut && !self.wiping
    }
}

impl Reserve {
    /// Keeps a note.
    pub(crate) fn note(&self, note: &[u8]) -> Result<Noted, NoteError> {
        let mut state = self.take().inspect_err(|_| self.lose())?;
        if state.closed {
            return Err(NoteError::Closed);
        }
        if state.unsure {
            let header = self.header(&state);
            let written = self.write_header(&mut state, &header);
            written.inspect_err(|_| self.lose()).map_err(|source| self.failed(source))?;
        }
        let number = state.number();
        if let Some(live) = state.live.get_mut(note) {
            live.wanted = number;
            return Ok(Noted::Itself);
        }
        match self.write_note(&mut state, number, note) {
            Ok(true) => {
                state.live.insert(Bytes::copy_from_slice(note), Live { written: number, wanted: number });
                Ok(Noted::Itself)
            }
            Ok(false) | Err(_) => self.flag_everything(&mut state, number).map(|()| Noted::AsEverything),
        }
    }

    pub(crate) fn notes(&self) -> Notes {
        let lost = self.lost.load(Ordering::SeqCst);
        let missing = lost > self.lost_cleared.load(Ordering::SeqCst);
        let Ok(state) = self.take() else {
            let upto = NoteLsn { number: 0, lost };
            return Notes { everything: true, notes: Vec::new(), upto };
        };
        let mut live: Vec<_> = state.live.iter().collect();
        live.sort_by_key(|(_, live)| live.written);
        Notes {
            everything: missing || state.everything.is_some(),
            notes: live.into_iter().map(|(note, _)| note.clone()).collect(),
            upto: NoteLsn { number: state.next, lost },
        }
    }

    /// Whether there was room.
    fn write_note(&self, state: &mut State, number: u64, note: &[u8]) -> io::Result<bool> {
        let Some(file) = state.file.clone() else { return Ok(false) };
        let bytes = note_bytes(note.len());
        let fits = |half: &Half| !half.shut && !half.wiping && half.end + bytes <= HALF_BYTES;
        if !fits(&state.halves[state.active]) {
            let other = 1 - state.active;
            if !state.halves[other].is_clean() || !fits(&state.halves[other]) {
                return Ok(false);
            }
            state.active = other;
        }
        let active = state.active;
        let half = &mut state.halves[active];
        let at = half_range(active).start + half.end;
        let encoded = encode_note(number, note, format::seed(&self.id));
        if let Err(error) = self.disk.write(&file, &[IoSlice::new(&encoded)], at as u64) {
            // Part of it may be there: whoever reads that takes it for everything, as it will be flagged now.
            half.shut = true;
            return Err(error);
        }
        half.end += bytes;
        half.last = number;
        state.unsynced = true;
        Ok(true)
    }

    fn flag_everything(&self, state: &mut State, number: u64) -> Result<(), NoteError> {
        if !state.says_everything {
            let header = Header { everything: true, ..self.header(state) };
            if let Err(source) = self.write_header(state, &header) {
                self.lose();
                return Err(self.failed(source));
            }
        }
        state.everything = Some(number);
        Ok(())
    }

    fn header(&self, state: &State) -> Header {
        Header {
            id: self.id,
            everything: state.everything.is_some() || self.has_lost(),
            wiping: state.halves.map(|half| half.wiping),
            cleared: state.cleared,
        }
    }

    fn write_header(&self, state: &mut State, header: &Header) -> io::Result<()> {
        let Some(file) = &state.file else { return Err(io::Error::other("there was no space for it yet")) };
        let written = self.disk.write(file, &[IoSlice::new(&header.encode())], 0);
        state.unsure = written.is_err();
        state.says_everything = header.everything && written.is_ok();
        state.unsynced = true;
        written
    }

    /// Puts on disk what was noted since the last time, and *everything* where that is known in memory only: the disk
    /// may work again. After an error it is still to be done.
    pub(crate) fn sync_pending(&self) -> Result<(), NoteError> {
        let mut state = self.take()?;
        let header = self.header(&state);
        if header.everything && !state.says_everything {
            self.write_header(&mut state, &header).map_err(|source| self.failed(source))?;
        }
        let (Some(file), true) = (state.file.clone(), std::mem::take(&mut state.unsynced)) else {
            return Ok(());
        };
        drop(state);
        self.disk.sync_file(&file).map_err(|source| {
            // It survives this process; whether it survives the host nobody knows.
            self.lose();
            if let Ok(mut state) = self.take() {
                state.says_everything = false;
            }
            self.failed(source)
        })
    }

    /// No more notes: the next process may have the folder. After an error, something that was noted is not on disk.
    pub(crate) fn close(&self) -> Result<(), NoteError> {
        let mut state = self.take()?;
        state.closed = true;
        let missing = state.file.is_none();
        drop(state);
        if missing && !self.path.exists() {
            // That says everything, too.
            return Ok(());
        }
        // The second time, what could not be put on disk has become *everything*.
        self.sync_pending().or_else(|_| self.sync_pending())
    }

    pub(crate) fn lose(&self) {
        self.lost.fetch_add(1, Ordering::SeqCst);
    }

    fn has_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst) > self.lost_cleared.load(Ordering::SeqCst)
    }

    fn take(&self) -> Result<MutexGuard<'_, State>, NoteError> {
        self.state.lock_within(self.hang_after).ok_or(NoteError::Hung)
    }

    fn failed(&self, source: io::Error) -> NoteError {
        NoteError::Disk { path: self.path.clone(), source }
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
}

impl Shared {
    pub(crate) fn note(&self, note: &[u8]) -> Result<Noted, NoteError> {
        // One thread is held by the device; it is not to get another one.
        if self.tail.is_hung() {
            self.reserve.lose();
            return Err(NoteError::Hung);
        }
        self.reserve.note(note)
    }
}
