//! Does one [`Work`]: replays, converges what did not come out as on the source, makes dirty what must be.
//!
//! - before anything is written, the checkpoint says what may be on the target from now on
//! - reading keys and writing them is one step: nothing else writes them in between (one worker, one step at a time)
//! - a key that the target refuses goes into the dead letters, and the rest goes on

use std::collections::HashMap;

use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::{Timestamp, cstr, rawdoc};
use record::{Key, Namespace, Predicate, Raw};
use synclog::{CursorError, CursorSync, SyncLog};
use tracing::warn;

use crate::checkpoint::Checkpoint;
use crate::error::{Class, ServerError};
use crate::plan::{Converge, Planner, Unit, Work};
use crate::replay::{Command, commands, replacement};
use crate::shared::{Shared, Way, now_ms};
use crate::source::Source;
use crate::target::{Reply, TIME_LIMIT_EXCEEDED, Target, Validation};

/// Keys that are read and written in one step.
const KEYS_PER_STEP: usize = 1_000;
/// Documents are written in commands of about this many bytes; one alone may be 16 MiB.
const WRITE_BYTES_MAX: usize = 12 << 20;
/// Predicates that one query asks for.
const PREDICATES_PER_QUERY: usize = 200;
/// Documents that predicates may find before the namespace is left to a full comparison: about 10 MiB of keys.
pub const CANDIDATES_MAX: usize = 100_000;
/// Rounds in which the holders of a unique value are converged before a key counts as refused.
const COLLISION_ROUNDS_MAX: usize = 10;
/// "Duplicate key": a unique index stands in the way.
const DUPLICATE_KEY: i32 = 11000;

/// Why a batch cannot go on now.
#[derive(Debug)]
pub enum Stall {
    /// The source does not answer.
    Source(ServerError),
    /// The target does not answer, or refuses us.
    Target(ServerError),
    /// The checkpoint cannot be stored: what is sent now could be sent a second time after a restart.
    Log(CursorError),
}

/// Both servers, and what is needed to write safely to one of them.
pub struct Executor {
    /// The local mongod.
    pub source: Source,
    /// Atlas.
    pub target: Target,
    /// Whose head tells what is ahead.
    pub log: SyncLog,
    /// Decides, and learns from what was done.
    pub planner: Planner,
    /// How far we are.
    pub checkpoint: Checkpoint,
    /// Where the batch under way ends in the log.
    pub batch_end: u64,
    /// What others see.
    pub shared: Shared,
    /// Tries for a document that the target refuses.
    pub max_retries: u32,
    /// Namespaces that were looked at, and whether they can be followed.
    pub known: HashMap<Namespace, Followed>,
}

/// Whether a namespace's documents can be converged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// By `_id`.
    Yes,
    /// Capped or time-series: left to a full comparison.
    No,
}

/// Which way each entry of a batch went.
#[derive(Debug, Default)]
pub struct Tally(HashMap<usize, Way>);

impl Tally {
    /// The entry went this way; the least direct way counts.
    pub fn note(&mut self, entry: usize, way: Way) {
        let slot = self.0.entry(entry).or_insert(way);
        *slot = (*slot).max(way);
    }

    /// The way of one entry; one without effects was replayed trivially.
    pub fn way(&self, entry: usize) -> Way {
        self.0.get(&entry).copied().unwrap_or(Way::Replayed)
    }
}

impl Executor {
    /// Does the work for `ns`.
    pub async fn execute(&mut self, ns: &Namespace, work: Work, tally: &mut Tally) -> Result<(), Stall> {
        if let Some(unit) = work.dirty {
            self.make_dirty(ns, "written to by a command whose effect is not known document by document");
            self.known.remove(ns);
            tally.note(unit.entry, Way::Dirty);
            return Ok(());
        }
        if let Some(unit) = work.multi {
            return self.replay_multi(ns, unit, tally).await;
        }
        let mut converge = work.converge;
        if !work.replay.is_empty() {
            self.remember_sent(self.batch_end)?;
        }
        for command in commands(&work.replay) {
            for unit in self.send(ns, &command).await? {
                converge.keys.extend(unit_key(unit).cloned());
                converge.entries.push(unit.entry);
                converge.after = converge.after.max(unit.operation_time);
            }
        }
        for unit in &work.replay {
            tally.note(unit.entry, Way::Replayed);
        }
        let way = self.converge(ns, &converge).await?;
        for entry in converge.entries {
            tally.note(entry, way);
        }
        Ok(())
    }

    /// Sends one replay command; returns the statements that did not do what they did on the source.
    async fn send<'a>(&self, ns: &Namespace, command: &Command<'a>) -> Result<Vec<&'a Unit>, Stall> {
        match self.target.write(ns, command.encode(ns), command.validation()).await {
            Ok(reply) => Ok(command.different(&reply)),
            Err(error) if error.class == Class::Refused => {
                warn!(%ns, %error, "target refuses a replayed command, its documents are copied instead");
                Ok(command.all().to_vec())
            }
            Err(error) => Err(Stall::Target(error)),
        }
    }

    async fn replay_multi(&mut self, ns: &Namespace, unit: Unit, tally: &mut Tally) -> Result<(), Stall> {
        self.remember_sent(self.batch_end)?;
        let Some(command) = Command::of_one(&unit) else { return Ok(()) };
        if self.send(ns, &command).await?.is_empty() {
            tally.note(unit.entry, Way::Replayed);
        } else {
            // It ran over other documents than on the source: which ones, nothing tells.
            self.make_dirty(
                ns,
                "a statement over many documents did not do on the target what it did on the source",
            );
            tally.note(unit.entry, Way::Dirty);
        }
        Ok(())
    }

    /// Makes the target's documents equal to the source's.
    pub async fn converge(&mut self, ns: &Namespace, converge: &Converge) -> Result<Way, Stall> {
        if converge.is_empty() {
            return Ok(Way::Converged);
        }
        let mut keys: Vec<Key> = converge.keys.clone();
        let found = self.candidates(ns, &converge.predicates).await?;
        let way = if found.is_some() { Way::Converged } else { Way::Dirty };
        keys.extend(found.unwrap_or_default());
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
                        self.make_dirty(
                            ns,
                            "the target refuses a filter that the source took, or takes too long over it",
                        );
                        return Ok(None);
                    }
                    Err(error) => return Err(Stall::Target(error)),
                };
                keys.extend(found.iter().filter_map(|id| Key::of(id)));
                if keys.len() > CANDIDATES_MAX {
                    self.make_dirty(ns, "a statement in doubt may have touched too many documents");
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
        let mut refusals = 0;
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
            self.delete(ns, &gone).await?;
            let refused = self.replace(ns, &portion.documents, refusals > 0).await?;

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

    async fn delete(&self, ns: &Namespace, keys: &[&Key]) -> Result<(), Stall> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut deletes = RawArrayBuf::new();
        for key in keys {
            deletes.push(rawdoc! {"q": key.filter().to_owned(), "limit": 1});
        }
        let mut command = rawdoc! {"delete": ns.coll(), "ordered": false};
        command.append(cstr!("deletes"), deletes);
        let reply = self.target.write(ns, command, Validation::Asked).await.map_err(Stall::Target)?;
        match reply.errors.first() {
            // A delete by `_id` has no reason of its own to fail: the server is in trouble.
            Some(error) => Err(Stall::Target(ServerError::from_code(error.code, &error.message))),
            None => Ok(()),
        }
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

    /// From now on `ns` needs a full comparison, and its entries are only converged.
    pub fn make_dirty(&mut self, ns: &Namespace, reason: &str) {
        self.planner.set_dirty(ns);
        if self.shared.state().set_dirty(ns, reason, false, now_ms()) {
            warn!(%ns, reason, "namespace is dirty: only a full comparison can make it good");
        }
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

    /// Before anything is written: what may be on the target from now on.
    fn remember_sent(&mut self, head: u64) -> Result<(), Stall> {
        if self.checkpoint.sent >= head {
            return Ok(());
        }
        let sent = Checkpoint { sent: head, ..self.checkpoint };
        sent.store(&self.log, CursorSync::Later).map_err(Stall::Log)?;
        self.checkpoint = sent;
        Ok(())
    }

    /// Looks at a namespace that is met for the first time: creates it on the target with the source's options.
    pub async fn prepare(&mut self, ns: &Namespace) -> Result<Followed, Stall> {
        if let Some(followed) = self.known.get(ns) {
            return Ok(*followed);
        }
        if ns.coll().is_empty() {
            return Ok(Followed::Yes); // a whole database: only ever made dirty
        }
        let Some(here) = self.source.collection(ns).await.map_err(Stall::Source)? else {
            return Ok(Followed::Yes); // dropped meanwhile: its keys will be found gone
        };
        if here.kind != "collection" || here.is_capped() {
            self.make_dirty(ns, "capped and time-series collections are not followed write by write");
            self.known.insert(ns.clone(), Followed::No);
            return Ok(Followed::No);
        }
        if here.has_collation() {
            self.planner.set_collated(ns);
        }
        match self.target.collection(ns).await.map_err(Stall::Target)? {
            None => match self.target.create(ns, &here.options).await {
                Err(error) if error.class == Class::Refused => {
                    warn!(%ns, %error, "target refuses the collection's options");
                    self.make_dirty(ns, "the target refuses the collection's options");
                }
                other => other.map_err(Stall::Target)?,
            },
            Some(there)
                if there.options.get_document("collation").ok()
                    != here.options.get_document("collation").ok() =>
            {
                self.make_dirty(ns, "the target's collection has another collation");
            }
            Some(_) => {}
        }
        self.known.insert(ns.clone(), Followed::Yes);
        Ok(Followed::Yes)
    }
}

struct Refusal {
    error: ServerError,
    /// Who holds the unique value that it wants.
    holder: Option<Key>,
}

fn unit_key(unit: &Unit) -> Option<&Key> {
    match &unit.effect.target.touch {
        record::Touch::Key(key) => Some(key),
        _ => None,
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
