//! Adds the `_id` that an inserted document lacks: an ObjectId, first field, as every driver does. The server would
//! add one itself and tell nobody (`wire-facts.md` 9.1).
//!
//! Every other byte stays; lengths and checksum follow. Not where a document, the body or the frame would grow beyond
//! what the server takes: it adds an `_id` on top of its limits.

use bson::oid::ObjectId;
use bson::raw::{RawBsonRef, RawDocument};
use wire::{DocumentWriter, OpMsg, Section, Sequence, elements, encode_msg};

/// The frame with the missing `_id`s; `None` when there are none, or they cannot be added. A checksum is made anew:
/// the one that came must hold, or the damage would be made good.
///
/// The server stores documents of at most `document_bytes_max`.
pub(crate) fn with_ids(message: &OpMsg<'_>, document_bytes_max: usize) -> Option<Vec<u8>> {
    let lacking = message.sections.iter().any(|section| match section {
        Section::Body(body) => in_body(body).any(lacks_id),
        Section::Sequence(sequence) => sequence.identifier == DOCUMENTS && sequence.documents().any(lacks_id),
    });
    if !lacking {
        return None;
    }
    let mut bytes = Vec::with_capacity(message.sections.len());
    for section in &message.sections {
        bytes.push(match section {
            Section::Body(body) => body_with_ids(body, document_bytes_max)?,
            Section::Sequence(sequence) if sequence.identifier == DOCUMENTS => {
                let mut out = Vec::with_capacity(sequence.as_bytes().len() + ELEMENT_BYTES);
                for document in sequence.documents() {
                    push_with_id(&mut out, document, document_bytes_max)?;
                }
                out
            }
            Section::Sequence(sequence) => sequence.as_bytes().to_vec(),
        });
    }
    let mut sections = Vec::with_capacity(bytes.len());
    for (section, bytes) in message.sections.iter().zip(&bytes) {
        sections.push(match section {
            Section::Body(_) => Section::Body(RawDocument::from_bytes(bytes).ok()?),
            Section::Sequence(sequence) => Section::Sequence(Sequence::new(sequence.identifier, bytes).ok()?),
        });
    }
    encode_msg(message.header.request_id, message.header.response_to, message.flags, &sections).ok()
}

/// The documents of an insert that stand in its body.
fn in_body(body: &RawDocument) -> impl Iterator<Item = &RawDocument> {
    crate::read::array(body, DOCUMENTS)
        .into_iter()
        .flatten()
        .filter_map(|value| value.ok().and_then(RawBsonRef::as_document))
}

fn lacks_id(document: &RawDocument) -> bool {
    let mut names = document.iter_elements();
    // A malformed document is the server's to refuse.
    names.all(|element| element.is_ok_and(|element| element.key().as_str() != "_id"))
}

fn body_with_ids(body: &RawDocument, document_bytes_max: usize) -> Option<Vec<u8>> {
    let mut writer = DocumentWriter::with_capacity(body.as_bytes().len() + ELEMENT_BYTES);
    for element in elements(body) {
        let element = element.ok()?;
        match element.value() {
            Ok(RawBsonRef::Array(_)) if element.name == DOCUMENTS => {
                writer.copy(&array_with_ids(element.bytes, element.name, document_bytes_max)?);
            }
            _ => writer.copy(element.bytes),
        }
    }
    Some(writer.finish()).filter(|body| body.len() <= document_bytes_max.saturating_add(BODY_BYTES_MORE))
}

/// The element `name: [documents]`, given and returned as type, name, value.
fn array_with_ids(element: &[u8], name: &str, document_bytes_max: usize) -> Option<Vec<u8>> {
    let (head, array) = element.split_at_checked(1 + name.len() + 1)?;
    let mut writer = DocumentWriter::with_capacity(array.len() + ELEMENT_BYTES);
    for item in elements(RawDocument::from_bytes(array).ok()?) {
        let item = item.ok()?;
        match item.value() {
            Ok(RawBsonRef::Document(document)) => {
                let mut out = item.bytes.get(..1 + item.name.len() + 1)?.to_vec();
                push_with_id(&mut out, document, document_bytes_max)?;
                writer.copy(&out);
            }
            _ => writer.copy(item.bytes),
        }
    }
    Some([head, &writer.finish()].concat())
}

/// Adds the document, with an `_id`; `None` when it has no room for one.
fn push_with_id(out: &mut Vec<u8>, document: &RawDocument, document_bytes_max: usize) -> Option<()> {
    let bytes = document.as_bytes();
    if !lacks_id(document) {
        out.extend_from_slice(bytes);
        return Some(());
    }
    let length = bytes.len() + ELEMENT_BYTES;
    if length > document_bytes_max {
        return None;
    }
    out.extend_from_slice(&i32::try_from(length).ok()?.to_le_bytes());
    out.extend_from_slice(b"\x07_id\0");
    out.extend_from_slice(&ObjectId::new().bytes());
    out.extend_from_slice(&bytes[4..]);
    Some(())
}

const DOCUMENTS: &str = "documents";
/// An ObjectId with its type and name.
const ELEMENT_BYTES: usize = 1 + 4 + 12;
/// By so much a message's body may be larger than a document (`wire-facts.md` 1.3).
const BODY_BYTES_MORE: usize = 16 << 10;

#[cfg(test)]
mod tests;
