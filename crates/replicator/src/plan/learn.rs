//! What the planner learns from what was done, seen and ordered.

use record::{Key, Namespace};

use super::Planner;

/// A comparison of a whole namespace: every difference that is there now will have been converged when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    pub(super) marks: u64,
}

impl Planner {
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

    /// Options and indexes of `ns` were made equal, and its documents were followed all the time. Says whether neither has
    /// changed meanwhile.
    pub fn shape_ended(&self, ns: &Namespace, scan: Scan) -> bool {
        self.scan_begins(ns) == scan
    }

    /// Nothing is left of `ns` on the target. `head`: the log's after the source was seen to have none either; `None`: by a
    /// command that stands where the log is now. A scan under way has not seen it.
    pub fn is_gone(&mut self, ns: &Namespace, head: Option<u64>) {
        let state = self.namespaces.entry(ns.clone()).or_default();
        state.marks += 1;
        state.floor = state.floor.max(head.unwrap_or(0));
        state.ahead.clear();
        state.dead.clear();
        state.collated = false;
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
