//! Remembers on disk how far we are and what must not be forgotten, in the order that keeps both true.
//!
//! - before anything is sent, the cursor says so
//! - what is dirty or dead reaches the disk before the cursor passes the entries that made it so

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use record::{Doubt, Effect, Entry, Key, Namespace, RecordKind, Target, Touch};
use synclog::CursorSync;
use tracing::{error, warn};

use crate::checkpoint::Checkpoint;
use crate::execute::{Executor, Stall};
use crate::notes;
use crate::shared::now_ms;

/// Keys in one record.
const KEYS_PER_RECORD: usize = 1_000;
/// What we append ourselves ends no write's mark. No record has this position, so that none is taken for ended by it.
const NO_MARK: u64 = 0;

/// How far we are.
#[derive(Debug, Clone, Copy)]
pub struct Positions {
    /// How far we are in truth.
    pub checkpoint: Checkpoint,
    /// How far the cursor says that we are: never beyond what the state file remembers as dirty.
    pub parked: Checkpoint,
}

/// Where the state is, so that it survives this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// In its file.
    Here,
    /// What it says of namespaces is in the log's reserve, at least: the notes must stay.
    AsNotes,
    /// It is in memory only.
    Nowhere,
}

impl Executor {
    /// How far we are.
    pub fn checkpoint(&self) -> Checkpoint {
        self.positions().checkpoint
    }

    pub(crate) fn positions(&self) -> MutexGuard<'_, Positions> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before anything is written: what may be on the target from now on.
    pub fn remember_sent(&self, head: u64) -> Result<(), Stall> {
        let mut positions = self.positions();
        if positions.parked.sent < head {
            let sent = Checkpoint { sent: head, ..positions.parked };
            sent.store(&self.log, CursorSync::Later).map_err(Stall::Log)?;
            positions.parked = sent;
            positions.checkpoint.sent = head;
        }
        Ok(())
    }

    /// Appends these keys to the log, so that whatever becomes of us they are converged once more. Says whether it took
    /// them all.
    pub fn append_keys(&self, ns: &Namespace, keys: &[Key]) -> bool {
        keys.chunks(KEYS_PER_RECORD).all(|keys| {
            let effect = |key: &Key| {
                let target = Target::new(ns.clone(), Touch::Key(key.clone()));
                Effect { target, op: None, n: 0, modified: 0 }
            };
            let effects = keys.iter().map(effect).collect();
            let entry = Entry {
                mark: NO_MARK,
                doubt: Some(Doubt::Contended),
                atomic: false,
                effects,
                operation_time: None,
                at_ms: now_ms(),
            };
            match self.log.append(RecordKind::Entry as u8, &[&entry.encode()]) {
                Ok(_) => {
                    self.pending.add(1);
                    true
                }
                Err(error) => {
                    warn!(%ns, %error, "keys cannot be recorded");
                    false
                }
            }
        })
    }

    /// Writes what is dirty and dead to the disk, if that has changed; says a failure once.
    pub fn save_state(&self) -> Saved {
        let Err(error) = self.shared.save_state() else {
            self.unsaved.store(false, Ordering::Relaxed);
            return Saved::Here;
        };
        if !self.unsaved.swap(true, Ordering::Relaxed) {
            error!(%error, "the replicator's state cannot be saved: check the log folder's disk and rights");
        }
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded if self.note_state() => Saved::AsNotes,
            _ => Saved::Nowhere,
        }
    }

    /// On a full disk, the names of what is dirty or dead go into the log's reserve: were that to wait for space, the
    /// cursor would wait as well, and nothing of the log could be deleted.
    fn note_state(&self) -> bool {
        let (namespaces, everything) = {
            let state = self.shared.state();
            let dirty = state.dirty().map(|(ns, _)| ns);
            let dead = state.dead_letters().iter().map(|letter| Namespace::parse(&letter.namespace));
            (dirty.chain(dead).collect::<BTreeSet<_>>(), state.everything_dirty().is_some())
        };
        let all = everything.then_some(None);
        let mut notes = all.into_iter().chain(namespaces.iter().map(Some));
        notes.all(|ns| notes::note(&self.log, ns).is_ok())
    }

    /// Remembers how far we are: first what is dirty, then the position that relies on it.
    pub fn park(&self, sync: CursorSync) {
        if self.save_state() == Saved::Nowhere {
            return;
        }
        let mut positions = self.positions();
        match positions.checkpoint.store(&self.log, sync) {
            Ok(()) => positions.parked = positions.checkpoint,
            Err(error) => error!(%error, "the checkpoint cannot be stored"),
        }
    }
}
