//! Makes the target's documents equal to the source's, whatever they were.
//!
//! - candidates: the keys, and the target's documents that a predicate matches
//! - keys are read from the source and written to the target in one step; deletes go before replacements
//! - a unique index in the way: its holders are converged too; a key that is refused for good is a dead letter

use std::collections::HashMap;

use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::{Timestamp, cstr, rawdoc};
use record::{Key, Namespace, Predicate, Raw};
use tracing::warn;

use crate::error::{Class, ServerError};
use crate::execute::{Executor, Stall};
use crate::plan::Converge;
use crate::replay::replacement;
use crate::shared::{Way, now_ms};
use crate::state::Cause;
use crate::target::{Reply, TIME_LIMIT_EXCEEDED, Validation};

/// Keys that are read and written in one step.
const KEYS_PER_STEP: usize = 1_000;
/// Documents are written in commands of about this many bytes; one alone may be 16 MiB.
const WRITE_BYTES_MAX: usize = 12 << 20;
/// Predicates that one query asks for.
const PREDICATES_PER_QUERY: usize = 200;
/// Documents that predicates may find before the namespace is left to a full comparison: about 10 MiB of keys.
const CANDIDATES_MAX: usize = 100_000;
/// Rounds in which the holders of a unique value are converged before a key counts as refused.
const COLLISION_ROUNDS_MAX: usize = 10;
/// "Duplicate key": a unique index stands in the way.
const DUPLICATE_KEY: i32 = 11000;

struct Refusal {
    error: ServerError,
    /// Who holds the unique value that it wants.
    holder: Option<Key>,
}

impl Executor {
    /// Makes the target's documents equal to the source's.
    pub async fn converge(&mut self, ns: &Namespace, converge: &Converge) -> Result<Way, Stall> {
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
        while !keys.is_empty() {
            let rest = keys.split_off(keys.len().min(KEYS_PER_STEP));
            self.converge_step(ns, keys, converge.after).await?;
            keys = rest;
        }
        Ok(way)
    }

    /// The keys of the target's documents that any predicate matches. `None`: the namespace has become dirty.
    async fn candidates(
        &mut self,
        ns: &Namespace,
        predicates: &[Predicate],
    ) -> Result<Option<Vec<Key>>, Stall> {
        if self.no_look_up.contains(ns) && !predicates.is_empty() {
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
                let (collation, variables) = (collation.map(|c| &c.0), variables.map(|v| &v.0));
                let found =
                    self.target.candidates(ns, &filter, collation, variables, CANDIDATES_MAX + 1).await;
                let found = match found {
                    Ok(found) => found,
                    Err(error)
                        if error.class == Class::Refused || error.code == Some(TIME_LIMIT_EXCEEDED) =>
                    {
                        warn!(%ns, %error, "target refuses a filter, the namespace needs a full comparison");
                        self.no_look_up.insert(ns.clone());
                        let reason =
                            "the target refuses a filter that the source took, or takes too long over it";
                        self.make_dirty_by(ns, reason, Cause::Written);
                        return Ok(None);
                    }
                    Err(error) => return Err(Stall::Target(error)),
                };
                keys.extend(found.iter().filter_map(|id| Key::of(id)));
                if keys.len() > CANDIDATES_MAX {
                    self.no_look_up.insert(ns.clone());
                    let reason = "a statement in doubt may have touched too many documents";
                    self.make_dirty_by(ns, reason, Cause::Written);
                    return Ok(None);
                }
            }
        }
        Ok(Some(keys))
    }

    /// Reads some keys from the source and writes them to the target.
    async fn converge_step(
        &mut self,
        ns: &Namespace,
        keys: Vec<Key>,
        after: Option<Timestamp>,
    ) -> Result<(), Stall> {
        let mut pending: Vec<Key> = keys;
        let (mut refusals, mut rounds) = (0, 0);
        while !pending.is_empty() {
            let asked: Vec<&Key> = pending.iter().collect();
            let portion = self.source.read(ns, &asked, after).await.map_err(Stall::Source)?;
            let head = self.log.head().0;
            self.remember_sent(head)?;

            let found: HashMap<Key, &RawDocumentBuf> =
                portion.documents.iter().filter_map(|doc| Some((Key::of(doc)?, doc))).collect();
            let gone: Vec<&Key> = match portion.complete {
                true => pending.iter().filter(|key| !found.contains_key(key)).collect(),
                false => Vec::new(),
            };
            let mut refused = self.delete(ns, &gone).await?;
            refused.extend(self.replace(ns, &portion.documents, refusals > 0).await?);

            let mut again: Vec<Key> = match portion.complete {
                true => Vec::new(),
                false => pending.iter().filter(|key| !found.contains_key(key)).cloned().collect(),
            };
            let done: Vec<Key> =
                found.keys().chain(gone).filter(|key| !refused.contains_key(key)).cloned().collect();
            for key in &done {
                if self.planner.clear_dead(ns, key) {
                    self.shared.state().remove_dead_letter(ns, key);
                }
            }
            again.extend(self.changed_meanwhile(ns, &done, &found, &mut rounds).await?);
            self.planner.converged(ns, done, head);
            refusals += usize::from(!refused.is_empty());
            for (key, refusal) in refused {
                let tries =
                    if refusal.holder.is_some() { COLLISION_ROUNDS_MAX } else { self.max_retries as usize };
                if refusals < tries {
                    again.extend(refusal.holder);
                    again.push(key);
                } else {
                    self.bury(ns, &key, &refusal.error);
                }
            }
            pending = again;
        }
        Ok(())
    }

    /// Deletes documents; returns what the target refused.
    async fn delete(&self, ns: &Namespace, keys: &[&Key]) -> Result<HashMap<Key, Refusal>, Stall> {
        let mut refused = HashMap::new();
        if keys.is_empty() {
            return Ok(refused);
        }
        let mut deletes = RawArrayBuf::new();
        for key in keys {
            deletes.push(rawdoc! {"q": key.filter().to_owned(), "limit": 1});
        }
        let mut command = rawdoc! {"delete": ns.coll(), "ordered": false};
        command.append(cstr!("deletes"), deletes);
        let reply = self.target.write(ns, command, Validation::Asked).await.map_err(Stall::Target)?;
        for failed in reply.errors {
            let error = ServerError::from_code(failed.code, &failed.message);
            if error.class != Class::Refused {
                return Err(Stall::Target(error));
            }
            if let Some(key) = keys.get(failed.index) {
                refused.insert((*key).clone(), Refusal { error, holder: None });
            }
        }
        Ok(refused)
    }

    /// Writes source versions; returns what the target refused.
    async fn replace(
        &self,
        ns: &Namespace,
        documents: &[RawDocumentBuf],
        one_by_one: bool,
    ) -> Result<HashMap<Key, Refusal>, Stall> {
        let mut refused = HashMap::new();
        let mut start = 0;
        while start < documents.len() {
            let mut bytes = 0;
            // What was refused is tried alone, for a reason of its own.
            let fits = |doc: &&RawDocumentBuf| {
                bytes += doc.as_bytes().len();
                bytes <= WRITE_BYTES_MAX && !one_by_one
            };
            let count = documents[start..].iter().take_while(fits).count().max(1);
            let part = &documents[start..start + count];
            start += count;
            let mut updates = RawArrayBuf::new();
            for statement in part.iter().filter_map(|doc| replacement(doc)) {
                updates.push(statement);
            }
            let mut command = rawdoc! {"update": ns.coll(), "ordered": false};
            command.append(cstr!("updates"), updates);
            let reply = match self.target.write(ns, command, Validation::Bypassed).await {
                Err(error) if error.class == Class::Refused => {
                    let keys = part.iter().filter_map(|doc| Key::of(doc));
                    refused.extend(keys.map(|key| (key, Refusal { error: error.clone(), holder: None })));
                    continue;
                }
                other => other.map_err(Stall::Target)?,
            };
            self.collect_refusals(ns, part, reply, &mut refused).await?;
        }
        Ok(refused)
    }

    async fn collect_refusals(
        &self,
        ns: &Namespace,
        part: &[RawDocumentBuf],
        reply: Reply,
        refused: &mut HashMap<Key, Refusal>,
    ) -> Result<(), Stall> {
        for failed in reply.errors {
            let Some(key) = part.get(failed.index).and_then(|doc| Key::of(doc)) else { continue };
            let error = ServerError::from_code(failed.code, &failed.message);
            if matches!(error.class, Class::Identity | Class::Unknown) {
                return Err(Stall::Target(error));
            }
            let holder = match &failed.key_value {
                Some(values) if failed.code == DUPLICATE_KEY => {
                    self.target.holder(ns, values).await.map_err(Stall::Target)?
                }
                _ => None,
            };
            refused.insert(key, Refusal { error, holder: holder.and_then(|id| Key::of(&id)) });
        }
        Ok(())
    }

    fn bury(&mut self, ns: &Namespace, key: &Key, refusal: &ServerError) {
        self.planner.set_dead(ns, key);
        self.shared.count_failed();
        if self.shared.state().add_dead_letter(ns, key, refusal.code, &refusal.message, now_ms()) {
            warn!(%ns, code = refusal.code, "target refuses a document, its key is in the dead letters");
        } else {
            self.make_dirty(ns, "the dead letters are full");
        }
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
