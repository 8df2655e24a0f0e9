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

use std::collections::{BTreeMap, BTreeSet};

use record::{Key, Namespace};
use tracing::{info, warn};

use crate::converge::{Refused, Writing};
use crate::execute::{Executor, Stall};
use crate::shared::now_ms;
use crate::source::Concern;

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
        let mut vain = 0;
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
                wanting.iter().for_each(|refused| self.bury(ns, refused));
                return Ok(());
            }
            let before: BTreeSet<Key> = wanting.iter().map(|refused| refused.key.clone()).collect();
            let holders: BTreeSet<Key> =
                wanting.iter().filter_map(|refused| refused.holder.clone()).collect();
            // Nobody else stands in the way of any of them: some have gone round.
            let round: Vec<Key> = holders.intersection(&before).cloned().collect();
            if vain > 0
                && !round.is_empty()
                && self.append_keys(ns, &before.union(&holders).cloned().collect::<Vec<_>>())
            {
                info!(%ns, documents = round.len(), "unique values have gone round among documents, which are written anew");
                let _lane = self.lanes.take().await?;
                self.lanes.close(self.delete(ns, &round).await)?;
            }
            let keys: BTreeSet<Key> = before
                .iter()
                .chain(&holders)
                .cloned()
                .chain(again.into_iter().map(|refused| refused.key))
                .collect();
            let tried = keys.len();
            refused = self.step(ns, keys.into_iter().collect(), concern, Writing::OneByOne).await?;
            let left: BTreeSet<&Key> = refused.iter().map(|refused| &refused.key).collect();
            let got_on = refused.len() < tried && before.iter().any(|key| !left.contains(key))
                || left.iter().any(|key| !before.contains(*key) && holders.contains(*key));
            vain = if got_on { 0 } else { vain + 1 };
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
