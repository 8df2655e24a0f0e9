//! Writes of open transactions that are no longer held: a commit may still bring them, and then their namespaces are
//! missed, for that commit comes after whatever was done about the orphans.
//!
//! - of a transaction that was given up, for as long as its session goes on with no other: the server's reaper comes
//!   when it likes, its limit may be raised, and a commit does not look at the transaction's age
//! - of one whose session is not known: brought by any commit, for [`Config::strays_ms_max`]
//! - bounded by namespaces, each kind for itself: with too many of the first, the oldest counts as of any session; with
//!   too many of the second, they are any namespace

use std::collections::{BTreeMap, BTreeSet, HashMap};

use record::Namespace;

use crate::Config;
use crate::transactions::TransactionId;

/// What commits may bring; `None` among namespaces: any.
pub(crate) struct Strays {
    given_up: HashMap<Vec<u8>, GivenUp>,
    /// How many there were: the least is of the oldest.
    given_up_ever: u64,
    /// Until when any commit may bring writes to a namespace, in milliseconds since 1970.
    of_anyone: BTreeMap<Option<Namespace>, u64>,
    ms_max: u64,
    max: usize,
}

/// The latest transaction of a session that was given up.
struct GivenUp {
    nth: u64,
    number: i64,
    namespaces: BTreeSet<Namespace>,
}

impl Strays {
    pub(crate) fn new(config: &Config) -> Strays {
        Strays {
            given_up: HashMap::new(),
            given_up_ever: 0,
            of_anyone: BTreeMap::new(),
            ms_max: config.strays_ms_max,
            max: config.strays_max,
        }
    }

    /// A transaction was given up that has written to these.
    pub(crate) fn give_up(&mut self, id: &TransactionId, namespaces: BTreeSet<Namespace>, now_ms: u64) {
        self.given_up_ever += 1;
        let fresh = || GivenUp { nth: self.given_up_ever, number: id.number, namespaces: BTreeSet::new() };
        let of_session = self.given_up.entry(id.session.clone()).or_insert_with(fresh);
        if of_session.number != id.number {
            *of_session = GivenUp { nth: self.given_up_ever, number: id.number, namespaces: BTreeSet::new() };
        }
        of_session.namespaces.extend(namespaces);
        while self.given_up.values().map(|it| it.namespaces.len()).sum::<usize>() > self.max {
            let oldest =
                self.given_up.iter().min_by_key(|(_, it)| it.nth).map(|(session, _)| session.clone());
            let Some(oldest) = oldest.and_then(|session| self.given_up.remove(&session)) else { return };
            oldest.namespaces.into_iter().for_each(|ns| self.add(ns, now_ms));
        }
    }

    /// A transaction of nobody knows which session, last seen at `seen_ms`, has written to it.
    pub(crate) fn add(&mut self, ns: Namespace, seen_ms: u64) {
        let ns = Some(ns);
        let full = self.of_anyone.len() >= self.max && !self.of_anyone.contains_key(&ns);
        self.until(if full { None } else { ns }, seen_ms);
    }

    /// The same, to any namespace.
    pub(crate) fn add_anywhere(&mut self, seen_ms: u64) {
        self.until(None, seen_ms);
    }

    fn until(&mut self, ns: Option<Namespace>, seen_ms: u64) {
        let until = self.of_anyone.entry(ns).or_default();
        *until = seen_ms.saturating_add(self.ms_max).max(*until);
    }

    /// Whether the end of this transaction is worth a look.
    pub(crate) fn any(&self, id: &TransactionId) -> bool {
        !self.of_anyone.is_empty() || self.of(id).is_some()
    }

    /// What a commit of this transaction at `now_ms` may bring.
    pub(crate) fn brought_by(&mut self, id: &TransactionId, now_ms: u64) -> BTreeSet<Option<Namespace>> {
        self.of_anyone.retain(|_, until| *until >= now_ms);
        let own = self.of(id).into_iter().flat_map(|it| it.namespaces.iter().cloned().map(Some));
        own.chain(self.of_anyone.keys().cloned()).collect()
    }

    /// These transactions are over.
    pub(crate) fn forget(&mut self, id: &TransactionId, ended: Ended) {
        let is_over = |number: i64| match ended {
            Ended::This => number == id.number,
            Ended::Before => number < id.number,
        };
        if self.given_up.get(&id.session).is_some_and(|it| is_over(it.number)) {
            self.given_up.remove(&id.session);
        }
    }

    fn of(&self, id: &TransactionId) -> Option<&GivenUp> {
        self.given_up.get(&id.session).filter(|it| it.number == id.number)
    }
}

/// Which transactions of a session have brought nothing.
#[derive(Clone, Copy)]
pub(crate) enum Ended {
    /// This one.
    This,
    /// Those before it.
    Before,
}
