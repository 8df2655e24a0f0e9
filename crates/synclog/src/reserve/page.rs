//! The bytes of the reserve. Nothing here touches a file.
//!
//! A header of 512 bytes, little endian: magic 8, version u16, flags u16 (1 everything, 2 and 4 the first and second
//! half are being wiped), crc u32 (over all other bytes), log id 16, cleared u64, reserved. From 4096 on two halves of
//! 128 KiB: notes, then zeros. A note: len u32, crc u32 (over len, number and payload, seeded with the log id),
//! number u64 (ascending), payload, padded with zeros to a multiple of 8.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use crate::error::OpenError;
use crate::format::{self, BlockFault, LogId, VERSION, array, open_block, seal_block};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: LogId,
    pub(crate) everything: bool,
    /// What is in such a half does not count, and it may not be written to.
    pub(crate) wiping: [bool; 2],
    /// Notes with a lower number do not count.
    pub(crate) cleared: u64,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let flags = u16::from(self.everything) * FLAG_EVERYTHING
            + u16::from(self.wiping[0]) * FLAG_WIPING[0]
            + u16::from(self.wiping[1]) * FLAG_WIPING[1];
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&flags.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.id);
        bytes[32..40].copy_from_slice(&self.cleared.to_le_bytes());
        seal_block(&mut bytes);
        bytes
    }

    pub(crate) fn decode(file: &[u8]) -> Result<Header, BlockFault> {
        let bytes = file.first_chunk::<HEADER_BYTES>().ok_or(BlockFault::Damaged)?;
        open_block(bytes, MAGIC)?;
        let flags = u16::from_le_bytes(array(bytes, 10));
        Ok(Header {
            id: array(bytes, 16),
            everything: flags & FLAG_EVERYTHING != 0,
            wiping: FLAG_WIPING.map(|flag| flags & flag != 0),
            cleared: u64::from_le_bytes(array(bytes, 32)),
        })
    }
}

/// What the file says, of its bytes: the notes that count, and whether everything does.
pub(crate) fn read(file: &Bytes, id: &LogId, path: &Path) -> Result<(Vec<Bytes>, bool), OpenError> {
    let header = match Header::decode(file) {
        Ok(header) if header.id == *id && file.len() == FILE_BYTES => header,
        Err(BlockFault::Newer(version)) => return Err(OpenError::Newer { path: path.to_owned(), version }),
        Ok(_) | Err(BlockFault::Damaged) => return Ok((Vec::new(), true)),
    };
    let mut everything = header.everything;
    let mut notes = BTreeMap::new();
    for half in (0..2).filter(|half| !header.wiping[*half]) {
        let scanned = scan(&file.slice(half_range(half)), format::seed(id));
        everything |= scanned.damaged;
        notes.extend(scanned.notes.into_iter().filter(|(number, _)| *number >= header.cleared));
    }
    let mut seen = HashSet::new();
    let notes = notes.into_values().filter(|note| seen.insert(note.clone()));
    Ok((notes.collect(), everything))
}

/// What a half holds.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    /// Numbers and payloads, ascending.
    pub(crate) notes: Vec<(u64, Bytes)>,
    /// Where the next note goes.
    pub(crate) end: usize,
    /// Something behind the notes is neither a note nor zeros.
    pub(crate) damaged: bool,
}

/// Reads one half.
pub(crate) fn scan(half: &Bytes, seed: u32) -> Scanned {
    let mut scanned = Scanned::default();
    while let Some((number, note, bytes)) = note_at(half, scanned.end, seed) {
        if scanned.notes.last().is_some_and(|(last, _)| *last >= number) {
            break;
        }
        scanned.notes.push((number, note));
        scanned.end += bytes;
    }
    scanned.damaged = half[scanned.end..].chunks(ZEROS.len()).any(|bytes| *bytes != ZEROS[..bytes.len()]);
    scanned
}

fn note_at(half: &Bytes, at: usize, seed: u32) -> Option<(u64, Bytes, usize)> {
    let header = half.get(at..at + NOTE_HEADER_BYTES)?;
    let len = u32::from_le_bytes(array(header, 0));
    let number = u64::from_le_bytes(array(header, 8));
    let start = at + NOTE_HEADER_BYTES;
    // The length is believed as far as the half reaches; then the checksum decides.
    let stop = start.checked_add(len as usize).filter(|stop| *stop <= half.len())?;
    let matches = u32::from_le_bytes(array(header, 4)) == note_crc(len, number, &half[start..stop], seed);
    (matches && number > 0).then(|| (number, half.slice(start..stop), note_bytes(len as usize)))
}

pub(crate) fn encode_note(number: u64, note: &[u8], seed: u32) -> Vec<u8> {
    // No note is larger than a half.
    let len = note.len() as u32;
    let mut bytes = Vec::with_capacity(note_bytes(note.len()));
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&note_crc(len, number, note, seed).to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(note);
    bytes.resize(note_bytes(note.len()), 0);
    bytes
}

/// Bytes on disk of a note of `len`.
pub(crate) fn note_bytes(len: usize) -> usize {
    (NOTE_HEADER_BYTES + len).next_multiple_of(8)
}

/// Where a half lies in the file.
pub(crate) fn half_range(half: usize) -> Range<usize> {
    let start = HALVES_AT + half * HALF_BYTES;
    start..start + HALF_BYTES
}

fn note_crc(len: u32, number: u64, note: &[u8], seed: u32) -> u32 {
    let crc = crc32c::crc32c_append(seed, &len.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc, &number.to_le_bytes()), note)
}

/// One sector: it is written whole or not at all, or its checksum tells.
pub(crate) const HEADER_BYTES: usize = 512;

pub(crate) const HALF_BYTES: usize = 128 << 10;
pub(crate) const FILE_BYTES: usize = HALVES_AT + 2 * HALF_BYTES;

/// The header has a page for itself: nothing else is written along with it.
const HALVES_AT: usize = 4096;
const NOTE_HEADER_BYTES: usize = 16;
const ZEROS: [u8; 4096] = [0; 4096];
const MAGIC: [u8; 8] = *b"dsnotes\0";
const FLAG_EVERYTHING: u16 = 1;
const FLAG_WIPING: [u16; 2] = [2, 4];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_any_flipped_bit_is_seen() {
        for (everything, wiping) in [(true, [false, true]), (false, [true, false])] {
            let header = Header { id: [7; 16], everything, wiping, cleared: 9 };
            let bytes = header.encode();
            assert_eq!(Header::decode(&bytes), Ok(header));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Header::decode(&flipped), Err(BlockFault::Damaged), "bit {bit}");
            }
        }
    }

    #[test]
    fn notes_round_trip_and_any_flipped_bit_or_torn_end_is_seen() {
        let mut half = Vec::new();
        for number in 1..6u64 {
            half.extend(encode_note(number * 3, &vec![number as u8; number as usize * 5 - 5], 42));
        }
        let whole = half.len();
        half.resize(512, 0);
        let scanned = scan(&half.clone().into(), 42);
        assert_eq!((scanned.notes.len(), scanned.end, scanned.damaged), (5, whole, false));
        assert_eq!(scanned.notes[4], (15, Bytes::from(vec![5; 20])));
        assert!(scan(&half.clone().into(), 43).damaged);
        for bit in 0..whole * 8 {
            let mut flipped = half.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = scan(&flipped.into(), 42);
            // Padding carries nothing.
            let same = found.notes == scanned.notes;
            assert!(found.damaged || same, "bit {bit}: {found:?}");
        }
        for kept in 0..whole {
            let mut torn = half[..kept].to_vec();
            torn.resize(512, 0);
            let found = scan(&torn.into(), 42);
            assert!(found.notes[..] == scanned.notes[..found.notes.len()], "{kept}");
        }
    }
}
