//! OP_COMPRESSED: another frame whose bytes behind the header are compressed (`wire-facts.md` 1.4).
//!
//! - read, never written: what a client or a server compressed goes on as it came
//! - the size that the frame announces bounds what is allocated, and must be met exactly
//!
//! Not here: negotiation (`hello`). A server takes what it would compress itself from anybody, asked or not.

use std::io::Read;

use crate::{
    error::WireError,
    frame::{FRAME_BYTES_MAX, HEADER_BYTES, Head, Header, OpCode, i32_at},
};

/// The whole frame that a whole OP_COMPRESSED frame holds: its own request id, the opcode that was compressed.
///
/// Fails where a server closes the connection, and for a size that is announced too large, which 6.0.5 takes: what it
/// then reads behind the message is nobody's to know.
pub fn inflate(frame: &[u8]) -> Result<Vec<u8>, WireError> {
    let outer = Header::of(frame)?;
    if outer.opcode != OpCode::Compressed {
        return Err(WireError::OpCode(outer.opcode.code()));
    }
    let bytes = announced(frame).ok_or(WireError::Compressed)?;
    let header =
        Header { length: HEADER_BYTES + bytes, opcode: OpCode::from(i32_at(frame, HEADER_BYTES)?), ..outer };
    let (compressor, payload) =
        frame.get(COMPRESSOR_AT..).and_then(<[u8]>::split_first).ok_or(WireError::Truncated)?;
    let mut inner = Vec::with_capacity(header.length);
    header.write(&mut inner);
    inner.resize(header.length, 0);
    let body = &mut inner[HEADER_BYTES..];
    let fits = match *compressor {
        SNAPPY => snappy(payload, body),
        ZLIB => zlib(payload, body),
        ZSTD => zstd::bulk::decompress_to_buffer(payload, body).is_ok_and(|written| written == bytes),
        _ => false,
    };
    if fits { Ok(inner) } else { Err(WireError::Compressed) }
}

/// How many bytes [`inflate`] would return for the frame that starts like this; 0 for a frame that is not compressed,
/// not here far enough, or that it would not inflate.
pub fn inflated_bytes(head: &Head<'_>) -> usize {
    match head.header.opcode {
        OpCode::Compressed => announced(head.bytes).map_or(0, |bytes| HEADER_BYTES + bytes),
        _ => 0,
    }
}

/// The size that a compressed frame announces, without a header, if a frame may have it.
//= OP_COMPRESSED: int32 originalOpcode; int32 uncompressedSize; uint8 compressorId; bytes
fn announced(frame: &[u8]) -> Option<usize> {
    let bytes = usize::try_from(i32_at(frame, HEADER_BYTES + 4).ok()?).ok()?;
    (HEADER_BYTES + bytes <= FRAME_BYTES_MAX).then_some(bytes)
}

/// Whether it inflates to exactly as many bytes as `out` has; so does the next one.
fn snappy(payload: &[u8], out: &mut [u8]) -> bool {
    let announced = snap::raw::decompress_len(payload);
    announced == Ok(out.len()) && snap::raw::Decoder::new().decompress(payload, out).is_ok()
}

fn zlib(payload: &[u8], out: &mut [u8]) -> bool {
    let mut inflater = flate2::read::ZlibDecoder::new(payload);
    // A stream that is longer than announced is no good, one with something behind it is (seen on 6.0.5).
    inflater.read_exact(out).is_ok() && inflater.read(&mut [0]).is_ok_and(|more| more == 0)
}

/// The compressors that [`inflate`] reads, as a hello names them.
pub(crate) const COMPRESSORS: &[&str] = &["snappy", "zlib", "zstd"];
const COMPRESSOR_AT: usize = HEADER_BYTES + 4 + 4;
const SNAPPY: u8 = 1;
const ZLIB: u8 = 2;
const ZSTD: u8 = 3;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::frame::FrameReader;

    const BODY: &[u8] = b"the same, the same, the same";

    /// `BODY`, as each compressor has it.
    fn payloads() -> [(u8, Vec<u8>); 3] {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        zlib.write_all(BODY).unwrap();
        [
            (SNAPPY, snap::raw::Encoder::new().compress_vec(BODY).unwrap()),
            (ZLIB, zlib.finish().unwrap()),
            (ZSTD, zstd::bulk::compress(BODY, 3).unwrap()),
        ]
    }

    fn compressed(announced: i32, compressor: u8, payload: &[u8]) -> Vec<u8> {
        let length = i32::try_from(COMPRESSOR_AT + 1 + payload.len()).unwrap();
        let numbers = [length, 7, 3, 2012, 2013, announced].map(i32::to_le_bytes).concat();
        [&numbers, &[compressor][..], payload].concat()
    }

    #[test]
    fn what_a_frame_holds() {
        for (compressor, payload) in payloads() {
            let frame = compressed(28, compressor, &payload);
            let inner = inflate(&frame).unwrap();
            let header = Header { length: 44, request_id: 7, response_to: 3, opcode: OpCode::Msg };
            assert_eq!(Header::of(&inner), Ok(header));
            assert_eq!(&inner[HEADER_BYTES..], BODY);
        }
    }

    /// wire-facts 1.4: sizes and compressors at which the server closes, or which it should not take.
    #[test]
    fn what_a_frame_cannot_hold() {
        for (compressor, payload) in payloads() {
            for announced in [27, 29, 0, -1, i32::MAX, 48_000_000] {
                let frame = compressed(announced, compressor, &payload);
                assert_eq!(inflate(&frame), Err(WireError::Compressed), "{compressor}, {announced}");
            }
            assert_eq!(inflate(&compressed(28, compressor, &payload[1..])), Err(WireError::Compressed));
            assert_eq!(inflate(&compressed(28, compressor, b"")), Err(WireError::Compressed));
        }
        for compressor in [0, 4, 255] {
            assert_eq!(inflate(&compressed(28, compressor, BODY)), Err(WireError::Compressed));
        }
        let frame = compressed(28, ZLIB, b"");
        assert!(inflate(&frame[..COMPRESSOR_AT]).is_err());
    }

    #[test]
    fn a_size_is_known_from_the_first_bytes() {
        let frame = compressed(28, ZLIB, BODY);
        let size = |frame: &[u8]| {
            let mut reader = FrameReader::default();
            reader.feed(frame);
            inflated_bytes(&reader.head().unwrap().unwrap())
        };
        assert_eq!((size(&frame[..23]), size(&frame[..24]), size(&frame)), (0, 44, 44));
        assert_eq!(size(&compressed(-1, ZLIB, BODY)), 0);
        let mut message = frame;
        message[12..16].copy_from_slice(&2013_i32.to_le_bytes());
        assert_eq!(size(&message), 0);
    }
}
