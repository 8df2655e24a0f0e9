//! A connection of our own to mongod, made as a client's is, with no user: what is a stranger told?

use std::{io, time::Duration};

use bson::{
    oid::ObjectId,
    raw::{RawDocument, RawDocumentBuf},
    rawdoc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use wire::{Flags, FrameReader, OpMsg, Section, encode_msg};

use crate::{stream::Stream, upstream::Upstream};

/// An open one.
pub(crate) struct Line {
    stream: Stream,
    frames: FrameReader,
}

impl Line {
    pub(crate) async fn open(upstream: &Upstream) -> io::Result<Line> {
        Ok(Line { stream: upstream.dial().await?.stream, frames: FrameReader::default() })
    }

    /// The reply to a command. An error where there is none in time; the line is of no use then.
    pub(crate) async fn ask(&mut self, command: &RawDocument) -> io::Result<RawDocumentBuf> {
        let frame =
            encode_msg(1, 0, Flags::default(), &[Section::Body(command)]).map_err(io::Error::other)?;
        timeout(ANSWER_MAX, self.exchange(&frame))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn exchange(&mut self, frame: &[u8]) -> io::Result<RawDocumentBuf> {
        self.stream.write_all(frame).await?;
        self.stream.flush().await?;
        loop {
            if let Some(reply) = self.frames.take_frame().map_err(io::Error::other)? {
                let reply = OpMsg::parse(&reply).map_err(io::Error::other)?;
                return Ok(reply.body().to_owned());
            }
            if self.stream.read_buf(self.frames.buffer_mut()).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Whether mongod takes commands from somebody who has not logged in.
    ///
    /// It says so as well while it has no users and takes us for its own host (the localhost exception; seen on 6.0.5).
    pub(crate) async fn is_open(&mut self) -> io::Result<bool> {
        let reply = self.ask(&rawdoc! { "listDatabases": 1, "nameOnly": true, "$db": "admin" }).await?;
        match (is_ok(&reply), reply.get_i32("code")) {
            (true, _) => Ok(true),
            (false, Ok(UNAUTHORIZED)) => Ok(false),
            _ => Err(io::Error::other(
                reply.get_str("errmsg").unwrap_or("an error without a message").to_owned(),
            )),
        }
    }

    /// The process that answers; `None`: it does not say.
    pub(crate) async fn process(&mut self) -> io::Result<Option<ObjectId>> {
        let reply = self.ask(&rawdoc! { "hello": 1, "$db": "admin" }).await?;
        Ok(reply.get_document("topologyVersion").and_then(|it| it.get_object_id("processId")).ok())
    }

    /// Logs in with the certificate that we show; the user that this is.
    pub(crate) async fn log_in_by_certificate(&mut self) -> io::Result<Option<String>> {
        let login = rawdoc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" };
        let reply = self.ask(&login).await?;
        Ok(is_ok(&reply).then(|| reply.get_str("user").unwrap_or_default().to_owned()))
    }

    /// Returns when mongod has gone. One that is slow, or stopped, has not: it may take any time to answer.
    pub(crate) async fn ended(mut self) {
        let ping = rawdoc! { "ping": 1, "$db": "admin" };
        let Ok(ping) = encode_msg(1, 0, Flags::default(), &[Section::Body(&ping)]) else { return };
        let mut byte = [0];
        // It says nothing by itself: whatever is read is an end.
        while timeout(LOOK_INTERVAL, self.stream.read(&mut byte)).await.is_err() {
            if self.exchange(&ping).await.is_err() {
                return;
            }
        }
    }
}

fn is_ok(reply: &RawDocument) -> bool {
    reply.get_f64("ok").is_ok_and(|ok| ok == 1.0)
}

const UNAUTHORIZED: i32 = 13;
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// For a host that has gone without a word.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
