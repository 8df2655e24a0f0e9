//! What a log costs does not grow with it: memory, and what an open reads.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::{crash_copy, open, scratch, segments};
use synclog::{Call, Config, Cursor, CursorSync, Durability, Faults, Lsn, SyncLog, Verdict};

/// Memory is that of the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn memory_does_not_grow_with_the_log() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = scratch();
    let mut config = Config::new(dir.path().join("log"));
    config.segment_bytes_max = 256 << 10;
    config.durability = Durability::Process;
    let (log, _) = open(&config);
    let append = |records: u32| {
        for _ in 0..records {
            log.append(1, &[&[7; 8]]).unwrap();
        }
    };
    let read = || {
        let mut reader = log.reader(Lsn::ZERO).unwrap();
        let mut records = 0u64;
        while let Some(record) = reader.next().unwrap() {
            records += record.payload.len() as u64 / 8;
        }
        records
    };
    append(30_000);
    assert_eq!(read(), 30_000);
    let before = resident();
    append(470_000);
    assert_eq!(read(), 500_000);
    let grown = resident().saturating_sub(before);
    assert!(log.stats().segments > 60, "{:?}", log.stats());
    // 16 bytes a record would be 7.5 MB; the index keeps 128 KiB at most.
    assert!(grown < 4 << 20, "{grown} bytes for 470,000 records");
}

/// The calls that read, of one open.
fn reads(config: &Config) -> (usize, SyncLog) {
    let reads = Arc::new(AtomicUsize::new(0));
    let mut config = config.clone();
    let counted = Arc::clone(&reads);
    config.faults = Some(Faults::new(move |call| {
        counted.fetch_add(usize::from(call == Call::Read), Ordering::SeqCst);
        Verdict::Pass
    }));
    let (log, found) = open(&config);
    assert!(found.gap.is_none(), "{found:?}");
    (reads.load(Ordering::SeqCst), log)
}

#[test]
fn an_open_reads_the_headers_and_what_was_not_synced() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = scratch();
    let mut config = Config::new(dir.path().join("log"));
    config.segment_bytes_max = 4 << 20;
    let (log, _) = open(&config);
    for _ in 0..400 {
        log.append(1, &[&[7; 100_000]]).unwrap();
    }
    log.store_cursor(&Cursor { applied: log.head(), data: vec![] }, CursorSync::Now).unwrap();
    let mut copy = config.clone();
    copy.dir = dir.path().join("killed");
    crash_copy(&config.dir, &copy.dir);
    log.close().unwrap();
    let files = segments(&config.dir).len();
    assert!(files >= 10);
    // A read is of 256 KiB: the header of each, cursor and reserve, and the last segment.
    for config in [&config, &copy] {
        let (reads, log) = reads(config);
        assert!(reads <= files + 2 + 17, "{reads} for {files} segments");
        assert_eq!(log.head(), Lsn(401));
    }
}

/// Of a log of 2 GB: opening it, and finding a position with the index and without.
#[test]
#[ignore = "figures, for --release and a quiet machine: SYNCLOG_FIGURES names a folder on a real disk"]
fn figures() {
    let dir = std::env::var_os("SYNCLOG_FIGURES").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = tempfile::tempdir_in(dir).unwrap();
    let config = Config::new(dir.path().join("log"));
    let (log, _) = open(&config);
    let payload = vec![7; 992];
    let begun = Instant::now();
    while log.stats().bytes < 2 << 30 {
        for _ in 0..1000 {
            log.append(1, &[&payload]).unwrap();
        }
    }
    println!("{} segments, {} records in {:?}", log.stats().segments, log.stats().records, begun.elapsed());
    let head = log.head();
    log.store_cursor(&Cursor { applied: head, data: vec![] }, CursorSync::Now).unwrap();
    let seek = |log: &SyncLog, about: &str| {
        let mut took = Duration::ZERO;
        for nth in 1..=20u64 {
            let begun = Instant::now();
            let mut reader = log.reader(Lsn(head.0 - nth * 3000)).unwrap();
            assert!(reader.next().unwrap().is_some());
            took += begun.elapsed();
        }
        println!("{about}: a reader's first record {:?}", took / 20);
    };
    seek(&log, "last segment, indexed by appends");
    let killed = dir.path().join("killed");
    let begun = Instant::now();
    log.close().unwrap();
    println!("close {:?}", begun.elapsed());
    drop(log);
    let reopen = |about: &str, dir: &Path| {
        let mut config = config.clone();
        config.dir = dir.to_owned();
        let begun = Instant::now();
        let (log, found) = open(&config);
        println!("{about}: open {:?}, clean: {}", begun.elapsed(), found.clean);
        log
    };
    let log = reopen("closed", &config.dir);
    seek(&log, "after an open, first time");
    seek(&log, "after an open, second time");
    // As a kill leaves it: the last segment is full of records that nobody closed.
    for _ in 0..60_000 {
        log.append(1, &[&payload]).unwrap();
    }
    crash_copy(&config.dir, &killed);
    drop(log);
    reopen("killed", &killed);
}
