//! Reading BSON that anybody may have written: what is missing or malformed is `None`.

use bson::raw::{RawArray, RawBsonRef, RawDocument};

/// Values nested deeper than the server stores (180 levels) are not walked: the stack is ours.
pub(crate) const DEPTH_MAX: usize = 200;

/// The field's value.
pub(crate) fn field<'a>(doc: &'a RawDocument, name: &str) -> Option<RawBsonRef<'a>> {
    doc.get(name).ok().flatten()
}

pub(crate) fn document<'a>(doc: &'a RawDocument, name: &str) -> Option<&'a RawDocument> {
    field(doc, name)?.as_document()
}

pub(crate) fn array<'a>(doc: &'a RawDocument, name: &str) -> Option<&'a RawArray> {
    field(doc, name)?.as_array()
}

pub(crate) fn text<'a>(doc: &'a RawDocument, name: &str) -> Option<&'a str> {
    field(doc, name)?.as_str()
}

/// A number of any type, cut to an integer; `true` is 1, as the server reads flags.
pub(crate) fn number(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int32(n) => Some(n.into()),
        RawBsonRef::Int64(n) => Some(n),
        // Casts of floats saturate.
        #[allow(clippy::cast_possible_truncation)]
        RawBsonRef::Double(x) => Some(x as i64),
        RawBsonRef::Decimal128(d) => d.to_string().parse::<f64>().ok().map(|x| x as i64),
        RawBsonRef::Boolean(b) => Some(b.into()),
        _ => None,
    }
}

pub(crate) fn integer(doc: &RawDocument, name: &str) -> Option<i64> {
    number(field(doc, name)?)
}

/// Whether a flag is set; absent is not.
pub(crate) fn flag(doc: &RawDocument, name: &str) -> bool {
    integer(doc, name).is_some_and(|n| n != 0)
}

/// A count, 0 when absent or negative.
pub(crate) fn count(doc: &RawDocument, name: &str) -> u32 {
    integer(doc, name).and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
}

/// The name of the first element.
pub(crate) fn first_name(doc: &RawDocument) -> Option<&str> {
    Some(doc.iter_elements().next()?.ok()?.key().as_str())
}

/// Whether a value is nested no deeper than [`DEPTH_MAX`].
pub(crate) fn is_shallow(value: RawBsonRef<'_>) -> bool {
    fn within(value: RawBsonRef<'_>, left: usize) -> bool {
        let elements = match value {
            RawBsonRef::Document(doc) => doc.iter_elements(),
            RawBsonRef::Array(array) => array.iter_elements(),
            RawBsonRef::JavaScriptCodeWithScope(code) => code.scope.iter_elements(),
            _ => return true,
        };
        left > 0
            && elements.into_iter().all(|element| {
                element.and_then(|element| element.value()).map_or(true, |value| within(value, left - 1))
            })
    }
    within(value, DEPTH_MAX)
}
