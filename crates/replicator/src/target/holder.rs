//! Who holds a unique value that a document wants.

use bson::raw::{RawArrayBuf, RawDocument, RawDocumentBuf};
use bson::{Document, RawBsonRef, cstr, rawdoc};
use record::{Key, Namespace};
use tracing::debug;

use super::{TIME_LIMIT_EXCEEDED, Target, WriteError};
use crate::error::{Class, ServerError};

impl Target {
    /// The `_id` of the document that stands in the way of `wants`, as the error tells; `None`: nobody, as far as can be told:
    /// some values cannot be looked for (`undefined`), or not with the index (`null` in a sparse one), which may take too
    /// long. `indexes`: those of the collection.
    pub async fn holder(
        &self,
        ns: &Namespace,
        wants: &RawDocument,
        failed: &WriteError,
        indexes: &[RawDocumentBuf],
    ) -> Result<Option<Key>, ServerError> {
        let (Some(pattern), Some(values)) = (&failed.key_pattern, &failed.key_value) else {
            return Ok(None);
        };
        // There may be several over the same fields, for different documents.
        for index in indexes.iter().filter(|index| is_over(index, pattern)) {
            let collation = index.get_document("collation").ok().map(ToOwned::to_owned);
            let values = match &collation {
                None => RawDocumentBuf::try_from(values).ok(),
                Some(_) => own_values(wants, pattern),
            };
            let Some(values) = values else { continue };
            let partial = index.get_document("partialFilterExpression").ok();
            let filter = those_with(&values, partial);
            let found = match self.candidates(ns, &filter, collation.as_ref(), None, 2).await {
                Ok(found) => found,
                Err(error) if error.class == Class::Refused || error.code == Some(TIME_LIMIT_EXCEEDED) => {
                    debug!(%ns, %error, "the target cannot look for who holds a unique value");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let own = Key::of(wants);
            let holder = found.iter().filter_map(|id| Key::of(id)).find(|key| Some(key) != own.as_ref());
            if holder.is_some() {
                return Ok(holder);
            }
        }
        Ok(None)
    }
}

/// Whether it is a unique index over these fields.
fn is_over(index: &RawDocument, pattern: &Document) -> bool {
    let fields = |it: &RawDocument| Document::try_from(it).ok();
    index.get_bool("unique").unwrap_or(false)
        && index.get_document("key").ok().and_then(fields).is_some_and(|key| key == *pattern)
}

/// What the document itself has in these fields. `None`: in one of them an array, or something deeper.
fn own_values(wants: &RawDocument, pattern: &Document) -> Option<RawDocumentBuf> {
    let mut values = RawDocumentBuf::new();
    for field in pattern.keys() {
        let value = wants.get(field).ok()?.unwrap_or(RawBsonRef::Null);
        if field.contains('.') || matches!(value, RawBsonRef::Array(_)) {
            return None;
        }
        values.append(<&bson::raw::CStr>::try_from(field.as_str()).ok()?, value);
    }
    Some(values)
}

/// Finds documents with these values, of those that the index has.
fn those_with(values: &RawDocument, partial: Option<&RawDocument>) -> RawDocumentBuf {
    let mut all = RawArrayBuf::new();
    for element in values.iter_elements().flatten() {
        if let Ok(value) = element.value() {
            let mut equal = RawDocumentBuf::new();
            equal.append(cstr!("$eq"), value);
            let mut one = RawDocumentBuf::new();
            one.append(element.key(), equal);
            all.push(one);
        }
    }
    all.push(partial.map_or_else(|| rawdoc! {}, ToOwned::to_owned));
    let mut filter = RawDocumentBuf::new();
    filter.append(cstr!("$and"), all);
    filter
}
