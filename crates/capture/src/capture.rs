//! What all sessions share: the rules, the writes in flight, open transactions, what was missed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use record::{Mark, Namespace, Target};

use crate::contention::{Table, Ticket};
use crate::counters::{Counters, Counting};
use crate::cursors::Cursors;
use crate::transactions::Transactions;
use crate::unmarked::{self, Unrecorded};
use crate::{Config, Orphan, Pattern, Session, Unmarked};

/// Watches the writes of all sessions of a process.
pub struct Capture {
    /// The bounds; what is captured stands in `rules`.
    pub(crate) config: Config,
    rules: RwLock<Arc<Config>>,
    pub(crate) table: Arc<Table>,
    pub(crate) transactions: Transactions,
    pub(crate) cursors: Cursors,
    pub(crate) counting: Counting,
    pub(crate) unrecorded: unmarked::Counting,
    missed: Mutex<Missing>,
    note: Note,
}

/// Puts a miss down where it survives this process, before it returns: that a write to this namespace, or with `None`
/// to any, may be in no log. Says whether it is there. The same one again costs little.
pub type Note = Box<dyn Fn(Option<&Namespace>) -> bool + Send + Sync>;

/// Writes that left no trace in the log: only a full comparison makes these namespaces good.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missed {
    /// Not even the namespace is known, or there were too many.
    pub everything: bool,
    /// Namespaces; one without a collection is a whole database.
    pub namespaces: Vec<Namespace>,
}

impl Missed {
    /// Whether nothing was missed.
    pub fn is_empty(&self) -> bool {
        !self.everything && self.namespaces.is_empty()
    }
}

#[derive(Default)]
struct Missing {
    everything: bool,
    namespaces: BTreeSet<Namespace>,
}

impl Capture {
    /// Starts with nothing in flight. What is missed is kept in memory only.
    pub fn new(config: Config) -> Arc<Capture> {
        Capture::noting(config, Box::new(|_| true))
    }

    /// The same; `note` keeps what is missed until it is dealt with.
    pub fn noting(config: Config, note: Note) -> Arc<Capture> {
        Arc::new(Capture {
            note,
            unrecorded: unmarked::Counting::default(),
            table: Arc::new(Table::new(config.keys_in_flight_max)),
            transactions: Transactions::new(&config),
            cursors: Cursors::new(config.cursors_max),
            counting: Counting::new(config.command_names_max),
            missed: Mutex::default(),
            rules: RwLock::new(Arc::new(config.clone())),
            config,
        })
    }

    /// What is captured now.
    pub(crate) fn rules(&self) -> Arc<Config> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Captures by these patterns from the next request on.
    pub fn set_filter(&self, include: Vec<Pattern>, exclude: Vec<Pattern>) {
        let rules = Arc::new(Config { include, exclude, ..self.config.clone() });
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Watches one client. `via` is our end of its connection to mongod, as `ip:port`: marks carry it.
    pub fn session(self: &Arc<Self>, via: String) -> Session {
        Session::new(Arc::clone(self), via)
    }

    /// Counts a write that may touch `targets` as in flight until the ticket is dropped.
    pub fn enter(&self, targets: &[Target]) -> Ticket {
        self.table.enter(targets)
    }

    /// Counts an orphan of an earlier run as in flight until what it returns is dropped. `now_ms` as in `Write::mark`.
    ///
    /// One that names nothing may be over anything: then everything is missed. One in a transaction may yet be
    /// committed by a client that has come back: its namespaces are missed when a commit succeeds before
    /// `Config::strays_ms_max` is over.
    pub fn enter_orphan(self: &Arc<Self>, mark: &Mark, now_ms: u64) -> (Ticket, Option<Unmarked>) {
        let anywhere = mark.targets.is_empty();
        if mark.in_transaction {
            match anywhere {
                true => self.transactions.strayed_anywhere(now_ms),
                false => self.transactions.strayed(&mark.targets, now_ms),
            }
        }
        (self.table.enter(&mark.targets), anywhere.then(|| Unmarked::anywhere(self)))
    }

    /// Says that a write to `ns` could not be recorded. Without a collection: to any of the database.
    pub fn missed(&self, ns: &Namespace) {
        self.counting.missed.add();
        let mut missed = self.missing();
        missed.namespaces.insert(ns.clone());
        if missed.namespaces.len() > self.config.missed_max {
            missed.everything = true;
            missed.namespaces.clear();
        }
        drop(missed);
        // Afterwards: whoever has read the note finds it among what was missed.
        self.note(ns);
    }

    /// Says that any write before `now_ms` (milliseconds since 1970) may have passed unseen: everything is missed, and
    /// again with each commit of a transaction that may have begun before, for `Config::strays_ms_max`.
    pub fn missed_everything_before(&self, now_ms: u64) {
        self.transactions.strayed_anywhere(now_ms);
        self.missed_everything();
    }

    /// Says that a write to a namespace that nobody knows could not be recorded.
    pub fn missed_everything(&self) {
        self.counting.missed.add();
        self.missing().everything = true;
        // When it cannot be put down, it holds for this process at least.
        (self.note)(None);
    }

    /// Puts down that a write to `ns` may be in no log; where that fails, everything is missed.
    pub(crate) fn note(&self, ns: &Namespace) {
        if !(self.note)(Some(ns)) {
            self.missing().everything = true;
        }
    }

    /// The same of a write to a namespace that nobody knows.
    pub(crate) fn note_anywhere(&self) {
        if !(self.note)(None) {
            self.missing().everything = true;
        }
    }

    /// The writes that went to mongod without a mark.
    pub fn unrecorded(&self) -> Unrecorded {
        self.unrecorded.read()
    }

    /// What was missed since the last call; who takes it makes it dirty.
    pub fn take_missed(&self) -> Missed {
        let missing = std::mem::take(&mut *self.missing());
        Missed { everything: missing.everything, namespaces: missing.namespaces.into_iter().collect() }
    }

    /// The writes of transactions that nobody has added to or ended for `Config::transaction_ms_max` before
    /// `now_ms` (milliseconds since 1970, the clock of `Write::mark` and `Write::outcome`).
    ///
    /// To be called every few seconds: they contend with others, and hold the log back, until somebody does. Should one
    /// be committed after all, its namespaces are missed.
    pub fn abandoned(&self, now_ms: u64) -> Vec<Orphan> {
        let given_up = self.transactions.abandoned(now_ms);
        given_up.into_iter().flat_map(Capture::orphans).collect()
    }

    /// Totals since the start.
    pub fn counters(&self) -> Counters {
        self.counting.read()
    }

    fn missing(&self) -> MutexGuard<'_, Missing> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_missed_namespaces_are_everything() {
        let capture = Capture::new(Config { missed_max: 2, ..Config::default() });
        for ns in ["a.b", "a.c", "a.b"] {
            capture.missed(&Namespace::parse(ns));
        }
        let expected = vec![Namespace::parse("a.b"), Namespace::parse("a.c")];
        assert_eq!(capture.take_missed(), Missed { everything: false, namespaces: expected });
        assert!(capture.take_missed().is_empty());
        for ns in ["a.b", "a.c", "a.d"] {
            capture.missed(&Namespace::parse(ns));
        }
        assert_eq!(capture.take_missed(), Missed { everything: true, namespaces: Vec::new() });
    }
}
