//! What people tell the worker to do between two batches.

use record::Namespace;
use tracing::warn;

use super::Pump;
use crate::plan::Converge;
use crate::shared::{Order, Way};

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
        }
    }

    fn clear(&mut self) -> u64 {
        let head = self.log.head().0;
        let mut cleared = 0;
        loop {
            for entry in std::mem::take(&mut self.batch.entries) {
                cleared += 1;
                for effect in &entry.effects {
                    self.executor
                        .make_dirty(&effect.target.ns, "its pending entries were cleared on request");
                }
                self.shared.count_entry(Way::Dirty, false, 0);
            }
            let before = self.reader.position();
            if before.0 >= head {
                break;
            }
            self.fill(self.config.batch_entries_max);
            if self.reader.position() == before {
                break; // it cannot be read now; everything is dirty
            }
        }
        self.config.pending.done(cleared);
        self.advance();
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
                self.executor.planner.clear_dead(&ns, &key);
            }
            self.executor.make_dirty(&ns, "a dead letter of it was discarded on request");
            discarded += 1;
        }
        self.save_state();
        discarded
    }
}
