//! Frames: the 16-byte header, and the splitter that finds frames in a byte stream.
//!
//! - a frame's length includes its header and lies in 16..=`frame_bytes_max`; checked before anything is allocated
//! - any split of the same bytes gives the same frames
//! - cut-through: a frame can be taken out part by part while it arrives, nothing needs to be whole
//!
//! Not here: a bound on what is buffered. Who feeds the reader decides how far ahead it reads.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::error::WireError;

/// Length of the header that starts every frame, in bytes.
pub const HEADER_BYTES: usize = 16;

/// The largest frame that a server takes by default, header included, in bytes (`wire-facts.md` 1.3).
pub const FRAME_BYTES_MAX: usize = 48_000_000;

/// What a frame is. Unknown ones are carried, never refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpCode {
    /// 1: the answer to a legacy query; today only to a handshake.
    Reply,
    /// 2004: a legacy query; today only a handshake.
    Query,
    /// 2012: any other frame, compressed.
    Compressed,
    /// 2013: every command and reply.
    Msg,
    /// Anything else.
    Other(i32),
}

impl OpCode {
    /// The number on the wire.
    pub fn code(self) -> i32 {
        match self {
            OpCode::Reply => 1,
            OpCode::Query => 2004,
            OpCode::Compressed => 2012,
            OpCode::Msg => 2013,
            OpCode::Other(code) => code,
        }
    }
}

impl From<i32> for OpCode {
    fn from(code: i32) -> Self {
        match code {
            1 => OpCode::Reply,
            2004 => OpCode::Query,
            2012 => OpCode::Compressed,
            2013 => OpCode::Msg,
            other => OpCode::Other(other),
        }
    }
}

/// The header of a frame (`wire-facts.md` 1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole frame, this header included.
    pub length: usize,
    /// The sender's number for this frame; any value, also repeated ones.
    pub request_id: i32,
    /// In a reply: the request's number; in a streamed reply: the previous reply's.
    pub response_to: i32,
    /// What the frame is.
    pub opcode: OpCode,
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` when there are fewer than 16.
    ///
    /// Fails with [`WireError::FrameLength`] for a length outside 16..=`frame_bytes_max`.
    pub fn parse(bytes: &[u8], frame_bytes_max: usize) -> Result<Option<Header>, WireError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let claimed = i32_at(bytes, 0)?;
        //= messageLength: accepted range 16..48,000,000 inclusive (wire-facts.md 1.1)
        let length = usize::try_from(claimed)
            .ok()
            .filter(|length| (HEADER_BYTES..=frame_bytes_max).contains(length))
            .ok_or(WireError::FrameLength(claimed))?;
        Ok(Some(Header {
            length,
            request_id: i32_at(bytes, 4)?,
            response_to: i32_at(bytes, 8)?,
            opcode: OpCode::from(i32_at(bytes, 12)?),
        }))
    }

    /// Reads the header of a whole frame of at most [`FRAME_BYTES_MAX`] bytes: the length must be that of `frame`.
    pub fn of(frame: &[u8]) -> Result<Header, WireError> {
        let header = Header::parse(frame, FRAME_BYTES_MAX)?.ok_or(WireError::Truncated)?;
        if header.length == frame.len() { Ok(header) } else { Err(WireError::Truncated) }
    }

    /// Writes the header at the end of `out`. A length beyond `i32` cannot be a frame's and is cut to `i32::MAX`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let length = i32::try_from(self.length).unwrap_or(i32::MAX);
        for number in [length, self.request_id, self.response_to, self.opcode.code()] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
}

/// The frame at the front of a stream, as far as it has arrived.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Its header.
    pub header: Header,
    /// The bytes of the frame that are here, from its header on; at least 16, never more than the frame's.
    pub bytes: &'a [u8],
}

/// Splits a byte stream into frames.
///
/// Feed it bytes as they come. Look at the front frame with [`head`](Self::head), then take it whole with
/// [`take_frame`](Self::take_frame), or part by part with [`take_part`](Self::take_part).
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    /// Bytes of the frame that is being taken in parts that are still to be taken; 0 at a frame boundary.
    remaining: usize,
    frame_bytes_max: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        FrameReader { buffer: BytesMut::new(), remaining: 0, frame_bytes_max: FRAME_BYTES_MAX }
    }
}

impl FrameReader {
    /// The largest frame accepted from now on, in bytes; a server tells its own in its hello reply.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Adds bytes that arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The buffer, to append to it straight from a socket. Its present content must not be changed.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Bytes that have arrived and are not taken yet.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes of the frame being taken in parts that are still to be taken; 0 at a frame boundary.
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    /// The frame at the front; `None` while its header is not here, or while a frame is being taken in parts.
    ///
    /// Fails when the header's length is impossible: the stream has no more frames, see [`take_raw`](Self::take_raw).
    pub fn head(&self) -> Result<Option<Head<'_>>, WireError> {
        if self.remaining > 0 {
            return Ok(None);
        }
        let header = Header::parse(&self.buffer, self.frame_bytes_max)?;
        Ok(header.map(|header| Head { header, bytes: &self.buffer[..header.length.min(self.buffer.len())] }))
    }

    /// Takes the front frame out if all of it is here; `None` otherwise, and while one is being taken in parts.
    pub fn take_frame(&mut self) -> Result<Option<Bytes>, WireError> {
        match self.head()? {
            Some(head) if head.bytes.len() == head.header.length => {
                let length = head.header.length;
                Ok(Some(self.take_raw(length)))
            }
            _ => Ok(None),
        }
    }

    /// Takes what is here of the front frame; `None` when nothing is, or not even its header.
    ///
    /// After the frame's last byte was taken, [`remaining`](Self::remaining) is 0.
    pub fn take_part(&mut self) -> Result<Option<Bytes>, WireError> {
        if self.remaining == 0 {
            match self.head()? {
                Some(head) => self.remaining = head.header.length,
                None => return Ok(None),
            }
        }
        let part = self.take_raw(self.remaining);
        self.remaining -= part.len();
        Ok(if part.is_empty() { None } else { Some(part) })
    }

    /// Takes up to `bytes_max` bytes whatever they are: for a stream that is no stream of frames.
    pub fn take_raw(&mut self, bytes_max: usize) -> Bytes {
        self.buffer.split_to(bytes_max.min(self.buffer.len())).freeze()
    }
}

/// `frame` with the bytes at `range` replaced, its length corrected, every other byte kept.
/// A checksum is the caller's business.
pub(crate) fn splice(frame: &[u8], range: Range<usize>, new: &[u8]) -> Result<Vec<u8>, WireError> {
    let (front, back) = match (frame.get(..range.start), frame.get(range.end..)) {
        (Some(front), Some(back)) if front.len() >= HEADER_BYTES => (front, back),
        _ => return Err(WireError::Truncated),
    };
    let length = front.len() + new.len() + back.len();
    let claimed = frame_length(length)?;
    let mut out = Vec::with_capacity(length);
    out.extend_from_slice(&claimed.to_le_bytes());
    out.extend_from_slice(&front[4..]);
    out.extend_from_slice(new);
    out.extend_from_slice(back);
    Ok(out)
}

/// `length` as a frame's length field, or that it is too long for one.
pub(crate) fn frame_length(length: usize) -> Result<i32, WireError> {
    match i32::try_from(length) {
        Ok(claimed) if length <= FRAME_BYTES_MAX => Ok(claimed),
        _ => Err(WireError::TooLong(length)),
    }
}

/// The little-endian number at `at`.
pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Result<i32, WireError> {
    let number = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    number.map(|number| i32::from_le_bytes(*number)).ok_or(WireError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_bytes(length: i32) -> Vec<u8> {
        [length, 7, -1, 2013].iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn lengths_are_checked_on_both_ends() {
        fn check(length: i32, expected: Result<usize, WireError>) {
            let parsed = Header::parse(&header_bytes(length), FRAME_BYTES_MAX);
            assert_eq!(parsed.map(|header| header.expect("16 bytes are here").length), expected, "{length}");
        }
        check(16, Ok(16));
        check(48_000_000, Ok(48_000_000));
        for bad in [15, 0, -1, i32::MIN, 48_000_001, i32::MAX] {
            check(bad, Err(WireError::FrameLength(bad)));
        }
        // The ASCII request line of a browser reads as a length far out of range.
        let http = b"GET / HTTP/1.1\r\n\r\n";
        assert!(matches!(Header::parse(http, FRAME_BYTES_MAX), Err(WireError::FrameLength(_))));
    }

    #[test]
    fn a_header_needs_sixteen_bytes() {
        assert_eq!(Header::parse(&header_bytes(15)[..15], FRAME_BYTES_MAX), Ok(None));
    }

    #[test]
    fn parts_end_at_the_frame_boundary() {
        let mut stream = header_bytes(20);
        stream.extend_from_slice(&[1, 2, 3, 4]);
        stream.extend_from_slice(&header_bytes(16));
        let mut reader = FrameReader::default();
        reader.feed(&stream[..18]);
        assert_eq!(reader.take_part().unwrap().unwrap().len(), 18);
        assert_eq!((reader.remaining(), reader.take_part().unwrap()), (2, None));
        reader.feed(&stream[18..]);
        assert_eq!(reader.take_part().unwrap().unwrap()[..], [3, 4]);
        assert_eq!(reader.head().unwrap().unwrap().header.length, 16);
        assert_eq!(reader.take_frame().unwrap().unwrap()[..], header_bytes(16));
        assert_eq!(reader.buffered(), 0);
    }

    #[test]
    fn a_lower_limit_is_kept() {
        let mut reader = FrameReader::default();
        reader.set_frame_bytes_max(100);
        reader.feed(&header_bytes(101));
        assert_eq!(reader.take_part(), Err(WireError::FrameLength(101)));
        assert_eq!(reader.take_raw(16)[..], header_bytes(101));
    }

    #[test]
    fn splice_keeps_everything_else() {
        let mut frame = header_bytes(22);
        frame.extend_from_slice(b"abcdef");
        let longer = splice(&frame, 18..20, b"XYZ").unwrap();
        assert_eq!(&longer[16..], b"abXYZef");
        assert_eq!(Header::of(&longer).unwrap(), Header { length: 23, ..Header::of(&frame).unwrap() });
        assert_eq!(splice(&frame, 3..4, b""), Err(WireError::Truncated));
        assert_eq!(splice(&frame, 20..30, b""), Err(WireError::Truncated));
    }
}
