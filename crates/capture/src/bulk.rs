//! `bulkWrite` (8.0): statements over several namespaces in one command, by its published shape (`wire-facts.md`
//! section 4).
//!
//! - with results for each operation: as exact as the commands that it replaces
//! - `errorsOnly`, which drivers ask for: failures are named, the rest is a total for each kind of statement; an upsert
//!   without a pinned `_id` may have inserted anything
//! - results that are left to a `getMore` are not waited for: what the first reply does not name is in doubt
//! - an inserted document without `_id` is followed by its namespace: no driver sends one
//! - with an operation that we cannot read, or that the server changes on its way (encryption), all of it is followed
//!   by the namespaces that it names; so with more of these than anybody needs

use std::collections::{BTreeSet, HashMap};

use bson::cstr;
use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use record::{Doubt, Effect, Key, Namespace, Target, Touch};
use wire::OpMsg;

use crate::Config;
use crate::coarse::{self, Gathered, Place};
use crate::outcome::{BEFORE_DOCUMENTS, Counted, Verdict};
use crate::read::{array, count, document, field, flag, integer, number, text};
use crate::statement::{Statement, Variables, key};

/// What of a command could be read.
pub(crate) enum Read {
    /// All of it.
    Operations(Bulk),
    /// Only where it may write.
    Places(BTreeSet<Place>),
}

/// The operations of one command.
pub(crate) struct Bulk {
    operations: Vec<Operation>,
    ordered: bool,
    errors_only: bool,
}

struct Operation {
    kind: Kind,
    /// `None`: it is not captured.
    ns: Option<Namespace>,
    statement: Statement,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Insert,
    Update,
    Delete,
}

/// What a reply says of one operation.
struct Told {
    ok: bool,
    code: Option<i64>,
    n: u32,
    modified: u32,
    /// It inserted; by an `_id` that is a key, or not.
    upserted: Option<Option<Key>>,
}

impl Bulk {
    /// `None`: a namespace cannot be read, or there are too many, so it may be any. Operations over what `config` leaves out stay in their
    /// place: an ordered command ends with the first that fails.
    pub(crate) fn read(message: &OpMsg<'_>, config: &Config) -> Option<Read> {
        let body = message.body();
        let mut namespaces = Vec::new();
        let mut places = Gathered::default();
        let mut by_places = false;
        for info in documents(message, "nsInfo") {
            let (info, ns) = (info?, Namespace::parse(text(info?, "ns")?));
            by_places |= coarse::stands_for_another(ns.coll()) || coarse::is_encrypted(info);
            coarse::add_encryption(&mut places, ns.db(), info);
            places.add(Place::named(ns.db(), ns.coll()));
            by_places |= namespaces.len() == coarse::PLACES_MAX;
            if !by_places {
                namespaces.push(ns);
            }
        }
        let variables = Variables::of(body);
        let operation = |op: Option<&RawDocument>| {
            let op = op?;
            let first = op.iter_elements().next()?.ok()?;
            let at = usize::try_from(number(first.value().ok()?)?).ok()?;
            let ns = namespaces.get(at)?.clone();
            let (kind, statement) = match first.key().as_str() {
                "insert" => (
                    Kind::Insert,
                    document(op, "document").map_or_else(Statement::unreadable, Statement::insert),
                ),
                "update" => (Kind::Update, Statement::update(&renamed(op), &variables)),
                "delete" => (Kind::Delete, Statement::delete(&renamed(op), &variables)),
                _ => return None,
            };
            let ns = Some(ns).filter(|ns| config.captures(ns.db(), ns.coll()));
            Some(Operation { kind, ns, statement })
        };
        let operations: Option<Vec<Operation>> = documents(message, "ops").map(operation).collect();
        Some(match operations.filter(|operations| !by_places && !operations.is_empty()) {
            Some(operations) => Read::Operations(Bulk {
                operations,
                ordered: field(body, "ordered").and_then(number) != Some(0),
                errors_only: flag(body, "errorsOnly"),
            }),
            None => Read::Places(places.places()?),
        })
    }

    /// Whether anything of it is captured.
    pub(crate) fn is_captured(&self) -> bool {
        self.operations.iter().any(|operation| operation.ns.is_some())
    }

    /// Its captured operations.
    pub(crate) fn captured(&self) -> impl Iterator<Item = (&Namespace, &Statement)> {
        self.operations.iter().filter_map(|it| Some((it.ns.as_ref()?, &it.statement)))
    }

    /// The same, to take them.
    pub(crate) fn captured_mut(&mut self) -> impl Iterator<Item = (&Namespace, &mut Statement)> {
        self.operations.iter_mut().filter_map(|it| Some((it.ns.as_ref()?, &mut it.statement)))
    }

    /// Whether it is one statement over one document.
    pub(crate) fn is_single(&self) -> bool {
        matches!(&self.operations[..], [one] if !one.statement.many)
    }

    /// The verdict over a reply with `ok: 1`; `None`: it leaves open what was done.
    pub(crate) fn judge(&self, body: &RawDocument) -> Option<Verdict> {
        let cursor = document(body, "cursor")?;
        if integer(cursor, "id")? != 0 {
            return None;
        }
        let results = array(cursor, "firstBatch")?.into_iter();
        let told: Option<HashMap<usize, Told>> =
            results.map(|result| told(result.ok()?.as_document()?)).collect();
        let told = told?;
        let failed = |at: &usize| told.get(at).is_some_and(|told| !told.ok);
        let all = self.operations.len();
        // Unordered, with a reply that has grown too large: what comes behind is not run, and nothing says so.
        if !self.ordered && told.values().any(|told| told.code == Some(REPLY_TOO_LARGE)) {
            return None;
        }
        //= ordered: operations behind the first failure are not run
        let end = (0..all).find(failed).filter(|_| self.ordered).map_or(all, |first| first + 1);
        let (failures, done): (Vec<usize>, Vec<usize>) = (0..end).partition(failed);

        let mut verdict = match self.errors_only {
            true => self.by_totals(body, &done),
            false => self.by_results(&told, &done)?,
        };
        for at in failures {
            let before =
                told.get(&at).and_then(|told| told.code).is_some_and(|it| BEFORE_DOCUMENTS.contains(&it));
            if self.operations[at].statement.many && !before {
                let touch = self.operations[at].statement.touch.clone();
                verdict.effects.extend(self.effect(at, touch, 0, 0));
                verdict.doubt = Some(Doubt::MultiFailed);
            }
        }
        if verdict.effects.is_empty() {
            verdict.doubt = None;
        }
        Some(verdict)
    }

    fn by_results(&self, told: &HashMap<usize, Told>, done: &[usize]) -> Option<Verdict> {
        let mut verdict = Verdict::default();
        for at in done {
            let (operation, told) = (&self.operations[*at], told.get(at)?);
            let changed = match operation.kind {
                Kind::Update => told.modified > 0 || told.upserted.is_some(),
                Kind::Insert | Kind::Delete => told.n > 0,
            };
            if !changed {
                continue;
            }
            let keyed = operation.statement.is_keyed();
            let (effect, doubt) = match &told.upserted {
                Some(id) if !keyed => {
                    let touch = id.clone().map_or(Touch::Namespace, Touch::Key);
                    let effect = self.effect(*at, touch, 1, 0).map(|effect| Effect { op: None, ..effect });
                    (effect, Some(Doubt::Predicate))
                }
                _ => {
                    let touch = operation.statement.touch.clone();
                    (self.effect(*at, touch, told.n, told.modified), operation.statement.doubt)
                }
            };
            if let Some(effect) = effect {
                verdict.effects.push(effect);
                verdict.doubt = verdict.doubt.or(doubt);
            }
        }
        Some(verdict)
    }

    /// Who has not failed has a part in the totals of its kind.
    fn by_totals(&self, body: &RawDocument, done: &[usize]) -> Verdict {
        let of = |kind: Kind| -> Vec<usize> {
            done.iter().copied().filter(|at| self.operations[*at].kind == kind).collect()
        };
        let many = |at: usize| self.operations[at].statement.many;
        let (matched, modified) = (count(body, "nMatched"), count(body, "nModified"));
        let (upserted, deleted) = (count(body, "nUpserted"), count(body, "nDeleted"));
        let updates = match upserted {
            0 => Counted::of(&of(Kind::Update), many, matched, modified, modified),
            _ => Counted::unknown(&of(Kind::Update), many),
        };
        let deletes = Counted::of(&of(Kind::Delete), many, deleted, 0, deleted);
        // Fewer than did not fail: it was cut short, and what else was not run is not told either.
        let inserted = of(Kind::Insert).len();
        let cut_short = usize::try_from(count(body, "nInserted")) != Ok(inserted);
        let mut verdict = Verdict::default();
        for at in done {
            let statement = &self.operations[*at].statement;
            let counts = match self.operations[*at].kind {
                Kind::Insert => Some((1, 0)),
                Kind::Update => updates.counts(),
                Kind::Delete => deletes.counts(),
            };
            let Some((n, modified)) = counts else { continue };
            let touch = if upserted > 0 { statement.widest() } else { statement.touch.clone() };
            if let Some(effect) = self.effect(*at, touch, n, modified) {
                verdict.effects.push(effect);
                verdict.doubt = verdict.doubt.or(statement.doubt);
            }
        }
        let short = cut_short.then_some(Doubt::PartOfBatch);
        verdict.doubt = short.or(updates.doubt()).or(deletes.doubt()).or(verdict.doubt);
        verdict
    }

    /// `None`: its namespace is not captured.
    fn effect(&self, at: usize, touch: Touch, n: u32, modified: u32) -> Option<Effect> {
        let operation = &self.operations[at];
        let target = Target::new(operation.ns.clone()?, touch);
        Some(Effect { target, op: operation.statement.op.clone(), n, modified })
    }
}

/// The documents of a field, from the body and from sequences; `None` among them: what is no document.
fn documents<'a>(
    message: &OpMsg<'a>,
    name: &'static str,
) -> impl Iterator<Item = Option<&'a RawDocument>> + use<'a> {
    let in_body = array(message.body(), name).into_iter().flatten();
    let in_body = in_body.map(|value| value.ok().and_then(RawBsonRef::as_document));
    let sequences: Vec<_> =
        message.sequences().filter(|sequence| sequence.identifier == name).cloned().collect();
    let in_sequences = sequences.into_iter().flat_map(|it| it.documents().map(Some).collect::<Vec<_>>());
    in_body.chain(in_sequences)
}

/// The operation in the words of `update` and `delete`.
fn renamed(op: &RawDocument) -> RawDocumentBuf {
    let mut entry = RawDocumentBuf::new();
    for (name, value) in op.iter().flatten() {
        match name.as_str() {
            "filter" => entry.append(cstr!("q"), value),
            "updateMods" => entry.append(cstr!("u"), value),
            "constants" => entry.append(cstr!("c"), value),
            _ => entry.append(name, value),
        }
    }
    entry.append(cstr!("limit"), i32::from(!flag(op, "multi")));
    entry
}

/// `{ok, idx, n, nModified?, upserted: {_id}?, code?}`
fn told(result: &RawDocument) -> Option<(usize, Told)> {
    let at = usize::try_from(integer(result, "idx")?).ok()?;
    let upserted = document(result, "upserted").map(|it| field(it, "_id").and_then(key));
    let (n, modified) = (count(result, "n"), count(result, "nModified"));
    Some((at, Told { ok: flag(result, "ok"), code: integer(result, "code"), n, modified, upserted }))
}

/// `ExceededMemoryLimit`, which is how a `bulkWrite` says so.
const REPLY_TOO_LARGE: i64 = 146;
