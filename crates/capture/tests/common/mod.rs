//! Requests and replies as frames, and what capture makes of them as text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]
#![allow(dead_code, reason = "each test uses its part")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::{Document, rawdoc};
use capture::{Capture, Ended, Session, Write};
use flate2::{Compression, write::ZlibEncoder};
use record::{Effect, Mark, Op, Record, RecordKind, Target, Touch};
use wire::{Flags, Section, Sequence, encode_msg};

pub const NOW: u64 = 1_700_000_000_000;

/// A request in one body; `$db: "shop"` is added when there is none.
pub fn request(body: &RawDocumentBuf) -> Vec<u8> {
    request_with(body, Flags::default())
}

pub fn request_with(body: &RawDocumentBuf, flags: Flags) -> Vec<u8> {
    encode_msg(7, 0, flags, &[Section::Body(&with_db(body))]).unwrap()
}

/// A request whose documents stand in a sequence of their own, before or behind the body.
pub fn request_in_sequence(body: &RawDocumentBuf, name: &str, documents: &[RawDocumentBuf]) -> Vec<u8> {
    let bytes: Vec<u8> = documents.iter().flat_map(|doc| doc.as_bytes().to_vec()).collect();
    let body = with_db(body);
    let sequence = Section::Sequence(Sequence::new(name, &bytes).unwrap());
    encode_msg(7, 0, Flags::default(), &[sequence, Section::Body(&body)]).unwrap()
}

/// The frame, compressed by zlib, as one that announces so many bytes more than it has.
pub fn compressed(frame: &[u8], more: usize) -> Vec<u8> {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(&frame[16..]).unwrap();
    let payload = zlib.finish().unwrap();
    let number = |n: usize| i32::try_from(n).unwrap().to_le_bytes();
    let mut out = number(25 + payload.len()).to_vec();
    out.extend_from_slice(&frame[4..12]);
    out.extend_from_slice(&2012_i32.to_le_bytes());
    out.extend_from_slice(&frame[12..16]);
    out.extend_from_slice(&number(frame.len() - 16 + more));
    out.push(2);
    out.extend(payload);
    out
}

pub fn reply(body: &RawDocumentBuf) -> Vec<u8> {
    encode_msg(1_000, 7, Flags::default(), &[Section::Body(body)]).unwrap()
}

fn with_db(body: &RawDocumentBuf) -> RawDocumentBuf {
    let mut body = body.clone();
    if body.get("$db").unwrap().is_none() {
        body.append(bson::cstr!("$db"), "shop");
    }
    body
}

pub fn session(capture: &Arc<Capture>) -> Session {
    capture.session("10.0.0.1:5".to_owned())
}

/// The mark and the write, which is at position `lsn` of the log from then on.
pub fn marked(session: &Session, frame: &[u8], lsn: u64) -> Option<(Mark, Write)> {
    let mut write = session.request(frame)?;
    let payload = write.mark(NOW).expect("a mark");
    write.marked(lsn);
    let Ok(Record::Mark(mark)) = Record::decode(RecordKind::Mark as u8, &payload) else { panic!("a mark") };
    Some((mark, write))
}

/// A write that the log took no mark of.
pub fn unmarked(session: &Session, frame: &[u8]) -> Write {
    let mut write = session.request(frame).expect("a write");
    write.mark(NOW).expect("a mark");
    write.goes_unmarked();
    write
}

/// What is appended at the end, one line per record or effect.
pub fn told(ended: &Ended) -> Vec<String> {
    let mut lines = Vec::new();
    for (kind, payload) in &ended.appends {
        match Record::decode(*kind as u8, payload).expect("a record") {
            Record::Closed { mark } => lines.push(format!("closed {mark}")),
            Record::Entry(entry) => {
                let certain = if entry.atomic { "one transaction" } else { "certain" };
                let doubt = entry.doubt.map_or(certain, |doubt| doubt.code());
                lines.push(format!("{doubt} {}", entry.mark));
                lines.extend(entry.effects.iter().map(effect));
            }
            Record::Mark(_) => panic!("no mark at the end"),
        }
    }
    lines
}

pub fn effect(effect: &Effect) -> String {
    let mut text = target(&effect.target);
    let op = match &effect.op {
        None => return text,
        Some(Op::Over(over)) => return format!("{text} over {}", json(over)),
        Some(Op::Insert(doc)) => ("insert", doc),
        Some(Op::Update(doc)) => ("update", doc),
        Some(Op::Delete(doc)) => ("delete", doc),
    };
    write!(text, " {} {} n={}/{}", op.0, json(op.1), effect.n, effect.modified).unwrap();
    text
}

/// `shop.items key {_id: 1}`, `shop.items where {…}`, `shop.items *`, `shop **`.
pub fn target(target: &Target) -> String {
    let ns = &target.ns;
    match &target.touch {
        Touch::Key(key) => format!("{ns} key {}", json(key.filter())),
        Touch::Predicate(predicate) => {
            let mut text = format!("{ns} where {}", json(&predicate.filter.0));
            if let Some(collation) = &predicate.collation {
                write!(text, " collated {}", json(&collation.0)).unwrap();
            }
            if let Some(variables) = &predicate.variables {
                write!(text, " let {}", json(&variables.0)).unwrap();
            }
            text
        }
        Touch::Namespace => format!("{ns} *"),
        Touch::Database => format!("{ns} **"),
    }
}

pub fn targets(targets: &[Target]) -> Vec<String> {
    targets.iter().map(target).collect()
}

fn json(doc: &bson::RawDocument) -> String {
    let text = Document::try_from(doc).unwrap().to_string();
    text.replace('"', "").replace("{ ", "{").replace(" }", "}")
}

/// `insert` of `documents` into `shop.items`, in its body.
pub fn insert(documents: &[RawDocumentBuf]) -> RawDocumentBuf {
    batch("insert", "documents", documents)
}

pub fn update(updates: &[RawDocumentBuf]) -> RawDocumentBuf {
    batch("update", "updates", updates)
}

pub fn delete(deletes: &[RawDocumentBuf]) -> RawDocumentBuf {
    batch("delete", "deletes", deletes)
}

fn batch(name: &str, field: &str, elements: &[RawDocumentBuf]) -> RawDocumentBuf {
    let mut array = RawArrayBuf::new();
    elements.iter().for_each(|element| array.push(element.clone()));
    let mut body = RawDocumentBuf::new();
    body.append(<&bson::raw::CStr>::try_from(name).unwrap(), "items");
    body.append(<&bson::raw::CStr>::try_from(field).unwrap(), array);
    body
}

/// `findAndModify` in `shop.items`, with these fields.
pub fn find_and_modify(fields: &RawDocumentBuf) -> RawDocumentBuf {
    with(&rawdoc! {"findAndModify": "items"}, fields)
}

/// Both documents' fields.
pub fn with(body: &RawDocumentBuf, fields: &RawDocumentBuf) -> RawDocumentBuf {
    let mut body = body.clone();
    for element in fields.iter() {
        let (name, value) = element.unwrap();
        body.append(name, value);
    }
    body
}
