//! What a reply says that a write did (`wire-facts.md` section 5).
//!
//! Two facts rule here: `n: 0` does not mean that nothing changed, and `ok: 0` does not mean that nothing was
//! applied. Whatever a reply leaves open is in doubt; only what it rules out is left away.

mod batch;
mod refusals;

use bson::raw::{RawBsonRef, RawDocument};
use record::{Doubt, Effect, Namespace, Op, Target, Touch};

use crate::bulk::Bulk;
use crate::commands::End;
use crate::contention::Ticket;
use crate::counters::Kind;
use crate::read::{array, count, document, field, flag, integer};
use crate::statement::{FindAndModify, Statement, key};

pub(crate) use batch::{Batch, Counted};
pub(crate) use refusals::{BEFORE_DOCUMENTS, Refusals};

/// What a write is, as far as its reply matters.
pub(crate) enum Job {
    /// `insert`, `update`, `delete`.
    Batch(Batch),
    /// `findAndModify`.
    FindAndModify { ns: Namespace, find: FindAndModify },
    /// `bulkWrite`.
    Bulk(Bulk),
    /// Followed by namespace; the cursor of an aggregate may do the writing later. `over`: what it does to whole collections,
    /// said of the one that is gone by it.
    Coarse { targets: Vec<Target>, refusals: Refusals, over: Option<(Namespace, Op)> },
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
            Job::Coarse { over: Some(_), .. } => Verdict { doubt: None, ..self.all(Doubt::Dropped) },
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
            Job::Coarse { targets, over, .. } => {
                let mut over = over.take();
                let mut effect = |target: &Target| {
                    let op = over.take_if(|(of, _)| *of == target.ns).map(|(_, op)| op);
                    Effect { target: target.clone(), op, n: 0, modified: 0 }
                };
                targets.iter().map(&mut effect).collect()
            }
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

    /// Whether the collections that it names may be gone by it.
    pub(crate) fn drops(&self) -> bool {
        matches!(self, Job::Coarse { refusals: Refusals::Drop, .. })
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
