//! Captured transactions, sent again as they were: all of one, or nothing of it.
//!
//! - those of a batch go together, many in one transaction of ours, which is as good: a round trip for each would be too much
//! - one that does not do what it did on the source is undone by the target, and its documents are converged
//! - of a commit whose outcome is unknown nothing is known, as of every other command: all is converged when it cannot land
//!   any more
//!
//! Not here: which they are (`plan/as_one.rs`).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use record::{Entry, Namespace};
use tracing::debug;

use crate::error::{Class, ServerError};
use crate::execute::{Executor, Stall, unit_key};
use crate::plan::{Unit, queues};
use crate::replay::lanes;
use crate::shared::now_ms;
use crate::target::Tried;

/// Statements in one transaction of ours. MongoDB advises against more; one captured transaction may have more.
const STATEMENTS_MAX: usize = 1_000;

impl Executor {
    /// Sends what may be sent as one, before anything else of the batch; says which entries are done with it.
    pub async fn send_transactions(&self, entries: &[Arc<Entry>]) -> Result<BTreeSet<usize>, Stall> {
        let mut done = BTreeSet::new();
        let effects = entries.iter().filter(|entry| entry.atomic).flat_map(|entry| &entry.effects);
        let namespaces: BTreeSet<Namespace> = effects.map(|effect| effect.target.ns.clone()).collect();
        for ns in namespaces {
            match self.prepare(&ns).await {
                // What is forbidden is told when its turn comes.
                Err(stall) if stall.is_forbidden() => return Ok(done),
                prepared => drop(prepared?),
            }
        }
        let chosen = self.planner().as_one(entries);
        let mut rest = chosen.as_slice();
        while !rest.is_empty() {
            let mut statements = 0;
            let fits = |number: &&usize| {
                statements += entries[**number].effects.len();
                statements <= STATEMENTS_MAX
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (numbers, others) = rest.split_at(count);
            let part: Vec<&Arc<Entry>> = numbers.iter().map(|number| &entries[*number]).collect();
            if self.send_as_one(&part).await? {
                done.extend(numbers);
            }
            rest = others;
        }
        Ok(done)
    }

    /// Says whether they did what they did on the source; else nothing is done.
    async fn send_as_one(&self, entries: &[&Arc<Entry>]) -> Result<bool, Stall> {
        let mut queues = queues(entries.iter().copied().enumerate());
        for (ns, queue) in &queues {
            self.recent().note(ns, queue.iter().filter_map(unit_key), now_ms());
        }
        let _lane = self.lanes.take().await?;
        match self.run(&mut queues).await {
            Ok(Tried::Done(())) => Ok(true),
            Ok(Tried::Undone(error)) => {
                debug!(%error, "the target has undone a transaction, its documents are copied");
                Ok(false)
            }
            Err(error) => self.lanes.close(Err(Stall::Target(error))),
        }
    }

    async fn run(&self, queues: &mut [(Namespace, VecDeque<Unit>)]) -> Result<Tried<()>, ServerError> {
        let mut transaction = self.target.transaction().await?;
        for (ns, queue) in queues {
            // One lane: a transaction's commands go one after the other.
            for lane in lanes(queue.make_contiguous(), 1) {
                for command in lane.levels().iter().flatten() {
                    match transaction.write(ns, command.encode(ns), command.validation()).await? {
                        Tried::Done(reply) if command.different(&reply).is_empty() => {}
                        Tried::Done(_) => {
                            transaction.abort().await;
                            let message = "it did not do what it did on the source".to_owned();
                            return Ok(Tried::Undone(ServerError {
                                class: Class::Refused,
                                code: None,
                                message,
                            }));
                        }
                        Tried::Undone(error) => {
                            transaction.abort().await;
                            return Ok(Tried::Undone(error));
                        }
                    }
                }
            }
        }
        transaction.commit().await
    }
}
