//! What is left of a write when it has ended: the records that say so, or an orphan.

use std::collections::BTreeSet;
use std::sync::Arc;

use bson::Timestamp;
use record::{Doubt, Effect, Entry, Mark, Namespace, Op, Record, RecordKind, Target, Touch};

use super::Detail;
use crate::Capture;
use crate::contention::Ticket;
use crate::counters::Kind;
use crate::transactions::{Held, by_namespace, bytes};
use crate::unmarked::Unmarked;

/// The end of a write: what to append, and the tickets, left when this is dropped.
///
/// Drop it after the appends succeeded; call [`Ended::not_appended`] when one did not.
#[must_use = "its records have to be appended before the client is answered"]
pub struct Ended {
    /// Records in order.
    pub appends: Vec<(RecordKind, Vec<u8>)>,
    /// Writes that are handed on without an end: held ones of a transaction, when there are too many.
    pub orphans: Vec<Orphan>,
    capture: Arc<Capture>,
    detail: Detail,
    tickets: Vec<Ticket>,
    /// What each of `appends` ends.
    ends: Vec<Unended>,
}

/// A mark that the log still waits for the end of, because that could not be appended. Its write has ended, and what
/// it touched is missed; but while the mark is open, nothing behind it is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unended {
    /// Position of the mark.
    pub mark: u64,
    /// What its write may have changed; empty: nothing.
    pub namespaces: BTreeSet<Namespace>,
}

impl Unended {
    /// The record that ends it, for when the log takes records again: its namespaces, in doubt.
    pub fn record(&self, at_ms: u64) -> (RecordKind, Vec<u8>) {
        if self.namespaces.is_empty() {
            return (RecordKind::Closed, Record::closed(self.mark));
        }
        let touch = |ns: &Namespace| if ns.coll().is_empty() { Touch::Database } else { Touch::Namespace };
        let effect = |ns: &Namespace| Effect {
            target: Target::new(ns.clone(), touch(ns)),
            op: None,
            n: 0,
            modified: 0,
        };
        let effects = self.namespaces.iter().map(effect).collect();
        let doubt = Some(Doubt::NotKept);
        let entry = Entry { mark: self.mark, doubt, atomic: false, effects, operation_time: None, at_ms };
        (RecordKind::Entry, entry.encode())
    }
}

/// A write whose outcome is not known and whose mark has no end. It may still be running.
///
/// In a transaction it may still be committed, from any connection, for as long as the server lets one live
/// (`transactionLifetimeLimitSeconds`).
#[derive(Debug)]
pub struct Orphan {
    /// Position of its mark; `None` when the log took none.
    pub mark: Option<u64>,
    /// The mark.
    pub mark_record: Mark,
    /// Without a mark: raises its namespaces as missed when it is dropped.
    pub unmarked: Option<Unmarked>,
    /// Keeps it in flight until dropped.
    pub ticket: Ticket,
}

impl Ended {
    pub(super) fn new(capture: &Arc<Capture>, detail: Detail) -> Ended {
        Ended {
            appends: Vec::new(),
            orphans: Vec::new(),
            capture: Arc::clone(capture),
            detail,
            tickets: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Only the first `appended` records could be appended: what the others tell of is missed. Returns whose marks are
    /// open still.
    pub fn not_appended(mut self, appended: usize) -> Vec<Unended> {
        let unended = self.ends.split_off(appended.min(self.ends.len()));
        unended.iter().flat_map(|end| &end.namespaces).for_each(|ns| self.capture.missed(ns));
        unended
    }

    pub(super) fn entry(
        &mut self,
        held: Held,
        doubt: Option<Doubt>,
        operation_time: Option<Timestamp>,
        at_ms: u64,
    ) {
        // Without a mark an entry would be taken for another's: `held.unmarked` raises what it touched.
        let Some(mark) = held.mark else { return };
        let namespaces = held.effects.iter().map(|effect| effect.target.ns.clone()).collect();
        let without_statements = self.detail == Detail::Touches && !held.effects.iter().all(is_small);
        let (effects, doubt) = fit(held.effects, doubt, self.detail);
        self.capture.counting.entry(held.kind, doubt);
        if without_statements {
            self.capture.counting.touches_only.add();
        }
        let entry = Entry { mark, doubt, atomic: false, effects, operation_time, at_ms };
        self.push((RecordKind::Entry, entry.encode()), Unended { mark, namespaces }, held.ticket);
    }

    /// A transaction, under its first mark: the others did nothing by themselves.
    pub(super) fn one_entry(&mut self, writes: Vec<Held>, operation_time: Option<Timestamp>, at_ms: u64) {
        let marks: Vec<u64> = writes.iter().filter_map(|held| held.mark).collect();
        let Some((&mark, others)) = marks.split_first() else { return };
        let (mut effects, mut tickets, mut kind) = (Vec::new(), Vec::new(), None);
        for held in writes {
            kind.get_or_insert(held.kind);
            effects.extend(held.effects);
            tickets.push(held.ticket);
        }
        let namespaces = effects.iter().map(|effect| effect.target.ns.clone()).collect();
        kind.into_iter().for_each(|kind| self.capture.counting.entry(kind, None));
        let entry = Entry { mark, doubt: None, atomic: true, effects, operation_time, at_ms };
        self.appends.push((RecordKind::Entry, entry.encode()));
        self.ends.push(Unended { mark, namespaces });
        for mark in others {
            self.capture.counting.closed.add();
            self.appends.push((RecordKind::Closed, Record::closed(*mark)));
            self.ends.push(Unended { mark: *mark, namespaces: BTreeSet::new() });
        }
        self.tickets.extend(tickets);
    }

    pub(super) fn close(&mut self, held: Held) {
        if let Some(unmarked) = held.unmarked {
            unmarked.did_nothing();
        }
        if let Some(mark) = held.mark {
            self.capture.counting.closed.add();
            let end = Unended { mark, namespaces: BTreeSet::new() };
            self.push((RecordKind::Closed, Record::closed(mark)), end, held.ticket);
        }
    }

    fn push(&mut self, record: (RecordKind, Vec<u8>), end: Unended, ticket: Ticket) {
        self.appends.push(record);
        self.ends.push(end);
        self.tickets.push(ticket);
    }
}

impl Capture {
    /// Held writes as orphans.
    pub(crate) fn orphans(writes: Vec<Held>) -> Vec<Orphan> {
        let orphan = |held: Held| {
            let targets = held.effects.into_iter().map(|effect| effect.target).collect();
            let mark_record =
                Mark { targets, via: held.via, in_transaction: true, drops: false, at_ms: held.marked_ms };
            Orphan { mark: held.mark, mark_record, unmarked: held.unmarked, ticket: held.ticket }
        };
        writes.into_iter().map(orphan).collect()
    }
}

/// Makes an entry fit into the log as it is, and into one record: without its statements, or with its namespaces only.
fn fit(mut effects: Vec<Effect>, doubt: Option<Doubt>, detail: Detail) -> (Vec<Effect>, Option<Doubt>) {
    let (keeps, left) = match detail {
        Detail::Statements => (bytes(&effects) <= ENTRY_BYTES_MAX, Doubt::Coarse),
        Detail::Touches => (effects.iter().all(is_small), Doubt::NotKept),
    };
    if keeps && bytes(&effects) <= ENTRY_BYTES_MAX {
        return (effects, doubt);
    }
    effects.iter_mut().filter(|effect| !is_small(effect)).for_each(|effect| effect.op = None);
    if bytes(&effects) > ENTRY_BYTES_MAX {
        effects = by_namespace(&effects);
    }
    (effects, doubt.or(Some(left)))
}

/// Whether nothing is saved by leaving its statement away.
fn is_small(effect: &Effect) -> bool {
    matches!(effect.op, None | Some(Op::Over(_)))
}

/// Whether a transaction's writes are certain, all of them. Each reads as of the transaction's beginning, so only of a
/// document that it names by `_id`, and has changed, is it known that nobody else has changed it since.
pub(super) fn may_be_one(writes: &[Held]) -> bool {
    let known =
        |effect: &Effect| matches!(effect.target.touch, Touch::Key(_)) && effect.op.is_some() && effect.n > 0;
    // Where it found the document as it was to become, it has written nothing and met no conflict; its reply does not
    // say so.
    let may_be_idle = |held: &Held| {
        held.kind == Kind::FindAndModify && held.effects.iter().any(|effect| effect.modified > 0)
    };
    let certain = |held: &Held| {
        !may_be_idle(held)
            && held.mark.is_some()
            && held.doubt.is_none()
            && held.effects.iter().all(known)
            && !held.ticket.contended()
    };
    writes.iter().all(certain)
        && writes.iter().map(|held| bytes(&held.effects)).sum::<usize>() <= TRANSACTION_BYTES_MAX
}

/// An entry's effects, in bytes: below the largest record of the log (64 MiB). A frame has at most 48 MB, of which the
/// keys are repeated, so only batches of tiny or all-`_id` documents come near.
const ENTRY_BYTES_MAX: usize = 62 << 20;

/// A transaction that is kept as one entry, in bytes: what a server of any version takes as one.
const TRANSACTION_BYTES_MAX: usize = 12 << 20;
