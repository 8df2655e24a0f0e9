//! What people tell the worker to do between two batches.

use record::Namespace;
use tracing::{info, warn};

use super::Pump;
use crate::plan::Converge;
use crate::shared::{Applied, Order, Way, now_ms};
use crate::state::{Cause, Dirty};

impl Pump {
    pub(super) async fn obey(&mut self, order: Order) {
        match order {
            Order::Clear(answer) => {
                let cleared = tokio::task::block_in_place(|| self.clear());
                let _ = answer.send(cleared); // who asked may be gone
            }
            Order::Retry(ids, answer) => {
                let tried = self.retry(&ids).await;
                let _ = answer.send(tried);
            }
            Order::Discard(ids, answer) => {
                let discarded = self.discard(&ids);
                let _ = answer.send(discarded);
            }
            Order::Full(answer) => {
                let begun = self.full();
                let _ = answer.send(u64::from(begun));
            }
            Order::StopFull(answer) => {
                let _ = answer.send(self.stop_full());
            }
            Order::Filter(filter, ordered, answer) => {
                let set = self.set_filter(filter, ordered).await;
                let _ = answer.send(set);
            }
            Order::Confirm(namespaces, answer) => {
                let _ = answer.send(self.confirm(&namespaces));
            }
        }
    }

    fn full(&mut self) -> bool {
        let dirty = Dirty::new("a full comparison was asked for", Cause::Asked, now_ms());
        let under_way = {
            let mut state = self.shared.state();
            let asked = state.dirty().any(|(_, dirty)| dirty.cause == Cause::Asked);
            asked || !state.set_everything_dirty(dirty)
        };
        if !under_way {
            self.executor.planner().set_everything_dirty();
            info!("a full comparison was asked for");
        }
        self.save_state();
        !under_way
    }

    fn stop_full(&mut self) -> u64 {
        let head = self.log.head().0;
        if self.executor.remember_sent(head).is_err() {
            return 0; // the cursor cannot be stored: nothing becomes clean
        }
        let mut state = self.shared.state();
        let asked = |(ns, dirty): (Namespace, &Dirty)| (dirty.cause == Cause::Asked).then_some(ns);
        let namespaces: Vec<Namespace> = state.dirty().filter_map(asked).collect();
        for ns in &namespaces {
            state.clear_dirty(ns);
            self.executor.planner().not_dirty(ns, head);
        }
        let mut stopped = namespaces.len() as u64;
        if state.everything_dirty().is_some_and(|dirty| dirty.cause == Cause::Asked) {
            state.clear_everything_dirty();
            let databases = state.dirty().map(|(ns, _)| ns).filter(|ns| ns.coll().is_empty());
            let databases: Vec<Namespace> = databases.collect();
            self.executor.planner().each_is_dirty(head);
            databases.iter().for_each(|db| self.executor.planner().set_dirty(db));
            stopped += 1;
        }
        drop(state);
        self.save_state();
        info!(namespaces = stopped, "the full comparison was stopped");
        stopped
    }

    fn confirm(&mut self, namespaces: &[Namespace]) -> u64 {
        let is_dirty = |ns: &&Namespace| self.shared.state().dirty().any(|(other, _)| other == **ns);
        let meant: Vec<&Namespace> = namespaces.iter().filter(is_dirty).collect();
        for ns in &meant {
            info!(%ns, "what is missing on the source is meant to be, says an order: the target follows");
            self.executor.make_dirty_by(ns, "deletes were confirmed", Cause::Dropped);
        }
        self.save_state();
        meant.len() as u64
    }

    fn clear(&mut self) -> u64 {
        let head = self.log.head().0;
        let mut cleared = 0;
        loop {
            let part = self.feed().take(usize::MAX);
            let mut applied = Applied::default();
            for entry in part.entries() {
                for effect in &entry.effects {
                    self.executor
                        .make_dirty(&effect.target.ns, "its pending entries were cleared on request");
                }
                applied.add(Way::Dirty, false, 0);
            }
            self.shared.count_applied(&applied);
            cleared += part.entries().len() as u64;
            self.advance(part.end);
            let before = self.feed().position();
            if before.0 >= head {
                break;
            }
            self.fill(self.config.tuning.batch_entries_max);
            if self.feed().position() == before {
                break; // it cannot be read now; everything is dirty
            }
        }
        self.config.pending.done(cleared);
        warn!(entries = cleared, "pending entries cleared on request, their namespaces are dirty");
        cleared
    }

    async fn retry(&mut self, ids: &[u64]) -> u64 {
        let mut by_namespace: Vec<(Namespace, Converge)> = Vec::new();
        let mut tried = 0;
        for letter in self.shared.dead_letters() {
            if !(ids.is_empty() || ids.contains(&letter.id)) {
                continue;
            }
            let (ns, Some(key)) = (Namespace::parse(&letter.namespace), letter.key()) else { continue };
            match by_namespace.iter_mut().find(|(name, _)| *name == ns) {
                Some((_, converge)) => converge.keys.push(key),
                None => by_namespace.push((ns, Converge { keys: vec![key], ..Default::default() })),
            }
        }
        for (ns, converge) in by_namespace {
            if !self.connected {
                break; // they stay; the answer says how many were tried
            }
            match self.executor.converge(&ns, &converge).await {
                Ok(_) => tried += converge.keys.len() as u64,
                Err(stall) if stall.is_forbidden() => {
                    warn!(%ns, "its dead letters stay: a right is missing");
                }
                Err(stall) => {
                    self.stalled(stall).await;
                }
            }
        }
        self.save_state();
        tried
    }

    fn discard(&mut self, ids: &[u64]) -> u64 {
        let mut discarded = 0;
        for letter in self.shared.dead_letters() {
            if !(ids.is_empty() || ids.contains(&letter.id)) {
                continue;
            }
            let ns = Namespace::parse(&letter.namespace);
            if let Some(key) = letter.key() {
                self.shared.state().remove_dead_letter(&ns, &key);
                self.executor.planner().clear_dead(&ns, &key);
            }
            self.executor.make_dirty(&ns, "a dead letter of it was discarded on request");
            discarded += 1;
        }
        self.save_state();
        discarded
    }
}
