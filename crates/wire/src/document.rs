//! BSON documents as bytes: walk their elements with the bytes of each, write new ones from copied elements.
//!
//! An element is copied as it came, never decoded and encoded again: field order, duplicate names and odd
//! encodings survive.
//!
//! Not here: values. The `bson` crate's raw types read those.

use bson::raw::{RawBsonRef, RawDocument, RawElement, RawIter};

use crate::{error::WireError, frame::i32_at};

/// One element of a document.
pub struct Element<'a> {
    /// Its name.
    pub name: &'a str,
    /// All of its bytes: type, name, value.
    pub bytes: &'a [u8],
    raw: RawElement<'a>,
}

impl<'a> Element<'a> {
    /// Its value; fails where the value's bytes are malformed.
    pub fn value(&self) -> Result<RawBsonRef<'a>, WireError> {
        self.raw.value().map_err(|_| WireError::Document)
    }
}

/// Walks the elements of `document` in order. Ends after the first malformed one.
pub fn elements(document: &RawDocument) -> Elements<'_> {
    Elements { bytes: document.as_bytes(), at: 4, raw: document.iter_elements() }
}

/// See [`elements`].
pub struct Elements<'a> {
    bytes: &'a [u8],
    at: usize,
    raw: RawIter<'a>,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let raw = match self.raw.next()? {
            Ok(raw) => raw,
            Err(_) => return Some(Err(WireError::Document)),
        };
        let name = raw.key().as_str();
        let end = self.at + 1 + name.len() + 1 + raw.size();
        let element = match self.bytes.get(self.at..end) {
            Some(bytes) => Ok(Element { name, bytes, raw }),
            None => Err(WireError::Document),
        };
        self.at = end;
        Some(element)
    }
}

/// Writes a document element by element.
pub struct DocumentWriter {
    bytes: Vec<u8>,
}

const TYPE_STRING: u8 = 0x02;
const TYPE_ARRAY: u8 = 0x04;
const TYPE_OBJECT_ID: u8 = 0x07;

impl DocumentWriter {
    /// An empty document with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(bytes.max(5));
        buffer.extend_from_slice(&[0; 4]);
        DocumentWriter { bytes: buffer }
    }

    /// Adds an element copied from another document ([`Element::bytes`]).
    pub fn copy(&mut self, element: &[u8]) {
        self.bytes.extend_from_slice(element);
    }

    /// Adds a string. `name` must not hold a zero byte.
    pub fn string(&mut self, name: &str, value: &str) {
        self.name(TYPE_STRING, name);
        let length = i32::try_from(value.len() + 1).unwrap_or(i32::MAX);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
    }

    /// Adds an ObjectId. `name` must not hold a zero byte.
    pub fn object_id(&mut self, name: &str, value: [u8; 12]) {
        self.name(TYPE_OBJECT_ID, name);
        self.bytes.extend_from_slice(&value);
    }

    /// Adds an array of strings. `name` must not hold a zero byte.
    pub fn strings<'a>(&mut self, name: &str, values: impl Iterator<Item = &'a str>) {
        self.name(TYPE_ARRAY, name);
        let mut array = DocumentWriter::with_capacity(64);
        for (index, value) in values.enumerate() {
            array.string(&index.to_string(), value);
        }
        self.bytes.extend_from_slice(&array.finish());
    }

    /// The finished document's bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0);
        let length = i32::try_from(self.bytes.len()).unwrap_or(i32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_le_bytes());
        self.bytes
    }

    fn name(&mut self, kind: u8, name: &str) {
        debug_assert!(!name.contains('\0'), "element names end at a zero byte");
        self.bytes.push(kind);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
    }
}

/// The document at the front of `bytes`, and what follows it. Its elements are not looked at.
pub(crate) fn split_document(bytes: &[u8]) -> Result<(&RawDocument, &[u8]), WireError> {
    let length = usize::try_from(i32_at(bytes, 0)?).map_err(|_| WireError::Document)?;
    let (document, rest) = bytes.split_at_checked(length).ok_or(WireError::Truncated)?;
    Ok((RawDocument::from_bytes(document).map_err(|_| WireError::Document)?, rest))
}

/// The zero-terminated string at the front of `bytes`, and what follows it.
pub(crate) fn split_cstring(bytes: &[u8]) -> Result<(&str, &[u8]), WireError> {
    let end = bytes.iter().position(|byte| *byte == 0).ok_or(WireError::Name)?;
    let name = std::str::from_utf8(&bytes[..end]).map_err(|_| WireError::Name)?;
    Ok((name, &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use bson::{oid::ObjectId, rawdoc};

    use super::*;

    #[test]
    fn copying_all_elements_gives_the_same_bytes() {
        let document = rawdoc! { "a": 1, "b": { "c": ["x", 2.5, null] }, "": ObjectId::new(), "a": "again" };
        let mut copy = DocumentWriter::with_capacity(0);
        let mut names = Vec::new();
        for element in elements(&document) {
            let element = element.unwrap();
            names.push(element.name);
            copy.copy(element.bytes);
        }
        assert_eq!(names, ["a", "b", "", "a"]);
        assert_eq!(copy.finish(), document.as_bytes());
    }

    #[test]
    fn written_strings_are_what_bson_writes() {
        let mut writer = DocumentWriter::with_capacity(0);
        writer.string("me", "localhost:1");
        writer.strings("hosts", ["a:1", "b:2"].into_iter());
        writer.strings("none", std::iter::empty());
        let expected = rawdoc! { "me": "localhost:1", "hosts": ["a:1", "b:2"], "none": [] };
        assert_eq!(writer.finish(), expected.as_bytes());
    }

    #[test]
    fn a_malformed_element_ends_the_walk() {
        // {"a": <string of length 100>} in 16 bytes
        let bytes = b"\x10\0\0\0\x02a\0\x64\0\0\0abcd\0";
        let document = RawDocument::from_bytes(bytes).unwrap();
        let mut walk = elements(document);
        assert!(matches!(walk.next(), Some(Err(WireError::Document))));
        assert!(walk.next().is_none());
    }
}
