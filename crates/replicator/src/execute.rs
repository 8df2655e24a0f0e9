//! Does one [`Work`]: replays, converges what did not come out as on the source, makes dirty what must be.
//!
//! - before anything is written, the checkpoint says what may be on the target from now on
//! - work on different namespaces, the lanes of one replay, and the steps of one converge are under way together: none
//!   of them has a key in common with another. At most as many commands as there are lanes are sent at a time
//! - reading keys and writing them is one step: nothing else writes them in between
//! - whatever fails, all that is under way is waited for: only then is it known what may still land
//! - a key that the target refuses goes into the dead letters, and the rest goes on

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use record::{Doubt, Key, Namespace};
use synclog::{CursorError, SyncLog};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::warn;

use crate::Pending;
use crate::error::{Class, ServerError};
use crate::feeds;
use crate::meet::Followed;
use crate::plan::{Planner, Unit, Work};
use crate::recent::Recent;
use crate::remember::Positions;
use crate::replay::{Command, Lane, lanes, lanes_for};
use crate::shared::{Shared, Way, now_ms};
use crate::source::Source;
use crate::state::{Cause, Dirty, Keep};
use crate::target::Target;

/// Why a batch cannot go on now.
#[derive(Debug)]
pub enum Stall {
    /// The source does not answer.
    Source(ServerError),
    /// The target does not answer, or refuses us.
    Target(ServerError),
    /// Another log feeds the target.
    Fenced(feeds::Refused),
    /// The checkpoint cannot be stored: what is sent now could be sent a second time after a restart.
    Log(CursorError),
    /// What was under way beside it stalled.
    Beside,
}

impl Stall {
    /// What must be known of several: above all that something may still land on the target.
    fn weight(&self) -> u8 {
        match self {
            Stall::Fenced(_) => 5,
            // A right that is missing is known to be: it must not hide what is not.
            Stall::Target(error) if error.may_land() && !error.is_forbidden() => 4,
            Stall::Target(_) => 3,
            Stall::Log(_) => 2,
            Stall::Source(_) => 1,
            Stall::Beside => 0,
        }
    }

    /// Whether a right is missing: of one namespace, as far as anybody knows. Nothing of it was done.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Stall::Source(error) | Stall::Target(error) if error.is_forbidden())
    }
}

/// Waits for all of them, whatever becomes of some.
pub async fn together<T>(
    parts: impl IntoIterator<Item = impl Future<Output = Result<T, Stall>>>,
) -> Result<Vec<T>, Stall> {
    worst(join_all(parts).await)
}

/// What was done, or of all that stalled what matters most.
pub fn worst<T>(parts: Vec<Result<T, Stall>>) -> Result<Vec<T>, Stall> {
    let (mut done, mut worst) = (Vec::with_capacity(parts.len()), None::<Stall>);
    for part in parts {
        match part {
            Ok(part) => done.push(part),
            Err(stall) if worst.as_ref().is_none_or(|worst| worst.weight() < stall.weight()) => {
                worst = Some(stall);
            }
            Err(_) => {}
        }
    }
    worst.map_or(Ok(done), Err)
}

/// Why a namespace is dirty whose documents the target does not let us write.
pub(crate) const FORBIDDEN: &str = "the target's user may not write to it";

/// Both servers, and what is needed to write safely to one of them.
pub struct Executor {
    /// The local mongod.
    pub source: Source,
    /// Atlas.
    pub target: Target,
    /// Whose head tells what is ahead.
    pub log: SyncLog,
    /// What others see.
    pub shared: Shared,
    /// Tries for a document that the target refuses.
    pub max_retries: u32,
    /// What becomes of collections that are dropped.
    pub drops: Drops,
    pub(crate) planner: Mutex<Planner>,
    pub(crate) positions: Mutex<Positions>,
    /// The state could not be saved last time.
    pub(crate) unsaved: AtomicBool,
    /// Namespaces that were looked at, and whether they can be followed.
    pub(crate) known: Mutex<HashMap<Namespace, Followed>>,
    /// Dirty namespaces whose predicates the target refuses or is too slow for: not tried again in this run.
    pub(crate) no_look_up: Mutex<HashSet<Namespace>>,
    pub(crate) lanes: Lanes,
    /// Who answers for the source, as far as noticed.
    pub(crate) source_process: Mutex<Option<String>>,
    /// The keys that were written lately.
    pub(crate) recent: Mutex<Recent>,
    /// Several logs feed the target.
    pub(crate) joined: bool,
    /// Counts what we append to the log ourselves.
    pub(crate) pending: Arc<Pending>,
}

/// What becomes of collections on the target that are dropped, or renamed away, on the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drops {
    /// They go as well.
    Replicate,
    /// They stay until that is confirmed.
    Hold,
    /// They stay.
    Ignore,
}

/// How many commands may be under way to the target. Closed at the first stall: nothing new is sent beside it.
#[derive(Debug)]
pub struct Lanes {
    count: usize,
    free: Semaphore,
}

impl Lanes {
    /// So many, all free.
    pub fn new(count: usize) -> Lanes {
        Lanes { count, free: Semaphore::new(count) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Waits for a free one.
    pub async fn take(&self) -> Result<SemaphorePermit<'_>, Stall> {
        self.free.acquire().await.map_err(|_| Stall::Beside)
    }

    /// After a stall nothing more is sent: those that wait for a lane give up. A right that is missing is of one
    /// namespace, and the others go on.
    pub fn close<T>(&self, result: Result<T, Stall>) -> Result<T, Stall> {
        result.inspect_err(|stall| {
            if !stall.is_forbidden() {
                self.free.close();
            }
        })
    }
}

/// Which way each entry of a batch went; one without effects was replayed trivially.
#[derive(Debug)]
pub struct Tally(Mutex<Vec<Way>>);

impl Tally {
    /// For so many entries.
    pub fn new(entries: usize) -> Tally {
        Tally(Mutex::new(vec![Way::Replayed; entries]))
    }

    /// These entries went this way; the least direct way of each counts.
    pub fn note(&self, entries: impl IntoIterator<Item = usize>, way: Way) {
        let mut ways = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in entries {
            if let Some(slot) = ways.get_mut(entry) {
                *slot = way.max(*slot);
            }
        }
    }

    /// The ways, entry by entry.
    pub fn ways(self) -> Vec<Way> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executor {
    /// Decides, and learns from what was done.
    pub fn planner(&self) -> MutexGuard<'_, Planner> {
        self.planner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the work for `ns`.
    pub async fn execute(&self, ns: &Namespace, work: Work, tally: &Tally) -> Result<(), Stall> {
        if let Some(unit) = work.dirty {
            if unit.doubt() == Some(Doubt::Shape) {
                self.make_misshapen(ns);
                self.drop_unwanted_indexes(ns).await?;
                tally.note([unit.entry], Way::Converged);
                return Ok(());
            }
            self.leave_to_comparison(ns, &unit);
            tally.note([unit.entry], Way::Dirty);
            return Ok(());
        }
        if let Some(unit) = work.multi {
            return self.replay_multi(ns, &unit, tally).await;
        }
        let mut converge = work.converge;
        for unit in self.replay(ns, &work.replay).await? {
            converge.keys.extend(unit_key(unit).cloned());
            converge.entries.push(unit.entry);
            converge.after = converge.after.max(unit.operation_time());
        }
        tally.note(work.replay.iter().map(|unit| unit.entry), Way::Replayed);
        let way = self.converge(ns, &converge).await?;
        tally.note(converge.entries, way);
        Ok(())
    }

    /// What this did to `ns` only a comparison can tell.
    pub(crate) fn leave_to_comparison(&self, ns: &Namespace, unit: &Unit) {
        let dropped = unit.doubt() == Some(Doubt::Dropped) || unit.is_over_collections();
        let reason = "written to by a command whose effect is not known document by document";
        match self.drops {
            Drops::Replicate if dropped => self.make_dirty_by(ns, reason, Cause::Dropped),
            _ if dropped => self.keep(ns, "dropped or renamed, and sync.drops keeps it", Keep::Lost),
            _ => self.make_dirty_by(ns, reason, Cause::Written),
        }
        if dropped || unit.doubt().is_none_or(may_replace) {
            self.shared.state().may_be_anew(ns);
        }
        self.forget(|known| known == ns || (ns.coll().is_empty() && known.db() == ns.db()));
    }

    /// Sends these statements again; returns those that did not do what they did on the source.
    async fn replay<'a>(&self, ns: &Namespace, units: &'a [Unit]) -> Result<Vec<&'a Unit>, Stall> {
        if !units.is_empty() {
            self.recent().note(ns, units.iter().filter_map(unit_key), now_ms());
        }
        let lanes = lanes(units, lanes_for(units.len(), self.lanes.count()));
        let different = together(lanes.iter().map(|lane| self.send_lane(ns, lane))).await?;
        Ok(different.into_iter().flatten().collect())
    }

    async fn send_lane<'a>(&self, ns: &Namespace, lane: &Lane<'a>) -> Result<Vec<&'a Unit>, Stall> {
        let mut different = Vec::new();
        for level in lane.levels() {
            let sent = together(level.iter().map(|command| self.send(ns, command))).await?;
            different.extend(sent.into_iter().flatten());
        }
        Ok(different)
    }

    /// Sends one replay command; returns the statements that did not do what they did on the source.
    async fn send<'a>(&self, ns: &Namespace, command: &Command<'a>) -> Result<Vec<&'a Unit>, Stall> {
        let _lane = self.lanes.take().await?;
        match self.target.write(ns, &|| command.encode(ns), command.validation()).await {
            Ok(reply) => Ok(command.different(&reply)),
            Err(error) if error.class == Class::Refused => {
                warn!(%ns, %error, "target refuses a replayed command, its documents are copied instead");
                Ok(command.all().to_vec())
            }
            Err(error) => self.lanes.close(Err(Stall::Target(error))),
        }
    }

    async fn replay_multi(&self, ns: &Namespace, unit: &Unit, tally: &Tally) -> Result<(), Stall> {
        let Some(command) = Command::of_one(unit) else { return Ok(()) };
        self.recent().note_whole(ns, now_ms());
        if self.send(ns, &command).await?.is_empty() {
            tally.note([unit.entry], Way::Replayed);
        } else {
            // It ran over other documents than on the source: which ones, nothing tells.
            let reason = "a statement over many documents did not do on the target what it did on the source";
            self.make_dirty_by(ns, reason, Cause::Written);
            tally.note([unit.entry], Way::Dirty);
        }
        Ok(())
    }

    /// What is missing a right on `ns` makes that dirty, and nothing else waits for it.
    pub(crate) fn unless_forbidden(&self, ns: &Namespace, result: Result<(), Stall>) -> Result<(), Stall> {
        match result {
            Err(stall) if stall.is_forbidden() => {
                self.told_forbidden(ns, &stall);
                Ok(())
            }
            other => other,
        }
    }

    /// `ns` is dirty, since this server does not let our user at it.
    pub(crate) fn told_forbidden(&self, ns: &Namespace, stall: &Stall) {
        let reason = match stall {
            Stall::Source(_) => "the local mongod does not let dualsync's user read it",
            _ => FORBIDDEN,
        };
        self.make_dirty(ns, reason);
    }

    /// From now on `ns` needs a full comparison, and its entries are only converged.
    pub fn make_dirty(&self, ns: &Namespace, reason: &str) {
        self.make_dirty_by(ns, reason, Cause::Unknown);
    }

    /// The same, by something that was seen.
    pub fn make_dirty_by(&self, ns: &Namespace, reason: &str, cause: Cause) {
        self.make_dirty_as(ns, Dirty::new(reason, cause, now_ms()));
    }

    /// Options or indexes have changed: they are made equal beside the documents' way.
    pub(crate) fn make_misshapen(&self, ns: &Namespace) {
        self.planner().set_misshapen(ns);
        let dirty = Dirty::new("its options or indexes have changed", Cause::Shape, now_ms());
        self.shared.state().set_dirty(ns, dirty);
    }

    pub(crate) fn make_dirty_as(&self, ns: &Namespace, dirty: Dirty) {
        self.planner().set_dirty(ns);
        let reason = dirty.reason.clone();
        if self.shared.state().set_dirty(ns, dirty) {
            warn!(%ns, reason, "namespace is dirty: only a full comparison can make it good");
        }
    }
}

/// Whether a command that is followed by its namespace may have put another collection in its place, as `$out` does.
fn may_replace(doubt: Doubt) -> bool {
    use Doubt::{Coarse, CommandFailed, NotKept, Orphan, Unacknowledged};
    matches!(doubt, Coarse | CommandFailed | NotKept | Orphan | Unacknowledged)
}

pub(crate) fn unit_key(unit: &Unit) -> Option<&Key> {
    match &unit.effect().target.touch {
        record::Touch::Key(key) => Some(key),
        _ => None,
    }
}
