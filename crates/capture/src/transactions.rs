//! Writes of open transactions, held from their replies to the transaction's end (`wire-facts.md` section 7).
//!
//! - a transaction belongs to a session (`lsid`), not to a connection; a session has one at a time, its numbers rise
//! - held in memory with their tickets, so that they contend until the end; their marks are in the log, so that a
//!   restart finds them as orphans
//! - bounded by writes and bytes: over the bytes only namespaces are held, over the writes the caller keeps it
//! - what was handed on as an orphan may still be committed (`strays.rs`)
//!
//! - one whose every write names its documents by `_id`, with a known effect, alone from its mark to the reply of the only
//!   commit, is certain, and one entry; of any other, each write is an entry of its own, in doubt

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use record::{Doubt, Effect, Namespace, Op, Target, Touch};

use crate::Config;
use crate::contention::Ticket;
use crate::counters::Kind;
use crate::strays::{self, Strays};
use crate::unmarked::Unmarked;

/// A transaction's name: the session's id and its number there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransactionId {
    pub(crate) session: Vec<u8>,
    pub(crate) number: i64,
}

/// An answered write of an open transaction.
pub(crate) struct Held {
    pub(crate) kind: Kind,
    /// Position of its mark; `None` when that was not appended.
    pub(crate) mark: Option<u64>,
    /// Then its end raises what it touched.
    pub(crate) unmarked: Option<Unmarked>,
    /// Our end of the connection that the transaction was last seen on.
    pub(crate) via: String,
    /// When the mark was made.
    pub(crate) marked_ms: u64,
    /// Of its own, whatever becomes of the transaction.
    pub(crate) doubt: Option<Doubt>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) ticket: Ticket,
}

/// Every open transaction with captured writes.
pub(crate) struct Transactions {
    open: Mutex<Open>,
    writes_max: usize,
    bytes_max: usize,
    idle_ms_max: u64,
}

struct Open {
    sessions: HashMap<Vec<u8>, Transaction>,
    writes: usize,
    bytes: usize,
    strays: Strays,
}

struct Transaction {
    number: i64,
    writes: Vec<Held>,
    /// When it was last added to.
    seen_ms: u64,
    /// Commits and aborts that were sent.
    ends_asked: u32,
}

impl Transactions {
    pub(crate) fn new(config: &Config) -> Transactions {
        Transactions {
            open: Mutex::new(Open {
                sessions: HashMap::new(),
                writes: 0,
                bytes: 0,
                strays: Strays::new(config),
            }),
            writes_max: config.held_writes_max,
            bytes_max: config.held_bytes_max,
            idle_ms_max: config.transaction_ms_max,
        }
    }

    /// Adds a write. Gives it back when there are too many, or the session has gone on to another transaction.
    pub(crate) fn hold(&self, id: &TransactionId, mut held: Held, now_ms: u64) -> Result<(), Box<Held>> {
        let mut open = self.open();
        let stranger = open.sessions.get(&id.session).is_some_and(|other| other.number != id.number);
        if stranger || open.writes >= self.writes_max {
            return Err(Box::new(held));
        }
        if open.bytes + bytes(&held.effects) > self.bytes_max {
            held.effects = by_namespace(&held.effects);
        }
        open.writes += 1;
        open.bytes += bytes(&held.effects);
        let transaction = open.sessions.entry(id.session.clone()).or_insert_with(|| Transaction {
            number: id.number,
            writes: Vec::new(),
            seen_ms: 0,
            ends_asked: 0,
        });
        transaction.writes.push(held);
        transaction.seen_ms = transaction.seen_ms.max(now_ms);
        Ok(())
    }

    /// Whether this transaction has captured writes.
    pub(crate) fn knows(&self, id: &TransactionId) -> bool {
        self.open().sessions.get(&id.session).is_some_and(|open| open.number == id.number)
    }

    /// Its commit or abort is about to be sent.
    pub(crate) fn end_asked(&self, id: &TransactionId) {
        if let Some(transaction) = self.open().sessions.get_mut(&id.session)
            && transaction.number == id.number
        {
            transaction.ends_asked += 1;
        }
    }

    /// It was heard of at `now_ms`.
    pub(crate) fn seen(&self, id: &TransactionId, now_ms: u64) {
        if let Some(transaction) = self.open().sessions.get_mut(&id.session)
            && transaction.number == id.number
        {
            transaction.seen_ms = transaction.seen_ms.max(now_ms);
        }
    }

    /// How many commits and aborts of it were sent.
    pub(crate) fn ends_asked(&self, id: &TransactionId) -> u32 {
        let open = self.open();
        open.sessions.get(&id.session).filter(|it| it.number == id.number).map_or(0, |it| it.ends_asked)
    }

    /// Takes out the writes of a transaction that has ended.
    pub(crate) fn end(&self, id: &TransactionId) -> Vec<Held> {
        self.take(&id.session, |number| number == id.number)
    }

    /// Takes out the writes of the transaction that a session left for this newer one (or for a retryable write).
    pub(crate) fn superseded(&self, id: &TransactionId) -> Vec<Held> {
        self.open().strays.forget(id, strays::Ended::Before);
        self.take(&id.session, |number| number < id.number)
    }

    /// The connection on which the transaction's end was sent broke: it may still be at work there.
    pub(crate) fn moved(&self, id: &TransactionId, via: &str) {
        if let Some(open) = self.open().sessions.get_mut(&id.session)
            && open.number == id.number
        {
            open.writes.iter_mut().for_each(|held| via.clone_into(&mut held.via));
        }
    }

    /// Writes to these namespaces, in transactions last seen at `seen_ms`, were handed on and may yet be committed.
    pub(crate) fn strayed(&self, targets: &[Target], seen_ms: u64) {
        let mut open = self.open();
        targets.iter().for_each(|target| open.strays.add(target.ns.clone(), seen_ms));
    }

    /// Writes to any namespace, in transactions last seen at `seen_ms`, were not seen and may yet be committed.
    pub(crate) fn strayed_anywhere(&self, seen_ms: u64) {
        self.open().strays.add_anywhere(seen_ms);
    }

    /// Whether a commit of this transaction may bring writes that are not held.
    pub(crate) fn any_strays(&self, id: &TransactionId) -> bool {
        self.open().strays.any(id)
    }

    /// The namespaces that a commit of it at `now_ms` may bring writes to beside those that are held; `None` among them:
    /// any.
    pub(crate) fn strays(&self, id: &TransactionId, now_ms: u64) -> BTreeSet<Option<Namespace>> {
        self.open().strays.brought_by(id, now_ms)
    }

    /// It was aborted: what was given up of it is not to come.
    pub(crate) fn aborted(&self, id: &TransactionId) {
        self.open().strays.forget(id, strays::Ended::This);
    }

    /// Takes out the transactions that nobody has added to for too long.
    pub(crate) fn abandoned(&self, now_ms: u64) -> Vec<Vec<Held>> {
        let mut open = self.open();
        let idle = |transaction: &Transaction| now_ms.saturating_sub(transaction.seen_ms);
        let sessions = open.sessions.iter().filter(|(_, open)| idle(open) > self.idle_ms_max);
        let ids: Vec<TransactionId> = sessions
            .map(|(session, open)| TransactionId { session: session.clone(), number: open.number })
            .collect();
        let mut given_up = Vec::new();
        for id in ids {
            let writes = open.remove(&id.session);
            let effects = writes.iter().flat_map(|held| &held.effects);
            let namespaces = effects.map(|effect| effect.target.ns.clone()).collect();
            open.strays.give_up(&id, namespaces, now_ms);
            given_up.push(writes);
        }
        given_up
    }

    fn take(&self, session: &[u8], is_meant: impl Fn(i64) -> bool) -> Vec<Held> {
        let mut open = self.open();
        match open.sessions.get(session) {
            Some(transaction) if is_meant(transaction.number) => open.remove(session),
            _ => Vec::new(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn remove(&mut self, session: &[u8]) -> Vec<Held> {
        let Some(transaction) = self.sessions.remove(session) else { return Vec::new() };
        self.writes -= transaction.writes.len();
        self.bytes -= transaction.writes.iter().map(|held| bytes(&held.effects)).sum::<usize>();
        transaction.writes
    }
}

/// What the effects take in memory, roughly, in bytes.
pub(crate) fn bytes(effects: &[Effect]) -> usize {
    let op = |op: &Option<Op>| match op {
        Some(op) => op.document().as_bytes().len(),
        None => 0,
    };
    effects.iter().map(|effect| op(&effect.op) + touch_bytes(&effect.target.touch) + EFFECT_BYTES).sum()
}

/// What a touch takes in memory or in the log, roughly, in bytes.
pub(crate) fn touch_bytes(touch: &Touch) -> usize {
    match touch {
        Touch::Key(key) => key.filter().as_bytes().len() + key.canonical().len(),
        Touch::Predicate(predicate) => {
            let parts = [&predicate.collation, &predicate.variables];
            let parts: usize = parts.into_iter().flatten().map(|part| part.0.as_bytes().len()).sum();
            predicate.filter.0.as_bytes().len() + parts
        }
        Touch::Namespace | Touch::Database => 0,
    }
}

/// The same effects, coarser: one per namespace.
pub(crate) fn by_namespace(effects: &[Effect]) -> Vec<Effect> {
    let mut coarse: Vec<Effect> = Vec::new();
    let mut seen = BTreeSet::new();
    for effect in effects {
        let touch = match effect.target.touch {
            Touch::Database => Touch::Database,
            _ => Touch::Namespace,
        };
        if seen.insert((&effect.target.ns, touch == Touch::Database)) {
            let target = Target::new(effect.target.ns.clone(), touch);
            coarse.push(Effect { target, op: None, n: 0, modified: 0 });
        }
    }
    coarse
}

/// An effect without its key and statement: the structure itself and the entry's field names.
const EFFECT_BYTES: usize = 160;
