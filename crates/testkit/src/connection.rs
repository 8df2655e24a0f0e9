//! OP_MSG over a plain socket: commands are sent as they are, and replies can be had as their bytes.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use bson::{Document, doc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One connection, on which commands are sent one after another.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    sent: i32,
}

impl Connection {
    /// Connects to `host:port`.
    pub async fn open(address: &str) -> Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, sent: 0 })
    }

    /// Sends a command; its statements in a sequence of their own, if it has some and is asked to.
    pub async fn send(&mut self, command: &Document, flags: u32, sequence: bool) -> Result<()> {
        self.sent += 1;
        let frame = frame(self.sent, command, flags, sequence)?;
        self.stream.write_all(&frame).await.context("send")
    }

    /// The body of the next reply.
    pub async fn reply(&mut self) -> Result<Document> {
        let frame = self.reply_frame().await?;
        Ok(RawDocument::from_bytes(&frame[BODY_AT..])?.try_into()?)
    }

    /// The next reply as it comes.
    pub async fn reply_frame(&mut self) -> Result<Vec<u8>> {
        let mut head = [0; 4];
        timeout(REPLY_MAX, self.stream.read_exact(&mut head)).await.context("no reply")??;
        let length = usize::try_from(i32::from_le_bytes(head))?;
        if !(BODY_AT..LENGTH_MAX).contains(&length) {
            bail!("a reply of {length} bytes");
        }
        let mut frame = head.to_vec();
        frame.resize(length, 0);
        timeout(REPLY_MAX, self.stream.read_exact(&mut frame[head.len()..]))
            .await
            .context("half a reply")??;
        Ok(frame)
    }

    /// Asks the cursor of `reply` for more, until there is none. `false`: there was none.
    pub async fn more(&mut self, db: &str, reply: &Document) -> Result<bool> {
        let Ok(cursor) = reply.get_document("cursor") else { return Ok(false) };
        let id = cursor.get_i64("id")?;
        if id == 0 {
            return Ok(false);
        }
        let ns = cursor.get_str("ns")?;
        let coll = ns.split_once('.').map_or(ns, |(_, coll)| coll);
        self.send(&doc! {"getMore": id, "collection": coll, "$db": db}, 0, false).await?;
        self.reply().await?;
        Ok(true)
    }

    /// Returns when everything that was sent before has run.
    pub async fn fence(&mut self) -> Result<()> {
        self.send(&doc! {"ping": 1, "$db": "admin"}, 0, false).await?;
        self.reply().await.map(drop)
    }
}

/// A request as it is sent.
pub fn frame(id: i32, command: &Document, flags: u32, sequence: bool) -> Result<Vec<u8>> {
    let command = RawDocumentBuf::try_from(command)?;
    let mut body = RawDocumentBuf::new();
    let mut documents = None;
    for field in &command {
        match field? {
            (name, RawBsonRef::Array(list)) if sequence && SEQUENCES.contains(&name.as_str()) => {
                documents = Some((name.as_str(), list));
            }
            (name, value) => body.append(name, value),
        }
    }
    let mut frame = vec![0; 4];
    for number in [id, 0, OP_MSG] {
        frame.extend(number.to_le_bytes());
    }
    frame.extend(flags.to_le_bytes());
    frame.push(0);
    frame.extend(body.as_bytes());
    if let Some((name, list)) = documents {
        let mut bytes: Vec<u8> = Vec::new();
        for document in list {
            bytes.extend(document?.as_document().context("a statement is a document")?.as_bytes());
        }
        frame.push(1);
        frame.extend(i32::try_from(4 + name.len() + 1 + bytes.len())?.to_le_bytes());
        frame.extend(name.as_bytes());
        frame.push(0);
        frame.extend(bytes);
    }
    let length = i32::try_from(frame.len())?.to_le_bytes();
    frame[..4].copy_from_slice(&length);
    Ok(frame)
}

/// OP_MSG: no reply is wanted.
pub const MORE_TO_COME: u32 = 1 << 1;
const SEQUENCES: [&str; 3] = ["documents", "updates", "deletes"];
const OP_MSG: i32 = 2013;
/// Behind header, flags and the section's kind.
const BODY_AT: usize = 21;
const LENGTH_MAX: usize = 48_000_001;
const REPLY_MAX: Duration = Duration::from_secs(90);
