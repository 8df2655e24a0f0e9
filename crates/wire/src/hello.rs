//! The handshake: only compressors that we can read are offered, and members' addresses become the proxy's.
//!
//! - a driver follows the addresses of a hello reply; unrewritten ones lead it past the proxy for good, in silence
//!   (`wire-facts.md` 2.3)
//! - the member that the server calls `me`, and each one that has a listener of its own, becomes the address that leads
//!   to its listener; members without one are dropped, for a client would reach them directly
//! - a client that takes us for a load balancer finds the `serviceId` without which it would not talk to us
//! - all other bytes, the order of fields, ids and flags stay; lengths and checksums follow
//! - `None` means: there is nothing to change. What cannot be read is never made good: a request is for the server to
//!   refuse, a reply had better reach nobody, since nothing keeps its addresses from leading past the proxy
//!
//! Not here: which member is behind which listener (`proxy`).

use bson::oid::ObjectId;
use bson::raw::{RawBsonRef, RawDocument};

use crate::{
    address::Address,
    compressed,
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

/// The request without compressors that we cannot read; `None` when it is no hello, names none of those, or cannot be
/// read.
///
/// Takes a whole frame. A hello that is wrapped in `$query` is left alone: taking them out of the reply is enough
/// (`wire-facts.md` 1.4).
pub fn offer_readable_compressors(frame: &[u8]) -> Option<Vec<u8>> {
    edit(frame, |body| {
        let first = elements(body).next().transpose()?;
        if !first.is_some_and(|first| is_hello(first.name)) {
            return Ok(None);
        }
        rewrite(body, |writer, name, value| match (name, value) {
            ("compression", RawBsonRef::Array(names)) if !readable(names).all => {
                writer.strings(name, readable(names).names.into_iter());
                Edit::Replaced
            }
            _ => Edit::Keep,
        })
    })
    .ok()
    .flatten()
}

/// What a request asks of its reply; `None` when it is no hello that we can read. Takes a whole frame.
pub fn asked(frame: &[u8]) -> Option<Asked> {
    let inflated = inflated(frame);
    let frame = inflated.as_deref().unwrap_or(frame);
    let body = match Header::of(frame).ok()?.opcode {
        OpCode::Msg => OpMsg::parse(frame).ok()?.body(),
        OpCode::Query => OpQuery::parse(frame).ok()?.query,
        _ => return None,
    };
    let load_balanced = matches!(body.get("loadBalanced"), Ok(Some(RawBsonRef::Boolean(true))));
    Some(if load_balanced { Asked::LoadBalanced } else { Asked::Members })
}

/// How a client means to find its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// By the members' addresses.
    Members,
    /// `loadBalanced: true`: it stays with the address that it has, and wants a `serviceId`.
    LoadBalanced,
}

/// What addresses become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The address that leads to the member that answers.
    pub here: String,
    /// The other members that have a listener, as the set's configuration names them, and where that is.
    pub others: Vec<(Address, String)>,
}

impl Names {
    /// One listener, which leads to one member.
    pub fn only(here: impl Into<String>) -> Names {
        Names { here: here.into(), others: Vec::new() }
    }

    fn of<'a>(&'a self, me: Option<&Address>, member: &str) -> Option<&'a str> {
        let member = Address::parse(member)?;
        if me == Some(&member) {
            return Some(&self.here);
        }
        self.others.iter().find(|(address, _)| *address == member).map(|(_, name)| name.as_str())
    }
}

/// The reply with its addresses rewritten, without compressors that we cannot read, and with a `serviceId` where the
/// client wants one and the server is a replica set's; `None` when there is nothing to change, as in a standalone's.
///
/// Takes a whole OP_MSG (a streamed one, too), OP_REPLY or OP_COMPRESSED frame that answers a hello. What was
/// compressed comes back as it is inside: a client takes either. Fails when the frame cannot be read.
pub fn rewrite_reply(frame: &[u8], names: &Names, asked: Asked) -> Result<Option<Vec<u8>>, WireError> {
    edit(frame, |body| {
        let me = body.get("me").ok().flatten().and_then(|me| me.as_str()).and_then(Address::parse);
        let service = service_id(body).filter(|_| asked == Asked::LoadBalanced);
        let rewritten = rewrite(body, |writer, name, value| match (name, value) {
            ("compression", RawBsonRef::Array(names)) if !readable(names).all => {
                let names = readable(names).names;
                if names.is_empty() {
                    return Edit::Remove;
                }
                writer.strings(name, names.into_iter());
                Edit::Replaced
            }
            ("me", RawBsonRef::String(_)) => {
                writer.string(name, &names.here);
                Edit::Replaced
            }
            ("primary", RawBsonRef::String(primary)) => match names.of(me.as_ref(), primary) {
                Some(primary) => {
                    writer.string(name, primary);
                    Edit::Replaced
                }
                None => Edit::Remove,
            },
            ("hosts" | "passives" | "arbiters", RawBsonRef::Array(members)) => {
                let members = members.into_iter().flatten().filter_map(|member| member.as_str());
                writer.strings(name, members.filter_map(|member| names.of(me.as_ref(), member)));
                Edit::Replaced
            }
            ("ok", _) => match service {
                // In front of the last field, as a load balancer's server has it.
                Some(id) => {
                    writer.object_id("serviceId", id);
                    Edit::KeepBehind
                }
                None => Edit::Keep,
            },
            _ => Edit::Keep,
        })?;
        Ok(rewritten)
    })
}

/// What stands for the server behind us: its process, known from `topologyVersion`. Not where the server tells one
/// itself, nor for a standalone: it refuses the retryable writes of such clients (`wire-facts.md` 2.3), so they had
/// better be told by their driver that it is none.
fn service_id(reply: &RawDocument) -> Option<[u8; 12]> {
    let has = |name| matches!(reply.get(name), Ok(Some(_)));
    if !has("setName") || has("serviceId") {
        return None;
    }
    let id = reply.get_document("topologyVersion").ok()?.get_object_id("processId").ok()?;
    Some(id.bytes())
}

struct Readable<'a> {
    names: Vec<&'a str>,
    /// Nothing else was named.
    all: bool,
}

/// `none` is how some drivers say that they want none.
fn readable(names: &bson::raw::RawArray) -> Readable<'_> {
    let mut readable = Readable { names: Vec::new(), all: true };
    for name in names {
        match name {
            Ok(RawBsonRef::String(name)) if name == "none" || compressed::COMPRESSORS.contains(&name) => {
                readable.names.push(name);
            }
            _ => readable.all = false,
        }
    }
    readable
}

/// What a reply to a hello tells of the server and of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The largest frame that the server takes, in bytes (`maxMessageSizeBytes`).
    pub frame_bytes_max: Option<usize>,
    /// The largest document that it stores, in bytes (`maxBsonObjectSize`).
    pub document_bytes_max: Option<usize>,
    /// The newest version of the protocol that it speaks (`maxWireVersion`).
    pub wire_version: Option<i32>,
    /// The member that answers, as its set's configuration names it.
    pub me: Option<Address>,
    /// The process that answers (`topologyVersion.processId`).
    pub process: Option<ObjectId>,
    /// Another reply follows without being asked for.
    pub more_to_come: bool,
}

/// What a whole frame that answers a hello tells; nothing when it cannot be read.
pub fn facts(reply: &[u8]) -> Facts {
    read_facts(reply).unwrap_or_default()
}

fn read_facts(reply: &[u8]) -> Option<Facts> {
    let inflated = inflated(reply);
    let reply = inflated.as_deref().unwrap_or(reply);
    let (body, more_to_come) = match Header::of(reply).ok()?.opcode {
        OpCode::Msg => {
            let msg = OpMsg::parse(reply).ok()?;
            (msg.body(), msg.flags.more_to_come())
        }
        OpCode::Reply => (OpReply::parse(reply).ok()?.document, false),
        _ => return None,
    };
    let bytes = |name| body.get_i32(name).ok().and_then(|bytes| usize::try_from(bytes).ok());
    Some(Facts {
        frame_bytes_max: bytes("maxMessageSizeBytes"),
        document_bytes_max: bytes("maxBsonObjectSize"),
        wire_version: body.get_i32("maxWireVersion").ok(),
        me: body.get_str("me").ok().and_then(Address::parse),
        process: body.get_document("topologyVersion").and_then(|it| it.get_object_id("processId")).ok(),
        more_to_come,
    })
}

fn inflated(frame: &[u8]) -> Option<Vec<u8>> {
    let is_compressed = Header::of(frame).ok()?.opcode == OpCode::Compressed;
    if is_compressed { compressed::inflate(frame).ok() } else { None }
}

/// Fields that may have to be changed.
const REWRITTEN: &[&str] = &["compression", "me", "primary", "hosts", "passives", "arbiters"];

enum Edit {
    Keep,
    /// Keep it, behind what was written.
    KeepBehind,
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
        let edit = match element.value() {
            Ok(value) => decide(&mut writer, element.name, value),
            // An error's message may quote bytes that are no text.
            Err(_) if !REWRITTEN.contains(&element.name) => Edit::Keep,
            Err(error) => return Err(error),
        };
        match edit {
            Edit::Keep => writer.copy(element.bytes),
            Edit::KeepBehind => {
                writer.copy(element.bytes);
                changed = true;
            }
            Edit::Remove | Edit::Replaced => changed = true,
        }
    }
    Ok(changed.then(|| writer.finish()))
}

/// The frame with its document replaced by what `change` makes of it; `None` when that is nothing.
fn edit(
    frame: &[u8],
    change: impl FnOnce(&RawDocument) -> Result<Option<Vec<u8>>, WireError>,
) -> Result<Option<Vec<u8>>, WireError> {
    match Header::of(frame)?.opcode {
        OpCode::Msg => {
            let msg = OpMsg::parse(frame)?;
            let body = change(msg.body())?;
            if !msg.checksum_holds(frame) {
                return Err(WireError::Checksum);
            }
            let Some(body) = body else { return Ok(None) };
            let mut edited = splice(frame, msg.body_at(), &body)?;
            if msg.flags.checksum_present() {
                refresh_checksum(&mut edited);
            }
            Ok(Some(edited))
        }
        OpCode::Query => {
            let query = OpQuery::parse(frame)?;
            change(query.query)?.map(|changed| query.with_query(frame, &changed)).transpose()
        }
        OpCode::Reply => {
            let reply = OpReply::parse(frame)?;
            change(reply.document)?.map(|changed| reply.with_document(frame, &changed)).transpose()
        }
        OpCode::Compressed => {
            edit(&inflated(frame).filter(|inner| !is_compressed(inner)).ok_or(WireError::Compressed)?, change)
        }
        OpCode::Other(code) => Err(WireError::OpCode(code)),
    }
}

/// A frame that was compressed twice is nobody's hello.
fn is_compressed(frame: &[u8]) -> bool {
    Header::of(frame).is_ok_and(|header| header.opcode == OpCode::Compressed)
}

#[cfg(test)]
mod tests;
