//! Several logs that feed one target: each converges, in no common order.
//!
//! Between our reading of a key and our writing it, another log may have written something newer. So after each write
//! the same keys are read again, until nothing has changed: whoever writes last has seen that it was the newest.
//! Which documents a predicate finds on the target changes with what is written to them, so their keys are recorded
//! first: after a crash in between they are converged all the same.

use std::collections::HashMap;

use bson::raw::RawDocumentBuf;
use record::{Key, Namespace};

use crate::execute::{Executor, Stall};

/// Times in a row that a key is read again; one that still changes then comes again with what is recorded next.
const ROUNDS_MAX: usize = 5;

impl Executor {
    /// Records keys that a predicate has found, before anything is written to them.
    pub fn record_found(&self, ns: &Namespace, keys: &[Key]) {
        if self.joined && !self.append_keys(ns, keys) {
            self.make_dirty(ns, "keys that several logs write to could not be recorded");
        }
    }

    /// Of the keys that were `read` and written, those that are not on the source any more as they were written.
    pub async fn changed_meanwhile(
        &self,
        ns: &Namespace,
        written: &[Key],
        read: &HashMap<Key, &RawDocumentBuf>,
        rounds: &mut usize,
    ) -> Result<Vec<Key>, Stall> {
        if !self.joined || written.is_empty() {
            return Ok(Vec::new());
        }
        // Now, not as of some time before.
        let concern = self.source.concern(None).await.map_err(Stall::Source)?;
        let mut changed = Vec::new();
        let mut asked: Vec<Key> = written.to_vec();
        while !asked.is_empty() {
            let now = self.source.read(ns, &asked, &concern).await.map_err(Stall::Source)?;
            let there: HashMap<Key, &RawDocumentBuf> =
                now.documents.iter().filter_map(|doc| Some((Key::of(doc)?, doc))).collect();
            let (seen, rest): (Vec<_>, Vec<_>) =
                asked.into_iter().partition(|key| now.complete || there.contains_key(key));
            let differs = |key: &Key| {
                there.get(key).map(|doc| doc.as_bytes()) != read.get(key).map(|doc| doc.as_bytes())
            };
            changed.extend(seen.into_iter().filter(differs));
            asked = rest;
        }
        *rounds += 1;
        if *rounds >= ROUNDS_MAX {
            self.record_found(ns, &std::mem::take(&mut changed));
        }
        Ok(changed)
    }
}
