//! One direction of a socket as a stream of frames.
//!
//! - between frames a connection keeps a buffer of 4 KiB per direction, within one it reads 64 KiB at once
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
    /// The buffer is larger than an idle connection's.
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
    /// `received` counts bytes.
    pub(crate) fn new(stream: R, received: IntCounter) -> Self {
        Source { stream, frames: FrameReader::default(), grown: false, received }
    }

    /// Waits for bytes and adds them to `frames`.
    pub(crate) async fn fill(&mut self) -> io::Result<Filled> {
        let between_frames = self.frames.remaining() == 0 && self.frames.buffered() == 0;
        let buffer = self.frames.buffer_mut();
        if between_frames && self.grown {
            *buffer = BytesMut::new();
        }
        self.grown = !between_frames;
        buffer.reserve(if between_frames { READ_BYTES_IDLE } else { READ_BYTES_BUSY });
        let count = self.stream.read_buf(buffer).await?;
        self.received.inc_by(count as u64);
        Ok(if count == 0 { Filled::End } else { Filled::More })
    }

    pub(crate) fn stream_mut(&mut self) -> &mut R {
        &mut self.stream
    }
}
