//! The handshake: no compressor is offered, and a member's addresses become the proxy's.
//!
//! - a driver follows the addresses of a hello reply; unrewritten ones lead it past the proxy for good, in silence
//!   (`wire-facts.md` 2.3)
//! - the member that the server calls `me` becomes the advertised address; other members have no listener and are
//!   dropped, for a client would reach them directly
//! - all other bytes, the order of fields, ids and flags stay; lengths and checksums follow
//! - `None` means: send the frame as it is. That is also the answer to whatever cannot be read: a wrong checksum is
//!   not made good
//!
//! Not here: several listeners, `serviceId` for load-balanced mode.

use bson::raw::{RawBsonRef, RawDocument};

use crate::{
    document::{DocumentWriter, elements},
    error::WireError,
    frame::{Header, OpCode, splice},
    msg::{OpMsg, refresh_checksum},
    query::{OpQuery, OpReply},
};

/// Whether a command of this name is a handshake. Names are case-sensitive (`wire-facts.md` 1.2).
pub fn is_hello(name: &str) -> bool {
    matches!(name, "hello" | "isMaster" | "ismaster")
}

/// The request without its `compression` field; `None` when it is no hello or has none.
///
/// Takes a whole OP_MSG or OP_QUERY frame. A hello that is wrapped in `$query` is left alone: taking the field out of
/// the reply is enough (`wire-facts.md` 1.4).
pub fn strip_compression(frame: &[u8]) -> Option<Vec<u8>> {
    edit(frame, |body| {
        let first = elements(body).next().transpose()?;
        if !first.is_some_and(|first| is_hello(first.name)) {
            return Ok(None);
        }
        rewrite(body, |_, name, _| if name == "compression" { Edit::Remove } else { Edit::Keep })
    })
}

/// The reply with its addresses rewritten to `advertise` (`host:port`) and its `compression` field taken out; `None`
/// when there is nothing to change, as in a standalone's.
///
/// Takes a whole OP_MSG (a streamed one, too) or OP_REPLY frame that answers a hello.
pub fn rewrite_reply(frame: &[u8], advertise: &str) -> Option<Vec<u8>> {
    edit(frame, |body| {
        let me = body.get("me").ok().flatten().and_then(|me| me.as_str());
        rewrite(body, |writer, name, value| match (name, value) {
            ("compression", _) => Edit::Remove,
            ("me", RawBsonRef::String(_)) => {
                writer.string(name, advertise);
                Edit::Replaced
            }
            ("primary", RawBsonRef::String(primary)) if is_member(me, primary) => {
                writer.string(name, advertise);
                Edit::Replaced
            }
            ("primary", RawBsonRef::String(_)) => Edit::Remove,
            ("hosts" | "passives" | "arbiters", RawBsonRef::Array(members)) => {
                let mine = members.into_iter().flatten().filter_map(|member| member.as_str());
                writer.strings(name, mine.filter(|member| is_member(me, member)).map(|_| advertise));
                Edit::Replaced
            }
            _ => Edit::Keep,
        })
    })
}

/// Addresses are compared as drivers do, without case (`wire-facts.md` 2.3).
fn is_member(me: Option<&str>, address: &str) -> bool {
    me.is_some_and(|me| me.eq_ignore_ascii_case(address))
}

enum Edit {
    Keep,
    Remove,
    Replaced,
}

/// The document with each top-level element kept, removed, or replaced by what `decide` wrote; `None` when it kept all.
fn rewrite(
    document: &RawDocument,
    mut decide: impl FnMut(&mut DocumentWriter, &str, RawBsonRef<'_>) -> Edit,
) -> Result<Option<Vec<u8>>, WireError> {
    let mut writer = DocumentWriter::with_capacity(document.as_bytes().len() + 64);
    let mut changed = false;
    for element in elements(document) {
        let element = element?;
        match decide(&mut writer, element.name, element.value()?) {
            Edit::Keep => writer.copy(element.bytes),
            Edit::Remove | Edit::Replaced => changed = true,
        }
    }
    Ok(changed.then(|| writer.finish()))
}

/// The frame with its document replaced by what `change` makes of it; `None` when that is nothing, or unreadable.
fn edit(
    frame: &[u8],
    change: impl FnOnce(&RawDocument) -> Result<Option<Vec<u8>>, WireError>,
) -> Option<Vec<u8>> {
    match Header::of(frame).ok()?.opcode {
        OpCode::Msg => {
            let msg = OpMsg::parse(frame).ok()?;
            let body = change(msg.body()).ok()??;
            if !msg.checksum_holds(frame) {
                return None;
            }
            let mut edited = splice(frame, msg.body_at(), &body).ok()?;
            if msg.flags.checksum_present() {
                refresh_checksum(&mut edited);
            }
            Some(edited)
        }
        OpCode::Query => {
            let query = OpQuery::parse(frame).ok()?;
            query.with_query(frame, &change(query.query).ok()??).ok()
        }
        OpCode::Reply => {
            let reply = OpReply::parse(frame).ok()?;
            reply.with_document(frame, &change(reply.document).ok()??).ok()
        }
        OpCode::Compressed | OpCode::Other(_) => None,
    }
}

#[cfg(test)]
mod tests;
