//! One direction of a socket as a stream of frames.
//!
//! - between frames a connection keeps a buffer of 4 KiB per direction, within one it reads 64 KiB at once
//! - `fill` may be cancelled at any time and loses nothing
//! - a client that takes too long for its first request, or stops in the middle of a frame, is an error of kind
//!   `TimedOut`, see `limits`
//!
//! Not here: a bound for held frames, see `held`.

use std::{io, time::Duration};

use bytes::BytesMut;
use prometheus::IntCounter;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{Instant, timeout_at},
};
use wire::FrameReader;

use crate::limits::Limits;

const READ_BYTES_IDLE: usize = 4 * 1024;
const READ_BYTES_BUSY: usize = 64 * 1024;

pub(crate) struct Source<R> {
    stream: R,
    pub(crate) frames: FrameReader,
    /// The buffer is larger than an idle connection's.
    grown: bool,
    received: IntCounter,
    pub(crate) limits: Limits,
    /// When the last bytes came.
    read_at: Instant,
}

/// What came from the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    More,
    End,
}

impl<R: AsyncRead + Unpin> Source<R> {
    /// `received` counts bytes.
    pub(crate) fn new(stream: R, received: IntCounter, limits: Limits) -> Self {
        let (frames, read_at) = (FrameReader::default(), Instant::now());
        Source { stream, frames, grown: false, received, limits, read_at }
    }

    /// Waits for bytes and adds them to `frames`.
    pub(crate) async fn fill(&mut self) -> io::Result<Filled> {
        let due = self.limits.due(self.is_between_frames());
        self.fill_until(due).await
    }

    /// The same for bytes that nobody waits for yet.
    pub(crate) async fn fill_ahead(&mut self) -> io::Result<Filled> {
        self.fill_until(None).await
    }

    fn is_between_frames(&self) -> bool {
        self.frames.remaining() == 0 && self.frames.buffered() == 0
    }

    async fn fill_until(&mut self, due: Option<Instant>) -> io::Result<Filled> {
        let between_frames = self.is_between_frames();
        let buffer = self.frames.buffer_mut();
        if between_frames && self.grown {
            *buffer = BytesMut::new();
        }
        self.grown = !between_frames;
        buffer.reserve(if between_frames { READ_BYTES_IDLE } else { READ_BYTES_BUSY });
        let read = self.stream.read_buf(buffer);
        let count = match due {
            None => read.await?,
            Some(due) => {
                let count = timeout_at(due, read).await??;
                self.limits.received(count, due);
                count
            }
        };
        self.read_at = Instant::now();
        self.received.inc_by(count as u64);
        Ok(if count == 0 { Filled::End } else { Filled::More })
    }

    /// How long ago the last bytes came.
    pub(crate) fn since_read(&self) -> Duration {
        self.read_at.elapsed()
    }

    pub(crate) fn stream_mut(&mut self) -> &mut R {
        &mut self.stream
    }
}
