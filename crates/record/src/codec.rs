//! The encoding of marks, entries and closing records, and back.
//!
//! - mark:  `{v, w: [target…], c: via, x?: true, g?: true, t: ms}`
//! - entry: `{v, m: mark, d?: doubt, a?: atomic, e: [{…target, i|u|x|g?: statement, n, o}], ts?, t: ms}`
//! - target: `{ns, k: {_id} | f: filter, l?: collation, b?: let | any: "ns"|"db"}`
//! - closing record: `{v, m: mark}`

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{RawBsonRef, cstr};

use crate::writer::{TYPE_ARRAY, Writer};
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
        let mut out =
            Writer::new(self.targets.iter().map(|target| target_bytes(target) + ELEMENT_BYTES).sum());
        out.value(cstr!("v"), VERSION);
        let targets = out.begin(cstr!("w"), TYPE_ARRAY);
        for (nth, target) in self.targets.iter().enumerate() {
            let inner = out.begin_nth(nth);
            append_target(&mut out, target);
            out.end(inner);
        }
        out.end(targets);
        out.value(cstr!("c"), self.via.as_str());
        if self.in_transaction {
            out.value(cstr!("x"), true);
        }
        if self.drops {
            out.value(cstr!("g"), true);
        }
        out.value(cstr!("t"), self.at_ms.cast_signed());
        out.finish()
    }
}

impl Entry {
    /// The payload for the log, of kind [`RecordKind::Entry`]. Written in one piece: statements may be large.
    pub fn encode(&self) -> Vec<u8> {
        let effect_bytes = |effect: &Effect| {
            let op = effect.op.as_ref().map_or(0, |op| op.document().as_bytes().len());
            op + target_bytes(&effect.target) + EFFECT_BYTES
        };
        let mut out = Writer::new(self.effects.iter().map(effect_bytes).sum());
        out.value(cstr!("v"), VERSION);
        out.value(cstr!("m"), self.mark.cast_signed());
        if let Some(doubt) = self.doubt {
            out.value(cstr!("d"), doubt.code());
        }
        if self.atomic {
            out.value(cstr!("a"), true);
        }
        let effects = out.begin(cstr!("e"), TYPE_ARRAY);
        for (nth, effect) in self.effects.iter().enumerate() {
            let inner = out.begin_nth(nth);
            append_target(&mut out, &effect.target);
            match &effect.op {
                Some(Op::Insert(op)) => out.document(cstr!("i"), op),
                Some(Op::Update(op)) => out.document(cstr!("u"), op),
                Some(Op::Delete(op)) => out.document(cstr!("x"), op),
                Some(Op::Over(op)) => out.document(cstr!("g"), op),
                None => {}
            }
            out.value(cstr!("n"), effect.n.cast_signed());
            out.value(cstr!("o"), effect.modified.cast_signed());
            out.end(inner);
        }
        out.end(effects);
        if let Some(ts) = self.operation_time {
            out.value(cstr!("ts"), ts);
        }
        out.value(cstr!("t"), self.at_ms.cast_signed());
        out.finish()
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

fn append_target(out: &mut Writer, target: &Target) {
    out.value(cstr!("ns"), target.ns.as_str());
    match &target.touch {
        Touch::Key(key) => out.document(cstr!("k"), key.filter()),
        Touch::Predicate(predicate) => {
            out.document(cstr!("f"), &predicate.filter.0);
            if let Some(collation) = &predicate.collation {
                out.document(cstr!("l"), &collation.0);
            }
            if let Some(variables) = &predicate.variables {
                out.document(cstr!("b"), &variables.0);
            }
        }
        Touch::Namespace => out.value(cstr!("any"), "ns"),
        Touch::Database => out.value(cstr!("any"), "db"),
    }
}

fn target_bytes(target: &Target) -> usize {
    let length = |raw: &Raw| raw.0.as_bytes().len() + ELEMENT_BYTES;
    let touch = match &target.touch {
        Touch::Key(key) => key.filter().as_bytes().len(),
        Touch::Predicate(predicate) => {
            let more = [&predicate.collation, &predicate.variables].into_iter().flatten();
            length(&predicate.filter) + more.map(length).sum::<usize>()
        }
        Touch::Namespace | Touch::Database => 0,
    };
    target.ns.as_str().len() + touch + 2 * ELEMENT_BYTES
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
        drops: doc.get_bool("g").unwrap_or(false),
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
    let atomic = doc.get_bool("a").unwrap_or(false);
    Ok(Entry { mark: position(doc)?, doubt, atomic, effects, operation_time, at_ms: at(doc)? })
}

fn decode_effect(doc: &RawDocument) -> Result<Effect, DecodeError> {
    // Once through it: there is one for each statement that is replicated.
    let (mut target, mut op, mut n, mut modified) = (TargetFields::default(), None, None, None);
    for element in doc {
        let (name, value) = element.map_err(|_| DecodeError::Field("e"))?;
        let statement = || value.as_document().map(ToOwned::to_owned);
        let count = || value.as_i32().map(i32::cast_unsigned);
        match name.as_str() {
            "i" => op = statement().map(Op::Insert),
            "u" => op = statement().map(Op::Update),
            "x" => op = statement().map(Op::Delete),
            "g" => op = statement().map(Op::Over),
            "n" => n = count(),
            "o" => modified = count(),
            other => target.take(other, value),
        }
    }
    let missing = DecodeError::Field("n");
    Ok(Effect {
        target: target.decode()?,
        op,
        n: n.ok_or(missing)?,
        modified: modified.ok_or(DecodeError::Field("o"))?,
    })
}

/// What there is of a target.
#[derive(Default)]
struct TargetFields<'a> {
    ns: Option<&'a str>,
    key: Option<&'a RawDocument>,
    filter: Option<&'a RawDocument>,
    collation: Option<&'a RawDocument>,
    variables: Option<&'a RawDocument>,
    any: Option<&'a str>,
}

impl<'a> TargetFields<'a> {
    fn take(&mut self, name: &str, value: RawBsonRef<'a>) {
        match name {
            "ns" => self.ns = value.as_str(),
            "k" => self.key = value.as_document(),
            "f" => self.filter = value.as_document(),
            "l" => self.collation = value.as_document(),
            "b" => self.variables = value.as_document(),
            "any" => self.any = value.as_str(),
            _ => {}
        }
    }

    fn decode(self) -> Result<Target, DecodeError> {
        let ns = Namespace::parse(self.ns.ok_or(DecodeError::Field("ns"))?);
        let raw = |doc: &RawDocument| Raw(doc.to_owned());
        let touch = match (self.key, self.filter, self.any) {
            (Some(key), ..) => Touch::Key(Key::of(key).ok_or(DecodeError::Field("k"))?),
            (None, Some(filter), _) => Touch::Predicate(Predicate {
                filter: raw(filter),
                collation: self.collation.map(raw),
                variables: self.variables.map(raw),
            }),
            (None, None, Some("ns")) => Touch::Namespace,
            (None, None, Some("db")) => Touch::Database,
            (None, None, _) => return Err(DecodeError::Field("any")),
        };
        Ok(Target { ns, touch })
    }
}

fn decode_target(doc: &RawDocument) -> Result<Target, DecodeError> {
    let mut fields = TargetFields::default();
    for element in doc {
        let (name, value) = element.map_err(|_| DecodeError::Field("w"))?;
        fields.take(name.as_str(), value);
    }
    fields.decode()
}

fn position(doc: &RawDocument) -> Result<u64, DecodeError> {
    doc.get_i64("m").map(i64::cast_unsigned).map_err(|_| DecodeError::Field("m"))
}

fn at(doc: &RawDocument) -> Result<u64, DecodeError> {
    doc.get_i64("t").map(i64::cast_unsigned).map_err(|_| DecodeError::Field("t"))
}

/// Type, name, length and end of an element, rounded up: what is written once is to be written into enough room.
const ELEMENT_BYTES: usize = 24;
/// Of an effect, besides its target and its statement.
const EFFECT_BYTES: usize = 3 * ELEMENT_BYTES;
