//! What the planner is given, and what it answers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bson::Timestamp;
use record::{Doubt, Effect, Entry, Key, Namespace, Op, Predicate, Raw, Touch};

/// One statement of an entry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Unit {
    /// The entry's number in its batch, for counting.
    pub entry: usize,
    whole: Arc<Entry>,
    nth: usize,
}

impl Unit {
    /// The statements of an entry, which has this number in its batch.
    pub fn all(entry: usize, whole: &Arc<Entry>) -> impl Iterator<Item = Unit> {
        (0..whole.effects.len()).map(move |nth| Unit { entry, whole: whole.clone(), nth })
    }

    /// What it did, or may have done.
    pub fn effect(&self) -> &Effect {
        &self.whole.effects[self.nth]
    }

    /// Whether it is part of a captured transaction that is certain.
    pub fn is_atomic(&self) -> bool {
        self.whole.atomic
    }

    /// Whether it is part of a command that drops or renames collections.
    pub fn is_over_collections(&self) -> bool {
        self.whole.effects.iter().any(|effect| matches!(effect.op, Some(Op::Over(_))))
    }

    /// Position of the entry's mark.
    pub fn mark(&self) -> u64 {
        self.whole.mark
    }

    /// Why it is in doubt, if it is.
    pub fn doubt(&self) -> Option<Doubt> {
        self.whole.doubt
    }

    /// The source's time of the write, where it has one.
    pub fn operation_time(&self) -> Option<Timestamp> {
        self.whole.operation_time
    }
}

/// Cuts numbered entries into units, by namespace, in the log's order.
pub fn queues<'a>(
    entries: impl IntoIterator<Item = (usize, &'a Arc<Entry>)>,
) -> Vec<(Namespace, VecDeque<Unit>)> {
    let mut order: Vec<(Namespace, VecDeque<Unit>)> = Vec::new();
    let mut index: HashMap<Namespace, usize> = HashMap::new();
    for (number, entry) in entries {
        for unit in Unit::all(number, entry) {
            let ns = &unit.effect().target.ns;
            let at = index.get(ns).copied().unwrap_or_else(|| {
                index.insert(ns.clone(), order.len());
                order.push((ns.clone(), VecDeque::new()));
                order.len() - 1
            });
            order[at].1.push_back(unit);
        }
    }
    order
}

/// What the executor does next for one namespace.
#[derive(Debug, Default)]
pub struct Work {
    /// Keyed and certain: sent again, in this order.
    pub replay: Vec<Unit>,
    /// Then: these keys, and the target's documents that match these predicates, are made equal to the source.
    pub converge: Converge,
    /// Or, alone: this statement over many documents is sent again.
    pub multi: Option<Unit>,
    /// Or, alone: only a full comparison can make the namespace good.
    pub dirty: Option<Unit>,
    /// How many units this takes from the front of the queue.
    pub taken: usize,
}

/// What is to be converged.
#[derive(Debug, Default)]
pub struct Converge {
    /// Documents by `_id`.
    pub keys: Vec<Key>,
    /// Documents by a filter, looked up on the target.
    pub predicates: Vec<Predicate>,
    /// The entries that are done with it, for counting.
    pub entries: Vec<usize>,
    /// The source is read at or after this time.
    pub after: Option<Timestamp>,
}

impl Converge {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.predicates.is_empty()
    }

    /// Adds what `unit` touched; a `barrier` with a key is looked up on the target as well.
    pub(super) fn add(&mut self, unit: &Unit, barrier: bool) {
        match &unit.effect().target.touch {
            Touch::Key(key) => {
                self.keys.push(key.clone());
                if barrier {
                    let filter = Raw(key.filter().to_owned());
                    self.predicates.push(Predicate { filter, collation: None, variables: None });
                }
            }
            Touch::Predicate(predicate) => self.predicates.push(predicate.clone()),
            Touch::Namespace | Touch::Database => {}
        }
        self.entries.push(unit.entry);
        self.after = self.after.max(unit.operation_time());
    }
}
