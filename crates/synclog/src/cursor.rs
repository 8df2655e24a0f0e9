//! The cursor: how far the log was applied, and what its reader needs to go on.
//!
//! - two slots, written in turn: a torn write leaves the other one (`cursor/slot.rs` has the bytes)
//! - a slot is a lower bound. A stale one is fine; one that is ahead of the log is reported at open
//! - the slot that is known to be on disk is never overwritten
//! - a slot also says how far the log was synced and whether it was closed in order: recovery needs both

pub(crate) mod slot;

use std::fs::File;
use std::io::{self, IoSlice};

use self::slot::{Loaded, SLOT_BYTES, Slot, open_or_create};
use crate::Lsn;
use crate::disk::Disk;
use crate::error::{CursorError, OpenError};
use crate::folder::{Folder, disk};
use crate::format::LogId;
use crate::log::Shared;
use crate::sync::Mutex;

/// The most data that a cursor carries.
pub const CURSOR_DATA_MAX: usize = 448;

/// How far the log was applied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Everything below this position is applied.
    pub applied: Lsn,
    /// What the reader needs to go on; opaque, at most [`CURSOR_DATA_MAX`] bytes.
    pub data: Vec<u8>,
}

/// When a stored cursor reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorSync {
    /// Before the call returns; segments below it may then be trimmed.
    Now,
    /// With the next flush. It survives the death of this process at once.
    Later,
}

#[derive(Debug)]
pub(crate) struct CursorFile {
    disk: Disk,
    id: LogId,
    state: Mutex<State>,
    /// Apart from `state`, so that looking does not wait for the disk. Set while `state` is held.
    value: Mutex<Option<Cursor>>,
}

/// How a log is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    InOrder,
    /// Notes could not be put on disk: for the next open, that is a gap.
    NotesLost,
}

#[derive(Debug)]
struct State {
    file: File,
    generation: u64,
    /// The slot that is known to be on disk; the other one is written next.
    synced_slot: usize,
    /// Where the cursor in the other slot stands, if that is written and not synced yet.
    pending: Option<Lsn>,
    durable_applied: Lsn,
    gaps: Gaps,
}

/// What the slots say of the gaps that are told at an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gaps {
    /// No segment is flagged with the one that was told: the slots are.
    Here,
    /// What segments are flagged with is to be told at the next open, unless a cursor lies beyond it.
    Flagged,
    /// Somebody has kept what they mean.
    Kept,
}

impl State {
    fn covered(&self) -> Lsn {
        // A cursor may go back: then the one that is not synced yet is the lower one.
        self.pending.map_or(self.durable_applied, |pending| pending.min(self.durable_applied))
    }
}

impl CursorFile {
    /// Goes on from what was loaded. Writes a slot at once, so that "closed" and "gap" do not outlive this open.
    pub(crate) fn start(
        disk_calls: &Disk,
        folder: &Folder,
        id: LogId,
        loaded: Loaded,
        durable: Lsn,
        gaps: Gaps,
    ) -> Result<CursorFile, OpenError> {
        let path = folder.cursor();
        let failed = disk("write", &path);
        let file = open_or_create(disk_calls, &path).map_err(&failed)?;
        let generation = loaded.slot.as_ref().map_or(0, |slot| slot.generation);
        let value = loaded.slot.and_then(|slot| slot.cursor);
        let (synced_slot, durable_applied) = (loaded.newest, Lsn::ZERO);
        let state = State { file, generation, synced_slot, pending: None, durable_applied, gaps };
        let started = CursorFile {
            disk: disk_calls.clone(),
            id,
            state: Mutex::new(state),
            value: Mutex::new(value.clone()),
        };
        let mut state = started.state.lock();
        started.write(&mut state, value.as_ref(), durable, None).map_err(&failed)?;
        started.sync(&mut state).map_err(&failed)?;
        drop(state);
        Ok(started)
    }

    pub(crate) fn value(&self) -> Option<Cursor> {
        self.value.lock().clone()
    }

    /// What is covered whichever of the slots the next open finds; zero when that may be none.
    pub(crate) fn durable_applied(&self) -> Lsn {
        self.state.lock().covered()
    }

    /// The same, or nothing while the cursor is being written.
    pub(crate) fn try_durable_applied(&self) -> Option<Lsn> {
        self.state.try_lock().map(|state| state.covered())
    }

    /// Syncs what was stored with [`CursorSync::Later`].
    pub(crate) fn sync_pending(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.pending.is_some() { self.sync(&mut state) } else { Ok(()) }
    }

    /// The last slot.
    pub(crate) fn write_last(&self, durable: Lsn, ending: Ending) -> io::Result<()> {
        let mut state = self.state.lock();
        let value = self.value();
        self.write(&mut state, value.as_ref(), durable, Some(ending))?;
        self.sync(&mut state)
    }

    fn write(
        &self,
        state: &mut State,
        cursor: Option<&Cursor>,
        durable: Lsn,
        ending: Option<Ending>,
    ) -> io::Result<()> {
        let generation = state.generation + 1;
        let closed = ending == Some(Ending::InOrder);
        let gap = state.gaps == Gaps::Here || ending == Some(Ending::NotesLost);
        let kept = state.gaps == Gaps::Kept;
        let slot = Slot { id: self.id, generation, cursor: cursor.cloned(), durable, closed, gap, kept };
        let offset = (1 - state.synced_slot) * SLOT_BYTES;
        self.disk.write(&state.file, &[IoSlice::new(&slot.encode())], offset as u64)?;
        state.generation = generation;
        state.pending = Some(cursor.map_or(Lsn::ZERO, |cursor| cursor.applied));
        Ok(())
    }

    fn sync(&self, state: &mut State) -> io::Result<()> {
        self.disk.sync_file(&state.file)?;
        if let Some(applied) = state.pending.take() {
            state.synced_slot = 1 - state.synced_slot;
            state.durable_applied = applied;
        }
        Ok(())
    }
}

impl Shared {
    pub(crate) fn store_cursor(&self, cursor: &Cursor, sync: CursorSync) -> Result<(), CursorError> {
        if cursor.data.len() > CURSOR_DATA_MAX {
            return Err(CursorError::TooLarge { bytes: cursor.data.len() });
        }
        // What this cursor needs is not trimmed while it is stored.
        let _no_trim = self.trimming.lock();
        if self.is_closed() {
            return Err(CursorError::Closed);
        }
        let (applied, first, head) = (cursor.applied, self.trimmed(), self.head());
        if applied < first || applied > head {
            return Err(CursorError::Outside { applied, first, head });
        }
        self.healthy()?;
        // A cursor on disk that is ahead of the log on disk would look like lost records.
        if applied > self.durable() {
            self.sync_now()?;
        }
        let mut state = self.cursor.state.lock();
        if self.is_closed() {
            return Err(CursorError::Closed);
        }
        let failed = |source| CursorError::Disk { path: self.folder.cursor(), source };
        self.cursor.write(&mut state, Some(cursor), self.synced(), None).map_err(failed)?;
        *self.cursor.value.lock() = Some(cursor.clone());
        if sync == CursorSync::Now {
            self.cursor.sync(&mut state).map_err(|error| self.poison("sync the cursor", &error))?;
        }
        Ok(())
    }

    pub(crate) fn forget_gap(&self) -> Result<(), CursorError> {
        let mut state = self.cursor.state.lock();
        if self.is_closed() {
            return Err(CursorError::Closed);
        }
        self.healthy()?;
        state.gaps = Gaps::Kept;
        let value = self.cursor.value();
        let failed = |source| CursorError::Disk { path: self.folder.cursor(), source };
        self.cursor.write(&mut state, value.as_ref(), self.synced(), None).map_err(failed)?;
        self.cursor.sync(&mut state).map_err(|error| self.poison("sync the cursor", &error))?;
        Ok(())
    }
}
