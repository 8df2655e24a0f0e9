//! How full the log is.
//!
//! - two bounds: `bytes_max` for the log's own size, and the disk, of which `free_bytes_min` are left to others.
//!   The fuller one counts
//! - the log's size is what its segments hold; it is counted at each append, roll and trim
//! - the disk's room is asked for every 100 ms: what is free, and what is reserved for records to come already, in the
//!   last segment and in the spare (nobody else gets that), less `free_bytes_min`
//! - the log appends at every level for as long as the disk lets it; what to do about a level is the caller's business
//! - a segment is at most an eighth of what there is room for, and when all is applied the last one goes, too:
//!   a trim always brings the level down
//!
//! Not here: a bound on the number of records (the log does not know which of them count).

use std::os::unix::fs::MetadataExt;

use crate::config::Config;
use crate::folder::Folder;
use crate::log::Shared;
use crate::sync::atomic::{AtomicU64, Ordering};

/// How full the log is, in steps at which its users do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Level {
    /// Below 80 %.
    #[default]
    Normal,
    /// From 80 %.
    Warning,
    /// From 90 %.
    Tight,
    /// From 100 %: appends may still work, but should not be made.
    Full,
}

/// What the log runs up against first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Bound {
    /// [`Config::bytes_max`].
    Bytes,
    /// The disk, less [`Config::free_bytes_min`].
    #[default]
    Disk,
}

/// How full the log is, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Fill {
    /// Of what the bound allows; 1 is full, and more is possible.
    pub share: f64,
    /// The bound that is nearer.
    pub bound: Bound,
}

/// The figures behind [`Level`]; changed by whoever changes the log, read by anybody.
#[derive(Debug)]
pub(crate) struct Gauge {
    bytes_max: Option<u64>,
    /// Bytes in segments.
    used: AtomicU64,
    /// What the segments could grow to on this disk, when it was looked at last.
    disk_bytes: AtomicU64,
}

impl Gauge {
    pub(crate) fn new(config: &Config, used: u64, free: u64) -> Gauge {
        Gauge {
            bytes_max: config.bytes_max,
            used: AtomicU64::new(used),
            disk_bytes: AtomicU64::new(used.saturating_add(free)),
        }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn level(&self) -> Level {
        let used = self.used();
        let by_disk = level_of(used, self.disk_bytes.load(Ordering::Relaxed));
        self.bytes_max.map_or(by_disk, |max| by_disk.max(level_of(used, max)))
    }

    pub(crate) fn fill(&self) -> Fill {
        let used = self.used();
        let share = |of: u64| if of == 0 { 1.0 } else { used as f64 / of as f64 };
        let by_disk = Fill { share: share(self.disk_bytes.load(Ordering::Relaxed)), bound: Bound::Disk };
        match self.bytes_max.map(share) {
            Some(share) if share >= by_disk.share => Fill { share, bound: Bound::Bytes },
            _ => by_disk,
        }
    }
}

fn level_of(used: u64, of: u64) -> Level {
    if of == 0 {
        return Level::Full;
    }
    let percent = u128::from(used) * 100 / u128::from(of);
    match percent {
        0..80 => Level::Normal,
        80..90 => Level::Warning,
        90..100 => Level::Tight,
        _ => Level::Full,
    }
}

impl Shared {
    /// Asks how much room the disk has. Gives what new segments may take.
    pub(crate) fn look_at_disk(&self) -> u64 {
        let used = self.gauge.used();
        let Some(free) = free_bytes(&self.folder) else {
            // A disk that does not tell is as it was: appends find out.
            return self.gauge.disk_bytes.load(Ordering::Relaxed).saturating_sub(used);
        };
        let room = self.reserved_bytes().saturating_add(free).saturating_sub(self.config.free_bytes_min);
        self.gauge.disk_bytes.store(used.saturating_add(room), Ordering::Relaxed);
        free.saturating_sub(self.config.free_bytes_min)
    }

    /// Space that the disk has given us and that holds no records yet.
    fn reserved_bytes(&self) -> u64 {
        let spare = std::fs::metadata(self.folder.spare()).map_or(0, |meta| meta.blocks() * 512);
        let unsynced = self.unsynced.lock();
        let begun = unsynced.iter().map(|begun| {
            let occupied = begun.file.metadata().map_or(0, |meta| meta.blocks() * 512);
            occupied.saturating_sub(begun.segment.end.load(Ordering::Relaxed))
        });
        begun.fold(spare, u64::saturating_add)
    }
}

/// Bytes that are free on the disk; `None` when it does not tell.
pub(crate) fn free_bytes(folder: &Folder) -> Option<u64> {
    let told = rustix::fs::fstatvfs(folder.handle()).ok()?;
    Some(told.f_bavail.saturating_mul(told.f_frsize))
}

/// The size at which the next segment is to be closed, when so many bytes are used and free.
pub(crate) fn segment_bytes(config: &Config, used: u64, free: u64) -> u64 {
    let wanted = config.segment_bytes_max.min(config.bytes_max.map_or(u64::MAX, |max| max / SEGMENTS_LEAST));
    let by_disk = (used.saturating_add(free) / SEGMENTS_LEAST).min(free) / BLOCK_BYTES * BLOCK_BYTES;
    wanted.min(by_disk.max(SEGMENT_BYTES_SMALL))
}

/// A log that is full has at least so many segments, so that trimming gives room long before all is applied.
pub(crate) const SEGMENTS_LEAST: u64 = 8;

/// On a disk with hardly any room, segments are not smaller than this: there would be too many.
const SEGMENT_BYTES_SMALL: u64 = 64 << 10;

const BLOCK_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn config(bytes_max: Option<u64>) -> Config {
        Config { bytes_max, ..Config::new("unused") }
    }

    #[test]
    fn levels_begin_at_80_90_and_100_percent_of_the_nearer_bound() {
        for (used, max, disk_bytes, expected, bound) in [
            (799, Some(1000), 10_000, Level::Normal, Bound::Bytes),
            (800, Some(1000), 10_000, Level::Warning, Bound::Bytes),
            (899, Some(1000), 10_000, Level::Warning, Bound::Bytes),
            (900, Some(1000), 10_000, Level::Tight, Bound::Bytes),
            (1000, Some(1000), 10_000, Level::Full, Bound::Bytes),
            (5000, Some(1000), 10_000, Level::Full, Bound::Bytes),
            (950, Some(10_000), 1000, Level::Tight, Bound::Disk),
            (950, None, 1000, Level::Tight, Bound::Disk),
            (0, None, 0, Level::Full, Bound::Disk),
            (64, None, 64, Level::Full, Bound::Disk),
            (u64::MAX / 2, None, u64::MAX, Level::Normal, Bound::Disk),
        ] {
            let gauge = Gauge::new(&config(max), used, disk_bytes - used.min(disk_bytes));
            assert_eq!(
                (gauge.level(), gauge.fill().bound),
                (expected, bound),
                "{used} of {max:?}, {disk_bytes}"
            );
        }
    }

    #[test]
    fn a_segment_is_at_most_an_eighth_of_the_room() {
        const MIB: u64 = 1 << 20;
        for (bytes_max, used, free, expected) in [
            (None, 0, 1 << 40, 64 * MIB),
            (Some(MIB), 0, 1 << 40, MIB / 8),
            (Some(64 << 10), 0, 1 << 40, 8 << 10),
            (None, 0, 80 * MIB, 10 * MIB),
            (None, 75 * MIB, 5 * MIB, 5 * MIB),
            (None, 80 * MIB, 0, 64 << 10),
        ] {
            let config = config(bytes_max);
            assert_eq!(segment_bytes(&config, used, free), expected, "{bytes_max:?}, {used}, {free}");
        }
    }
}
