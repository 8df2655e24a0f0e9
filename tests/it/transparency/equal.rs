//! Compares what a client said and heard with what mongod heard and said. Knows the wire format on its own, so that a
//! mistake of ours is not made twice.

use std::collections::BTreeMap;
use std::io::Read as _;

use anyhow::{Context, Result, bail, ensure};
use bson::raw::RawDocument;

use super::tap::Conversation;

/// What may differ, in the order of `docs/transparency.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// Members' addresses in the reply to a hello.
    Addresses,
    /// An `_id` in front of an inserted document that had none.
    IdAdded,
    /// Our own command around a write without a reply.
    Fence,
    /// Compressors that we cannot read.
    Compressors,
    /// `serviceId` in the reply to a hello with `loadBalanced`.
    Service,
}

type Found = BTreeMap<Difference, usize>;

/// Finds, for every conversation before the proxy, the one behind it.
pub fn compare(before: &[Conversation], behind: &[Conversation]) -> Result<Found> {
    let mut behind: Vec<&Conversation> = behind.iter().filter(|it| !is_our_own(it)).collect();
    let mut found = Found::new();
    for (number, client) in before.iter().enumerate() {
        let outcomes: Vec<Result<Found>> = behind.iter().map(|server| conversation(client, server)).collect();
        let Some(at) = outcomes.iter().position(Result::is_ok) else {
            let same_start = |server: &&&Conversation| server.requests.get(..40) == client.requests.get(..40);
            let why = behind.iter().find(same_start).map(|server| conversation(client, server));
            bail!("connection {number} of {}: {why:?}", before.len());
        };
        behind.remove(at);
        for (difference, count) in outcomes.into_iter().nth(at).context("it is there")?? {
            *found.entry(difference).or_default() += count;
        }
    }
    ensure!(behind.is_empty(), "{} connections come from nobody", behind.len());
    Ok(found)
}

/// dualsync's own connections use the same address; drivers tell their application's name, and whether the server takes
/// connections at all is seen by one that says nothing.
fn is_our_own(conversation: &Conversation) -> bool {
    let name = b"dualsync ";
    conversation.requests.is_empty() || conversation.requests.windows(name.len()).any(|window| window == name)
}

fn conversation(client: &Conversation, server: &Conversation) -> Result<Found> {
    let mut found = Found::new();
    let mut note = |difference| *found.entry(difference).or_default() += 1;
    let name = b"refreshSessions\0";
    let is_fence =
        |frame: &&[u8]| number(frame, 4) == FENCE_ID && frame.windows(name.len()).any(|it| it == name);
    let (sent, heard) = (frames(&client.requests)?, frames(&server.requests)?);
    let fences = heard.iter().filter(|frame| is_fence(frame)).count();
    let heard: Vec<&[u8]> = heard.into_iter().filter(|frame| !is_fence(frame)).collect();
    (0..fences).for_each(|_| note(Difference::Fence));
    ensure!(sent.len() == heard.len(), "{} requests became {}", sent.len(), heard.len());
    for (sent, heard) in sent.iter().zip(&heard) {
        if let Some(difference) = request(sent, heard).with_context(|| two(sent, heard))? {
            note(difference);
        }
    }
    let (said, got) = (frames(&server.replies)?, frames(&client.replies)?);
    let said: Vec<&[u8]> =
        said.into_iter().filter(|frame| fences == 0 || number(frame, 8) != FENCE_ID).collect();
    // A stream of hellos goes on for a moment after its client has gone.
    let late = said.iter().skip(got.len()).all(|frame| is_hello_reply(frame));
    ensure!(got.len() <= said.len() && late, "{} replies became {}", said.len(), got.len());
    for (said, got) in said.iter().zip(&got) {
        for difference in reply(said, got).with_context(|| two(said, got))? {
            note(difference);
        }
    }
    Ok(found)
}

fn request(sent: &[u8], heard: &[u8]) -> Result<Option<Difference>> {
    if sent == heard {
        return Ok(None);
    }
    ensure!(sent[4..12] == heard[4..12], "another request id");
    if number(sent, 12) == OP_QUERY {
        let (sent, heard) = (query(sent)?, query(heard)?);
        ensure!(without(sent, &["compression"])? == without(heard, &["compression"])?, "another OP_QUERY");
        let left = heard.get_array("compression")?.into_iter().flatten().filter_map(|it| it.as_str());
        ensure!(left.eq(["zlib"]), "other compressors");
        return Ok(Some(Difference::Compressors));
    }
    let inflated = if number(sent, 12) == OP_COMPRESSED { unpacked(sent)? } else { sent.to_vec() };
    let (sent, heard) = (message(&inflated)?, message(heard)?);
    ensure!(sent.flags == heard.flags && sent.sections.len() == heard.sections.len(), "another form");
    let mut added = 0;
    for (sent, heard) in sent.sections.iter().zip(&heard.sections) {
        ensure!(sent.name == heard.name && sent.documents.len() == heard.documents.len(), "another section");
        for (sent, heard) in sent.documents.iter().zip(&heard.documents) {
            added += with_ids(sent, heard)?;
        }
    }
    ensure!(added > 0, "the same in other words");
    Ok(Some(Difference::IdAdded))
}

/// How many documents got an `_id`: this one, or those in its `documents`.
fn with_ids(sent: &RawDocument, heard: &RawDocument) -> Result<usize> {
    if sent.as_bytes() == heard.as_bytes() {
        return Ok(0);
    }
    if let (Ok(ours), Ok(theirs)) = (sent.get_array("documents"), heard.get_array("documents")) {
        ensure!(without(sent, &["documents"])? == without(heard, &["documents"])?, "another body");
        let mut added = 0;
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            let document = |value: bson::raw::RawBsonRef<'_>| value.as_document().map(ToOwned::to_owned);
            let (ours, theirs) = (document(ours?).context("one")?, document(theirs?).context("the other")?);
            added += with_ids(&ours, &theirs)?;
        }
        return Ok(added);
    }
    let first = heard.into_iter().next().context("empty")??;
    ensure!(first.0.as_str() == "_id" && first.1.as_object_id().is_some(), "what was added is no _id");
    ensure!(
        sent.get("_id")?.is_none() && without(heard, &["_id"])? == without(sent, &[])?,
        "another document"
    );
    Ok(1)
}

fn reply(said: &[u8], got: &[u8]) -> Result<Vec<Difference>> {
    if said == got {
        return Ok(Vec::new());
    }
    ensure!(said[4..16] == got[4..16] && is_hello_reply(said), "another reply");
    let (said, got) = (reply_body(said)?, reply_body(got)?);
    let changes = ["hosts", "passives", "arbiters", "primary", "me", "serviceId"];
    ensure!(without(said, &changes)? == without(got, &changes)?, "more than addresses");
    let me = got.get_str("me").context("me")?;
    ensure!(me != said.get_str("me")? && got.get_str("primary")? == me, "addresses");
    let hosts = got.get_array("hosts")?.into_iter().flatten().filter_map(|it| it.as_str());
    ensure!(hosts.eq([me]), "other hosts");
    let service = got.get("serviceId")?.map(|_| Difference::Service);
    Ok([Difference::Addresses].into_iter().chain(service).collect())
}

fn is_hello_reply(frame: &[u8]) -> bool {
    reply_body(frame).is_ok_and(|body| {
        body.get("topologyVersion").is_ok_and(|it| it.is_some())
            && body.get("maxWireVersion").is_ok_and(|it| it.is_some())
    })
}

fn reply_body(frame: &[u8]) -> Result<&RawDocument> {
    match number(frame, 12) {
        OP_REPLY => document(&frame[36..]),
        OP_MSG => document(&frame[21..]),
        _ => bail!("no plain reply"),
    }
}

fn query(frame: &[u8]) -> Result<&RawDocument> {
    let name = frame[20..].iter().position(|byte| *byte == 0).context("no namespace")?;
    document(&frame[20 + name + 1 + 8..])
}

struct Message<'a> {
    flags: i32,
    sections: Vec<Section<'a>>,
}

struct Section<'a> {
    name: Option<&'a [u8]>,
    documents: Vec<&'a RawDocument>,
}

fn message(frame: &[u8]) -> Result<Message<'_>> {
    ensure!(number(frame, 12) == OP_MSG && number(frame, 0) == i32::try_from(frame.len())?, "no OP_MSG");
    let flags = number(frame, 16);
    let end = frame.len() - if flags & 1 == 1 { 4 } else { 0 };
    if flags & 1 == 1 {
        ensure!(super::checksummed(frame) == frame, "a wrong checksum");
    }
    let (mut rest, mut sections) = (&frame[20..end], Vec::new());
    while let Some((kind, after)) = rest.split_first() {
        let size = usize::try_from(number(after, 0))?;
        let (section, after) = after.split_at_checked(size).context("a section is cut")?;
        rest = after;
        if *kind == 0 {
            sections.push(Section { name: None, documents: vec![document(section)?] });
            continue;
        }
        let name = section[4..].iter().position(|byte| *byte == 0).context("no name")?;
        let (mut left, mut documents) = (&section[4 + name + 1..], Vec::new());
        while !left.is_empty() {
            let next = document(left)?;
            left = &left[next.as_bytes().len()..];
            documents.push(next);
        }
        sections.push(Section { name: Some(&section[4..4 + name]), documents });
    }
    Ok(Message { flags, sections })
}

/// What a frame that was packed with zlib holds.
fn unpacked(frame: &[u8]) -> Result<Vec<u8>> {
    ensure!(frame[24] == ZLIB, "packed otherwise");
    let mut bytes = Vec::new();
    flate2::read::ZlibDecoder::new(&frame[25..]).read_to_end(&mut bytes)?;
    let length = i32::try_from(16 + bytes.len())?;
    Ok([&length.to_le_bytes(), &frame[4..12], &frame[16..20], &bytes].concat())
}

fn document(bytes: &[u8]) -> Result<&RawDocument> {
    let length = usize::try_from(number(bytes, 0))?;
    Ok(RawDocument::from_bytes(bytes.get(..length).context("a document is cut")?)?)
}

/// The fields in order, as bytes, but for these.
fn without(document: &RawDocument, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut fields = Vec::new();
    for element in document.iter_elements() {
        let element = element?;
        let name = element.key().as_str().to_owned();
        if !names.contains(&name.as_str()) {
            let mut one = bson::raw::RawDocumentBuf::new();
            one.append(bson::cstr!("v"), element.value()?);
            fields.push((name, one.into_bytes()));
        }
    }
    Ok(fields)
}

fn frames(mut bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let length = usize::try_from(number(bytes, 0))?;
        let (frame, rest) = bytes.split_at_checked(length).context("a frame is cut")?;
        ensure!(length >= 16, "a frame of {length} bytes");
        frames.push(frame);
        bytes = rest;
    }
    Ok(frames)
}

/// The number at `at`; -1 behind the end.
fn number(bytes: &[u8], at: usize) -> i32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(-1, |bytes| i32::from_le_bytes(*bytes))
}

fn two(one: &[u8], other: &[u8]) -> String {
    let shown = |bytes: &[u8]| bytes[..bytes.len().min(400)].escape_ascii().to_string();
    format!("{}\nbecame\n{}", shown(one), shown(other))
}

const FENCE_ID: i32 = i32::from_be_bytes(*b"dual");
const ZLIB: u8 = 2;
const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
const OP_COMPRESSED: i32 = 2012;
const OP_MSG: i32 = 2013;
