//! What a write command answered.

use bson::{Bson, Document};

use crate::server::integer;

/// What a write command answered.
#[derive(Debug, Default)]
pub struct Reply {
    /// Documents matched, inserted or deleted.
    pub n: u64,
    /// Documents modified.
    pub modified: u64,
    /// Documents upserted.
    pub upserted: u64,
    /// Statements that failed: their index, code, and the values of a unique index that stood in the way.
    pub errors: Vec<WriteError>,
}

/// One failed statement.
#[derive(Debug)]
pub struct WriteError {
    /// Which statement.
    pub index: usize,
    /// The server's code.
    pub code: i32,
    /// For a person.
    pub message: String,
    /// The unique index's fields, when one stood in the way.
    pub key_pattern: Option<Document>,
    /// The values there. Under a collation they are its sort keys, and of no use.
    pub key_value: Option<Document>,
}

pub(super) fn read_reply(reply: &Document) -> Reply {
    let number = |name| u64::try_from(integer(reply.get(name))).unwrap_or(0);
    let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
    Reply {
        n: number("n"),
        modified: number("nModified"),
        upserted: reply.get_array("upserted").map_or(0, |list| list.len() as u64),
        errors: errors.iter().filter_map(Bson::as_document).map(read_write_error).collect(),
    }
}

fn read_write_error(error: &Document) -> WriteError {
    WriteError {
        index: usize::try_from(integer(error.get("index"))).unwrap_or(0),
        code: i32::try_from(integer(error.get("code"))).unwrap_or(0),
        message: error.get_str("errmsg").unwrap_or_default().to_owned(),
        key_pattern: error.get_document("keyPattern").ok().cloned(),
        key_value: error.get_document("keyValue").ok().cloned(),
    }
}
