//! Which captured transactions of a batch are sent again as one.
//!
//! A transaction reaches over namespaces, and a batch is applied namespace by namespace. So those that have no document in
//! common with the rest of the batch are taken out and go first, in the log's order; since nothing else of the batch
//! touches what they touch, it makes no difference when. Of the others each document is converged.

use std::collections::HashSet;
use std::sync::Arc;

use record::{Entry, Key, Namespace, Touch};

use super::{Planner, State, Unit};

/// What the entries that stay in the batch may touch.
#[derive(Default)]
struct Claimed<'a> {
    keys: HashSet<(&'a Namespace, &'a Key)>,
    namespaces: HashSet<&'a Namespace>,
    databases: HashSet<&'a str>,
}

impl Planner {
    /// The numbers of the transactions that are to be sent again as one, before all other entries of the batch.
    pub fn as_one(&self, entries: &[Arc<Entry>]) -> Vec<usize> {
        if self.one_by_one || !entries.iter().any(|entry| entry.atomic) {
            return Vec::new();
        }
        let (mut chosen, mut rest): (Vec<usize>, Vec<usize>) =
            (0..entries.len()).partition(|number| self.may_be_sent_as_one(&entries[*number]));
        let mut claimed = Claimed::default();
        // Each that stays may have documents in common with another one, which then stays as well.
        while !rest.is_empty() && self.rules.apart {
            rest.iter().for_each(|number| claimed.add(&entries[*number]));
            (chosen, rest) = chosen.into_iter().partition(|number| !claimed.meets(&entries[*number]));
        }
        chosen
    }

    fn may_be_sent_as_one(&self, entry: &Arc<Entry>) -> bool {
        let empty = State::default();
        let may_be_sent = |unit: Unit| {
            let effect = unit.effect();
            let state = self.namespaces.get(&effect.target.ns).unwrap_or(&empty);
            match &effect.target.touch {
                Touch::Key(key) => !state.is_barrier(&unit) && self.may_send(state, &unit, key),
                _ => false,
            }
        };
        entry.atomic && Unit::all(0, entry).all(may_be_sent)
    }
}

impl<'a> Claimed<'a> {
    fn add(&mut self, entry: &'a Entry) {
        for effect in &entry.effects {
            let ns = &effect.target.ns;
            match &effect.target.touch {
                Touch::Key(key) => drop(self.keys.insert((ns, key))),
                Touch::Predicate(_) | Touch::Namespace => drop(self.namespaces.insert(ns)),
                Touch::Database => drop(self.databases.insert(ns.db())),
            }
        }
    }

    fn meets(&self, entry: &'a Entry) -> bool {
        entry.effects.iter().any(|effect| {
            let ns = &effect.target.ns;
            let key = match &effect.target.touch {
                Touch::Key(key) => self.keys.contains(&(ns, key)),
                _ => true,
            };
            key || self.namespaces.contains(ns) || self.databases.contains(ns.db())
        })
    }
}
