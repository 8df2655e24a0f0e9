//! Reading BSON that anybody may have written: what is missing or malformed is `None`. Nothing here recurses.

use bson::raw::{RawArray, RawBsonRef, RawDocument};

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

/// A collection's name where a command starts with it: the server takes a symbol for a string there (seen on 6.0.5).
pub(crate) fn name(value: RawBsonRef<'_>) -> Option<&str> {
    match value {
        RawBsonRef::String(name) | RawBsonRef::Symbol(name) => Some(name),
        _ => None,
    }
}

/// A number of any type, cut to an integer; `true` is 1.
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

/// Whether a flag is set; absent is not. Where the server takes numbers for flags, every one but zero sets them, also
/// 0.5 and NaN (`remove` and `upsert` of findAndModify, seen on 6.0.5).
pub(crate) fn flag(doc: &RawDocument, name: &str) -> bool {
    match field(doc, name) {
        Some(RawBsonRef::Double(x)) => x != 0.0,
        Some(RawBsonRef::Decimal128(d)) => {
            let text = d.to_string();
            let digits = text.split_once('E').map_or(&text[..], |(digits, _)| digits);
            digits.bytes().any(|byte| !b"-0.".contains(&byte))
        }
        value => value.and_then(number).is_some_and(|n| n != 0),
    }
}

/// A count, 0 when absent or negative.
pub(crate) fn count(doc: &RawDocument, name: &str) -> u32 {
    integer(doc, name).and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
}

/// The name of the first element.
pub(crate) fn first_name(doc: &RawDocument) -> Option<&str> {
    Some(doc.iter_elements().next()?.ok()?.key().as_str())
}
