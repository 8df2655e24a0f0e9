//! OP_QUERY and OP_REPLY: what is left of the old protocol, the handshake (`wire-facts.md` 1.1).
//!
//! Not here: OP_GET_MORE and the old writes. A server answers them with errors or closes; they are carried.

use std::ops::Range;

use bson::raw::RawDocument;

use crate::{
    document::{split_cstring, split_document},
    error::WireError,
    frame::{HEADER_BYTES, Header, OpCode, i32_at, splice},
};

/// A parsed OP_QUERY, borrowing from its frame.
#[derive(Debug, Clone)]
pub struct OpQuery<'a> {
    /// The frame's header.
    pub header: Header,
    /// The database and collection; for a command the collection is `$cmd`.
    pub namespace: &'a str,
    /// The command, perhaps wrapped in `$query`.
    pub query: &'a RawDocument,
    query_at: usize,
}

impl<'a> OpQuery<'a> {
    /// Reads a whole frame. A field selector after the query is allowed and not looked at.
    pub fn parse(frame: &'a [u8]) -> Result<OpQuery<'a>, WireError> {
        let header = header_of(frame, OpCode::Query)?;
        let (namespace, rest) = split_cstring(frame.get(HEADER_BYTES + 4..).ok_or(WireError::Truncated)?)?;
        let rest = rest.get(8..).ok_or(WireError::Truncated)?;
        let query_at = frame.len() - rest.len();
        let (query, rest) = split_document(rest)?;
        if !rest.is_empty() && !split_document(rest)?.1.is_empty() {
            return Err(WireError::Truncated);
        }
        Ok(OpQuery { header, namespace, query, query_at })
    }

    /// `frame`, which this was parsed from, with `query` in place of its own; all else is kept.
    pub fn with_query(&self, frame: &[u8], query: &[u8]) -> Result<Vec<u8>, WireError> {
        splice(frame, range(self.query_at, self.query), query)
    }
}

/// A parsed OP_REPLY with exactly one document, as every handshake gets it.
#[derive(Debug, Clone)]
pub struct OpReply<'a> {
    /// The frame's header.
    pub header: Header,
    /// The reply.
    pub document: &'a RawDocument,
}

//= OP_REPLY: int32 flags; int64 cursor; int32 starting from; int32 number returned; documents
const REPLY_COUNT_AT: usize = HEADER_BYTES + 4 + 8 + 4;
const REPLY_DOCUMENT_AT: usize = REPLY_COUNT_AT + 4;

impl<'a> OpReply<'a> {
    /// Reads a whole frame.
    pub fn parse(frame: &'a [u8]) -> Result<OpReply<'a>, WireError> {
        let header = header_of(frame, OpCode::Reply)?;
        if i32_at(frame, REPLY_COUNT_AT)? != 1 {
            return Err(WireError::BodyCount);
        }
        let (document, rest) = split_document(frame.get(REPLY_DOCUMENT_AT..).ok_or(WireError::Truncated)?)?;
        if rest.is_empty() { Ok(OpReply { header, document }) } else { Err(WireError::Truncated) }
    }

    /// `frame`, which this was parsed from, with `document` in place of its own; all else is kept.
    pub fn with_document(&self, frame: &[u8], document: &[u8]) -> Result<Vec<u8>, WireError> {
        splice(frame, range(REPLY_DOCUMENT_AT, self.document), document)
    }
}

fn header_of(frame: &[u8], expected: OpCode) -> Result<Header, WireError> {
    let header = Header::of(frame)?;
    if header.opcode == expected { Ok(header) } else { Err(WireError::OpCode(header.opcode.code())) }
}

fn range(start: usize, document: &RawDocument) -> Range<usize> {
    start..start + document.as_bytes().len()
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    const ISMASTER: &[u8] = include_bytes!("../testdata/sa_ismaster_query_request.bin");
    const ISMASTER_REPLY: &[u8] = include_bytes!("../testdata/sa_ismaster_query_reply.bin");

    #[test]
    fn a_recorded_handshake_reads_as_the_protocol_says() {
        let query = OpQuery::parse(ISMASTER).unwrap();
        assert_eq!((query.namespace, query.header.request_id), ("admin.$cmd", 9));
        assert_eq!(query.query.get_i32("ismaster").unwrap(), 1);
        let reply = OpReply::parse(ISMASTER_REPLY).unwrap();
        assert_eq!(reply.header.response_to, 9);
        assert!(reply.document.get_bool("ismaster").unwrap());
    }

    #[test]
    fn replacing_a_document_by_itself_changes_nothing() {
        let query = OpQuery::parse(ISMASTER).unwrap();
        assert_eq!(query.with_query(ISMASTER, query.query.as_bytes()).unwrap(), ISMASTER);
        let reply = OpReply::parse(ISMASTER_REPLY).unwrap();
        assert_eq!(reply.with_document(ISMASTER_REPLY, reply.document.as_bytes()).unwrap(), ISMASTER_REPLY);
    }

    #[test]
    fn a_field_selector_is_kept() {
        let selector = rawdoc! { "a": 1 };
        let mut frame = ISMASTER.to_vec();
        frame.extend_from_slice(selector.as_bytes());
        let length = i32::try_from(frame.len()).unwrap();
        frame[..4].copy_from_slice(&length.to_le_bytes());
        let query = OpQuery::parse(&frame).unwrap();
        let rewritten = query.with_query(&frame, rawdoc! { "hello": 1 }.as_bytes()).unwrap();
        assert!(rewritten.ends_with(selector.as_bytes()));
        assert_eq!(OpQuery::parse(&rewritten).unwrap().query.get_i32("hello").unwrap(), 1);
    }
}
