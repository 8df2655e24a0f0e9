//! The source was started anew, or another member was elected: what it may have taken back is made equal again.
//!
//! - a standalone that crashed has lost up to 100 ms of writes that it had acknowledged; the target may have them. The
//!   keys written to the target lately (`recent.rs`) are converged, and what is still in the log is not replayed
//! - a replica set takes back what no majority had: entries are handed on only when a majority has them
//! - a source whose collections are others than before, or gone, was emptied or restored: nothing is deleted there
//!
//! Which process answers is remembered only when all that is done: a crash meanwhile begins it anew.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bson::raw::RawArrayBuf;
use bson::{Document, rawdoc};
use record::{Key, Namespace};
use tracing::info;

use super::Pump;
use super::feed::Part;
use crate::error::{Class, ServerError};
use crate::execute::{Lanes, Stall};
use crate::meet::Followed;
use crate::plan::Converge;
use crate::recent::Note;
use crate::shared::now_ms;
use crate::state::{Cause, Dirty};

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
        if before.is_some() {
            self.follow_back().await?;
        }
        self.shared.state().set_source_process(&now);
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

    async fn follow_back(&mut self) -> Result<(), Stall> {
        let head = self.log.head().0;
        self.executor.remember_sent(head)?;
        self.executor.planner().unknown_outcome(head);
        self.keep_what_is_gone().await?;
        let (keys, whole) = self.noted_lately();
        for ns in &whole {
            let reason =
                "the source was started anew, and may have taken back a statement over many of its documents";
            self.executor.make_dirty(ns, reason);
        }
        let count: usize = keys.values().map(HashSet::len).sum();
        for (ns, keys) in keys {
            self.converge_again(&ns, keys.into_iter().collect()).await?;
        }
        self.save_state();
        info!(
            keys = count,
            namespaces = whole.len(),
            "the source was started anew: what was written lately was read again"
        );
        Ok(())
    }

    /// Collections that are gone, or are others than before, though nobody saw that: the target's documents stay.
    async fn keep_what_is_gone(&mut self) -> Result<(), Stall> {
        let there = self.executor.source.uuids().await.map_err(Stall::Source)?;
        let gone: Vec<Namespace> = {
            let state = self.shared.state();
            let gone = state.uuids().filter(|(ns, uuid)| there.get(ns).map(String::as_str) != Some(*uuid));
            gone.map(|(ns, _)| ns).collect()
        };
        for ns in &gone {
            let reason = "the source was started anew, and its collection is gone or another one";
            self.executor.keep(ns, reason);
        }
        self.save_state();
        Ok(())
    }

    fn noted_lately(&mut self) -> (BTreeMap<Namespace, HashSet<Key>>, BTreeSet<Namespace>) {
        let (mut keys, mut whole): (BTreeMap<Namespace, HashSet<Key>>, _) = Default::default();
        let complete = tokio::task::block_in_place(|| {
            self.executor.recent().for_each(|note| match note {
                Note::Keys(ns, noted) => keys.entry(ns).or_default().extend(noted),
                Note::Whole(ns) => drop(BTreeSet::insert(&mut whole, ns)),
            })
        });
        if !complete {
            self.everything_dirty(
                "the source was started anew, and not all keys written lately could be noted",
            );
        }
        (keys, whole)
    }

    async fn converge_again(&mut self, ns: &Namespace, keys: Vec<Key>) -> Result<(), Stall> {
        if self.shared.state().keeps(ns) || self.executor.prepare(ns).await? == Followed::No {
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
            self.executor.keep(ns, reason);
            return Ok(());
        }
        self.executor.converge(ns, &Converge { keys, ..Converge::default() }).await.map(drop)
    }
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
    pub(crate) fn keep(&self, ns: &Namespace, reason: &str) {
        let dirty = Dirty { keep: true, ..Dirty::new(reason, Cause::Unknown, now_ms()) };
        self.make_dirty_as(ns, dirty);
    }
}
