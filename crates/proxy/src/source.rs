//! One direction of a socket as a stream of frames.
//!
//! - an idle connection keeps a buffer of 4 KiB per direction; a busy one reads 64 KiB at once
//! - `fill` may be cancelled at any time and loses nothing
//!
//! Not here: a bound for held frames, see `held`.

use std::io;

use bytes::BytesMut;
use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncReadExt};
use wire::FrameReader;

const READ_BYTES_IDLE: usize = 4 * 1024;
const READ_BYTES_BUSY: usize = 64 * 1024;

pub(crate) struct Source<R> {
    stream: R,
    pub(crate) frames: FrameReader,
    read_bytes: usize,
    /// The buffer has been larger than an idle connection's.
    grown: bool,
    received: IntCounter,
}

/// What came from the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    More,
    End,
}

impl<R: AsyncRead + Unpin> Source<R> {
    pub(crate) fn new(stream: R, received: IntCounter) -> Self {
        Source { stream, frames: FrameReader::default(), read_bytes: READ_BYTES_IDLE, grown: false, received }
    }

    /// Waits for bytes and adds them to `frames`.
    pub(crate) async fn fill(&mut self) -> io::Result<Filled> {
        let buffer = self.frames.buffer_mut();
        if buffer.is_empty() && self.grown && self.read_bytes == READ_BYTES_IDLE {
            *buffer = BytesMut::new();
            self.grown = false;
        }
        self.grown |= buffer.len() + self.read_bytes > READ_BYTES_IDLE;
        buffer.reserve(self.read_bytes);
        let count = self.stream.read_buf(buffer).await?;
        self.read_bytes = if count < self.read_bytes { READ_BYTES_IDLE } else { READ_BYTES_BUSY };
        self.received.inc_by(count as u64);
        Ok(if count == 0 { Filled::End } else { Filled::More })
    }

    pub(crate) fn stream_mut(&mut self) -> &mut R {
        &mut self.stream
    }
}
