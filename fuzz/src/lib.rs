//! What the targets share: documents made from the fuzzer's bytes, and a cap on single allocations.

mod capped;

use arbitrary::{Result, Unstructured};
use bson::raw::{CStr, RawArrayBuf, RawBson, RawDocumentBuf};

pub use capped::Capped;

/// The most that a frame may make us allocate at once: the largest frame, inflated, and its copy's growth.
pub const ALLOCATION_BYTES_MAX: usize = 128 << 20;

/// Names that capture, hello and their kind look at, and some that nobody knows.
const NAMES: &[&str] = &[
    "insert",
    "update",
    "delete",
    "findAndModify",
    "aggregate",
    "getMore",
    "applyOps",
    "bulkWrite",
    "drop",
    "create",
    "renameCollection",
    "mapReduce",
    "commitTransaction",
    "abortTransaction",
    "endSessions",
    "hello",
    "isMaster",
    "unheardOf",
    "documents",
    "updates",
    "deletes",
    "ops",
    "nsInfo",
    "document",
    "filter",
    "updateMods",
    "constants",
    "errorsOnly",
    "idx",
    "q",
    "u",
    "c",
    "multi",
    "upsert",
    "limit",
    "query",
    "fields",
    "remove",
    "new",
    "collation",
    "arrayFilters",
    "let",
    "hint",
    "pipeline",
    "$out",
    "$merge",
    "into",
    "out",
    "to",
    "ns",
    "op",
    "o",
    "_id",
    "$eq",
    "$in",
    "$and",
    "$expr",
    "$set",
    "a.$.b",
    "$pull",
    "$db",
    "lsid",
    "id",
    "txnNumber",
    "autocommit",
    "startTransaction",
    "stmtId",
    "stmtIds",
    "writeConcern",
    "w",
    "j",
    "ordered",
    "ok",
    "n",
    "nModified",
    "code",
    "codeName",
    "errorLabels",
    "writeErrors",
    "writeConcernError",
    "index",
    "upserted",
    "lastErrorObject",
    "value",
    "cursor",
    "firstBatch",
    "nextBatch",
    "retriedStmtIds",
    "explain",
    "hosts",
    "passives",
    "arbiters",
    "primary",
    "me",
    "setName",
    "compression",
    "topologyVersion",
    "maxWireVersion",
    "x",
    "",
];

const TEXTS: &[&str] =
    &["items", "shop", "admin", "$$NOW", "$a.b", "majority", "a:1", "[::1]:27017", "zlib", "snappy", ""];

/// A document of any shape, with names that mean something more often than not.
pub fn document(input: &mut Unstructured<'_>, depth: usize) -> Result<RawDocumentBuf> {
    let mut document = RawDocumentBuf::new();
    for _ in 0..input.int_in_range(0..=6_u8)? {
        append(&mut document, name(input)?, value(input, depth)?);
    }
    Ok(document)
}

/// A command: `first` in front of anything else, and a database.
pub fn command(input: &mut Unstructured<'_>) -> Result<RawDocumentBuf> {
    let mut body = RawDocumentBuf::new();
    append(&mut body, name(input)?, value(input, 1)?);
    let list = *input.choose(&["documents", "updates", "deletes", "ops", "pipeline"])?;
    let mut array = RawArrayBuf::new();
    for _ in 0..input.int_in_range(0..=4_u8)? {
        array.push(RawBson::Document(document(input, 3)?));
    }
    append(&mut body, list, RawBson::Array(array));
    for (name, value) in document(input, 3)?.iter().flatten() {
        body.append(name, value);
    }
    append(&mut body, "$db", RawBson::String("shop".to_owned()));
    Ok(body)
}

fn name(input: &mut Unstructured<'_>) -> Result<&'static str> {
    Ok(input.choose(NAMES)?)
}

/// No name here holds a zero byte.
fn append(document: &mut RawDocumentBuf, name: &str, value: RawBson) {
    if let Ok(name) = <&CStr>::try_from(name) {
        document.append(name, value);
    }
}

fn value(input: &mut Unstructured<'_>, depth: usize) -> Result<RawBson> {
    Ok(match input.int_in_range(0..=11_u8)? {
        0 => RawBson::Int32(input.int_in_range(0..=3)?),
        1 => RawBson::Int32(input.arbitrary()?),
        2 => RawBson::Int64(input.arbitrary()?),
        3 => RawBson::Double(input.arbitrary()?),
        4 => RawBson::Boolean(input.arbitrary()?),
        5 => RawBson::Null,
        6 => RawBson::String((*input.choose(TEXTS)?).to_owned()),
        7 => RawBson::String(input.arbitrary::<&str>()?.to_owned()),
        8 => RawBson::ObjectId(bson::oid::ObjectId::from_bytes(input.arbitrary()?)),
        9 => RawBson::Timestamp(bson::Timestamp { time: input.arbitrary::<u8>()?.into(), increment: 0 }),
        10 if depth > 0 => RawBson::Document(document(input, depth - 1)?),
        _ if depth > 0 => {
            let mut array = RawArrayBuf::new();
            for _ in 0..input.int_in_range(0..=4_u8)? {
                array.push(value(input, depth - 1)?);
            }
            RawBson::Array(array)
        }
        _ => RawBson::Double(1.0),
    })
}

/// A frame of `opcode` around `payload`.
pub fn frame(opcode: i32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(16 + payload.len());
    frame.extend_from_slice(&i32::try_from(16 + payload.len()).unwrap_or(i32::MAX).to_le_bytes());
    frame.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(&opcode.to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Changes a few bytes behind the header, as the fuzzer says.
pub fn damage(input: &mut Unstructured<'_>, frame: &mut [u8]) -> Result<()> {
    for _ in 0..input.int_in_range(0..=3_u8)? {
        if frame.len() > 16 {
            let at = input.int_in_range(16..=frame.len() - 1)?;
            frame[at] = input.arbitrary()?;
        }
    }
    Ok(())
}
