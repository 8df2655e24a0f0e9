//! Several logs that feed one target: each converges, in no common order.
//!
//! Between our reading of a key and our writing it, another log may have written something newer. So after each write
//! the same keys are read again, until nothing has changed: whoever writes last has seen that it was the newest.
//! Which documents a predicate finds on the target changes with what is written to them, so their keys are recorded
//! first: after a crash in between they are converged all the same.

use std::collections::HashMap;
use std::sync::Arc;

use bson::raw::RawDocumentBuf;
use record::{Doubt, Effect, Entry, Key, Namespace, RecordKind, Target, Touch};
use tracing::warn;

use crate::Pending;
use crate::execute::{Executor, Stall};
use crate::shared::now_ms;

/// Times in a row that a key is read again; one that still changes then comes again with what is recorded next.
const ROUNDS_MAX: usize = 5;
/// Keys in one record.
const KEYS_PER_RECORD: usize = 1_000;

/// What it takes to record keys.
pub struct Joined {
    /// Counts entries.
    pub pending: Arc<Pending>,
}

impl Executor {
    /// Records keys that a predicate has found, before anything is written to them.
    pub fn record_found(&mut self, ns: &Namespace, keys: &[Key]) {
        let Some(joined) = &self.joined else { return };
        for keys in keys.chunks(KEYS_PER_RECORD) {
            let effect = |key: &Key| Effect {
                target: Target::new(ns.clone(), Touch::Key(key.clone())),
                op: None,
                n: 0,
                modified: 0,
            };
            let entry = Entry {
                mark: self.log.head().0,
                doubt: Some(Doubt::Contended),
                effects: keys.iter().map(effect).collect(),
                operation_time: None,
                at_ms: now_ms(),
            };
            match self.log.append(RecordKind::Entry as u8, &[&entry.encode()]) {
                Ok(_) => joined.pending.add(1),
                Err(error) => {
                    warn!(%ns, %error, "keys cannot be recorded");
                    return self.make_dirty(ns, "keys that several logs write to could not be recorded");
                }
            }
        }
    }

    /// Of the keys that were `read` and written, those that are not on the source any more as they were written.
    pub async fn changed_meanwhile(
        &mut self,
        ns: &Namespace,
        written: &[Key],
        read: &HashMap<Key, &RawDocumentBuf>,
        rounds: &mut usize,
    ) -> Result<Vec<Key>, Stall> {
        if self.joined.is_none() || written.is_empty() {
            return Ok(Vec::new());
        }
        let mut changed = Vec::new();
        let mut asked: Vec<&Key> = written.iter().collect();
        while !asked.is_empty() {
            let now = self.source.read(ns, &asked, None).await.map_err(Stall::Source)?;
            let there: HashMap<Key, &RawDocumentBuf> =
                now.documents.iter().filter_map(|doc| Some((Key::of(doc)?, doc))).collect();
            let (seen, rest): (Vec<_>, Vec<_>) =
                asked.into_iter().partition(|key| now.complete || there.contains_key(*key));
            let differs = |key: &&&Key| {
                there.get(**key).map(|doc| doc.as_bytes()) != read.get(**key).map(|doc| doc.as_bytes())
            };
            changed.extend(seen.iter().filter(differs).map(|key| (*key).clone()));
            asked = rest;
        }
        *rounds += 1;
        if *rounds >= ROUNDS_MAX {
            self.record_found(ns, &std::mem::take(&mut changed));
        }
        Ok(changed)
    }
}
