//! Where records begin: one place for each 64 KiB of the segments that were written or read last.
//!
//! - filled by appends and by readers as they go; whoever looks for a position starts at the nearest place before it
//! - 8 bytes a place, so 8 KiB for a full segment, and 16 segments at most: what does not fit is forgotten, and then
//!   its segment is read from its start
//! - a place is only a hint: the record there is checked like any other

use std::collections::VecDeque;

use crate::Lsn;
use crate::sync::Mutex;

#[derive(Debug, Default)]
pub(crate) struct Index {
    segments: Mutex<VecDeque<Places>>,
}

#[derive(Debug)]
struct Places {
    base: Lsn,
    /// Distance from the base, and offset in the file in units of 8; both ascending.
    places: Vec<(u32, u32)>,
}

impl Index {
    /// The record `lsn` of the segment that begins with `base` lies at `offset`.
    pub(crate) fn add(&self, base: Lsn, lsn: Lsn, offset: u64) {
        // Segments of more than 32 GiB are indexed at their start only.
        let (Ok(distance), Ok(unit)) = (u32::try_from(lsn.0 - base.0), u32::try_from(offset / UNIT)) else {
            return;
        };
        let mut segments = self.segments.lock();
        let at = match segments.iter().position(|places| places.base == base) {
            Some(at) => at,
            None => {
                if segments.len() == SEGMENTS_MAX {
                    segments.pop_front();
                }
                segments.push_back(Places { base, places: Vec::new() });
                segments.len() - 1
            }
        };
        let places = &mut segments[at].places;
        let nth = places.partition_point(|(other, _)| *other < distance);
        let far =
            |other: Option<&(u32, u32)>| other.is_none_or(|(_, other)| other.abs_diff(unit) >= STRIDE_UNITS);
        if far(places.get(nth)) && far(nth.checked_sub(1).and_then(|before| places.get(before))) {
            places.insert(nth, (distance, unit));
        }
    }

    /// The nearest place at or before `lsn`.
    pub(crate) fn before(&self, base: Lsn, lsn: Lsn) -> Option<(Lsn, u64)> {
        let segments = self.segments.lock();
        let places = &segments.iter().find(|places| places.base == base)?.places;
        let nth = places.partition_point(|(distance, _)| base.0 + u64::from(*distance) <= lsn.0);
        let (distance, unit) = places.get(nth.checked_sub(1)?)?;
        Some((Lsn(base.0 + u64::from(*distance)), u64::from(*unit) * UNIT))
    }
}

/// Whoever goes through a segment adds a place after so many bytes.
pub(crate) const STRIDE_BYTES: u64 = 64 << 10;

const STRIDE_UNITS: u32 = (STRIDE_BYTES / UNIT) as u32;
const UNIT: u64 = crate::format::RECORD_ALIGN as u64;
const SEGMENTS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_place_before_is_found_and_memory_is_bounded() {
        let index = Index::default();
        assert_eq!(index.before(Lsn(1), Lsn(5)), None);
        for lsn in [50u64, 10, 90, 11, 70, 30] {
            index.add(Lsn(10), Lsn(lsn), 64 + (lsn - 10) * 8192);
        }
        for (lsn, expected) in [(10, 10), (29, 10), (30, 30), (89, 70), (1000, 90)] {
            let (found, offset) = index.before(Lsn(10), Lsn(lsn)).unwrap();
            assert_eq!((found, offset), (Lsn(expected), 64 + (expected - 10) * 8192), "{lsn}");
        }
        for base in (1..100u64).map(|nth| nth << 20) {
            for lsn in (0..100_000).step_by(100) {
                index.add(Lsn(base), Lsn(base + lsn), 64 + lsn * 32);
            }
        }
        let segments = index.segments.lock();
        assert_eq!(segments.len(), SEGMENTS_MAX);
        assert!(segments.iter().all(|segment| (40..=50).contains(&segment.places.len())));
    }
}
