//! What the target refuses: unique indexes in the way, and documents that go into the dead letters.
//!
//! - who holds a unique value that a document wants is converged as well, and then perhaps who stands in *its* way: as
//!   long as that gets on, it goes on
//! - where it does not, the values have gone round among documents: those that stand in each other's way are deleted, and
//!   all are written. In between is a state that the source never had, and a crash would leave it behind unseen, with no
//!   filter to find it: so the keys are appended to the log before
//! - what is refused for another reason, again and again, is a dead letter
//!
//! The namespace is ours alone meanwhile: nothing else of it is under way (scenario D11).

use std::collections::{BTreeMap, HashMap, HashSet};

use record::{Key, Namespace};
use tracing::{info, warn};

use crate::converge::{Refused, Writing};
use crate::execute::{Executor, Stall};
use crate::server::Concern;
use crate::shared::now_ms;

/// Rounds that brought nothing, until what is left counts as refused. The source goes on changing meanwhile, which makes
/// some rounds meet what is past already.
const VAIN_ROUNDS_MAX: usize = 5;
/// Documents that may stand in each other's way; beyond that they are dead letters.
const HOLDERS_MAX: usize = 10_000;

impl Executor {
    /// Tries again what was refused, with those who stand in its way; what is left goes into the dead letters.
    pub(crate) async fn settle(
        &self,
        ns: &Namespace,
        mut refused: Vec<Refused>,
        concern: &Concern,
    ) -> Result<(), Stall> {
        let mut tries: BTreeMap<Key, u32> = BTreeMap::new();
        let (mut rounds, mut vain) = (0, 0);
        while !refused.is_empty() {
            let (wanting, mut again): (Vec<Refused>, Vec<Refused>) =
                refused.into_iter().partition(|refused| refused.holder.is_some());
            again.retain(|refused| {
                let tries = tries.entry(refused.key.clone()).or_default();
                *tries += 1;
                let last = *tries > self.max_retries;
                if last {
                    self.bury(ns, refused);
                }
                !last
            });
            if vain >= VAIN_ROUNDS_MAX || wanting.len() > HOLDERS_MAX {
                wanting.iter().chain(&again).for_each(|refused| self.bury(ns, refused));
                return Ok(());
            }
            let holds: HashMap<&Key, &Key> =
                wanting.iter().filter_map(|refused| Some((&refused.key, refused.holder.as_ref()?))).collect();
            let keys = holders_first(&holds);
            // Those that are in the way were tried and are refused as well: they have gone round.
            let round: Vec<Key> =
                holds.values().filter(|key| holds.contains_key(*key)).map(|key| (*key).clone()).collect();
            let nobody_else = round.len() == holds.len() && rounds > 0;
            if (nobody_else || vain > 0) && !round.is_empty() && self.append_keys(ns, &keys) {
                info!(%ns, documents = round.len(), "unique values have gone round among documents, which are written anew");
                let _lane = self.lanes.take().await?;
                self.lanes.close(self.delete(ns, &round).await)?;
            }
            let tried: HashSet<Key> = holds.keys().copied().cloned().collect();
            let stood: HashSet<Key> = holds.values().copied().cloned().collect();
            refused = self.step(ns, keys, concern, Writing::InOrder).await?;
            let left: HashSet<&Key> = refused.iter().map(|refused| &refused.key).collect();
            // One has its value, or somebody else in the row was found, who is held up as well.
            let held_up =
                refused.iter().filter(|refused| refused.holder.is_some()).map(|refused| &refused.key);
            let got_on = tried.iter().any(|key| !left.contains(key))
                || held_up.into_iter().any(|key| !tried.contains(key) && stood.contains(key));
            (rounds, vain) = (rounds + 1, if got_on { 0 } else { vain + 1 });
            // Who stands in the way was tried just now.
            let again =
                again.into_iter().map(|refused| refused.key).filter(|key| !stood.contains(key)).collect();
            refused.extend(self.step(ns, again, concern, Writing::OneByOne).await?);
        }
        Ok(())
    }

    fn bury(&self, ns: &Namespace, refused: &Refused) {
        let Refused { key, error, .. } = refused;
        self.planner().set_dead(ns, key);
        self.shared.count_failed();
        let kept = self.shared.state().add_dead_letter(ns, key, error.code, &error.message, now_ms());
        if kept {
            warn!(%ns, code = error.code, "target refuses a document, its key is in the dead letters");
        } else {
            self.make_dirty(ns, "the dead letters are full");
        }
    }
}

/// Each key, and who holds what it wants, so that a holder comes before the key: it may move on and make room.
fn holders_first(holds: &HashMap<&Key, &Key>) -> Vec<Key> {
    let (mut order, mut seen) = (Vec::new(), HashSet::new());
    for key in holds.keys() {
        let mut row = Vec::new();
        let mut next = Some(*key);
        while let Some(key) = next.filter(|key| seen.insert(*key)) {
            row.push(key.clone());
            next = holds.get(key).copied();
        }
        order.extend(row.into_iter().rev());
    }
    order
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn holders_come_before_those_who_wait_for_them() {
        let key = |id: i32| Key::of(&rawdoc! {"_id": id}).unwrap();
        let keys: Vec<Key> = (0..100).map(key).collect();
        // A row, and a circle.
        let holds: HashMap<&Key, &Key> = (0..49)
            .map(|at| (&keys[at], &keys[at + 1]))
            .chain((50..100).map(|at| (&keys[at], &keys[50 + (at - 49) % 50])))
            .collect();
        let order = holders_first(&holds);
        assert_eq!(order.len(), 100);
        let at = |key: &Key| order.iter().position(|other| other == key).unwrap();
        assert!((0..49).all(|nth| at(&keys[nth]) > at(&keys[nth + 1])));
    }
}
