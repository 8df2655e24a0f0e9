//! `findAndModify`, whose reply may name the document.

use bson::cstr;
use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use record::{Doubt, Key, Op};

use super::{Change, Statement, Variables, context};
use crate::read::{document, field, flag};

/// `findAndModify`: always one document, which its reply may name.
#[derive(Debug, Clone)]
pub(crate) struct FindAndModify {
    pub(crate) statement: Statement,
    pub(crate) removes: bool,
    /// The reply's `_id` is not the document's, or absent: `fields` decides.
    pub(crate) hides_id: bool,
    /// The filter decides which element of an array is meant, so it stays when `_id` is known.
    positional: bool,
    /// Why the change itself is in doubt, whatever document it is applied to.
    change_doubt: Option<Doubt>,
}

impl FindAndModify {
    pub(crate) fn read(body: &RawDocument, variables: &Variables<'_>) -> FindAndModify {
        let empty = RawDocumentBuf::new();
        let query = document(body, "query").unwrap_or(&empty);
        let removes = flag(body, "remove");
        let (mut statement, change_doubt) = if removes {
            let mut entry = RawDocumentBuf::new();
            entry.append(cstr!("q"), query);
            entry.append(cstr!("limit"), 1);
            if let Some(collation) = document(body, "collation") {
                entry.append(cstr!("collation"), collation);
            }
            (Statement::delete(&entry, variables), context(body))
        } else if let Some(change) = field(body, "update") {
            Change { query, change, of: body, constants: None }.statement(false, variables)
        } else {
            (Statement::unreadable(), None)
        };
        if statement.doubt == Some(Doubt::Predicate) {
            statement.doubt = None; // the reply may name the document
        }
        FindAndModify {
            removes,
            hides_id: document(body, "fields").is_some_and(hides_id),
            positional: document(body, "update").is_some_and(is_positional),
            statement,
            change_doubt,
        }
    }

    /// The statement for the document that the reply named.
    pub(crate) fn on(&self, key: &Key) -> (Option<Op>, Option<Doubt>) {
        if self.removes {
            let mut op = RawDocumentBuf::new();
            op.append(cstr!("q"), key.filter());
            op.append(cstr!("limit"), 1);
            return (Some(Op::Delete(op)), self.change_doubt);
        }
        let Some(Op::Update(whole)) = &self.statement.op else { return (None, self.statement.doubt) };
        let mut op = RawDocumentBuf::new();
        for (name, value) in whole.iter().flatten() {
            match (name.as_str(), value) {
                ("q", RawBsonRef::Document(query)) if self.positional => {
                    let both = [key.filter().to_owned(), query.to_owned()].into_iter().collect();
                    let mut query = RawDocumentBuf::new();
                    query.append(cstr!("$and"), RawBsonRef::Array(bson::raw::RawArrayBuf::as_ref(&both)));
                    op.append(name, query);
                }
                ("q", _) => op.append(name, key.filter()),
                ("upsert", _) => {} // it was there
                _ => op.append(name, value),
            }
        }
        (Some(Op::Update(op)), if self.positional { self.statement.doubt } else { self.change_doubt })
    }
}

/// Whether `fields` leaves anything but the document's own, whole `_id` in the reply. An expression makes up another
/// one, a path into it leaves a part: with `{_id: "$other"}`, `{_id: {$literal: 7}}`, `{"_id.x": 1}` or
/// `{"_id.x": 0}`, 6.0.5 answers with that as `value._id`.
fn hides_id(fields: &RawDocument) -> bool {
    fields.iter_elements().any(|element| {
        let Ok(element) = element else { return true };
        match element.key().as_str() {
            "_id" => match element.value() {
                Ok(RawBsonRef::Boolean(shown)) => !shown,
                Ok(RawBsonRef::Int32(n)) => n == 0,
                Ok(RawBsonRef::Int64(n)) => n == 0,
                Ok(RawBsonRef::Double(x)) => x == 0.0,
                _ => true,
            },
            path => path.starts_with("_id."),
        }
    })
}

/// Whether an operator addresses the array element that the filter matched: a path with a part `$`. What cannot be
/// read may be one.
fn is_positional(update: &RawDocument) -> bool {
    let operands = update.iter().flatten().filter_map(|(_, value)| value.as_document());
    operands.flat_map(|fields| fields.iter_elements()).any(|element| {
        element.map_or(true, |element| element.key().as_str().split('.').any(|part| part == "$"))
    })
}
