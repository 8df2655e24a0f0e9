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

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bson::Timestamp;
use record::{Doubt, Effect, Entry, Key, Namespace, Op, Predicate, Raw, Touch};

/// The planner's bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Keys that one namespace remembers as ahead; beyond that its floor rises. 64 k keys are about 10 MiB.
    pub ahead_keys_max: usize,
    /// Predicates of one namespace in one batch that still are barriers of their own; with more of them the
    /// batch is converged as a whole, which takes one round of reading and writing instead of one for each.
    pub barriers_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { ahead_keys_max: 65_536, barriers_max: 8 }
    }
}

/// The rules, each a real branch, so that the model can show what each is for. All on in the product.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// What is in doubt is converged, never replayed.
    pub doubt: bool,
    /// A key that was converged is replayed only from marks behind the reading.
    pub ahead: bool,
    /// What may have been sent before a restart or an unknown outcome is converged.
    pub sent: bool,
    /// A predicate waits for what is before it, and what is behind waits for it.
    pub barrier: bool,
    /// A `multi` statement is replayed only when no key of its namespace is ahead.
    pub lone_multi: bool,
    /// While a namespace is dirty, its entries are only converged.
    pub dirty: bool,
    /// When a scan has ended, its namespace is, as a whole, ahead.
    pub scan_floor: bool,
    /// What becomes dirty during a scan is scanned again.
    pub scan_again: bool,
    /// What is ahead and evicted raises its namespace's floor.
    pub evicted: bool,
    /// Keys in the dead letters are never replayed.
    pub dead: bool,
    /// What is sent before the rest of its batch has no key in common with it.
    pub apart: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            doubt: true,
            ahead: true,
            sent: true,
            barrier: true,
            lone_multi: true,
            dirty: true,
            scan_floor: true,
            scan_again: true,
            evicted: true,
            dead: true,
            apart: true,
        }
    }
}

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
    fn add(&mut self, unit: &Unit, barrier: bool) {
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

/// A comparison of a whole namespace: every difference that is there now will have been converged when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    marks: u64,
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
        let db = unit.effect().target.ns.db();
        let dirty = state.dirty || self.everything_dirty || self.dirty_databases.contains(db);
        self.joined || (dirty && self.rules.dirty)
    }

    fn may_replay(&self, state: &State, unit: &Unit, key: &Key) -> bool {
        (self.one_by_one || !unit.is_atomic()) && self.may_send(state, unit, key)
    }

    fn may_send(&self, state: &State, unit: &Unit, key: &Key) -> bool {
        unit.effect().op.is_some()
            && (unit.doubt().is_none() || !self.rules.doubt)
            && (state.ahead_of(key) <= unit.mark() || !self.rules.ahead)
            && (self.sent_before <= unit.mark() || !self.rules.sent)
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
            && (self.sent_before <= unit.mark() || !self.rules.sent)
            && !self.only_converged(state, unit)
            && (state.dead.is_empty() || !self.rules.dead)
            && !state.collated
    }

    /// These keys are equal to the source as it was when the log's head stood at `head`, read after the
    /// source was.
    pub fn converged(&mut self, ns: &Namespace, keys: impl IntoIterator<Item = Key>, head: u64) {
        let state = self.namespaces.entry(ns.clone()).or_default();
        state.ahead.extend(keys.into_iter().map(|key| (key, head)));
        if state.ahead.len() > self.limits.ahead_keys_max {
            if self.rules.evicted {
                state.floor = state.ahead.values().copied().fold(state.floor, u64::max);
            }
            state.ahead.clear();
        }
    }

    /// What was sent of entries with marks before `head` is not known any more: a connection broke.
    pub fn unknown_outcome(&mut self, head: u64) {
        self.sent_before = self.sent_before.max(head);
        for state in self.namespaces.values_mut() {
            state.ahead.clear(); // `sent_before` is above every one of them
        }
    }

    /// No entry that still comes has a mark before `horizon`: what is ahead of less is forgotten.
    pub fn forget(&mut self, horizon: u64) {
        for state in self.namespaces.values_mut() {
            state.ahead.retain(|_, head| *head > horizon);
        }
    }

    /// From now on entries of `ns`, a collection or a whole database, are only converged.
    pub fn set_dirty(&mut self, ns: &Namespace) {
        if ns.coll().is_empty() {
            self.dirty_databases.insert(ns.db().to_owned());
        }
        let state = self.namespaces.entry(ns.clone()).or_default();
        state.dirty = true;
        state.marks += 1;
    }

    /// Options or indexes of `ns` have changed: its documents are followed as before, and a scan under way has not seen it.
    pub fn set_misshapen(&mut self, ns: &Namespace) {
        self.namespaces.entry(ns.clone()).or_default().marks += 1;
    }

    /// A comparison of `ns` begins; nothing of it has been read yet.
    pub fn scan_begins(&self, ns: &Namespace) -> Scan {
        Scan { marks: self.namespaces.get(ns).map_or(0, |state| state.marks) }
    }

    /// Every difference that the scan found is converged. `head` is the log's, taken after the scan's last reading.
    /// Says whether `ns` is clean now; else it became dirty meanwhile and needs another scan.
    pub fn scan_ended(&mut self, ns: &Namespace, scan: Scan, head: u64) -> bool {
        let rules = self.rules;
        let state = self.namespaces.entry(ns.clone()).or_default();
        if state.marks != scan.marks && rules.scan_again {
            return false;
        }
        state.dirty = false;
        if rules.scan_floor {
            state.floor = state.floor.max(head);
        }
        true
    }

    /// `ns` was not dirty in truth. `head` is the log's: what was held back till now is converged.
    pub fn not_dirty(&mut self, ns: &Namespace, head: u64) {
        if let Some(state) = self.namespaces.get_mut(ns) {
            state.dirty = false;
            state.floor = state.floor.max(head);
        }
    }

    /// Each namespace that a dirty database, or everything dirty, may have meant has become dirty by itself. `head`
    /// is the log's, taken after the namespaces were listed: those that have come since have only what is in the log.
    pub fn each_is_dirty(&mut self, head: u64) {
        for db in std::mem::take(&mut self.dirty_databases) {
            self.namespaces.remove(&Namespace::new(&db, ""));
        }
        self.everything_dirty = false;
        self.sent_before = self.sent_before.max(head);
    }

    /// From now on all entries are only converged.
    pub fn set_everything_dirty(&mut self) {
        self.everything_dirty = true;
    }

    /// Whether the target knows transactions.
    pub fn set_transactions(&mut self, known: bool) {
        self.one_by_one = !known;
    }

    /// Several logs feed the target, in no order: whatever happens, entries are only converged.
    pub fn set_joined(&mut self) {
        self.joined = true;
    }

    /// Strings in keys of `ns` compare by a collation.
    pub fn set_collated(&mut self, ns: &Namespace) {
        self.namespaces.entry(ns.clone()).or_default().collated = true;
    }

    /// `key` is in the dead letters.
    pub fn set_dead(&mut self, ns: &Namespace, key: &Key) {
        self.namespaces.entry(ns.clone()).or_default().dead.insert(key.clone());
    }

    /// `key` has left the dead letters; says whether it was there.
    pub fn clear_dead(&mut self, ns: &Namespace, key: &Key) -> bool {
        self.namespaces.get_mut(ns).is_some_and(|state| state.dead.remove(key))
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
