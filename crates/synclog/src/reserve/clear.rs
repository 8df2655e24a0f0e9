//! Forgets notes that are dealt with.
//!
//! - first the header says so, and which half is about to be wiped; that is synced; then the half is wiped
//! - a note that was wanted again since it was told is written again before that

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::page::Header;
use super::{Half, Live, NoteLsn, Reserve, State};
use crate::error::NoteError;
use crate::sync::MutexGuard;

impl Reserve {
    /// Forgets what was wanted before `upto` only.
    pub(crate) fn clear(&self, upto: NoteLsn) -> Result<(), NoteError> {
        let _one = self.no_clearing();
        self.clear_one_half(upto)?;
        let shut = self.take().is_ok_and(|state| state.halves[state.active].shut);
        // The other one is clean now.
        if shut { self.clear_one_half(upto) } else { Ok(()) }
    }

    /// Waits for one that is going on, and holds up the next.
    pub(crate) fn no_clearing(&self) -> MutexGuard<'_, ()> {
        self.clearing.lock()
    }

    fn clear_one_half(&self, upto: NoteLsn) -> Result<(), NoteError> {
        let mut state = self.take()?;
        if state.closed {
            return Err(NoteError::Closed);
        }
        self.lost_cleared.fetch_max(upto.lost, Ordering::SeqCst);
        let Some(file) = state.file.clone() else { return Ok(()) };
        self.forget(&mut state, upto.number)?;
        if !state.halves.iter().any(|half| half.wiping) {
            return Ok(());
        }
        let wiping = state.halves.map(|half| half.wiping);
        drop(state);

        // The header says that they are wiped: a death on the way is no damage.
        let failed = |source| self.failed(source);
        self.disk.sync_file(&file).map_err(failed)?;
        for half in (0..2).filter(|half| wiping[*half]) {
            self.wipe(&file, half).map_err(failed)?;
        }
        self.disk.sync_file(&file).map_err(failed)?;
        let mut state = self.take()?;
        let before = state.halves;
        for half in (0..2).filter(|half| wiping[*half]) {
            state.halves[half] = Half::default();
        }
        let header = self.header(&state);
        if let Err(error) = self.write_header(&mut state, &header) {
            state.halves = before;
            return Err(failed(error));
        }
        Ok(())
    }

    /// What does not count any more goes, in memory and then in the header; which halves may be wiped is set.
    fn forget(&self, state: &mut State, upto: u64) -> Result<(), NoteError> {
        let other = 1 - state.active;
        if state.halves[other].is_clean() {
            state.active = other;
        }
        let again: Vec<Bytes> = state
            .live
            .iter()
            .filter(|(_, live)| live.written < upto && live.wanted >= upto)
            .map(|(note, _)| note.clone())
            .collect();
        for note in again {
            let number = state.number();
            if !matches!(self.write_note(state, number, &note), Ok(true)) {
                self.flag_everything(state, number)?;
                break;
            }
            state.live.insert(note, Live { written: number, wanted: number });
        }

        let cleared = state.cleared.max(upto.min(state.next));
        let everything = state.everything.filter(|wanted| *wanted >= upto);
        let mut halves = state.halves;
        for (nth, half) in halves.iter_mut().enumerate() {
            half.wiping |= nth != state.active && !half.is_clean() && half.last < cleared;
        }
        let header = Header {
            everything: everything.is_some() || self.has_lost(),
            wiping: halves.map(|half| half.wiping),
            cleared,
            id: self.id,
        };
        self.write_header(state, &header).map_err(|source| self.failed(source))?;
        (state.cleared, state.everything, state.halves) = (cleared, everything, halves);
        state.live.retain(|_, live| live.written >= cleared);
        Ok(())
    }
}
