//! Frames by hand over a plain socket: what no driver would send, and what it would hide of the answer.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Bson, Document};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// OP_MSG: checksum present.
pub const CHECKSUM_PRESENT: u32 = 1;
/// OP_MSG: no reply is wanted.
pub const MORE_TO_COME: u32 = 1 << 1;
/// OP_MSG: a stream of replies is taken.
pub const EXHAUST_ALLOWED: u32 = 1 << 16;
/// The request id of every frame made here.
pub const REQUEST_ID: i32 = 7;

/// A connection that takes any bytes.
pub struct Socket(TcpStream);

impl Socket {
    pub async fn connect(address: &str) -> Result<Socket> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        Ok(Socket(stream))
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        timeout(ANSWER_MAX, self.0.write_all(bytes)).await.context("nobody reads")?.context("send")
    }

    /// Sends a command and reads its reply.
    pub async fn ask(&mut self, command: &RawDocument) -> Result<Document> {
        self.send(&op_msg(0, &body(command))).await?;
        self.reply(ANSWER_MAX).await
    }

    /// The body of the next reply, which is an OP_MSG or one that is compressed with zstd.
    pub async fn reply(&mut self, limit: Duration) -> Result<Document> {
        let frame = self.reply_frame(limit).await?;
        Ok(RawDocument::from_bytes(&inside(frame)?[21..])?.try_into()?)
    }

    /// The next reply as it comes.
    pub async fn reply_frame(&mut self, limit: Duration) -> Result<Vec<u8>> {
        let mut bytes = vec![0; 4];
        timeout(limit, self.0.read_exact(&mut bytes)).await.context("no answer")??;
        let length = i32::from_le_bytes(bytes.as_slice().try_into()?);
        bytes.resize(usize::try_from(length)?, 0);
        timeout(limit, self.0.read_exact(&mut bytes[4..])).await.context("half an answer")??;
        Ok(bytes)
    }

    /// Says that nothing more comes, and reads what is answered until the other side closes as well.
    pub async fn end(mut self) -> Result<Answer> {
        // A connection that is reset already needs no goodbye.
        let _ = self.0.shutdown().await;
        let mut bytes = Vec::new();
        let read = self.0.read_to_end(&mut bytes);
        // A reset is an end like any other: a server that closes over unread bytes sends one.
        let _ = timeout(ANSWER_MAX, read).await.context("the connection stays open")?;
        Ok(Answer::read(&bytes))
    }
}

/// The whole frame, inflated if it is compressed with zlib or zstd.
pub fn inside(frame: Vec<u8>) -> Result<Vec<u8>> {
    if frame[12..16] != OP_COMPRESSED.to_le_bytes() {
        return Ok(frame);
    }
    let mut inner = [&frame[..12], &frame[16..20]].concat();
    match frame[24] {
        2 => std::io::copy(&mut flate2::read::ZlibDecoder::new(&frame[25..]), &mut inner).map(drop)?,
        3 => inner.extend(zstd::bulk::decompress(&frame[25..], FRAME_BYTES_MAX)?),
        other => bail!("compressor {other}"),
    }
    Ok(inner)
}

/// All that came back on a connection until it was closed, without what differs from one run to the next.
#[derive(Debug, PartialEq)]
pub struct Answer {
    replies: Vec<Reply>,
    /// What is no frame.
    rest: String,
}

#[derive(Debug, PartialEq)]
struct Reply {
    opcode: i32,
    to: i32,
    body: Body,
}

#[derive(Debug, PartialEq)]
enum Body {
    Fields(BTreeMap<String, Bson>),
    /// Not to be read, as when an error message quotes noise.
    Bytes(String),
}

impl Answer {
    fn read(mut bytes: &[u8]) -> Answer {
        let mut replies = Vec::new();
        while let Some((reply, rest)) = split(bytes) {
            replies.push(reply);
            bytes = rest;
        }
        Answer { replies, rest: String::from_utf8_lossy(bytes).into_owned() }
    }
}

/// The first reply of a stream, and the bytes behind it. Whether it is compressed is no part of it: that to an insert that
/// got an `_id` on the way is not, and drivers read either (`docs/transparency.md`).
fn split(bytes: &[u8]) -> Option<(Reply, &[u8])> {
    let length = usize::try_from(i32::from_le_bytes(*bytes.first_chunk()?)).ok()?;
    let frame = inside(bytes.get(..length).filter(|frame| frame.len() >= 16)?.to_vec()).ok()?;
    let number = |at: usize| Some(i32::from_le_bytes(*frame.get(at..)?.first_chunk()?));
    let (to, opcode) = (number(8)?, number(12)?);
    let at = if opcode == OP_REPLY { 36 } else { 21 };
    // Not what may stand behind it: a checksum is another one for every request id.
    let body = frame.get(at..at + usize::try_from(number(at)?).ok()?)?;
    let document = RawDocument::from_bytes(body).and_then(Document::try_from);
    let lasting = |name: &str| !OF_THE_MOMENT.contains(&name);
    let body = match document {
        Ok(document) => Body::Fields(document.into_iter().filter(|(name, _)| lasting(name)).collect()),
        Err(_) => Body::Bytes(body.escape_ascii().to_string()),
    };
    Some((Reply { opcode, to, body }, &bytes[length..]))
}

/// A frame whose length is right.
pub fn frame(opcode: i32, payload: &[u8]) -> Vec<u8> {
    let length = as_i32(16 + payload.len());
    [header(length, opcode).as_slice(), payload].concat()
}

/// A header that says what it is told.
pub fn header(length: i32, opcode: i32) -> Vec<u8> {
    [length, REQUEST_ID, 0, opcode].iter().flat_map(|number| number.to_le_bytes()).collect()
}

pub fn op_msg(flags: u32, sections: &[u8]) -> Vec<u8> {
    frame(OP_MSG, &[&flags.to_le_bytes(), sections].concat())
}

/// The same frame as OP_COMPRESSED: zlib, of which one stored block is the simplest form (RFC 1950, RFC 1951 3.2.4).
pub fn compressed(frame: &[u8]) -> Vec<u8> {
    let (head, bytes) = frame.split_at(16);
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes();
    let (mut low, mut high) = (1_u32, 0_u32);
    for byte in bytes {
        low = (low + u32::from(*byte)) % 65_521;
        high = (high + low) % 65_521;
    }
    let block = [&[0x78, 0x01, 0x01], length.as_slice(), &length.map(|byte| !byte), bytes].concat();
    let zlib = [block.as_slice(), &((high << 16) | low).to_be_bytes()].concat();
    self::frame(OP_COMPRESSED, &[&head[12..], &as_i32(bytes.len()).to_le_bytes(), &[2], &zlib].concat())
}

/// OP_COMPRESSED that says what it is told.
pub fn packed(compressor: u8, opcode: i32, length: i32, payload: &[u8]) -> Vec<u8> {
    frame(OP_COMPRESSED, &[&opcode.to_le_bytes(), &length.to_le_bytes()[..], &[compressor], payload].concat())
}

/// An OP_MSG with its checksum.
pub fn checksummed(message: &[u8]) -> Vec<u8> {
    let mut out = message.to_vec();
    out[..4].copy_from_slice(&as_i32(message.len() + 4).to_le_bytes());
    out[16] |= 1;
    let checksum = crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// CRC-32C, bit by bit (`wire-facts.md` 1.2).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// A kind 0 section.
pub fn body(document: &RawDocument) -> Vec<u8> {
    [&[0], document.as_bytes()].concat()
}

/// A kind 1 section that claims `size_error` bytes more than it has.
pub fn sequence(name: &str, documents: &[RawDocumentBuf], size_error: i32) -> Vec<u8> {
    let documents: Vec<u8> = documents.iter().flat_map(|document| document.as_bytes().to_vec()).collect();
    let size = as_i32(4 + name.len() + 1 + documents.len()) + size_error;
    [&[1], size.to_le_bytes().as_slice(), name.as_bytes(), &[0], &documents].concat()
}

/// Frames made here are far from too long.
fn as_i32(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

/// What one server answers to these bytes on a connection of their own.
pub async fn answer(address: &str, bytes: &[u8]) -> Result<Answer> {
    let mut socket = Socket::connect(address).await?;
    // The other side may close before it has read everything.
    let _ = socket.send(bytes).await;
    socket.end().await
}

/// A command that must succeed.
pub async fn must(socket: &mut Socket, command: &RawDocument) -> Result<Document> {
    let reply = socket.ask(command).await?;
    ensure!(reply.get_f64("ok").ok() == Some(1.0), "{command:?} was answered by {reply}");
    Ok(reply)
}

pub const OP_MSG: i32 = 2013;
pub const OP_QUERY: i32 = 2004;
pub const OP_COMPRESSED: i32 = 2012;
const OP_REPLY: i32 = 1;
const FRAME_BYTES_MAX: usize = 48_000_000;
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// `id` is that of the process, in the answer to `_isSelf`.
const OF_THE_MOMENT: [&str; 6] =
    ["localTime", "connectionId", "topologyVersion", "operationTime", "$clusterTime", "id"];
