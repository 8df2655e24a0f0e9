//! One statement of a write command: what it touches, whether it can be sent again, and what is in doubt about it
//! before any reply (`wire-facts.md` sections 4 and 9).
//!
//! - *keyed*: the filter pins `_id` by equality; anything else, another unique index included, is a predicate
//! - a predicate that is not a pure function of the document is a touch of its namespace
//!
//! Not here: replies (`outcome.rs`).

mod find;

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use bson::spec::ElementType;
use bson::{Timestamp, cstr};
use record::{Doubt, Key, Op, Predicate, Raw, Touch};

use crate::purity::{self, Found};
use crate::read::{array, document, field, first_name, flag, number};

pub(crate) use find::FindAndModify;

/// A statement as the request has it.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// What it touches.
    pub(crate) touch: Touch,
    /// Upsert without a pinned `_id`: what it inserts need not match its own filter, only the reply names it.
    pub(crate) unnamed_upsert: bool,
    /// May change many documents: when it fails, some of them may have changed.
    pub(crate) many: bool,
    /// To send it again.
    pub(crate) op: Option<Op>,
    /// Why its effect does not follow from the statement.
    pub(crate) doubt: Option<Doubt>,
}

impl Statement {
    /// What it may have touched if its reply says nothing.
    pub(crate) fn widest(&self) -> Touch {
        if self.unnamed_upsert { Touch::Namespace } else { self.touch.clone() }
    }

    /// Its touch and what sends it again, which may be large: taken, not copied. Of no use afterwards but for its doubt.
    pub(crate) fn take(&mut self) -> (Touch, Option<Op>) {
        (std::mem::replace(&mut self.touch, Touch::Namespace), self.op.take())
    }

    pub(crate) fn is_keyed(&self) -> bool {
        matches!(self.touch, Touch::Key(_))
    }

    /// A statement that we cannot read. The server will refuse it, or knows more than we do.
    pub(crate) fn unreadable() -> Statement {
        Statement {
            touch: Touch::Namespace,
            unnamed_upsert: false,
            many: true,
            op: None,
            doubt: Some(Doubt::Coarse),
        }
    }

    /// An inserted document.
    pub(crate) fn insert(doc: &RawDocument) -> Statement {
        let Some(key) = field(doc, "_id").and_then(key) else {
            return Statement { many: false, ..Statement::unreadable() };
        };
        Statement {
            touch: Touch::Key(key),
            unnamed_upsert: false,
            many: false,
            op: Some(Op::Insert(doc.to_owned())),
            doubt: has_zero_timestamp(doc).then_some(Doubt::NonDeterministic),
        }
    }

    /// An element of `updates`.
    pub(crate) fn update(entry: &RawDocument, variables: &Variables<'_>) -> Statement {
        let (Some(query), Some(change)) = (document(entry, "q"), field(entry, "u")) else {
            return Statement::unreadable();
        };
        let many = flag(entry, "multi");
        let change = Change { query, change, of: entry, constants: document(entry, "c") };
        let (statement, _) = change.statement(many, variables);
        Statement { doubt: worse(statement.doubt, odd_option(entry)), ..statement }
    }

    /// An element of `deletes`.
    pub(crate) fn delete(entry: &RawDocument, variables: &Variables<'_>) -> Statement {
        let Some(query) = document(entry, "q") else { return Statement::unreadable() };
        // 0, and whatever is no number, `true` as well: all (seen on 6.0.5).
        let limit = field(entry, "limit").filter(|limit| !matches!(limit, RawBsonRef::Boolean(_)));
        let one = limit.and_then(number) == Some(1);
        let collation = document(entry, "collation");
        let selected = select(query, collation, variables);
        let many = !one && !matches!(selected.touch, Touch::Key(_));
        let mut op = RawDocumentBuf::new();
        op.append(cstr!("q"), query);
        op.append(cstr!("limit"), i32::from(one));
        if let Some(collation) = collation {
            op.append(cstr!("collation"), collation);
        }
        let of_server = server_chooses(&selected.touch, many);
        Statement {
            doubt: selected.doubt.or(context(entry)).or(odd_option(entry)).or(of_server),
            touch: selected.touch,
            unnamed_upsert: false,
            many,
            op: Some(Op::Delete(op)),
        }
    }
}

/// The variables that a command's statements may use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Variables<'a> {
    defined: Option<&'a RawDocument>,
    impure: bool,
}

impl<'a> Variables<'a> {
    /// Reads the command's `let`.
    pub(crate) fn of(body: &'a RawDocument) -> Variables<'a> {
        let defined = document(body, "let").filter(|doc| !doc.is_empty());
        let impure = defined.is_some_and(|doc| purity::in_expression(RawBsonRef::Document(doc)).impure);
        Variables { defined, impure }
    }
}

/// An update, of `update` or of `findAndModify`: both name their options alike.
struct Change<'a> {
    query: &'a RawDocument,
    change: RawBsonRef<'a>,
    of: &'a RawDocument,
    constants: Option<&'a RawDocument>,
}

impl Change<'_> {
    /// The statement, and why the change itself is in doubt, whatever document it is applied to.
    fn statement(&self, many: bool, variables: &Variables<'_>) -> (Statement, Option<Doubt>) {
        let upsert = flag(self.of, "upsert");
        let collation = document(self.of, "collation");
        let filters = array(self.of, "arrayFilters");
        let selected = select(self.query, collation, variables);
        let keyed = matches!(selected.touch, Touch::Key(_));

        let mut found = self.change_found();
        for filter in filters.into_iter().flatten().flatten().filter_map(RawBsonRef::as_document) {
            found = found.and(purity::in_filter(filter));
        }
        let constants = self.constants.filter(|doc| !doc.is_empty());
        let impure_constants =
            constants.is_some_and(|doc| purity::in_expression(RawBsonRef::Document(doc)).impure);
        let used = found.variables && (variables.defined.is_some() || constants.is_some());
        let change_doubt = if found.impure || used && (variables.impure || impure_constants) {
            Some(Doubt::NonDeterministic)
        } else if used {
            Some(Doubt::Context)
        } else {
            context(self.of)
        };

        let mut op = RawDocumentBuf::new();
        op.append(cstr!("q"), self.query);
        op.append(cstr!("u"), self.change);
        if many {
            op.append(cstr!("multi"), true);
        }
        if upsert {
            op.append(cstr!("upsert"), true);
        }
        if let Some(collation) = collation {
            op.append(cstr!("collation"), collation);
        }
        if let Some(filters) = filters {
            op.append(cstr!("arrayFilters"), filters);
        }
        let many = many && !keyed;
        let of_server = server_chooses(&selected.touch, many);
        let statement = Statement {
            doubt: worse(selected.doubt, change_doubt).or(of_server),
            touch: selected.touch,
            unnamed_upsert: upsert && !keyed,
            many,
            op: Some(Op::Update(op)),
        };
        (statement, change_doubt)
    }

    /// What does not follow from the document in `u`: a pipeline, operators, or a replacement.
    fn change_found(&self) -> Found {
        let change = match self.change {
            RawBsonRef::Document(change) => change,
            pipeline => return purity::in_expression(pipeline),
        };
        let mut found = Found::default();
        if first_name(change).is_some_and(|name| name.starts_with('$')) {
            for (name, value) in change.iter().flatten() {
                found.impure |= name.as_str() == "$currentDate";
                // $pull takes conditions; the values of other operators are literal.
                if let ("$pull", RawBsonRef::Document(conditions)) = (name.as_str(), value) {
                    found = found.and(purity::in_filter(conditions));
                }
            }
        } else {
            found.impure |= has_zero_timestamp(change);
        }
        found
    }
}

struct Selected {
    touch: Touch,
    doubt: Option<Doubt>,
}

/// Which documents a filter selects.
fn select(query: &RawDocument, collation: Option<&RawDocument>, variables: &Variables<'_>) -> Selected {
    let found = purity::in_filter(query);
    let used = variables.defined.filter(|_| found.variables);
    let impure = found.impure || used.is_some() && variables.impure;
    // A collation of its own may make a text key match others (D16).
    let key = pinned_key(query).filter(|key| collation.is_none() || !key.has_text());
    let touch = match key {
        Some(key) => Touch::Key(key),
        None if impure => Touch::Namespace, // D15
        None => Touch::Predicate(Predicate {
            filter: Raw(query.to_owned()),
            collation: collation.map(|doc| Raw(doc.to_owned())),
            variables: used.map(|doc| Raw(doc.to_owned())),
        }),
    };
    let doubt = if impure { Some(Doubt::NonDeterministic) } else { used.map(|_| Doubt::Context) };
    Selected { touch, doubt }
}

/// The `_id` that a filter demands: `{_id: value}` or `{_id: {$eq: value}}`, also beside other conditions.
fn pinned_key(query: &RawDocument) -> Option<Key> {
    let id = field(query, "_id")?;
    let value = match id {
        // Null also matches what is not null: a missing or, before 8.0, an undefined `_id`.
        RawBsonRef::Null => return None,
        RawBsonRef::Document(doc) if first_name(doc).is_some_and(|name| name.starts_with('$')) => {
            field(doc, "$eq")?
        }
        value => value,
    };
    key(value).filter(|_| !matches!(value, RawBsonRef::Null))
}

/// The key with this `_id`, which anybody may have sent.
pub(crate) fn key(id: RawBsonRef<'_>) -> Option<Key> {
    Key::new(id)
}

/// One document by a filter that does not name it: the server chooses which.
fn server_chooses(touch: &Touch, many: bool) -> Option<Doubt> {
    (!many && !matches!(touch, Touch::Key(_))).then_some(Doubt::Predicate)
}

/// Whether the statement has a collation of its own, or names an index of the source in `hint`: a sparse one leaves
/// documents out, also one that the filter names.
fn context(statement: &RawDocument) -> Option<Doubt> {
    let decides = document(statement, "collation").is_some() || field(statement, "hint").is_some();
    decides.then_some(Doubt::Context)
}

/// Whether an element of `updates` or `deletes` has an option that is not kept, such as `upsertSupplied` (which makes
/// an upsert insert `c.new`: seen on 6.0.5), or one of a later server.
fn odd_option(entry: &RawDocument) -> Option<Doubt> {
    let known = |name: &str| OPTIONS.contains(&name);
    let odd = entry.iter_elements().any(|option| option.map_or(true, |option| !known(option.key().as_str())));
    odd.then_some(Doubt::Context)
}

/// Non-determinism says more than a context.
fn worse(a: Option<Doubt>, b: Option<Doubt>) -> Option<Doubt> {
    match (a, b) {
        (Some(Doubt::NonDeterministic), _) | (_, None) => a,
        _ => b,
    }
}

/// Whether a top-level field but `_id` is `Timestamp(0, 0)`: the server replaces it in inserted documents and in
/// replacements, but not where operators put it, also in an upsert (`wire-facts.md` 9.1; upserts seen on 6.0.5).
fn has_zero_timestamp(doc: &RawDocument) -> bool {
    doc.iter_elements().any(|element| {
        // A name that is not UTF-8, which the server takes, hides what comes behind it.
        let Ok(element) = element else { return true };
        element.element_type() == ElementType::Timestamp
            && element.key().as_str() != "_id"
            && matches!(element.value(), Ok(RawBsonRef::Timestamp(Timestamp { time: 0, increment: 0 })))
    })
}

/// What an element of `updates`, `deletes` or `ops` may say that is kept, or does not matter where it is not (`sort`
/// chooses one of several, which is in doubt anyway).
const OPTIONS: &[&str] = &[
    "q",
    "u",
    "c",
    "multi",
    "upsert",
    "collation",
    "arrayFilters",
    "hint",
    "sort",
    "limit",
    "update",
    "delete",
];
