//! Makes the target's documents equal to the source's, whatever they were.
//!
//! - candidates: the keys, and the target's documents that a predicate matches (`find.rs`)
//! - keys are read from the source and written to the target in one step; steps go side by side, since they have no key
//!   in common; in each of them deletes go before replacements
//! - a unique index in the way: when all steps have ended, holders are converged too (`collide.rs`)

use std::collections::HashMap;

use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::{cstr, rawdoc};
use record::{Key, Namespace};

use crate::error::{Class, ServerError};
use crate::execute::{Executor, Stall, together};
use crate::plan::Converge;
use crate::replay::replacement;
use crate::server::Concern;
use crate::shared::{Way, now_ms};
use crate::target::{Reply, Validation};

/// Keys that are read and written in one step, at most and, while there are lanes for more steps, at least.
const KEYS_PER_STEP: std::ops::RangeInclusive<usize> = 100..=1_000;
/// Documents are written in commands of about this many bytes; one alone may be 16 MiB.
const WRITE_BYTES_MAX: usize = 12 << 20;
/// "Duplicate key": a unique index stands in the way.
const DUPLICATE_KEY: i32 = 11000;

/// A document that the target did not take.
#[derive(Debug)]
pub struct Refused {
    /// Which.
    pub key: Key,
    /// Its words.
    pub error: ServerError,
    /// Who holds the unique value that it wants.
    pub holder: Option<Key>,
}

/// How documents are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// Many in one command.
    InBulk,
    /// The same, in the order of the keys.
    InOrder,
    /// Each in its own: what was refused is tried alone, for a reason of its own.
    OneByOne,
}

impl Executor {
    /// Makes the target's documents equal to the source's.
    pub async fn converge(&self, ns: &Namespace, converge: &Converge) -> Result<Way, Stall> {
        if converge.is_empty() {
            return Ok(Way::Converged);
        }
        let mut keys: Vec<Key> = converge.keys.clone();
        let found = self.candidates(ns, &converge.predicates).await?;
        let way = if found.is_some() { Way::Converged } else { Way::Dirty };
        let found = found.unwrap_or_default();
        self.record_found(ns, &found);
        keys.extend(found);
        // Two spellings of one `_id` (5 and 5.0) are one document.
        keys.sort_unstable();
        keys.dedup();
        if !keys.is_empty() {
            let concern =
                self.lanes.close(self.source.concern(converge.after).await.map_err(Stall::Source))?;
            let size =
                keys.len().div_ceil(self.lanes.count()).clamp(*KEYS_PER_STEP.start(), *KEYS_PER_STEP.end());
            let steps = keys.chunks(size).map(|keys| self.step(ns, keys.to_vec(), &concern, Writing::InBulk));
            let refused: Vec<Refused> = together(steps).await?.into_iter().flatten().collect();
            self.settle(ns, refused, &concern).await?;
        }
        Ok(way)
    }

    /// Reads some keys from the source and writes them to the target; returns what that refused.
    pub(crate) async fn step(
        &self,
        ns: &Namespace,
        keys: Vec<Key>,
        concern: &Concern,
        writing: Writing,
    ) -> Result<Vec<Refused>, Stall> {
        let (mut refused, mut rounds) = (Vec::new(), 0);
        let mut pending = vec![keys];
        while let Some(keys) = pending.pop() {
            let asked = keys.len();
            if asked == 0 {
                continue;
            }
            let _lane = self.lanes.take().await?;
            let (mut rest, more) =
                self.lanes.close(self.portion(ns, keys, concern, writing, &mut rounds).await)?;
            // Other spellings of the same documents, by a collation, could ask for the same portion for ever.
            if rest.len() >= asked && asked > 1 {
                pending.push(rest.split_off(asked / 2));
            }
            pending.push(rest);
            refused.extend(more);
        }
        Ok(refused)
    }

    /// The same, for as many of them as fit; returns the rest as well.
    async fn portion(
        &self,
        ns: &Namespace,
        keys: Vec<Key>,
        concern: &Concern,
        writing: Writing,
        rounds: &mut usize,
    ) -> Result<(Vec<Key>, Vec<Refused>), Stall> {
        self.recent().note(ns, &keys, now_ms());
        let mut portion = self.source.read(ns, &keys, concern).await.map_err(Stall::Source)?;
        let head = self.log.head().0;
        if writing == Writing::InOrder {
            let places: HashMap<&Key, usize> = keys.iter().enumerate().map(|(at, key)| (key, at)).collect();
            portion
                .documents
                .sort_by_cached_key(|doc| Key::of(doc).and_then(|key| places.get(&key).copied()));
        }
        self.remember_sent(head)?;

        let found: HashMap<Key, &RawDocumentBuf> =
            portion.documents.iter().filter_map(|doc| Some((Key::of(doc)?, doc))).collect();
        let missing: Vec<Key> = keys.into_iter().filter(|key| !found.contains_key(key)).collect();
        // Of a portion that is not complete, what is missing may just not have been read.
        let (gone, mut rest) = if portion.complete { (missing, Vec::new()) } else { (Vec::new(), missing) };
        let gone = if self.shared.state().keeps(ns) { Vec::new() } else { gone };
        if !gone.is_empty() {
            self.same_source().await?;
        }
        let mut refused = self.delete(ns, &gone).await?;
        refused.extend(self.replace(ns, &portion.documents, writing).await?);

        let done =
            found.keys().chain(&gone).filter(|key| !refused.iter().any(|refused| refused.key == **key));
        let done: Vec<Key> = done.cloned().collect();
        rest.extend(self.changed_meanwhile(ns, &done, &found, rounds).await?);
        let mut planner = self.planner();
        for key in &done {
            if planner.clear_dead(ns, key) {
                self.shared.state().remove_dead_letter(ns, key);
            }
        }
        planner.converged(ns, done, head);
        Ok((rest, refused))
    }

    /// Deletes documents; returns what the target refused.
    pub(crate) async fn delete(&self, ns: &Namespace, keys: &[Key]) -> Result<Vec<Refused>, Stall> {
        let mut refused = Vec::new();
        if keys.is_empty() {
            return Ok(refused);
        }
        let command = || {
            let mut deletes = RawArrayBuf::new();
            for key in keys {
                deletes.push(rawdoc! {"q": key.filter().to_owned(), "limit": 1});
            }
            let mut command = rawdoc! {"delete": ns.coll(), "ordered": false};
            command.append(cstr!("deletes"), deletes);
            command
        };
        let reply = self.target.write(ns, &command, Validation::Asked).await.map_err(Stall::Target)?;
        for failed in reply.errors {
            let error = ServerError::from_code(failed.code, &failed.message);
            if error.class != Class::Refused {
                return Err(Stall::Target(error));
            }
            if let Some(key) = keys.get(failed.index) {
                refused.push(Refused { key: key.clone(), error, holder: None });
            }
        }
        Ok(refused)
    }

    /// Writes source versions; returns what the target refused.
    async fn replace(
        &self,
        ns: &Namespace,
        documents: &[RawDocumentBuf],
        writing: Writing,
    ) -> Result<Vec<Refused>, Stall> {
        let mut refused = Vec::new();
        let mut start = 0;
        while start < documents.len() {
            let mut bytes = 0;
            let fits = |doc: &&RawDocumentBuf| {
                bytes += doc.as_bytes().len();
                bytes <= WRITE_BYTES_MAX && writing != Writing::OneByOne
            };
            let count = documents[start..].iter().take_while(fits).count().max(1);
            let part = &documents[start..start + count];
            start += count;
            let command = || {
                let mut updates = RawArrayBuf::new();
                for statement in part.iter().filter_map(|doc| replacement(doc)) {
                    updates.push(statement);
                }
                let mut command = rawdoc! {"update": ns.coll(), "ordered": false};
                command.append(cstr!("updates"), updates);
                command
            };
            match self.target.write(ns, &command, Validation::Bypassed).await {
                Err(error) if error.class == Class::Refused => {
                    let keys = part.iter().filter_map(|doc| Key::of(doc));
                    refused.extend(keys.map(|key| Refused { key, error: error.clone(), holder: None }));
                }
                Err(error) => return Err(Stall::Target(error)),
                Ok(reply) => refused.extend(self.refusals(ns, part, reply).await?),
            }
        }
        Ok(refused)
    }

    async fn refusals(
        &self,
        ns: &Namespace,
        part: &[RawDocumentBuf],
        reply: Reply,
    ) -> Result<Vec<Refused>, Stall> {
        let mut refused = Vec::new();
        let collides = reply.errors.iter().any(|failed| failed.code == DUPLICATE_KEY);
        let indexes = match collides {
            true => self.target.indexes(ns).await.map_err(Stall::Target)?,
            false => Vec::new(),
        };
        for failed in reply.errors {
            let Some(document) = part.get(failed.index) else { continue };
            let Some(key) = Key::of(document) else { continue };
            let error = ServerError::from_code(failed.code, &failed.message);
            if error.class != Class::Refused {
                return Err(Stall::Target(error));
            }
            let holder = match failed.code {
                DUPLICATE_KEY => {
                    self.target.holder(ns, document, &failed, &indexes).await.map_err(Stall::Target)?
                }
                _ => None,
            };
            refused.push(Refused { key, error, holder });
        }
        Ok(refused)
    }
}
