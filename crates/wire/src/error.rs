//! Why bytes could not be read as what they claim to be.

/// A frame, section or document that is not what it says.
///
/// A caller does one of two things with it: carry the bytes on unread (the frame is opaque), or, for
/// [`WireError::FrameLength`], stop reading this stream, for where the next frame starts is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The header's length is outside 16 and the largest accepted frame; the server closes on it.
    #[error("frame length {0} is out of range")]
    FrameLength(i32),
    /// The frame has another opcode than the parser reads.
    #[error("opcode {0} where another was expected")]
    OpCode(i32),
    /// The bytes end before what they announce, or go on after it.
    #[error("frame ends early or late")]
    Truncated,
    /// OP_MSG flag bits 2-15 that we do not know: an endpoint must refuse them.
    #[error("unknown required flag bits {0:#x}")]
    Flags(u32),
    /// An OP_MSG section kind other than 0 and 1.
    #[error("unknown section kind {0}")]
    SectionKind(u8),
    /// An OP_MSG without a body, or with two.
    #[error("not exactly one body section")]
    BodyCount,
    /// Bytes that are not a BSON document.
    #[error("malformed document")]
    Document,
    /// A name that is not UTF-8, or has no end.
    #[error("malformed name")]
    Name,
    /// Bytes that do not inflate to what they announce, or a compressor that we do not know.
    #[error("malformed compressed frame")]
    Compressed,
    /// The CRC-32C is not that of the message; the server closes on it.
    #[error("wrong checksum")]
    Checksum,
    /// What is to be built would be longer than a frame may be, in bytes.
    #[error("a frame of {0} bytes is too long to send")]
    TooLong(usize),
}
