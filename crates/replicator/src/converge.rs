//! Makes the target's documents equal to the source's, whatever they were.
//!
//! - candidates: the keys, and the target's documents that a predicate matches
//! - keys are read from the source and written to the target in one step; steps go side by side, since they have no key
//!   in common; in each of them deletes go before replacements
//! - a unique index in the way: when all steps have ended, holders are converged too (`collide.rs`)

use std::collections::HashMap;
use std::sync::PoisonError;

use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::{cstr, rawdoc};
use record::{Key, Namespace, Predicate, Raw};
use tracing::warn;

use crate::error::{Class, ServerError};
use crate::execute::{Executor, Stall, together};
use crate::plan::Converge;
use crate::replay::replacement;
use crate::shared::{Way, now_ms};
use crate::source::Concern;
use crate::state::Cause;
use crate::target::{Reply, TIME_LIMIT_EXCEEDED, Validation};

/// Keys that are read and written in one step, at most and, while there are lanes for more steps, at least.
const KEYS_PER_STEP: std::ops::RangeInclusive<usize> = 100..=1_000;
/// Documents are written in commands of about this many bytes; one alone may be 16 MiB.
const WRITE_BYTES_MAX: usize = 12 << 20;
/// Predicates that one query asks for.
const PREDICATES_PER_QUERY: usize = 200;
/// Documents that predicates may find before the namespace is left to a full comparison: about 10 MiB of keys.
const CANDIDATES_MAX: usize = 100_000;
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

    /// The keys of the target's documents that any predicate matches. `None`: the namespace has become dirty.
    async fn candidates(&self, ns: &Namespace, predicates: &[Predicate]) -> Result<Option<Vec<Key>>, Stall> {
        if predicates.is_empty() {
            return Ok(Some(Vec::new()));
        }
        if self.no_look_up().contains(ns) {
            self.make_dirty_by(ns, "its statements in doubt are not looked up any more", Cause::Written);
            return Ok(None);
        }
        let mut groups: HashMap<(Option<&Raw>, Option<&Raw>), Vec<&Raw>> = HashMap::new();
        for predicate in predicates {
            let group =
                groups.entry((predicate.collation.as_ref(), predicate.variables.as_ref())).or_default();
            if !group.contains(&&predicate.filter) {
                group.push(&predicate.filter);
            }
        }
        let mut keys = Vec::new();
        for ((collation, variables), filters) in groups {
            for filters in filters.chunks(PREDICATES_PER_QUERY) {
                let filter = any_of(filters);
                let _lane = self.lanes.take().await?;
                let (collation, variables) = (collation.map(|c| &c.0), variables.map(|v| &v.0));
                let found =
                    self.target.candidates(ns, &filter, collation, variables, CANDIDATES_MAX + 1).await;
                let found = match found {
                    Ok(found) => found,
                    Err(error)
                        if error.class == Class::Refused || error.code == Some(TIME_LIMIT_EXCEEDED) =>
                    {
                        warn!(%ns, %error, "target refuses a filter, the namespace needs a full comparison");
                        self.no_look_up().insert(ns.clone());
                        let reason =
                            "the target refuses a filter that the source took, or takes too long over it";
                        self.make_dirty_by(ns, reason, Cause::Written);
                        return Ok(None);
                    }
                    Err(error) => return self.lanes.close(Err(Stall::Target(error))),
                };
                keys.extend(found.iter().filter_map(|id| Key::of(id)));
                if keys.len() > CANDIDATES_MAX {
                    self.no_look_up().insert(ns.clone());
                    let reason = "a statement in doubt may have touched too many documents";
                    self.make_dirty_by(ns, reason, Cause::Written);
                    return Ok(None);
                }
            }
        }
        Ok(Some(keys))
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
        for failed in reply.errors {
            let Some(key) = part.get(failed.index).and_then(|doc| Key::of(doc)) else { continue };
            let error = ServerError::from_code(failed.code, &failed.message);
            if error.class != Class::Refused {
                return Err(Stall::Target(error));
            }
            let holder = match &failed.key_value {
                Some(values) if failed.code == DUPLICATE_KEY => {
                    self.target.holder(ns, values).await.map_err(Stall::Target)?
                }
                _ => None,
            };
            refused.push(Refused { key, error, holder: holder.and_then(|id| Key::of(&id)) });
        }
        Ok(refused)
    }

    /// Dirty namespaces whose predicates are not looked up.
    pub(crate) fn no_look_up(&self) -> std::sync::MutexGuard<'_, std::collections::HashSet<Namespace>> {
        self.no_look_up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn any_of(filters: &[&Raw]) -> RawDocumentBuf {
    if let [one] = filters {
        return one.0.clone();
    }
    let mut any = RawArrayBuf::new();
    for filter in filters {
        any.push(filter.0.as_ref());
    }
    let mut filter = RawDocumentBuf::new();
    filter.append(cstr!("$or"), any);
    filter
}
