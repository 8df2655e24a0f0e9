//! What a reply says that a write did (`wire-facts.md` section 5).
//!
//! Two facts rule here: `n: 0` does not mean that nothing changed, and `ok: 0` does not mean that nothing was
//! applied. Whatever a reply leaves open is in doubt; only what it rules out is left away.

use std::collections::HashMap;

use bson::raw::{RawBsonRef, RawDocument};
use record::{Doubt, Effect, Key, Namespace, Op, Target, Touch};

use crate::bulk::Bulk;
use crate::commands::End;
use crate::contention::Ticket;
use crate::counters::Kind;
use crate::read::{array, count, document, field, flag, integer};
use crate::statement::{FindAndModify, Statement, key};

/// What a write is, as far as its reply matters.
pub(crate) enum Job {
    /// `insert`, `update`, `delete`.
    Batch(Batch),
    /// `findAndModify`.
    FindAndModify { ns: Namespace, find: FindAndModify },
    /// `bulkWrite`.
    Bulk(Bulk),
    /// Followed by namespace; the cursor of an aggregate may do the writing later.
    Coarse { targets: Vec<Target>, refusals: Refusals },
    /// It may have written anywhere: we could not read where.
    Anywhere(Refusals),
    /// A message that no server can read either (`wire-facts.md` 1.2): it is refused, or the connection is closed,
    /// and nothing is run. Only an `ok: 1` would tell that this server knows more than we do.
    Unreadable,
    /// Compressed, and we cannot inflate it. A server that cannot either closes the connection and runs nothing; 6.0.5
    /// takes a size that is announced too large (`wire-facts.md` 1.4), and then it may have written anywhere.
    Packed,
    /// Ends a transaction.
    End(End),
    /// Changes what is not replicated: its name is counted once it has done so.
    NotReplicated(String),
}

/// Which `ok: 0` replies say that a command which is followed by namespace did nothing (`wire-facts.md` 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusals {
    /// Few: `$merge` fails midway with almost any code.
    Aggregate,
    /// Those, and that there is no such collection.
    Several,
    /// Those, and whatever blames the request: one change, or a batch that could not be read.
    Single,
    /// The same. What the command names may be gone by it.
    Drop,
    /// The same, and what is wrong with options or indexes: they are changed as a whole or not at all.
    Shape,
}

/// The statements of one command.
pub(crate) struct Batch {
    pub(crate) kind: Kind,
    pub(crate) ns: Namespace,
    pub(crate) statements: Vec<Statement>,
    pub(crate) ordered: bool,
}

/// What took effect, or may have. No effects: the write did nothing.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) effects: Vec<Effect>,
    pub(crate) doubt: Option<Doubt>,
}

impl Job {
    /// The verdict over the reply's body to the write that holds this ticket. Takes the statements, which may be large: to be called once.
    pub(crate) fn judge(&mut self, body: &RawDocument, ticket: &Ticket) -> Verdict {
        if !flag(body, "ok") {
            return if self.was_refused(body) { Verdict::default() } else { self.all(Doubt::CommandFailed) };
        }
        let mut verdict = match self {
            Job::Batch(batch) => match batch.kind {
                Kind::Insert => batch.inserted(body),
                Kind::Update => batch.updated(body),
                _ => batch.deleted(body),
            },
            Job::FindAndModify { ns, find } => found_and_modified(ns, find, body),
            Job::Bulk(bulk) => bulk.judge(body).unwrap_or_else(|| self.all(Doubt::PartOfBatch)),
            Job::Coarse { refusals: Refusals::Drop, .. } => self.all(Doubt::Dropped),
            // Where another command drops an index at the same time, as many before as after says nothing.
            Job::Coarse { refusals: Refusals::Shape, .. }
                if changed_no_index(body) && !ticket.contended() =>
            {
                Verdict::default()
            }
            Job::Coarse { refusals: Refusals::Shape, .. } => self.all(Doubt::Shape),
            Job::Coarse { .. } => self.all(Doubt::Coarse),
            Job::Anywhere(_) | Job::Unreadable | Job::Packed | Job::End(_) | Job::NotReplicated(_) => {
                Verdict::default()
            }
        };
        //= retriedStmtIds, and retriedStmtId of findAndModify: answered before (wire-facts.md section 6)
        let retried = array(body, "retriedStmtIds").is_some_and(|ids| !ids.is_empty())
            || field(body, "retriedStmtId").is_some();
        if retried && !verdict.effects.is_empty() {
            verdict.doubt = Some(Doubt::Retried); // D18
        }
        verdict
    }

    /// All that the request may have touched. Takes the statements, as [`judge`](Self::judge) does.
    pub(crate) fn all(&mut self, doubt: Doubt) -> Verdict {
        fn effect(ns: &Namespace, statement: &mut Statement) -> Effect {
            let target = Target::new(ns.clone(), statement.widest());
            Effect { target, op: statement.op.take(), n: 0, modified: 0 }
        }
        let effects = match self {
            Job::Batch(Batch { ns, statements, .. }) => {
                statements.iter_mut().map(|each| effect(ns, each)).collect()
            }
            Job::FindAndModify { ns, find } => vec![effect(ns, &mut find.statement)],
            Job::Bulk(bulk) => bulk.captured_mut().map(|(ns, each)| effect(ns, each)).collect(),
            _ => {
                let targets = self.targets().into_iter();
                targets.map(|target| Effect { target, op: None, n: 0, modified: 0 }).collect()
            }
        };
        Verdict { effects, doubt: Some(doubt) }
    }

    /// All that the request may touch, as its mark says.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let target = |ns: &Namespace, statement: &Statement| Target::new(ns.clone(), statement.widest());
        match self {
            Job::Batch(batch) => batch.statements.iter().map(|each| target(&batch.ns, each)).collect(),
            Job::FindAndModify { ns, find } => vec![target(ns, &find.statement)],
            Job::Bulk(bulk) => bulk.captured().map(|(ns, each)| target(ns, each)).collect(),
            Job::Coarse { targets, .. } => targets.clone(),
            Job::Anywhere(_) | Job::Unreadable | Job::Packed | Job::End(_) | Job::NotReplicated(_) => {
                Vec::new()
            }
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Job::Batch(batch) => batch.kind,
            Job::FindAndModify { .. } => Kind::FindAndModify,
            Job::Bulk(_) => Kind::BulkWrite,
            _ => Kind::Coarse,
        }
    }

    /// Whether this reply tells that something was written, nobody knows where.
    pub(crate) fn wrote_anywhere(&self, reply: Option<&RawDocument>) -> bool {
        let refused = || reply.is_some_and(|body| !flag(body, "ok") && self.was_refused(body));
        matches!(self, Job::Anywhere(_) | Job::Unreadable | Job::Packed) && !refused()
    }

    /// Whether `w: 0` made this reply say nothing: `{n: 0, ok: 1}`, whatever a batch did (`wire-facts.md` section 3).
    /// Others are answered as ever (`findAndModify`: seen on 6.0.5).
    pub(crate) fn is_silenced_by_w0(&self, body: &RawDocument) -> bool {
        matches!(self, Job::Batch(_) | Job::Bulk(_)) && flag(body, "ok")
    }

    /// Whether this `ok: 0` says that nothing was applied (`wire-facts.md` 5.3).
    pub(crate) fn was_refused(&self, body: &RawDocument) -> bool {
        let Some(code) = integer(body, "code") else { return false };
        if BEFORE_ANYTHING.contains(&code) {
            return true;
        }
        let of_request = BEFORE_STATEMENTS.contains(&code) || (40_400..40_500).contains(&code);
        match self {
            //= findAndModify, any ok:0: a single document, atomic
            Job::FindAndModify { .. } => true,
            Job::Batch(batch) => {
                let lone = batch.statements.len() == 1 && batch.statements.iter().all(|each| !each.many);
                of_request || lone && AT_ENTRY.contains(&code)
            }
            Job::Bulk(bulk) => of_request || bulk.is_single() && AT_ENTRY.contains(&code),
            //= applyOps says with `ok: 0` how far it came (wire-facts.md section 4)
            Job::Coarse { .. } | Job::Anywhere(_) if field(body, "applied").is_some() => false,
            Job::Coarse { refusals, .. } | Job::Anywhere(refusals) => match refusals {
                Refusals::Aggregate => false,
                Refusals::Several => ABSENT.contains(&code),
                Refusals::Single | Refusals::Drop => ABSENT.contains(&code) || of_request,
                Refusals::Shape => ABSENT.contains(&code) || OF_SHAPE.contains(&code) || of_request,
            },
            Job::Unreadable | Job::Packed => UNREADABLE.contains(&code),
            Job::End(_) | Job::NotReplicated(_) => false,
        }
    }
}

impl Batch {
    fn inserted(&mut self, body: &RawDocument) -> Verdict {
        let ran = self.ran(body);
        let effects: Vec<Effect> = ran.done.iter().map(|at| self.effect(*at, 1, 0)).collect();
        let told = usize::try_from(count(body, "n")) == Ok(effects.len());
        let doubt = if told { None } else { Some(Doubt::PartOfBatch) };
        self.verdict(effects, doubt, &ran)
    }

    fn updated(&mut self, body: &RawDocument) -> Verdict {
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

    fn deleted(&mut self, body: &RawDocument) -> Verdict {
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

fn found_and_modified(ns: &Namespace, find: &mut FindAndModify, body: &RawDocument) -> Verdict {
    let statement = &mut find.statement;
    let verdict = |touch, op: Option<Op>, modified, doubt| {
        let target = Target::new(ns.clone(), touch);
        Verdict { effects: vec![Effect { target, op, n: 1, modified }], doubt }
    };
    let Some(last) = document(body, "lastErrorObject") else {
        return verdict(statement.widest(), statement.op.take(), 0, Some(Doubt::CommandFailed));
    };
    if count(last, "n") == 0 {
        return Verdict::default();
    }
    let modified = u32::from(!find.removes);
    if let Some(id) = field(last, "upserted") {
        return match (statement.is_keyed(), key(id)) {
            (true, _) => verdict(statement.touch.clone(), statement.op.take(), 0, statement.doubt),
            (false, Some(id)) => verdict(Touch::Key(id), None, 0, Some(Doubt::Predicate)),
            (false, None) => verdict(Touch::Namespace, None, 0, Some(Doubt::Predicate)),
        };
    }
    if statement.is_keyed() {
        return verdict(statement.touch.clone(), statement.op.take(), modified, statement.doubt);
    }
    let value = field(body, "value").and_then(RawBsonRef::as_document).filter(|_| !find.hides_id);
    match value.and_then(|value| key(field(value, "_id")?)) {
        Some(id) => {
            let (op, doubt) = find.on(&id);
            verdict(Touch::Key(id), op, modified, doubt)
        }
        None => verdict(statement.touch.clone(), statement.op.take(), modified, Some(Doubt::HiddenId)),
    }
}

/// Whether `createIndexes` found all of them there (`wire-facts.md` section 4; applications send it at every start).
fn changed_no_index(body: &RawDocument) -> bool {
    let (before, after) = (integer(body, "numIndexesBefore"), integer(body, "numIndexesAfter"));
    before.is_some() && before == after && !flag(body, "createdCollectionAutomatically")
}

/// Checked before anything runs, whatever the command (`wire-facts.md` 5.3): unauthorized, authentication failed,
/// illegal operation, no such cursor, no such command, older or no such transaction, not in a transaction, no such
/// API version, not in this one, not in OP_QUERY, overload, field twice, missing or unknown, no `$db`,
/// `txnNumber` where none may be, a namespace that transactions may not touch.
const BEFORE_ANYTHING: &[i64] =
    &[13, 18, 20, 43, 59, 225, 251, 263, 322, 323, 352, 462, 40_413, 40_414, 40_415, 40_571, 50_768, 50_791];
/// A message that the server could not read (all seen on 6.0.5): a section that is longer than the rest; BSON that
/// lies about its length; two bodies; a sequence twice, also in the body; a section kind; no body; no room for a
/// checksum.
const UNREADABLE: &[i64] = &[15, 22, 40_430, 40_431, 40_432, 40_433, 40_587, 51_252];
/// Checked before a batch runs; in the middle of one they come as `writeErrors`. A `$merge` fails midway with them, also
/// with 10334: a document that it makes up is too large, as a body may be.
/// 10065: an object was expected, 4886600: `apiStrict` without a version, 5916400: no buckets (seen on 6.0.5).
const BEFORE_STATEMENTS: &[i64] =
    &[2, 9, 14, 16, 72, 73, 117, 166, 10_065, 10_334, 40_587, 4_886_600, 5_916_400];
/// Of one statement, before it looks at any document: a variable that is not defined, many documents with a
/// `txnNumber`, a view (all seen on 6.0.5). A wrong operator's 2 and 9 may also come midway.
pub(crate) const BEFORE_DOCUMENTS: &[i64] = &[72, 166, 17_276];
/// A collection that a command over collections needs is not there, or is there already.
const ABSENT: &[i64] = &[26, 48];
/// `createIndexes`: documents that clash, or cannot be indexed; options that clash (`wire-facts.md` 5.3: the indexes are
/// unchanged). `dropIndexes`: there is none of this name.
const OF_SHAPE: &[i64] = &[11_000, 27, 67, 68, 85, 86, 171, 197];
/// Write conflict, and not primary at entry: nothing, for one statement over one document.
const AT_ENTRY: &[i64] = &[112, 10_107, 13_435, 13_436];
