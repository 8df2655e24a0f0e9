//! What a log is told when it is opened.

use std::path::PathBuf;
use std::time::Duration;

use crate::disk::Faults;
use crate::error::OpenError;
use crate::level::SEGMENTS_LEAST;

/// When a record counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Survives the death of this process; `durable` follows `head` and nobody waits for the disk.
    /// Segments are still synced when they are full, so that recovery need not read them all.
    Process,
    /// Synced every [`Config::flush_interval`], and whenever somebody waits.
    #[default]
    Journal,
    /// As `Journal` for the log itself; the caller waits before every acknowledgement.
    Strict,
}

/// Settings of one log. [`Config::new`] gives the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The log's folder; made with mode 0700 when it is not there.
    pub dir: PathBuf,
    /// Size at which a segment is closed and the next begins (default 64 MiB, at least 4 KiB).
    /// A record that is larger gets a segment of its own. Segments are smaller where `bytes_max`, or the disk, has no
    /// room for eight of them.
    pub segment_bytes_max: u64,
    /// What the log's records may occupy before it counts as full (default `None`: what the disk has; at least 64 KiB).
    /// The disk also holds the next segment, made ahead, and 260 KiB of other files.
    pub bytes_max: Option<u64>,
    /// What is to be left free on the disk (default 0): with less, the log counts as full.
    pub free_bytes_min: u64,
    /// The largest record that `append` takes (default 64 MiB, at most 1 GiB).
    pub record_bytes_max: usize,
    /// Longest time between two syncs while there is something to sync (default 100 ms).
    pub flush_interval: Duration,
    /// When a record counts as durable (default `Journal`).
    pub durability: Durability,
    /// How long an append may wait for one that the disk does not answer (default 2 s); then it is an error.
    pub hang_after: Duration,
    /// Identifies the host's current boot. `None` (default): the kernel is asked. A log that was not closed and
    /// was last written under another boot, or one that nobody knows (zeros), is reported as suspect, because the host
    /// may have lost what was not synced.
    pub boot_id: Option<[u8; 16]>,
    /// Decides over every file call (default none): for tests of what a failing disk does.
    pub faults: Option<Faults>,
}

impl Config {
    /// The defaults, for a log in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Config {
        Config {
            dir: dir.into(),
            segment_bytes_max: 64 << 20,
            bytes_max: None,
            free_bytes_min: 0,
            record_bytes_max: 64 << 20,
            flush_interval: Duration::from_millis(100),
            durability: Durability::default(),
            hang_after: Duration::from_secs(2),
            boot_id: None,
            faults: None,
        }
    }

    /// All that is wrong with the settings, in one text.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let mut wrong = Vec::new();
        if self.segment_bytes_max < SEGMENT_BYTES_LEAST {
            wrong.push(format!(
                "segment_bytes_max is {}, at least {SEGMENT_BYTES_LEAST} is needed",
                self.segment_bytes_max
            ));
        }
        if self.record_bytes_max == 0 || self.record_bytes_max > RECORD_BYTES_MOST {
            wrong.push(format!(
                "record_bytes_max is {}, it must lie between 1 and {RECORD_BYTES_MOST}",
                self.record_bytes_max
            ));
        }
        if let Some(bytes) = self.bytes_max.filter(|bytes| *bytes < BYTES_LEAST) {
            wrong.push(format!("bytes_max is {bytes}, at least {BYTES_LEAST} is needed"));
        }
        for (name, duration) in [("flush_interval", self.flush_interval), ("hang_after", self.hang_after)] {
            if duration.is_zero() {
                wrong.push(format!("{name} is zero, it must be at least 1 ms"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(OpenError::Config(wrong.join("; "))) }
    }
}

/// Below this, the folder would fill with files.
const SEGMENT_BYTES_LEAST: u64 = 4096;

/// Below this, its segments would be too small.
const BYTES_LEAST: u64 = 64 << 10;
const _: () = assert!(BYTES_LEAST / SEGMENTS_LEAST >= SEGMENT_BYTES_LEAST);

/// One `pwritev` carries at most 2 GiB; half of it leaves no doubt.
const RECORD_BYTES_MOST: usize = 1 << 30;
