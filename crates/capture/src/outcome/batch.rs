//! What took effect of a batch: a reply has totals, the errors, and what upserts inserted.

use std::collections::HashMap;

use bson::raw::{RawBsonRef, RawDocument};
use record::{Doubt, Effect, Key, Namespace, Target, Touch};

use super::Verdict;
use super::refusals::BEFORE_DOCUMENTS;
use crate::counters::Kind;
use crate::read::{array, count, field, integer};
use crate::statement::{Statement, key};

/// The statements of one command.
pub(crate) struct Batch {
    pub(crate) kind: Kind,
    pub(crate) ns: Namespace,
    pub(crate) statements: Vec<Statement>,
    pub(crate) ordered: bool,
}

impl Batch {
    pub(super) fn inserted(&mut self, body: &RawDocument) -> Verdict {
        let ran = self.ran(body);
        let effects: Vec<Effect> = ran.done.iter().map(|at| self.effect(*at, 1, 0)).collect();
        let told = usize::try_from(count(body, "n")) == Ok(effects.len());
        let doubt = if told { None } else { Some(Doubt::PartOfBatch) };
        self.verdict(effects, doubt, &ran)
    }

    pub(super) fn updated(&mut self, body: &RawDocument) -> Verdict {
        let ran = self.ran(body);
        let named = upserted(body);
        let (inserted, rest): (Vec<usize>, Vec<usize>) =
            ran.done.iter().copied().partition(|at| named.contains_key(at));

        let mut effects = Vec::new();
        let mut doubt = None;
        let matched = count(body, "n").saturating_sub(u32::try_from(named.len()).unwrap_or(u32::MAX));
        let modified = count(body, "nModified");
        // Statement by statement again, so that the effects stay in order.
        let rest = Counted::of(&rest, |at| self.statements[at].many, matched, modified, modified);
        for at in &ran.done {
            if inserted.binary_search(at).is_ok() {
                let (effect, why) = self.upsert(*at, named.get(at).cloned().flatten());
                effects.push(effect);
                doubt = doubt.or(why);
            } else if let Some((n, modified)) = rest.counts() {
                effects.push(self.effect(*at, n, modified));
            }
        }
        self.verdict(effects, rest.doubt().or(doubt), &ran)
    }

    pub(super) fn deleted(&mut self, body: &RawDocument) -> Verdict {
        let ran = self.ran(body);
        let deleted = count(body, "n");
        let counted = Counted::of(&ran.done, |at| self.statements[at].many, deleted, 0, deleted);
        let effects = match counted.counts() {
            Some((n, _)) => ran.done.iter().map(|at| self.effect(*at, n, 0)).collect(),
            None => Vec::new(),
        };
        self.verdict(effects, counted.doubt(), &ran)
    }

    /// An upsert that inserted, by the name that the reply gave.
    fn upsert(&mut self, at: usize, id: Option<Key>) -> (Effect, Option<Doubt>) {
        match (self.statements[at].is_keyed(), id) {
            (true, _) => (self.effect(at, 1, 0), None),
            (false, Some(id)) => {
                let target = Target::new(self.ns.clone(), Touch::Key(id));
                (Effect { target, op: None, n: 1, modified: 0 }, Some(Doubt::Predicate))
            }
            // Named by what is no key: an array, say.
            (false, None) => {
                let target = Target::new(self.ns.clone(), Touch::Namespace);
                (Effect { target, ..self.effect(at, 1, 0) }, Some(Doubt::Predicate))
            }
        }
    }

    /// Which statements ran, from the reply's `writeErrors`.
    fn ran(&self, body: &RawDocument) -> Ran {
        let mut ends = vec![Ending::Done; self.statements.len()];
        let errors = array(body, "writeErrors").into_iter().flatten();
        for error in errors.flatten().filter_map(RawBsonRef::as_document) {
            let at = integer(error, "index").and_then(|index| usize::try_from(index).ok());
            if let Some(end) = at.and_then(|at| ends.get_mut(at)) {
                let began = integer(error, "code").is_none_or(|code| !BEFORE_DOCUMENTS.contains(&code));
                *end = if began { Ending::Failed } else { Ending::NotBegun };
            }
        }
        let first = ends.iter().position(|end| *end != Ending::Done).unwrap_or(ends.len());
        //= ordered: operations after the first failure are not run (wire-facts.md 5.2)
        let end = if self.ordered { (first + 1).min(ends.len()) } else { ends.len() };
        let of = |wanted: Ending| (0..end).filter(|at| ends[*at] == wanted).collect();
        Ran { done: of(Ending::Done), failed: of(Ending::Failed) }
    }

    fn verdict(&mut self, mut effects: Vec<Effect>, mut doubt: Option<Doubt>, ran: &Ran) -> Verdict {
        //= one multi statement failing midway: n:0, and the documents visited before are changed (wire-facts.md 5.2)
        // One that would have inserted has matched none, so it has changed none either.
        for at in &ran.failed {
            if self.statements[*at].many {
                effects.push(self.effect(*at, 0, 0));
                doubt = Some(Doubt::MultiFailed);
            }
        }
        let of_statements = || ran.done.iter().find_map(|at| self.statements[*at].doubt);
        let doubt = if effects.is_empty() { None } else { doubt.or_else(of_statements) };
        Verdict { effects, doubt }
    }

    /// The effect of a statement, which is taken for it.
    fn effect(&mut self, at: usize, n: u32, modified: u32) -> Effect {
        let (touch, op) = self.statements[at].take();
        Effect { target: Target::new(self.ns.clone(), touch), op, n, modified }
    }
}

/// How a statement ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Done,
    Failed,
    /// It could not be read: no document was looked at.
    NotBegun,
}

/// Indices of the statements that ran, in order; those behind an ordered batch's failure are in neither.
struct Ran {
    done: Vec<usize>,
    failed: Vec<usize>,
}

/// How a reply's totals fall on the statements that they sum up.
pub(crate) enum Counted {
    /// None of them had an effect.
    Nothing,
    /// Each of them has these counts: matched or deleted, modified.
    Each(u32, u32),
    /// Some had an effect, and of each alone it is known whether it had when it is sent again.
    Some,
    /// Some had an effect, and one of them is over many documents.
    SomeOfMany,
}

impl Counted {
    /// `effective`: the total that says how many documents changed. `many`: which statements are over many.
    pub(crate) fn of(
        done: &[usize],
        many: impl Fn(usize) -> bool,
        n: u32,
        modified: u32,
        effective: u32,
    ) -> Counted {
        let all = u32::try_from(done.len()).unwrap_or(u32::MAX);
        let one_each = done.iter().all(|at| !many(*at));
        match all {
            _ if effective == 0 => Counted::Nothing,
            1 => Counted::Each(n, modified),
            all if one_each && effective == all && n == all => Counted::Each(1, modified.min(1)),
            _ => Counted::unknown(done, many),
        }
    }

    /// Some of them had an effect, nothing says which.
    pub(crate) fn unknown(done: &[usize], many: impl Fn(usize) -> bool) -> Counted {
        if done.iter().any(|at| many(*at)) { Counted::SomeOfMany } else { Counted::Some }
    }

    pub(crate) fn counts(&self) -> Option<(u32, u32)> {
        match self {
            Counted::Nothing => None,
            Counted::Each(n, modified) => Some((*n, *modified)),
            Counted::Some | Counted::SomeOfMany => Some((0, 0)),
        }
    }

    pub(crate) fn doubt(&self) -> Option<Doubt> {
        matches!(self, Counted::SomeOfMany).then_some(Doubt::PartOfBatch)
    }
}

/// `upserted: [{index, _id}]`. An `_id` that is no key is there, without a key.
fn upserted(body: &RawDocument) -> HashMap<usize, Option<Key>> {
    let list = array(body, "upserted").into_iter().flatten();
    let list = list.flatten().filter_map(RawBsonRef::as_document);
    list.filter_map(|each| {
        let at = usize::try_from(integer(each, "index")?).ok()?;
        Some((at, field(each, "_id").and_then(key)))
    })
    .collect()
}
