//! The source was started anew, or another member was elected: what it may have taken back is made equal again.
//!
//! - a standalone that crashed has lost up to 100 ms of writes that it had acknowledged; the target may have them. The
//!   keys written to the target lately (`recent.rs`) are converged, and what is still in the log is not replayed
//! - a replica set takes back what no majority had: entries are handed on only when a majority has them
//! - a source whose collections are others than before, or gone, was emptied or restored: nothing is deleted there, unless
//!   a captured command explains it, or the same data lack what was made in the last two minutes
//!
//! Which process answers is remembered only when all that is done: a crash meanwhile begins it anew.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bson::raw::RawArrayBuf;
use bson::{Document, rawdoc};
use record::{Key, Namespace};
use tracing::info;

use super::Pump;
use super::feed::Part;
use crate::error::{Class, ServerError};
use crate::execute::{Drops, Lanes, Stall};
use crate::meet::Followed;
use crate::plan::Converge;
use crate::recent::{LATELY_MS, Note};
use crate::shared::now_ms;
use crate::state::{Cause, Dirty, Keep};

/// Keys that are looked up at a time.
const KEYS_PER_LOOK: usize = 1_000;
/// More documents than these, and more than this share of the target's, are not deleted: that looks like a loss.
const GONE_FEW: usize = 1_000;
const GONE_PERCENT_MAX: u64 = 50;
/// How long the source's majority may take; then that counts as an outage.
const COMMIT_WAIT_MAX: Duration = Duration::from_secs(10);
const COMMIT_LOOK_INTERVAL: Duration = Duration::from_millis(5);

impl Pump {
    /// Looks at who answers on the source.
    pub(super) async fn notice_restart(&mut self, hello: &Document) -> Result<(), Stall> {
        let Some(now) = identity(hello) else { return Ok(()) };
        *self.executor.source_process.lock().unwrap_or_else(PoisonError::into_inner) = Some(now.clone());
        let before = self.shared.state().source_process().map(ToOwned::to_owned);
        if before.as_ref() == Some(&now) {
            return Ok(());
        }
        self.executor.forget(|_| true); // its collections are looked at again
        self.executor.lanes = Lanes::new(self.pace.lanes());
        let data = self.executor.source.data().await.map_err(Stall::Source)?;
        if before.is_some() {
            self.follow_back(data.as_deref()).await?;
        }
        self.shared.state().set_source(&now, data);
        self.save_state();
        Ok(())
    }

    /// Waits until no election can take back what is in the batch.
    pub(super) async fn wait_committed(&mut self, part: &Part) -> Result<(), Stall> {
        let Some(latest) = part.entries().filter_map(|entry| entry.operation_time).max() else {
            return Ok(());
        };
        let since = Instant::now();
        loop {
            let hello = self.executor.source.hello().await.map_err(Stall::Source)?;
            self.notice_restart(&hello).await?;
            let write = hello.get_document("lastWrite").ok();
            let committed =
                write.and_then(|it| it.get_document("majorityOpTime").ok()?.get_timestamp("ts").ok());
            if committed.is_none_or(|committed| committed >= latest) {
                return Ok(());
            }
            if since.elapsed() > COMMIT_WAIT_MAX {
                let message = "no majority of the local replica set has the latest writes: an election could take them back";
                return Err(Stall::Source(ServerError {
                    class: Class::NotSent,
                    code: None,
                    message: message.to_owned(),
                }));
            }
            tokio::time::sleep(COMMIT_LOOK_INTERVAL).await;
        }
    }

    async fn follow_back(&mut self, data: Option<&str>) -> Result<(), Stall> {
        let head = self.log.head().0;
        self.executor.remember_sent(head)?;
        self.executor.planner().unknown_outcome(head);
        let lately = self.noted_lately();
        let known = self.shared.state().source_data().map(ToOwned::to_owned);
        match (known.as_deref(), data) {
            (Some(known), Some(now)) if known != now => self.keep_everything().await?,
            (known, _) => {
                // That it is the same data is known, or not.
                let keep = if known.is_some() && data.is_some() { Keep::Unexplained } else { Keep::Lost };
                self.keep_what_is_gone(&lately, keep).await?;
            }
        }
        for ns in &lately.whole {
            let reason =
                "the source was started anew, and may have taken back a statement over many of its documents";
            self.executor.make_dirty(ns, reason);
        }
        let count: usize = lately.keys.values().map(HashSet::len).sum();
        let namespaces = lately.whole.len();
        for (ns, keys) in lately.keys {
            let converged = self.converge_again(&ns, keys.into_iter().collect()).await;
            self.executor.unless_forbidden(&ns, converged)?;
        }
        self.save_state();
        info!(
            keys = count,
            namespaces, "the source was started anew: what was written lately was read again"
        );
        Ok(())
    }

    /// Other data answer under the source's address: whatever they lack, none of it is deleted.
    async fn keep_everything(&mut self) -> Result<(), Stall> {
        let listing = self.executor.target.namespaces().await.map_err(Stall::Target)?;
        let mut there: BTreeSet<Namespace> = self.listed(listing, Stall::Target).into_iter().collect();
        there.extend(self.shared.state().dirty().map(|(ns, _)| ns).filter(|ns| !ns.coll().is_empty()));
        there.retain(|ns| (self.config.captures)(&self.config.filter, ns));
        for ns in &there {
            self.executor.keep(ns, "the source has other data than before", Keep::Lost);
        }
        self.save_state();
        Ok(())
    }

    /// Collections that are gone, or are others than before, though nobody saw that: the target's documents stay.
    async fn keep_what_is_gone(&mut self, lately: &Lately, keep: Keep) -> Result<(), Stall> {
        let listing = self.executor.source.uuids().await.map_err(Stall::Source)?;
        let unseen: HashSet<String> = listing.forbidden.iter().map(|(db, _)| db.db().to_owned()).collect();
        let here = self.listed(listing, Stall::Source);
        let names: HashMap<&str, &Namespace> =
            here.iter().filter_map(|(ns, uuid)| Some((uuid.as_deref()?, ns))).collect();
        let (known, dirty): (BTreeMap<Namespace, String>, BTreeMap<Namespace, Cause>) = {
            let state = self.shared.state();
            let known = state.uuids().map(|(ns, uuid)| (ns, uuid.to_owned()));
            (known.collect(), state.dirty().map(|(ns, dirty)| (ns, dirty.cause)).collect())
        };
        let suspects: BTreeSet<&Namespace> =
            known.keys().chain(dirty.keys()).chain(lately.keys.keys()).chain(&lately.whole).collect();
        for ns in suspects.into_iter().filter(|ns| !ns.coll().is_empty() && !unseen.contains(ns.db())) {
            let uuid = known.get(ns);
            let is_there = here.get(ns).is_some_and(|now| uuid.is_none() || now.as_ref() == uuid);
            if is_there || dirty.get(ns) == Some(&Cause::Dropped) {
                continue;
            }
            let renamed = uuid.and_then(|uuid| names.get(uuid.as_str()));
            if keep == Keep::Unexplained && lately.made.contains(ns) {
                // The same data, and all that it has on the target came in the last minutes: what made it was taken back.
                let reason = "the source was started anew, and has taken back that it was made";
                self.executor.make_dirty_by(ns, reason, Cause::Dropped);
                self.shared.state().may_be_anew(ns);
            } else if let (Some(renamed), Drops::Replicate) = (renamed, self.config.drops) {
                let reason = "the source was started anew, and its collection has another name";
                self.executor.make_dirty_by(ns, reason, Cause::Dropped);
                self.executor.make_dirty(renamed, reason);
                self.shared.state().may_be_anew(ns);
            } else {
                let reason = "the source was started anew, and its collection is gone or another one";
                self.executor.keep(ns, reason, keep);
            }
        }
        self.save_state();
        Ok(())
    }

    fn noted_lately(&mut self) -> Lately {
        let (mut lately, now_ms) = (Lately::default(), now_ms());
        let complete = tokio::task::block_in_place(|| {
            self.executor.recent().for_each(|note| match note {
                Note::Keys(ns, noted) => lately.keys.entry(ns).or_default().extend(noted),
                Note::Whole(ns) => drop(lately.whole.insert(ns)),
                Note::Made(ns, at_ms) if now_ms.checked_sub(at_ms).is_some_and(|age| age < LATELY_MS) => {
                    lately.made.insert(ns);
                }
                // Who lacks it was put back from before.
                Note::Made(..) => {}
            })
        });
        if !complete {
            self.everything_dirty(
                "the source was started anew, and not all keys written lately could be noted",
            );
        }
        lately
    }

    async fn converge_again(&mut self, ns: &Namespace, keys: Vec<Key>) -> Result<(), Stall> {
        if self.shared.state().keeps(ns) || self.executor.prepare(ns).await? != Followed::Yes {
            return Ok(()); // a comparison will tell
        }
        let mut extra = 0;
        for keys in keys.chunks(KEYS_PER_LOOK) {
            let there = self.executor.source.which(ns, keys).await.map_err(Stall::Source)?;
            let mut missing = RawArrayBuf::new();
            keys.iter().filter(|key| !there.contains(*key)).for_each(|key| missing.push(key.id()));
            let filter = rawdoc! {"_id": {"$in": missing}};
            let found = self.executor.target.candidates(ns, &filter, None, None, KEYS_PER_LOOK).await;
            extra += found.map_err(Stall::Target)?.len();
        }
        let looks_like_a_loss = extra > GONE_FEW
            && extra as u64 * 100
                > self.executor.target.count(ns).await.map_err(Stall::Target)? * GONE_PERCENT_MAX;
        if looks_like_a_loss {
            let reason = "the source was started anew, and lacks most of what was written lately";
            self.executor.keep(ns, reason, Keep::Lost);
            return Ok(());
        }
        self.executor.converge(ns, &Converge { keys, ..Converge::default() }).await.map(drop)
    }
}

/// What was written to the target lately.
#[derive(Default)]
struct Lately {
    keys: BTreeMap<Namespace, HashSet<Key>>,
    /// Any of their documents.
    whole: BTreeSet<Namespace>,
    /// They were not there before.
    made: BTreeSet<Namespace>,
}

/// Names the process that takes writes, and its election.
fn identity(hello: &Document) -> Option<String> {
    let process = hello.get_document("topologyVersion").ok()?.get_object_id("processId").ok()?;
    let election = hello.get_object_id("electionId").map(|id| id.to_hex()).unwrap_or_default();
    Some(format!("{process}/{election}"))
}

impl crate::execute::Executor {
    /// Before anything is deleted: who has answered that it is gone is the process that is known.
    pub(crate) async fn same_source(&self) -> Result<(), Stall> {
        let hello = self.source.hello().await.map_err(Stall::Source)?;
        let known = self.source_process.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_none() || identity(&hello).is_none_or(|now| known == Some(now)) {
            return Ok(());
        }
        let message = "the local mongod was started anew meanwhile, or another member was elected".to_owned();
        Err(Stall::Source(ServerError { class: Class::NotSent, code: None, message }))
    }

    /// `ns` is dirty, and nothing of it is deleted on the target before that is known to be meant.
    pub(crate) fn keep(&self, ns: &Namespace, reason: &str, keep: Keep) {
        // By what was seen, once that explains it; else the most that can have been.
        let cause = if keep == Keep::Unexplained { Cause::Written } else { Cause::Unknown };
        self.make_dirty_as(ns, Dirty { keep, ..Dirty::new(reason, cause, now_ms()) });
    }
}
