//! The bytes on disk, little endian. Nothing here touches a file.
//!
//! Segment header, 64 bytes: magic 8, version u16, flags u16, crc u32 (over all other bytes), log id 16, base u64
//! (the `Lsn` of the first record), created u64 (ms), boot id 16. Magic, version, crc and size stay as they are in
//! every later version, so that an older program can tell a newer file from a damaged one.
//!
//! Record, 32 bytes and the payload, padded with zeros to a multiple of 8:
//!
//! | at | field |
//! |---|---|
//! | 0 | len u32, of the payload |
//! | 4 | header crc u32, over bytes 0..4 and 8..32, seeded with the log id: a stored copy of another log must not pass for records |
//! | 8 | lsn u64, dense |
//! | 16 | durable u64: everything below it was synced when this was written; tells a torn tail from lost data |
//! | 24 | payload crc u32 |
//! | 28 | kind u8, flags u8 (0), reserved u16 (0) |
//!
//! All checksums are CRC-32C. A length is believed only after its header's checksum.

use crate::Lsn;

pub(crate) const VERSION: u16 = 1;
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 64;
pub(crate) const RECORD_HEADER_BYTES: usize = 32;

/// Records start at multiples of this.
pub(crate) const RECORD_ALIGN: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"dualsync";

/// Records below this segment's base may be missing; a start of the log has reported it.
const FLAG_GAP_BEFORE: u16 = 1;

/// Names a log; random.
pub(crate) type LogId = [u8; 16];

/// Names one run of the host's kernel; zeros when unknown.
pub(crate) type BootId = [u8; 16];

pub(crate) const BOOT_UNKNOWN: BootId = [0; 16];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) id: LogId,
    pub(crate) base: Lsn,
    pub(crate) created_ms: u64,
    pub(crate) boot: BootId,
    pub(crate) gap_before: bool,
}

/// Why a fixed block was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockFault {
    Damaged,
    Newer(u16),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&if self.gap_before { FLAG_GAP_BEFORE } else { 0 }.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.id);
        bytes[32..40].copy_from_slice(&self.base.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.created_ms.to_le_bytes());
        bytes[48..64].copy_from_slice(&self.boot);
        seal_block(&mut bytes);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<SegmentHeader, BlockFault> {
        let Some(bytes) = bytes.first_chunk::<{ SEGMENT_HEADER_BYTES as usize }>() else {
            return Err(BlockFault::Damaged);
        };
        open_block(bytes, SEGMENT_MAGIC)?;
        Ok(SegmentHeader {
            gap_before: u16::from_le_bytes(array(bytes, 10)) & FLAG_GAP_BEFORE != 0,
            id: array(bytes, 16),
            base: Lsn(u64::from_le_bytes(array(bytes, 32))),
            created_ms: u64::from_le_bytes(array(bytes, 40)),
            boot: array(bytes, 48),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) len: u32,
    pub(crate) lsn: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) payload_crc: u32,
    pub(crate) kind: u8,
}

impl RecordHeader {
    pub(crate) fn encode(&self, seed: u32) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.lsn.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.durable.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[28] = self.kind;
        let crc = record_header_crc(&bytes, seed);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None`: these are not the bytes of a header of this log.
    pub(crate) fn decode(bytes: &[u8], seed: u32) -> Option<RecordHeader> {
        let bytes = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
        if u32::from_le_bytes(array(bytes, 4)) != record_header_crc(bytes, seed) {
            return None;
        }
        Some(RecordHeader {
            len: u32::from_le_bytes(array(bytes, 0)),
            lsn: Lsn(u64::from_le_bytes(array(bytes, 8))),
            durable: Lsn(u64::from_le_bytes(array(bytes, 16))),
            payload_crc: u32::from_le_bytes(array(bytes, 24)),
            kind: bytes[28],
        })
    }

    /// Header, payload and padding.
    pub(crate) fn total_bytes(&self) -> u64 {
        record_bytes(self.len as usize)
    }
}

/// Bytes on disk of a record with a payload of `len`.
pub(crate) fn record_bytes(len: usize) -> u64 {
    (RECORD_HEADER_BYTES + len).next_multiple_of(RECORD_ALIGN) as u64
}

/// Where the header checksums of a log begin.
pub(crate) fn seed(id: &LogId) -> u32 {
    crc32c::crc32c(id)
}

/// Checksum of a payload given in parts.
pub(crate) fn payload_crc(parts: &[&[u8]]) -> u32 {
    parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part))
}

fn record_header_crc(bytes: &[u8; RECORD_HEADER_BYTES], seed: u32) -> u32 {
    // One call for both parts: they are short, and this is done for each record that is written or read.
    let mut covered = [0; RECORD_HEADER_BYTES - 4];
    covered[..4].copy_from_slice(&bytes[..4]);
    covered[4..].copy_from_slice(&bytes[8..]);
    crc32c::crc32c_append(seed, &covered)
}

/// Puts the checksum into a block that starts with magic 8, version u16, flags u16, crc u32.
pub(crate) fn seal_block(bytes: &mut [u8]) {
    let crc = block_crc(bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// Checks such a block, before anything in it is believed.
pub(crate) fn open_block(bytes: &[u8], magic: [u8; 8]) -> Result<(), BlockFault> {
    if !bytes.starts_with(&magic) || u32::from_le_bytes(array(bytes, 12)) != block_crc(bytes) {
        return Err(BlockFault::Damaged);
    }
    match u16::from_le_bytes(array(bytes, 8)) {
        VERSION => Ok(()),
        newer if newer > VERSION => Err(BlockFault::Newer(newer)),
        _ => Err(BlockFault::Damaged),
    }
}

fn block_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

/// `N` bytes at `at`, of a block whose size is known.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut taken = [0; N];
    taken.copy_from_slice(&bytes[at..at + N]);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: LogId = *b"0123456789abcdef";

    fn header() -> SegmentHeader {
        SegmentHeader { id: ID, base: Lsn(7), created_ms: 99, boot: [3; 16], gap_before: true }
    }

    #[test]
    fn segment_header_round_trips_and_any_flipped_bit_is_seen() {
        let bytes = header().encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
        assert_eq!(SegmentHeader::decode(&bytes[..63]), Err(BlockFault::Damaged));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&flipped), Err(BlockFault::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = header().encode();
        bytes[8..10].copy_from_slice(&2u16.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(BlockFault::Damaged));
        seal_block(&mut bytes);
        assert_eq!(SegmentHeader::decode(&bytes), Err(BlockFault::Newer(2)));
    }

    proptest! {
        #[test]
        fn record_header_round_trips(len: u32, lsn: u64, durable: u64, payload_crc: u32, kind: u8, bit in 0..256usize) {
            let header = RecordHeader { len, lsn: Lsn(lsn), durable: Lsn(durable), payload_crc, kind };
            let mut bytes = header.encode(seed(&ID));
            prop_assert_eq!(RecordHeader::decode(&bytes, seed(&ID)), Some(header));
            prop_assert_eq!(RecordHeader::decode(&bytes, seed(b"another log's id")), None);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(RecordHeader::decode(&bytes, seed(&ID)), None);
        }
    }

    #[test]
    fn records_are_padded_to_eight() {
        for (len, bytes) in [(0, 32), (1, 40), (8, 40), (9, 48), (1024, 1056)] {
            assert_eq!(record_bytes(len), bytes, "payload of {len}");
        }
    }
}
