//! Decides, without doing anything, how entries reach the target: replay what is certain, converge the rest.
//!
//! Entries are cut into [`Unit`]s, one per statement, and queued per namespace in the order of the log.
//! [`Planner::next`] takes as many from the front as one [`Work`] can hold, so that what a converge has
//! learnt (keys that are *ahead*) decides about the next.
//!
//! - a keyed unit is replayed when it is certain, its key is not ahead of its mark, and nothing of it can
//!   have been sent before; else its key is converged, with all units of that key in the same work
//! - a predicate is a barrier: its candidates are looked up when everything before it is on the target
//! - a lone certain `multi` statement is replayed when no key of its namespace is ahead of its mark
//! - a captured transaction is sent again as one, before the rest of its batch (`as_one.rs`), or converged
//!
//! Each rule has its scenario in the model (`tests/model`), which diverges when [`Rules`] leaves it out.
//! Pure: no clock, no sockets. Not here: how work is done (`replay.rs`, `converge.rs`).

mod as_one;
mod learn;
mod rules;
mod work;

use std::collections::{HashMap, HashSet, VecDeque};

use record::{Key, Namespace, Op, Touch};

pub use learn::Scan;
pub use rules::{Limits, Rules};
pub use work::{Converge, Unit, Work, queues};

/// What is known of a namespace.
#[derive(Debug, Default)]
struct State {
    /// Converged keys and the head of the log after the reading.
    ahead: HashMap<Key, u64>,
    /// As if every key were ahead at this head.
    floor: u64,
    dirty: bool,
    /// How often it became dirty: tells whether it did again during a scan.
    marks: u64,
    /// Keys in the dead letters: not equal, so never replayed.
    dead: HashSet<Key>,
    /// Strings compare by a collation: a key that holds one stands for other spellings too (scenario D16).
    collated: bool,
}

impl State {
    fn ahead_of(&self, key: &Key) -> u64 {
        self.ahead.get(key).copied().unwrap_or(0).max(self.floor)
    }

    /// Whether which documents `unit` touched depends on the other documents' contents.
    fn is_barrier(&self, unit: &Unit) -> bool {
        match &unit.effect().target.touch {
            Touch::Key(key) => self.collated && key.has_text(),
            Touch::Predicate(_) => true,
            Touch::Namespace | Touch::Database => false,
        }
    }
}

/// Decides; remembers what is ahead, dirty and dead.
#[derive(Debug, Default)]
pub struct Planner {
    rules: Rules,
    limits: Limits,
    namespaces: HashMap<Namespace, State>,
    /// Entries whose mark lies before this may have been sent already.
    sent_before: u64,
    everything_dirty: bool,
    /// Other logs feed the target as well.
    joined: bool,
    /// The target knows no transactions: their statements are sent by themselves.
    one_by_one: bool,
    dirty_databases: HashSet<String>,
}

impl Planner {
    /// A planner for the entries from here on: those whose mark lies before `sent_before` may have been sent
    /// by an earlier run.
    pub fn new(rules: Rules, limits: Limits, sent_before: u64) -> Planner {
        Planner { rules, limits, sent_before, ..Planner::default() }
    }

    /// The next work for `ns`. `queue` is not empty; the caller drops [`Work::taken`] units once it is done.
    pub fn next(&self, ns: &Namespace, queue: &VecDeque<Unit>) -> Work {
        let empty = State::default();
        let state = self.namespaces.get(ns).unwrap_or(&empty);
        let Some(first) = queue.front() else { return Work::default() };
        match &first.effect().target.touch {
            Touch::Namespace | Touch::Database => {
                return Work { dirty: Some(first.clone()), taken: 1, ..Work::default() };
            }
            Touch::Predicate(_) if self.may_replay_multi(state, first) => {
                return Work { multi: Some(first.clone()), taken: 1, ..Work::default() };
            }
            _ => {}
        }
        self.fill(state, queue)
    }

    fn fill(&self, state: &State, queue: &VecDeque<Unit>) -> Work {
        let barriers = queue.iter().filter(|unit| state.is_barrier(unit)).count();
        let one_by_one = barriers <= self.limits.barriers_max || !self.rules.barrier;
        let mut group = 0;
        let mut behind_barrier = false;
        for unit in queue {
            let touch = &unit.effect().target.touch;
            let ends = matches!(touch, Touch::Namespace | Touch::Database)
                || (group > 0 && matches!(touch, Touch::Predicate(_)) && self.may_replay_multi(state, unit))
                || (behind_barrier && one_by_one && self.rules.barrier && !state.is_barrier(unit));
            if ends {
                break;
            }
            behind_barrier |= state.is_barrier(unit);
            group += 1;
        }
        // A group in which keyed statements stand behind a predicate is converged as a whole.
        let all = behind_barrier && !one_by_one;
        let converged: HashSet<&Key> = queue
            .iter()
            .take(group)
            .filter_map(|unit| match &unit.effect().target.touch {
                Touch::Key(key) if all || state.is_barrier(unit) || !self.may_replay(state, unit, key) => {
                    Some(key)
                }
                _ => None,
            })
            .collect();
        let mut work = Work { taken: group, ..Work::default() };
        for unit in queue.iter().take(group) {
            match &unit.effect().target.touch {
                Touch::Key(key) if !converged.contains(key) => work.replay.push(unit.clone()),
                _ => work.converge.add(unit, state.is_barrier(unit)),
            }
        }
        work.converge.keys.sort_unstable();
        work.converge.keys.dedup();
        work
    }

    fn only_converged(&self, state: &State, unit: &Unit) -> bool {
        self.is_only_converged(state, &unit.effect().target.ns)
    }

    /// Whether the target's `ns` is as the source's was when the write with this mark began, given that no other one was under
    /// way with it.
    pub fn is_exact(&self, ns: &Namespace, mark: u64) -> bool {
        let empty = State::default();
        let state = self.namespaces.get(ns).unwrap_or(&empty);
        let not_ahead = state.floor <= mark && state.ahead.values().all(|h| *h <= mark);
        (not_ahead || !self.rules.lone_multi)
            && self.is_unsent(mark)
            && !self.is_only_converged(state, ns)
            && (state.dead.is_empty() || !self.rules.dead)
    }

    /// Whether nothing with this mark can have been sent before.
    pub fn is_unsent(&self, mark: u64) -> bool {
        self.sent_before <= mark || !self.rules.sent
    }

    fn is_only_converged(&self, state: &State, ns: &Namespace) -> bool {
        let dirty = state.dirty || self.everything_dirty || self.dirty_databases.contains(ns.db());
        self.joined || (dirty && self.rules.dirty)
    }

    fn may_replay(&self, state: &State, unit: &Unit, key: &Key) -> bool {
        (self.one_by_one || !unit.is_atomic()) && self.may_send(state, unit, key)
    }

    fn may_send(&self, state: &State, unit: &Unit, key: &Key) -> bool {
        unit.effect().op.is_some()
            && (unit.doubt().is_none() || !self.rules.doubt)
            && (state.ahead_of(key) <= unit.mark() || !self.rules.ahead)
            && self.is_unsent(unit.mark())
            && !self.only_converged(state, unit)
            && (!state.dead.contains(key) || !self.rules.dead)
    }

    fn may_replay_multi(&self, state: &State, unit: &Unit) -> bool {
        let multi = match &unit.effect().op {
            Some(Op::Update(statement)) => statement.get_bool("multi").unwrap_or(false),
            Some(Op::Delete(statement)) => matches!(number(statement, "limit"), Some(0)),
            _ => false,
        };
        let not_ahead = state.floor <= unit.mark() && state.ahead.values().all(|h| *h <= unit.mark());
        multi
            && unit.doubt().is_none()
            && (not_ahead || !self.rules.lone_multi)
            && self.is_unsent(unit.mark())
            && !self.only_converged(state, unit)
            && (state.dead.is_empty() || !self.rules.dead)
            && !state.collated
    }
}

fn number(doc: &bson::RawDocument, name: &str) -> Option<i64> {
    match doc.get(name).ok()?? {
        bson::RawBsonRef::Int32(n) => Some(n.into()),
        bson::RawBsonRef::Int64(n) => Some(n),
        #[allow(clippy::cast_possible_truncation)]
        bson::RawBsonRef::Double(x) => Some(x as i64),
        _ => None,
    }
}
