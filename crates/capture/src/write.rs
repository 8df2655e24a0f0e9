//! One request that may change data, from its mark to its end.
//!
//! - in flight from [`crate::Session::request`] until its [`Ended`] or its orphan's ticket is dropped
//! - `outcome`, `unacknowledged`, `never_sent` or `orphan` ends it: every mark gets an end
//! - whatever could not be appended on the way is raised as missed when the write has ended, not before (`unmarked.rs`)

mod ended;

use std::sync::Arc;

use bson::Timestamp;
use bson::raw::{RawBsonRef, RawDocument};
use record::{Doubt, Effect, Mark, Namespace, Target};
use wire::OpMsg;

use crate::Capture;
use crate::commands::End;
use crate::contention::Ticket;
use crate::outcome::{Job, Refusals, Verdict};
use crate::read::{array, document, field, flag, integer};
use crate::transactions::{Held, TransactionId, by_namespace, touch_bytes};
use crate::unmarked::Unmarked;

use ended::may_be_one;
pub use ended::{Ended, Orphan, Unended};

/// A request that may change data, or ends a transaction.
///
/// Dropping it without an end leaves its mark open: an orphan that only the next start finds.
#[must_use = "a write has to be ended by its outcome, as unacknowledged, or as an orphan"]
pub struct Write {
    pub(crate) capture: Arc<Capture>,
    pub(crate) via: String,
    pub(crate) request_id: i32,
    pub(crate) replacement: Option<Vec<u8>>,
    pub(crate) answer: Answer,
    pub(crate) waits_for_durable: bool,
    /// Session and number, of a transaction or of a retryable write.
    pub(crate) transaction: Option<TransactionId>,
    pub(crate) in_transaction: bool,
    pub(crate) job: Job,
    pub(crate) mark: Option<u64>,
    pub(crate) unmarked: Option<Unmarked>,
    pub(crate) marked_ms: u64,
    pub(crate) detail: Detail,
    pub(crate) ticket: Ticket,
}

/// How much of a write its entry keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    /// Its statements, so that they can be sent again.
    #[default]
    Statements,
    /// Only what they touched: the log is nearly full. Such an entry is in doubt.
    Touches,
}

/// What the client is told of the write's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A reply with its outcome.
    Outcome,
    /// A reply that says `n: 0`, whatever happened: `w: 0` (`wire-facts.md` section 3).
    Nothing,
    /// No reply: moreToCome.
    NoReply,
}

/// How the connection ended on which a reply was to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The server closed it, which it also does on what it cannot read.
    ServerClosed,
    /// The network failed, or it was given up.
    Broken,
}

impl Write {
    /// The request's id: its reply's `responseTo`.
    pub fn request_id(&self) -> i32 {
        self.request_id
    }

    /// The frame to send instead of the client's: an `_id` was added. Given once.
    pub fn forward(&mut self) -> Option<Vec<u8>> {
        self.replacement.take()
    }

    /// The encoded mark, to be appended before the request's last byte leaves. `None`: there is none. One that names
    /// nothing is of a write that may be over anything.
    ///
    /// When it cannot be appended, [`Write::goes_unmarked`] is called, and the request goes on all the same.
    pub fn mark(&mut self, at_ms: u64) -> Option<Vec<u8>> {
        self.marked_ms = at_ms;
        match self.job {
            Job::End(end) => {
                self.ends_transaction(end);
                None
            }
            Job::Unreadable | Job::NotReplicated(_) => None,
            _ => Some(self.mark_record().encode()),
        }
    }

    /// A commit or an abort is about to leave. What the first may bring beside the held writes is noted.
    fn ends_transaction(&mut self, end: End) {
        let Some(id) = &self.transaction else { return };
        self.capture.transactions.seen(id, self.marked_ms);
        let strays = self.capture.transactions.strays(id, self.marked_ms);
        if end == End::Commit && !strays.is_empty() {
            self.unmarked = Some(Unmarked::bringing(&self.capture, strays));
        }
    }

    /// The mark is at this position of the log.
    pub fn marked(&mut self, lsn: u64) {
        self.mark = Some(lsn);
    }

    /// The log takes no mark of it. Notes its namespaces, so that its last byte may leave.
    pub fn goes_unmarked(&mut self) {
        if let Job::Anywhere(_) | Job::Packed = self.job {
            self.capture.missed_everything();
        }
        let namespaces = self.job.targets().into_iter().map(|target| target.ns).collect();
        self.unmarked = Some(Unmarked::begin(&self.capture, namespaces));
    }

    /// How much its entry keeps, and those of the transaction that it ends.
    pub fn keep(&mut self, detail: Detail) {
        self.detail = detail;
    }

    /// Whether a reply comes. If not, a fence on the same connection ends the write ([`Write::unacknowledged`]).
    pub fn expects_reply(&self) -> bool {
        self.answer != Answer::NoReply
    }

    /// Whether the client asked for its write on disk: `j: true` or `w: "majority"`.
    pub fn waits_for_durable(&self) -> bool {
        self.waits_for_durable
    }

    /// The reply has come, as a whole frame. One that cannot be read leaves the write in doubt.
    pub fn outcome(mut self, reply: &[u8], at_ms: u64) -> Ended {
        //= a reply is compressed only if its request was (wire-facts.md 1.4)
        let inner = wire::inflate(reply).ok();
        let message = OpMsg::parse(inner.as_deref().unwrap_or(reply)).ok();
        let body = message.as_ref().map(OpMsg::body);
        if let Job::End(end) = self.job {
            return self.transaction_ended(end, body, at_ms);
        }
        let verdict = match body {
            None => self.job.all(Doubt::CommandFailed),
            Some(body) if self.answer == Answer::Nothing && self.job.is_silenced_by_w0(body) => {
                self.job.all(Doubt::Unacknowledged)
            }
            //= with this label a statement of a transaction has aborted it (wire-facts.md 5.3)
            Some(body) if self.in_transaction && !flag(body, "ok") && has_label(body, TRANSIENT) => {
                Verdict::default()
            }
            Some(body) => self.job.judge(body, &self.ticket),
        };
        let verdict = self.with_cursor(verdict, body);
        if self.job.wrote_anywhere(body) {
            self.missed_everything(at_ms);
        }
        if body.is_some_and(|body| flag(body, "ok")) {
            self.count_not_replicated();
        }
        self.end(verdict, body, at_ms)
    }

    /// There was no reply, and the fence behind it is answered: the write has ended, somehow.
    pub fn unacknowledged(mut self, at_ms: u64) -> Ended {
        if let Job::End(_) = self.job {
            // The writes are held still; what a commit may have brought beside them is missed with `self`.
            return Ended::new(&self.capture, self.detail);
        }
        // A server closes on what it cannot inflate: this one has read it.
        if let Job::Anywhere(_) | Job::Packed = self.job {
            self.missed_everything(at_ms);
        }
        self.count_not_replicated();
        let verdict = self.job.all(Doubt::Unacknowledged);
        self.end(verdict, None, at_ms)
    }

    /// The request's last byte never left: mongod runs nothing of it (`wire-facts.md` section 3).
    pub fn never_sent(self, at_ms: u64) -> Ended {
        self.end(Verdict::default(), None, at_ms)
    }

    /// The reply will never come, for the connection ended so. `None`: there is nothing to hand on; a transaction stays
    /// open.
    pub fn orphan(self, lost: Lost) -> Option<Orphan> {
        match (&self.job, self.mark) {
            (Job::End(_), _) => {
                if let Some(id) = &self.transaction {
                    self.capture.transactions.moved(id, &self.via);
                }
                // It is the commit that may still run: what it brings is missed when its connection has gone.
                let mark_record = Mark { in_transaction: false, ..self.mark_record() };
                let unmarked = Some(self.unmarked?);
                Some(Orphan { mark: None, mark_record, unmarked, ticket: self.ticket })
            }
            (Job::Unreadable, _) => None,
            (Job::NotReplicated(_), _) => {
                self.count_not_replicated();
                None
            }
            (Job::Anywhere(_) | Job::Packed, mark) => {
                //= what it cannot inflate: the server closes without a reply, nothing is run (wire-facts.md 1.4)
                let ran = !matches!(self.job, Job::Packed) || lost != Lost::ServerClosed;
                if ran && self.in_transaction {
                    self.capture.transactions.strayed_anywhere(self.marked_ms);
                }
                let unmarked = ran.then(|| Unmarked::anywhere(&self.capture));
                Some(Orphan { mark, mark_record: self.mark_record(), unmarked, ticket: self.ticket })
            }
            (_, mark) => {
                let mark_record = self.mark_record();
                if self.in_transaction {
                    self.capture.transactions.strayed(&mark_record.targets, self.marked_ms);
                }
                Some(Orphan { mark, mark_record, unmarked: self.unmarked, ticket: self.ticket })
            }
        }
    }

    /// It may have written anywhere; in a transaction, with its commit.
    fn missed_everything(&self, at_ms: u64) {
        if self.in_transaction {
            self.capture.transactions.strayed_anywhere(at_ms);
        }
        self.capture.missed_everything();
    }

    fn count_not_replicated(&self) {
        if let Job::NotReplicated(name) = &self.job {
            self.capture.counting.not_replicated.add(name);
        }
    }

    fn mark_record(&self) -> Mark {
        let mut targets = self.job.targets();
        if targets.iter().map(mark_bytes).sum::<usize>() > MARK_BYTES_MAX {
            let effect = |target| Effect { target, op: None, n: 0, modified: 0 };
            let effects: Vec<Effect> = targets.into_iter().map(effect).collect();
            targets = by_namespace(&effects).into_iter().map(|effect| effect.target).collect();
        }
        targets.dedup(); // a batch of impure filters says its namespace for each
        let (via, at_ms) = (self.via.clone(), self.marked_ms);
        let drops = self.job.drops();
        Mark { targets, via, in_transaction: self.in_transaction, drops, at_ms }
    }

    /// An aggregate that was asked for no first batch has written nothing yet: its cursor will.
    fn with_cursor(&self, verdict: Verdict, body: Option<&RawDocument>) -> Verdict {
        let targets = match &self.job {
            Job::Coarse { targets, refusals: Refusals::Aggregate, .. } => {
                targets.iter().cloned().map(Some).collect()
            }
            Job::Anywhere(_) => vec![None],
            _ => return verdict,
        };
        // The first reply says `firstBatch`, that of a getMore `nextBatch`.
        let cursor = body.and_then(|body| document(body, "cursor"));
        let cursor = cursor.filter(|cursor| field(cursor, "firstBatch").is_some());
        match cursor.and_then(|cursor| integer(cursor, "id")) {
            Some(id) if id != 0 => {
                for target in targets {
                    match self.capture.cursors.remember(id, target) {
                        Some(Some(forgotten)) => self.capture.missed(&forgotten.ns),
                        Some(None) => self.capture.missed_everything(),
                        None => {}
                    }
                }
                Verdict::default()
            }
            _ => verdict,
        }
    }

    fn end(self, verdict: Verdict, body: Option<&RawDocument>, at_ms: u64) -> Ended {
        let mut ended = Ended::new(&self.capture, self.detail);
        let operation_time = body.and_then(operation_time);
        let accepted = body.is_some_and(|body| flag(body, "ok"));
        if let Some(id) = self.transaction.as_ref().filter(|_| accepted) {
            for held in self.capture.transactions.superseded(id) {
                ended.entry(held, Some(Doubt::Transaction), operation_time, at_ms);
            }
        }
        let held = Held {
            kind: self.job.kind(),
            mark: self.mark,
            unmarked: self.unmarked,
            via: self.via,
            marked_ms: self.marked_ms,
            doubt: verdict.doubt,
            effects: verdict.effects,
            ticket: self.ticket,
        };
        match self.transaction.filter(|_| self.in_transaction) {
            Some(id) if !held.effects.is_empty() => {
                if let Err(one_too_many) = self.capture.transactions.hold(&id, held, at_ms) {
                    ended.orphans = Capture::orphans(vec![*one_too_many]);
                    for orphan in &ended.orphans {
                        self.capture.transactions.strayed(&orphan.mark_record.targets, at_ms);
                    }
                }
            }
            _ if held.effects.is_empty() => ended.close(held),
            _ => {
                let doubt = held.doubt.or(held.ticket.contended().then_some(Doubt::Contended));
                ended.entry(held, doubt, operation_time, at_ms);
            }
        }
        ended
    }

    /// The reply to a commit or an abort.
    fn transaction_ended(mut self, end: End, body: Option<&RawDocument>, at_ms: u64) -> Ended {
        let mut ended = Ended::new(&self.capture, self.detail);
        let (Some(id), Some(body)) = (self.transaction.take(), body) else { return ended };
        let ok = flag(body, "ok");
        //= 251 no such transaction, 256 committed, 225 a newer one began: over, however (wire-facts.md section 7)
        let over = ok || integer(body, "code").is_some_and(|code| TRANSACTION_OVER.contains(&code));
        if !over {
            // Open still, or unknown: a repeated commit tells, or it is given up.
            return ended;
        }
        //= a later commit's reply does not say when the first one has done it (wire-facts.md section 7)
        let first = self.capture.transactions.ends_asked(&id) == 1;
        let operation_time = operation_time(body);
        //= 251 with this label: not committed; without it, unknown (wire-facts.md section 7)
        let aborted = if ok { end == End::Abort } else { has_label(body, TRANSIENT) };
        let strays = self.capture.transactions.strays(&id, at_ms);
        let writes = self.capture.transactions.end(&id);
        let clear = ok && first && strays.is_empty() && field(body, "writeConcernError").is_none();
        if aborted {
            self.capture.transactions.aborted(&id);
            self.unmarked.take().into_iter().for_each(Unmarked::did_nothing);
            writes.into_iter().for_each(|held| ended.close(held));
        } else if clear && self.detail == Detail::Statements && may_be_one(&writes) {
            ended.one_entry(writes, operation_time, at_ms);
        } else {
            // Converging what was not committed after all does no harm.
            for held in writes {
                ended.entry(held, Some(Doubt::Transaction), operation_time, at_ms);
            }
        }
        let raised = |ns: &Option<Namespace>| {
            self.unmarked.as_ref().is_some_and(|unmarked| unmarked.raises(ns.as_ref()))
        };
        for stray in strays.into_iter().filter(|ns| !aborted && !raised(ns)) {
            match stray {
                Some(ns) => self.capture.missed(&ns),
                None => self.capture.missed_everything(),
            }
        }
        ended
    }
}

/// What a target takes in a mark, roughly.
fn mark_bytes(target: &Target) -> usize {
    target.ns.as_str().len() + touch_bytes(&target.touch)
}

fn has_label(body: &RawDocument, label: &str) -> bool {
    let labels = array(body, "errorLabels").into_iter().flatten().flatten();
    labels.filter_map(RawBsonRef::as_str).any(|it| it == label)
}

fn operation_time(body: &RawDocument) -> Option<Timestamp> {
    field(body, "operationTime").and_then(RawBsonRef::as_timestamp)
}

/// Names, keys and filters in one mark, in bytes; beyond it the mark says their namespaces.
const MARK_BYTES_MAX: usize = 64 << 10;
const TRANSIENT: &str = "TransientTransactionError";
const TRANSACTION_OVER: &[i64] = &[225, 251, 256];
