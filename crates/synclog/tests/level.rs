//! How full the log is, by its own bound and by the disk, and how it gets emptier.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use common::{fill, give_space, open, read, scratch, segments, small_disk, take_space, wait_for};
use synclog::{AppendError, Bound, Config, Cursor, CursorSync, Level, Lsn, SyncLog};

const MIB: u64 = 1 << 20;

fn bounded(dir: &std::path::Path, bytes_max: u64) -> Config {
    let mut config = Config::new(dir.join("log"));
    config.bytes_max = Some(bytes_max);
    config
}

fn apply(log: &SyncLog, upto: Lsn) {
    log.store_cursor(&Cursor { applied: upto, data: vec![] }, CursorSync::Now).unwrap();
    log.trim(upto).unwrap();
}

#[test]
fn the_level_follows_the_bytes_record_by_record() {
    let dir = scratch();
    let config = bounded(dir.path(), MIB);
    let (log, _) = open(&config);
    for percent in 0..130 {
        while log.stats().bytes * 100 < percent * MIB {
            fill(&log, 1, 1000);
        }
        let stats = log.stats();
        let expected = match stats.bytes * 100 / MIB {
            0..80 => Level::Normal,
            80..90 => Level::Warning,
            90..100 => Level::Tight,
            _ => Level::Full,
        };
        assert_eq!((log.level(), stats.level), (expected, expected), "{stats:?}");
        assert_eq!(stats.fill.bound, Bound::Bytes);
        assert!((stats.fill.share - stats.bytes as f64 / MIB as f64).abs() < 1e-9, "{stats:?}");
        let files: u64 = segments(&config.dir).iter().map(|path| common::len(path)).sum();
        assert_eq!(stats.bytes, files, "{stats:?}");
    }
    // It goes on when it is full, and knows so after a restart.
    fill(&log, 10, 1000);
    log.close().unwrap();
    let (log, _) = open(&config);
    assert_eq!(log.level(), Level::Full);
    assert_eq!(read(&log, Lsn::ZERO).unwrap().len() as u64, log.head().0 - 1);
    // Half of it applied: half of it gone, and at most a segment more is kept.
    apply(&log, Lsn(log.head().0 / 2));
    assert!((0.5..0.85).contains(&log.stats().fill.share), "{:?}", log.stats());
    apply(&log, log.head());
    assert_eq!(log.level(), Level::Normal);
}

/// The last segment cannot be trimmed: when it alone fills the log, nothing would ever help.
#[test]
fn one_record_that_fills_the_log_can_be_trimmed() {
    let dir = scratch();
    let config = bounded(dir.path(), MIB);
    let (log, _) = open(&config);
    for round in 1..4 {
        fill(&log, 1, 3 << 20);
        assert_eq!(log.level(), Level::Full);
        apply(&log, log.head());
        // A segment may have to be made first.
        wait_for("the level to fall", || log.level() == Level::Normal);
        assert_eq!((log.trimmed(), log.stats().records), (Lsn(round + 1), 0));
    }
    fill(&log, 1, 10);
    assert_eq!(read(&log, Lsn::ZERO).unwrap().len(), 1);
}

#[test]
fn settings_that_are_too_small_are_refused() {
    let dir = scratch();
    let mut config = bounded(dir.path(), 1000);
    config.hang_after = std::time::Duration::ZERO;
    let error = common::open_error(&config).to_string();
    assert!(error.contains("bytes_max is 1000, at least 65536") && error.contains("hang_after"), "{error}");
}

#[test]
fn the_level_follows_the_disk() {
    common::on_small_disk(8 * MIB, "by_disk");
}

#[test]
#[ignore = "run by the_level_follows_the_disk"]
fn by_disk() {
    let disk = small_disk();
    let mut config = Config::new(disk.join("log"));
    config.free_bytes_min = 2 * MIB;
    let (log, _) = open(&config);
    // Segments that are made ahead are room, not fill.
    assert!(log.stats().fill.share < 0.05, "{:?}", log.stats());
    assert_eq!(log.stats().fill.bound, Bound::Disk);

    // Others take the disk: the level rises without an append, and falls again.
    take_space(&disk, 2 * MIB);
    fill(&log, 100, 1000);
    let reserved_is_room = log.level();
    assert!(reserved_is_room < Level::Full, "{:?}", log.stats());
    give_space(&disk);
    wait_for("the level to fall", || log.level() == Level::Normal);

    // The log takes the disk: each level comes, and what is to be left is left, but for one small segment.
    let mut levels = vec![];
    while log.level() < Level::Full {
        fill(&log, 1, 1000);
        if levels.last() != Some(&log.level()) {
            levels.push(log.level());
        }
        let stats = log.stats();
        assert!(stats.bytes < 8 * MIB, "{stats:?}");
    }
    levels.dedup();
    assert_eq!(levels.last(), Some(&Level::Full));
    assert!(levels.contains(&Level::Warning) && levels.contains(&Level::Tight), "{levels:?}");
    let free = rustix::fs::statvfs(&disk).unwrap();
    let free = free.f_bavail * free.f_frsize;
    assert!((2 * MIB - (128 << 10)..3 * MIB).contains(&free), "{free} bytes are free, {:?}", log.stats());

    // It appends until the disk refuses; trimming brings it down.
    let error = loop {
        if let Err(error) = log.append(0, &[&[0; 1000]]) {
            break error;
        }
    };
    assert!(matches!(error, AppendError::Disk { .. }) && error.is_full(), "{error}");
    assert_eq!(log.level(), Level::Full);
    apply(&log, log.head());
    wait_for("the level to fall", || log.level() == Level::Normal);
    assert!(log.append(0, &[&[0; 1000]]).is_ok());
}
