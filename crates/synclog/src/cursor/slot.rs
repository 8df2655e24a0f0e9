//! One slot of the cursor file: its bytes, and what is done with it before the log is open.
//!
//! 512 bytes, little endian: magic 8, version u16, flags u16 (1 closed, 2 gap, 4 kept), crc u32 (over all other bytes),
//! log id 16, generation u64, applied u64 (0: no cursor), durable u64, data length u16, reserved 6, data 448.
//! Of the two, the whole one with the higher generation counts.

use std::fs::File;
use std::io::{self, IoSlice};
use std::path::Path;

use super::{CURSOR_DATA_MAX, Cursor};
use crate::Lsn;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::folder::{Folder, disk, refuse_too_open};
use crate::format::{BlockFault, LogId, VERSION, array, open_block, seal_block};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) id: LogId,
    pub(crate) generation: u64,
    pub(crate) cursor: Option<Cursor>,
    /// Everything below it was synced when the slot was written; with `gap`, it was reached and may be lost.
    pub(crate) durable: Lsn,
    /// The log was closed in order; nothing was written after this.
    pub(crate) closed: bool,
    /// A recovery found a gap, until a segment is there that is flagged; or the log was closed, and notes could not be kept.
    pub(crate) gap: bool,
    /// Of every gap that a segment is flagged with, somebody has kept what it means.
    pub(crate) kept: bool,
}

/// What the file held at open.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) slot: Option<Slot>,
    pub(crate) notes: Vec<String>,
    /// A slot is neither whole nor empty.
    pub(crate) torn: bool,
    /// Something was written to it, and nothing can be read.
    pub(crate) unreadable: bool,
    /// Where `slot` stands, 0 or 1.
    pub(crate) newest: usize,
}

/// Reads both slots.
pub(crate) fn load(disk_calls: &Disk, path: &Path) -> Result<Loaded, OpenError> {
    if !path.exists() {
        return Ok(Loaded::default());
    }
    refuse_too_open(path, 0o600)?;
    let failed = disk("read", path);
    let file = disk_calls.open(path).map_err(&failed)?;
    newest(path, &disk_calls.read(&file, 0, 2 * SLOT_BYTES).map_err(&failed)?)
}

/// The slot that counts, of a file's bytes.
pub(crate) fn newest(path: &Path, bytes: &[u8]) -> Result<Loaded, OpenError> {
    let mut loaded = Loaded::default();
    for (nth, block) in bytes.chunks(SLOT_BYTES).enumerate() {
        match Slot::decode(block) {
            Ok(slot) => {
                if loaded.slot.as_ref().is_none_or(|other| other.generation < slot.generation) {
                    loaded.newest = nth;
                    loaded.slot = Some(slot);
                }
            }
            Err(BlockFault::Newer(version)) => {
                return Err(OpenError::Newer { path: path.to_owned(), version });
            }
            // The slot that was never written is zeros.
            Err(BlockFault::Damaged) => loaded.torn |= block.iter().any(|byte| *byte != 0),
        }
    }
    loaded.unreadable = loaded.torn && loaded.slot.is_none();
    match (&loaded.slot, loaded.torn) {
        (None, _) => loaded
            .notes
            .push("no slot of the cursor file is whole: reading starts at the first record".into()),
        (Some(_), true) => {
            loaded.notes.push("one slot of the cursor file is torn: the other one is used".into())
        }
        (Some(_), false) => {}
    }
    Ok(loaded)
}

/// Puts on disk that recovery is about to cut something that may be missed, and that positions below `reached` are
/// taken: a death in the middle of it must not end in a log that looks whole, or gives a position twice.
pub(crate) fn announce_gap(
    disk_calls: &Disk,
    folder: &Folder,
    id: LogId,
    loaded: &mut Loaded,
    reached: Lsn,
) -> Result<(), OpenError> {
    let path = folder.cursor();
    let (closed, gap, kept) = (false, true, false);
    let none = Slot { id, generation: 0, cursor: None, durable: Lsn::FIRST, closed, gap, kept };
    let mut slot = loaded.slot.clone().unwrap_or(none);
    slot.generation += 1;
    (slot.closed, slot.gap, slot.kept) = (closed, gap, kept);
    slot.durable = slot.durable.max(reached);
    let nth = 1 - loaded.newest;
    let written = open_or_create(disk_calls, &path).and_then(|file| {
        disk_calls.write(&file, &[IoSlice::new(&slot.encode())], (nth * SLOT_BYTES) as u64)?;
        disk_calls.sync_file(&file)
    });
    written.and_then(|()| folder.sync(disk_calls)).map_err(disk("write", &path))?;
    loaded.slot = Some(slot);
    loaded.newest = nth;
    Ok(())
}

pub(crate) fn open_or_create(disk_calls: &Disk, path: &Path) -> io::Result<File> {
    if path.exists() { disk_calls.open(path) } else { disk_calls.create(path) }
}

impl Slot {
    pub(crate) fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        let flags = u16::from(self.closed) * FLAG_CLOSED
            + u16::from(self.gap) * FLAG_GAP
            + u16::from(self.kept) * FLAG_KEPT;
        let (applied, data) =
            self.cursor.as_ref().map_or((Lsn::ZERO, &[][..]), |at| (at.applied, &at.data[..]));
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&flags.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.id);
        bytes[32..40].copy_from_slice(&self.generation.to_le_bytes());
        bytes[40..48].copy_from_slice(&applied.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.durable.0.to_le_bytes());
        bytes[56..58].copy_from_slice(&(data.len() as u16).to_le_bytes());
        bytes[DATA_AT..DATA_AT + data.len()].copy_from_slice(data);
        seal_block(&mut bytes);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Slot, BlockFault> {
        let bytes = bytes.first_chunk::<SLOT_BYTES>().ok_or(BlockFault::Damaged)?;
        open_block(bytes, MAGIC)?;
        let flags = u16::from_le_bytes(array(bytes, 10));
        let applied = Lsn(u64::from_le_bytes(array(bytes, 40)));
        let len = usize::from(u16::from_le_bytes(array(bytes, 56)));
        let data = bytes[DATA_AT..].get(..len).ok_or(BlockFault::Damaged)?;
        Ok(Slot {
            id: array(bytes, 16),
            generation: u64::from_le_bytes(array(bytes, 32)),
            cursor: (applied > Lsn::ZERO).then(|| Cursor { applied, data: data.to_vec() }),
            durable: Lsn(u64::from_le_bytes(array(bytes, 48))),
            closed: flags & FLAG_CLOSED != 0,
            gap: flags & FLAG_GAP != 0,
            kept: flags & FLAG_KEPT != 0,
        })
    }
}

/// One sector of any disk: it is written whole or not at all, or its checksum tells.
pub(crate) const SLOT_BYTES: usize = 512;

const MAGIC: [u8; 8] = *b"dscursor";
const FLAG_CLOSED: u16 = 1;
const FLAG_GAP: u16 = 2;
const FLAG_KEPT: u16 = 4;
const DATA_AT: usize = SLOT_BYTES - CURSOR_DATA_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_round_trip_and_any_flipped_bit_is_seen() {
        let cursor = Some(Cursor { applied: Lsn(9), data: vec![7; CURSOR_DATA_MAX] });
        for (cursor, closed, gap, kept) in
            [(cursor, true, false, false), (None, false, true, false), (None, false, false, true)]
        {
            let slot = Slot { id: [1; 16], generation: 3, cursor, durable: Lsn(12), closed, gap, kept };
            let bytes = slot.encode();
            assert_eq!(Slot::decode(&bytes), Ok(slot));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Slot::decode(&flipped), Err(BlockFault::Damaged), "bit {bit}");
            }
        }
    }
}
