//! One batch, from the planner to the last acknowledgement, while the next one is read.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use futures_util::future::join_all;
use record::{Entry, Namespace, Touch};

use super::Pump;
use super::feed::Part;
use super::pace;
use crate::execute::{Stall, Tally, worst};
use crate::meet::Followed;
use crate::over::is_over;
use crate::plan::{Unit, queues};
use crate::shared::{Applied, Way, now_ms};
use crate::state::Cause;

impl Pump {
    /// While there is more to do than fits into one batch, the next one is read meanwhile.
    pub(super) async fn apply_and_read_on(&mut self, part: &Part, size: usize) -> Result<Tally, Stall> {
        let reading = (part.entries().len() >= size).then(|| {
            let feed = self.feed.clone();
            // It may be larger.
            let most = size.saturating_mul(pace::GROWTH_MAX).min(self.shared.tuning().batch_entries_max);
            tokio::task::spawn_blocking(move || {
                feed.lock().unwrap_or_else(PoisonError::into_inner).fill(most)
            })
        });
        let applied = self.apply(part).await;
        if let Some(reading) = reading {
            match reading.await {
                Ok(looked) => self.heed(looked),
                Err(died) => self.unreadable(&format!("reading it has died: {died}")),
            }
        }
        applied
    }

    async fn apply(&mut self, part: &Part) -> Result<Tally, Stall> {
        let tally = Tally::new(part.entries().len());
        self.executor.remember_sent(part.end)?;
        let entries: Vec<Arc<Entry>> = part.entries().cloned().collect();
        // A command over whole collections stands alone between what is before it and what is behind.
        let mut first = 0;
        for stretch in entries.chunk_by(|one, next| !is_over(one) && !is_over(next)) {
            match stretch {
                [entry] if is_over(entry) => self.follow_over(first, entry, &tally).await?,
                _ => self.apply_stretch(first, stretch, &tally).await?,
            }
            first += stretch.len();
        }
        Ok(tally)
    }

    /// Carries out a command over whole collections, or leaves it to a comparison.
    async fn follow_over(&mut self, number: usize, entry: &Arc<Entry>, tally: &Tally) -> Result<(), Stall> {
        let captures = |ns: &Namespace| (self.config.captures)(&self.config.filter, ns);
        let mut forbidden = match self.executor.follow_over(entry, &captures).await {
            Ok(true) => return Ok(()), // it counts as replayed
            Ok(false) => None,
            Err(stall) => Some(stall),
        };
        let first = entry.effects.first().map(|effect| effect.target.ns.clone());
        if let Some(stall) = forbidden
            .take_if(|stall| !stall.is_forbidden() || !first.as_ref().is_some_and(|ns| self.is_forbidden(ns)))
        {
            return Err(stall);
        }
        for unit in Unit::all(number, entry).filter(|it| self.is_followed(&it.effect().target.ns)) {
            self.executor.leave_to_comparison(&unit.effect().target.ns, &unit);
        }
        if let (Some(stall), Some(ns)) = (forbidden, first) {
            self.executor.told_forbidden(&ns, &stall);
        }
        tally.note([number], Way::Dirty);
        Ok(())
    }

    /// The entries from number `first` of the batch on, in which nothing is over whole collections.
    async fn apply_stretch(
        &mut self,
        first: usize,
        entries: &[Arc<Entry>],
        tally: &Tally,
    ) -> Result<(), Stall> {
        let done = self.executor.send_transactions(entries).await?;
        let rest = entries.iter().enumerate().filter(|(number, _)| !done.contains(number));
        let mut queues = queues(rest.map(|(number, entry)| (first + number, entry)));
        // All are waited for: what is under way in one namespace is of no concern to the others, until one stalls.
        let results = {
            let this = &*self;
            let apply = |(ns, queue)| this.apply_to(ns, queue, tally);
            join_all(queues.iter_mut().map(|(ns, queue)| (&*ns, queue)).map(apply)).await
        };
        let mut ends = Vec::new();
        for ((ns, queue), result) in queues.iter().zip(results) {
            match result {
                Err(stall) if stall.is_forbidden() && self.is_forbidden(ns) => {
                    self.executor.unless_forbidden(ns, Err(stall))?;
                    tally.note(queue.iter().map(|unit| unit.entry), Way::Dirty);
                }
                other => ends.push(other),
            }
        }
        worst(ends).map(drop)
    }

    async fn apply_to(&self, ns: &Namespace, queue: &mut VecDeque<Unit>, tally: &Tally) -> Result<(), Stall> {
        if !self.is_followed(ns) {
            return Ok(()); // excluded since it was captured
        }
        let whole = |unit: &Unit| matches!(unit.effect().target.touch, Touch::Namespace | Touch::Database);
        match self.executor.prepare(ns).await? {
            Followed::Yes => {}
            Followed::InOrder => return self.executor.follow_in_order(ns, queue, tally).await,
            Followed::InTime(field) => return self.executor.follow_in_time(ns, &field, queue, tally).await,
            Followed::View if queue.iter().all(whole) => {}
            followed => {
                if followed == Followed::View {
                    // A read would answer with the view's documents.
                    let reason = "a view has the name of a collection that was written to";
                    self.executor.make_dirty_by(ns, reason, Cause::Written);
                }
                tally.note(queue.iter().map(|unit| unit.entry), Way::Dirty);
                return Ok(());
            }
        }
        while !queue.is_empty() {
            let work = self.executor.planner().next(ns, queue);
            let taken = work.taken.max(1);
            self.executor.execute(ns, work, tally).await?;
            drop(queue.drain(..taken));
        }
        Ok(())
    }

    pub(super) fn applied(&mut self, part: &Part, tally: Tally, began: Instant) {
        let (now, mut applied) = (now_ms(), Applied::default());
        for (entry, way) in part.entries().zip(tally.ways()) {
            let names_id = entry.effects.iter().all(|effect| matches!(effect.target.touch, Touch::Key(_)));
            applied.add(way, names_id, now.saturating_sub(entry.at_ms));
        }
        let entries = part.entries().len();
        self.shared.count_applied(&applied);
        self.config.pending.done(entries as u64);
        self.shared.count_batch(began.elapsed());
        let shed = self.executor.target.take_shed();
        self.pace.applied(entries, began, shed);
        self.advance(part.end);
    }

    /// Counts refusals: rights may come back, but one namespace without them must not hold up the others for ever.
    fn is_forbidden(&mut self, ns: &Namespace) -> bool {
        let count = self.forbidden.entry(ns.clone()).or_insert(0);
        *count += 1;
        *count > self.executor.max_retries
    }
}
