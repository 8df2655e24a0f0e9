//! Does one [`Work`]: replays, converges what did not come out as on the source, makes dirty what must be.
//!
//! - before anything is written, the checkpoint says what may be on the target from now on
//! - reading keys and writing them is one step: nothing else writes them in between (one worker, one step at a time)
//! - a key that the target refuses goes into the dead letters, and the rest goes on

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::ErrorKind;

use record::{Doubt, Key, Namespace};
use synclog::{CursorError, CursorSync, SyncLog};
use tracing::{error, warn};

use crate::checkpoint::Checkpoint;
use crate::error::{Class, ServerError};
use crate::feeds::Refused;
use crate::joined::Joined;
use crate::notes;
use crate::plan::{Planner, Unit, Work};
use crate::replay::{Command, commands};
use crate::shared::{Shared, Way, now_ms};
use crate::source::Source;
use crate::state::{Cause, Dirty};
use crate::target::Target;

/// Why a batch cannot go on now.
#[derive(Debug)]
pub enum Stall {
    /// The source does not answer.
    Source(ServerError),
    /// The target does not answer, or refuses us.
    Target(ServerError),
    /// Another log feeds the target.
    Fenced(Refused),
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
    /// How far the cursor says that we are: never beyond what the state file remembers as dirty.
    pub parked: Checkpoint,
    /// Where the batch under way ends in the log.
    pub batch_end: u64,
    /// What others see.
    pub shared: Shared,
    /// Tries for a document that the target refuses.
    pub max_retries: u32,
    /// The state could not be saved last time.
    pub unsaved: bool,
    /// Namespaces that were looked at, and whether they can be followed.
    pub known: HashMap<Namespace, Followed>,
    /// Dirty namespaces whose predicates the target refuses or is too slow for: not tried again in this run.
    pub no_look_up: HashSet<Namespace>,
    /// When several logs feed the target.
    pub joined: Option<Joined>,
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
            let cause = if unit.doubt == Some(Doubt::Dropped) { Cause::Dropped } else { Cause::Written };
            let reason = "written to by a command whose effect is not known document by document";
            self.make_dirty_by(ns, reason, cause);
            self.known.retain(|known, _| known != ns && !(ns.coll().is_empty() && known.db() == ns.db()));
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
            let reason = "a statement over many documents did not do on the target what it did on the source";
            self.make_dirty_by(ns, reason, Cause::Written);
            tally.note(unit.entry, Way::Dirty);
        }
        Ok(())
    }

    /// From now on `ns` needs a full comparison, and its entries are only converged.
    pub fn make_dirty(&mut self, ns: &Namespace, reason: &str) {
        self.make_dirty_by(ns, reason, Cause::Unknown);
    }

    /// The same, by something that was seen.
    pub fn make_dirty_by(&mut self, ns: &Namespace, reason: &str, cause: Cause) {
        self.planner.set_dirty(ns);
        if self.shared.state().set_dirty(ns, Dirty::new(reason, cause, now_ms())) {
            warn!(%ns, reason, "namespace is dirty: only a full comparison can make it good");
        }
    }

    /// Before anything is written: what may be on the target from now on.
    pub fn remember_sent(&mut self, head: u64) -> Result<(), Stall> {
        if self.parked.sent < head {
            let sent = Checkpoint { sent: head, ..self.parked };
            sent.store(&self.log, CursorSync::Later).map_err(Stall::Log)?;
            self.parked = sent;
            self.checkpoint.sent = head;
        }
        Ok(())
    }

    /// Writes what is dirty and dead to the disk, if that has changed; says a failure once.
    pub fn save_state(&mut self) -> Saved {
        let Err(error) = self.shared.save_state() else {
            self.unsaved = false;
            return Saved::Here;
        };
        if !std::mem::replace(&mut self.unsaved, true) {
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
    pub fn park(&mut self, sync: CursorSync) {
        if self.save_state() == Saved::Nowhere {
            return;
        }
        match self.checkpoint.store(&self.log, sync) {
            Ok(()) => self.parked = self.checkpoint,
            Err(error) => error!(%error, "the checkpoint cannot be stored"),
        }
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
        self.recognise(ns, here.uuid.as_deref());
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

impl Executor {
    /// Another collection under a name that is followed, and no captured command made it so: the source's disk may have
    /// been lost, or the collection was dropped behind our back.
    fn recognise(&mut self, ns: &Namespace, uuid: Option<&str>) {
        let dirty = self.shared.state().is_dirty(ns);
        let another = self.shared.is_another(ns, uuid);
        match (dirty, another) {
            (true, _) => {} // its scan will tell
            (false, true) => self.make_dirty(ns, "the source's collection was made anew, and nobody saw it"),
            (false, false) => self.shared.state().set_uuid(ns, uuid),
        }
    }
}

fn unit_key(unit: &Unit) -> Option<&Key> {
    match &unit.effect.target.touch {
        record::Touch::Key(key) => Some(key),
        _ => None,
    }
}
