//! OP_MSG: flag bits, one body, any number of document sequences, perhaps a checksum (`wire-facts.md` 1.2).
//!
//! - sections in any order; exactly one body; sequences are walked once, so their documents are whole
//! - unknown required flag bits and section kinds are errors: the frame is opaque to us and goes on unread
//! - names are read from a frame's first bytes, long before the frame is whole
//!
//! Not here: whether two sequences share a name, or one is named in the body too. The server refuses those.

use std::ops::Range;

use bson::raw::RawDocument;

use crate::{
    document::{split_cstring, split_document},
    error::WireError,
    frame::{HEADER_BYTES, Head, Header, OpCode, frame_length, i32_at},
};

/// The flag bits of an OP_MSG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u32);

impl Flags {
    /// Bit 0: the last four bytes are a CRC-32C of all before them.
    pub const CHECKSUM_PRESENT: Flags = Flags(1);
    /// Bit 1: a request that gets no reply; a reply that another one follows.
    pub const MORE_TO_COME: Flags = Flags(1 << 1);
    /// Bit 16: the client takes a stream of replies.
    pub const EXHAUST_ALLOWED: Flags = Flags(1 << 16);

    /// Whether the frame ends with a checksum.
    pub fn checksum_present(self) -> bool {
        self.has(Self::CHECKSUM_PRESENT)
    }

    /// Whether a request gets no reply, or a reply is followed by another.
    pub fn more_to_come(self) -> bool {
        self.has(Self::MORE_TO_COME)
    }

    /// Whether the client takes a stream of replies.
    pub fn exhaust_allowed(self) -> bool {
        self.has(Self::EXHAUST_ALLOWED)
    }

    /// Both sets of bits.
    #[must_use]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    fn has(self, bit: Flags) -> bool {
        self.0 & bit.0 != 0
    }
}

/// A parsed OP_MSG, borrowing from its frame.
#[derive(Debug, Clone)]
pub struct OpMsg<'a> {
    /// The frame's header.
    pub header: Header,
    /// The frame's flag bits.
    pub flags: Flags,
    /// Body and sequences, in the order of the frame.
    pub sections: Vec<Section<'a>>,
    body: &'a RawDocument,
    body_at: Range<usize>,
}

/// One section of an OP_MSG.
#[derive(Debug, Clone, Copy)]
pub enum Section<'a> {
    /// Kind 0: the command, or the reply.
    Body(&'a RawDocument),
    /// Kind 1: documents that belong to the command, under a field name.
    Sequence(Sequence<'a>),
}

/// A kind 1 section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence<'a> {
    /// The command field whose array these documents are.
    pub identifier: &'a str,
    documents: &'a [u8],
}

impl<'a> Sequence<'a> {
    /// A sequence of the documents whose bytes follow each other in `documents`.
    ///
    /// Fails when they are not whole documents, or `identifier` holds a zero byte.
    pub fn new(identifier: &'a str, documents: &'a [u8]) -> Result<Self, WireError> {
        if identifier.contains('\0') {
            return Err(WireError::Name);
        }
        let mut rest = documents;
        while !rest.is_empty() {
            rest = split_document(rest)?.1;
        }
        Ok(Sequence { identifier, documents })
    }

    /// The documents in order.
    pub fn documents(&self) -> Documents<'a> {
        Documents { rest: self.documents }
    }

    /// The bytes of all documents.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.documents
    }
}

/// The documents of a [`Sequence`].
#[derive(Debug, Clone)]
pub struct Documents<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Documents<'a> {
    type Item = &'a RawDocument;

    fn next(&mut self) -> Option<Self::Item> {
        // Sequence::new has walked these bytes: only their end can fail here.
        let (document, rest) = split_document(self.rest).ok()?;
        self.rest = rest;
        Some(document)
    }
}

impl<'a> OpMsg<'a> {
    /// Reads a whole frame. The checksum is not compared, see [`checksum_holds`](Self::checksum_holds).
    pub fn parse(frame: &'a [u8]) -> Result<OpMsg<'a>, WireError> {
        let header = Header::of(frame)?;
        if header.opcode != OpCode::Msg {
            return Err(WireError::OpCode(header.opcode.code()));
        }
        let flags = Flags(i32_at(frame, HEADER_BYTES)?.cast_unsigned());
        //= OP_MSG: bits 0-15 are required; an endpoint errors on unknown ones. Bits 16-31 may be ignored.
        let unknown = flags.0 & 0xfffc;
        if unknown != 0 {
            return Err(WireError::Flags(unknown));
        }
        let end = frame.len() - if flags.checksum_present() { CHECKSUM_BYTES } else { 0 };
        let mut rest = frame.get(SECTIONS_AT..end).ok_or(WireError::Truncated)?;
        let mut sections = Vec::with_capacity(2);
        let mut body = None;
        while let Some((kind, after)) = rest.split_first() {
            let section = match kind {
                0 => {
                    let (document, after) = split_document(after)?;
                    let start = end - rest.len() + 1;
                    //= OP_MSG: a message has exactly one kind 0 section
                    if body.replace((document, start..start + document.as_bytes().len())).is_some() {
                        return Err(WireError::BodyCount);
                    }
                    rest = after;
                    Section::Body(document)
                }
                1 => {
                    //= OP_MSG: size counts itself, the identifier and the documents, not the kind byte
                    let size = usize::try_from(i32_at(after, 0)?).map_err(|_| WireError::Truncated)?;
                    let (section, after) = after.split_at_checked(size).ok_or(WireError::Truncated)?;
                    let section = section.get(4..).ok_or(WireError::Truncated)?;
                    let (identifier, documents) = split_cstring(section)?;
                    rest = after;
                    Section::Sequence(Sequence::new(identifier, documents)?)
                }
                kind => return Err(WireError::SectionKind(*kind)),
            };
            sections.push(section);
        }
        let (body, body_at) = body.ok_or(WireError::BodyCount)?;
        Ok(OpMsg { header, flags, sections, body, body_at })
    }

    /// The command or reply document.
    pub fn body(&self) -> &'a RawDocument {
        self.body
    }

    /// Where the body's document lies in the frame.
    pub fn body_at(&self) -> Range<usize> {
        self.body_at.clone()
    }

    /// The document sequences in the order of the frame.
    pub fn sequences(&self) -> impl Iterator<Item = &Sequence<'a>> {
        self.sections.iter().filter_map(|section| match section {
            Section::Sequence(sequence) => Some(sequence),
            Section::Body(_) => None,
        })
    }

    /// Whether `frame`, which this was parsed from, has no checksum or the right one.
    ///
    /// The server closes the connection on a wrong one, so a frame for which this is false must not be rewritten:
    /// a fresh checksum would make the damage good.
    pub fn checksum_holds(&self, frame: &[u8]) -> bool {
        if !self.flags.checksum_present() {
            return true;
        }
        match frame.split_last_chunk::<CHECKSUM_BYTES>() {
            Some((covered, checksum)) => crc32c::crc32c(covered).to_le_bytes() == *checksum,
            None => false,
        }
    }
}

/// Builds an OP_MSG frame. A checksum is added when `flags` say that there is one.
///
/// Fails with [`WireError::BodyCount`] without exactly one body, with [`WireError::TooLong`] beyond the largest frame.
pub fn encode_msg(
    request_id: i32,
    response_to: i32,
    flags: Flags,
    sections: &[Section<'_>],
) -> Result<Vec<u8>, WireError> {
    if sections.iter().filter(|section| matches!(section, Section::Body(_))).count() != 1 {
        return Err(WireError::BodyCount);
    }
    let bytes: usize = sections.iter().map(section_bytes).sum();
    let checksum = if flags.checksum_present() { CHECKSUM_BYTES } else { 0 };
    let length = SECTIONS_AT + bytes + checksum;
    frame_length(length)?;
    let mut out = Vec::with_capacity(length);
    Header { length, request_id, response_to, opcode: OpCode::Msg }.write(&mut out);
    out.extend_from_slice(&flags.0.to_le_bytes());
    for section in sections {
        match section {
            Section::Body(body) => {
                out.push(0);
                out.extend_from_slice(body.as_bytes());
            }
            Section::Sequence(sequence) => {
                out.push(1);
                let size = section_bytes(section) - 1;
                out.extend_from_slice(&i32::try_from(size).unwrap_or(i32::MAX).to_le_bytes());
                out.extend_from_slice(sequence.identifier.as_bytes());
                out.push(0);
                out.extend_from_slice(sequence.documents);
            }
        }
    }
    if checksum > 0 {
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    }
    Ok(out)
}

fn section_bytes(section: &Section<'_>) -> usize {
    match section {
        Section::Body(body) => 1 + body.as_bytes().len(),
        Section::Sequence(sequence) => 1 + 4 + sequence.identifier.len() + 1 + sequence.documents.len(),
    }
}

/// Corrects the checksum at the end of an OP_MSG whose bytes were changed.
pub(crate) fn refresh_checksum(frame: &mut [u8]) {
    if let Some((covered, checksum)) = frame.split_last_chunk_mut::<CHECKSUM_BYTES>() {
        *checksum = crc32c::crc32c(covered).to_le_bytes();
    }
}

/// The flag bits of an OP_MSG of which at least the first 20 bytes are here.
pub fn peek_flags(head: &Head<'_>) -> Option<Flags> {
    let flags = i32_at(head.bytes, HEADER_BYTES).ok()?;
    (head.header.opcode == OpCode::Msg).then_some(Flags(flags.cast_unsigned()))
}

/// What the first bytes of a request tell of its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstKey<'a> {
    /// The first key of the command document: the command's name (`wire-facts.md` 1.2).
    Name(&'a str),
    /// An OP_MSG that starts with a document sequence: the name comes later.
    Sequence,
    /// There is no name here: another opcode, an empty document, or nothing that we can read.
    None,
    /// More bytes of the frame will tell.
    NeedMore,
}

/// Reads a request's command name from as much of its frame as is here.
///
/// Never asks for more than the first 16 + 4 + [`COMMAND_NAME_BYTES_MAX`] + 6 bytes of an OP_MSG; for an OP_QUERY
/// the namespace comes in addition.
pub fn first_key<'a>(head: &Head<'a>) -> FirstKey<'a> {
    let whole = head.bytes.len() == head.header.length;
    let rest = head.bytes.get(HEADER_BYTES..).unwrap_or_default();
    match head.header.opcode {
        OpCode::Msg => match rest.get(4) {
            Some(0) => first_name(&rest[5..], whole),
            Some(1) => FirstKey::Sequence,
            None if !whole => FirstKey::NeedMore,
            _ => FirstKey::None,
        },
        OpCode::Query => query_first_key(rest, whole),
        _ => FirstKey::None,
    }
}

//= OP_QUERY: int32 flags; cstring namespace; int32 skip; int32 return; document
fn query_first_key(rest: &[u8], whole: bool) -> FirstKey<'_> {
    let after_flags = rest.get(4..).unwrap_or_default();
    let Some(end) = after_flags.iter().take(NAMESPACE_BYTES_MAX).position(|byte| *byte == 0) else {
        return more_or_none(after_flags.len() < NAMESPACE_BYTES_MAX && !whole);
    };
    let document = after_flags.get(end + 1 + 8..).unwrap_or_default();
    match first_name(document, whole) {
        // A server takes a command that an old driver wrapped to send a read preference along (seen on 6.0.5).
        FirstKey::Name(wrapper @ ("$query" | "query")) if document.get(4) == Some(&TYPE_DOCUMENT) => {
            first_name(&document[4 + 1 + wrapper.len() + 1..], whole)
        }
        other => other,
    }
}

/// The first element's name of the document that starts `bytes`.
fn first_name(bytes: &[u8], whole: bool) -> FirstKey<'_> {
    match bytes.get(4) {
        None => return more_or_none(!whole),
        Some(0) => return FirstKey::None,
        Some(_) => {}
    }
    let name = &bytes[5..];
    match name.iter().take(COMMAND_NAME_BYTES_MAX + 1).position(|byte| *byte == 0) {
        Some(end) => std::str::from_utf8(&name[..end]).map_or(FirstKey::None, FirstKey::Name),
        None => more_or_none(name.len() <= COMMAND_NAME_BYTES_MAX && !whole),
    }
}

fn more_or_none<'a>(more: bool) -> FirstKey<'a> {
    if more { FirstKey::NeedMore } else { FirstKey::None }
}

const SECTIONS_AT: usize = HEADER_BYTES + 4;
const CHECKSUM_BYTES: usize = 4;
const TYPE_DOCUMENT: u8 = 0x03;
/// Longer first keys name no command that any server knows; the longest of 6.0 has 43 bytes.
pub const COMMAND_NAME_BYTES_MAX: usize = 64;
/// Namespaces are at most 255 bytes, with their end 256.
const NAMESPACE_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests;
