//! The encoding of marks, entries and closing records, and back.
//!
//! - mark:  `{v, w: [target…], c: via, x?: true, t: ms}`
//! - entry: `{v, m: mark, d?: doubt, e: [{…target, i|u|x?: statement, n, o}], ts?, t: ms}`
//! - target: `{ns, k: {_id} | f: filter, l?: collation, b?: let | any: "ns"|"db"}`
//! - closing record: `{v, m: mark}`

use bson::raw::{RawArrayBuf, RawDocument, RawDocumentBuf};
use bson::{RawBsonRef, cstr};

use crate::{Doubt, Effect, Entry, Key, Mark, Namespace, Op, Predicate, Raw, Target, Touch};

/// The version that this program writes, and the highest that it reads.
const VERSION: i32 = 1;

/// What a record of the log is: its kind byte there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// A [`Mark`].
    Mark = 1,
    /// An [`Entry`].
    Entry = 2,
    /// The end of a mark whose write did nothing.
    Closed = 3,
}

/// One decoded record.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A write was about to be forwarded.
    Mark(Mark),
    /// What became of it.
    Entry(Entry),
    /// The write with this mark did nothing.
    Closed {
        /// Position of the mark.
        mark: u64,
    },
}

/// A payload that cannot be read. The log's checksums passed, so it was written like that.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum DecodeError {
    /// Written by a newer dualsync.
    #[error(
        "record version {0} is newer than this dualsync reads ({VERSION}): start the newer version again"
    )]
    Newer(i32),
    /// The kind byte is unknown.
    #[error("unknown record kind {0}: written by a newer dualsync, or damaged")]
    Kind(u8),
    /// A field is missing or has the wrong type.
    #[error("record is damaged at field `{0}`")]
    Field(&'static str),
}

impl Mark {
    /// The payload for the log, of kind [`RecordKind::Mark`].
    pub fn encode(&self) -> Vec<u8> {
        let mut doc = RawDocumentBuf::new();
        doc.append(cstr!("v"), VERSION);
        let mut targets = RawArrayBuf::new();
        for target in &self.targets {
            let mut inner = RawDocumentBuf::new();
            append_target(&mut inner, target);
            targets.push(inner);
        }
        doc.append(cstr!("w"), targets);
        doc.append(cstr!("c"), self.via.as_str());
        if self.in_transaction {
            doc.append(cstr!("x"), true);
        }
        doc.append(cstr!("t"), self.at_ms.cast_signed());
        doc.into_bytes()
    }
}

impl Entry {
    /// The payload for the log, of kind [`RecordKind::Entry`].
    pub fn encode(&self) -> Vec<u8> {
        let mut doc = RawDocumentBuf::new();
        doc.append(cstr!("v"), VERSION);
        doc.append(cstr!("m"), self.mark.cast_signed());
        if let Some(doubt) = self.doubt {
            doc.append(cstr!("d"), doubt.code());
        }
        let mut effects = RawArrayBuf::new();
        for effect in &self.effects {
            let mut inner = RawDocumentBuf::new();
            append_target(&mut inner, &effect.target);
            match &effect.op {
                Some(Op::Insert(op)) => inner.append(cstr!("i"), op.as_ref()),
                Some(Op::Update(op)) => inner.append(cstr!("u"), op.as_ref()),
                Some(Op::Delete(op)) => inner.append(cstr!("x"), op.as_ref()),
                None => {}
            }
            inner.append(cstr!("n"), effect.n.cast_signed());
            inner.append(cstr!("o"), effect.modified.cast_signed());
            effects.push(inner);
        }
        doc.append(cstr!("e"), effects);
        if let Some(ts) = self.operation_time {
            doc.append(cstr!("ts"), ts);
        }
        doc.append(cstr!("t"), self.at_ms.cast_signed());
        doc.into_bytes()
    }
}

impl Record {
    /// The payload of a closing record, of kind [`RecordKind::Closed`].
    pub fn closed(mark: u64) -> Vec<u8> {
        let mut doc = RawDocumentBuf::new();
        doc.append(cstr!("v"), VERSION);
        doc.append(cstr!("m"), mark.cast_signed());
        doc.into_bytes()
    }

    /// Reads a record of the log. Never panics, whatever the bytes.
    pub fn decode(kind: u8, payload: &[u8]) -> Result<Record, DecodeError> {
        let doc = RawDocument::from_bytes(payload).map_err(|_| DecodeError::Field("(document)"))?;
        let version = doc.get_i32("v").map_err(|_| DecodeError::Field("v"))?;
        if version > VERSION {
            return Err(DecodeError::Newer(version));
        }
        match kind {
            k if k == RecordKind::Mark as u8 => decode_mark(doc).map(Record::Mark),
            k if k == RecordKind::Entry as u8 => decode_entry(doc).map(Record::Entry),
            k if k == RecordKind::Closed as u8 => Ok(Record::Closed { mark: position(doc)? }),
            other => Err(DecodeError::Kind(other)),
        }
    }
}

fn append_target(doc: &mut RawDocumentBuf, target: &Target) {
    doc.append(cstr!("ns"), target.ns.as_str());
    match &target.touch {
        Touch::Key(key) => doc.append(cstr!("k"), key.filter()),
        Touch::Predicate(predicate) => {
            doc.append(cstr!("f"), predicate.filter.0.as_ref());
            if let Some(collation) = &predicate.collation {
                doc.append(cstr!("l"), collation.0.as_ref());
            }
            if let Some(variables) = &predicate.variables {
                doc.append(cstr!("b"), variables.0.as_ref());
            }
        }
        Touch::Namespace => doc.append(cstr!("any"), "ns"),
        Touch::Database => doc.append(cstr!("any"), "db"),
    }
}

fn decode_mark(doc: &RawDocument) -> Result<Mark, DecodeError> {
    let mut targets = Vec::new();
    for element in doc.get_array("w").map_err(|_| DecodeError::Field("w"))? {
        let target = element.ok().and_then(RawBsonRef::as_document).ok_or(DecodeError::Field("w"))?;
        targets.push(decode_target(target)?);
    }
    Ok(Mark {
        targets,
        via: doc.get_str("c").map_err(|_| DecodeError::Field("c"))?.to_owned(),
        in_transaction: doc.get_bool("x").unwrap_or(false),
        at_ms: at(doc)?,
    })
}

fn decode_entry(doc: &RawDocument) -> Result<Entry, DecodeError> {
    let doubt = match doc.get_str("d") {
        Ok(code) => Some(Doubt::from_code(code).ok_or(DecodeError::Field("d"))?),
        Err(_) => None,
    };
    let mut effects = Vec::new();
    for element in doc.get_array("e").map_err(|_| DecodeError::Field("e"))? {
        let effect = element.ok().and_then(RawBsonRef::as_document).ok_or(DecodeError::Field("e"))?;
        effects.push(decode_effect(effect)?);
    }
    let operation_time = doc.get_timestamp("ts").ok();
    Ok(Entry { mark: position(doc)?, doubt, effects, operation_time, at_ms: at(doc)? })
}

fn decode_effect(doc: &RawDocument) -> Result<Effect, DecodeError> {
    let op = if let Some(insert) = document(doc, "i") {
        Some(Op::Insert(insert))
    } else if let Some(update) = document(doc, "u") {
        Some(Op::Update(update))
    } else {
        document(doc, "x").map(Op::Delete)
    };
    let count = |name| doc.get_i32(name).map(i32::cast_unsigned).map_err(|_| DecodeError::Field("n"));
    Ok(Effect { target: decode_target(doc)?, op, n: count("n")?, modified: count("o")? })
}

fn decode_target(doc: &RawDocument) -> Result<Target, DecodeError> {
    let ns = Namespace::parse(doc.get_str("ns").map_err(|_| DecodeError::Field("ns"))?);
    let touch = if let Ok(key) = doc.get_document("k") {
        Touch::Key(Key::of(key).ok_or(DecodeError::Field("k"))?)
    } else if let Some(filter) = document(doc, "f") {
        Touch::Predicate(Predicate {
            filter: Raw(filter),
            collation: document(doc, "l").map(Raw),
            variables: document(doc, "b").map(Raw),
        })
    } else {
        match doc.get_str("any") {
            Ok("ns") => Touch::Namespace,
            Ok("db") => Touch::Database,
            _ => return Err(DecodeError::Field("any")),
        }
    };
    Ok(Target { ns, touch })
}

fn document(doc: &RawDocument, name: &str) -> Option<RawDocumentBuf> {
    doc.get_document(name).ok().map(ToOwned::to_owned)
}

fn position(doc: &RawDocument) -> Result<u64, DecodeError> {
    doc.get_i64("m").map(i64::cast_unsigned).map_err(|_| DecodeError::Field("m"))
}

fn at(doc: &RawDocument) -> Result<u64, DecodeError> {
    doc.get_i64("t").map(i64::cast_unsigned).map_err(|_| DecodeError::Field("t"))
}
