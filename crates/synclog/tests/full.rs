//! Opening a log on a disk without a free byte.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::path::Path;

use common::{
    crash_copy, cut_to, fill, flip, give_space, len, open, payload, read, segments, small, small_disk,
    take_space, wait_for,
};
use synclog::{AppendError, Config, Cursor, CursorSync, Level, Lsn, Noted, OpenError, SyncLog};

#[test]
fn a_log_opens_on_a_full_disk_and_goes_on_when_there_is_space() {
    common::on_small_disk(2 << 20, "on_a_full_disk");
}

/// A log of 40 records, half of them applied, that is closed or was killed.
fn log_of_forty(dir: &Path, killed: bool) -> Config {
    let mut config = small(&dir.join("first"));
    config.flush_interval = std::time::Duration::from_secs(3600);
    let (log, _) = open(&config);
    fill(&log, 38, 300);
    log.store_cursor(&Cursor { applied: Lsn(21), data: vec![] }, CursorSync::Now).unwrap();
    // Not synced: these may be torn.
    fill(&log, 2, 300);
    assert_eq!(log.note(b"noted").unwrap(), Noted::Itself);
    let mut copy = config.clone();
    copy.dir = dir.join("log");
    if !killed {
        log.close().unwrap();
    }
    crash_copy(&config.dir, &copy.dir);
    drop(log);
    std::fs::remove_dir_all(&config.dir).unwrap();
    copy
}

fn is_full(log: &SyncLog) -> bool {
    matches!(log.append(0, &[b"x"]), Err(error @ AppendError::Disk { .. }) if error.is_full())
}

#[test]
#[ignore = "run by a_log_opens_on_a_full_disk_and_goes_on_when_there_is_space"]
fn on_a_full_disk() {
    let disk = small_disk();
    for (left, killed, spoil) in [
        (0, false, "nothing"),
        (0, true, "nothing"),
        (0, true, "torn"),
        (0, true, "damaged"),
        (4096, false, "nothing"),
        (4096, true, "torn"),
        (8192, true, "damaged"),
        (64 << 10, true, "damaged"),
    ] {
        let about = format!("{left} bytes left, killed: {killed}, {spoil}");
        let config = log_of_forty(&disk, killed);
        let files = segments(&config.dir);
        let mut expected = 40;
        match spoil {
            "torn" => {
                cut_to(files.last().unwrap(), len(files.last().unwrap()) - 100);
                expected = 39;
            }
            // Of 13 in a segment, so of the last, the first record.
            "damaged" => {
                flip(files.last().unwrap(), 70);
                expected = 36;
            }
            _ => {}
        }
        take_space(&disk, left);
        let (log, found) = open(&config);
        assert_eq!(found.gap.is_some(), spoil == "damaged", "{about}: {found:?}");
        if left == 0 {
            assert!(is_full(&log) && log.level() == Level::Full, "{about}: {:?}", log.stats());
        }
        // Looking, the cursor, notes and trimming work.
        let check = |log: &SyncLog| {
            let (records, _) = common::read_through(log);
            assert!(records.iter().all(|record| record.payload == payload(record.lsn.0, 300)), "{about}");
            records.len()
        };
        let kept = check(&log);
        assert!(kept == expected || (spoil == "damaged" && kept >= 20), "{about}: {kept} records");
        assert_eq!(log.notes().notes, vec![&b"noted"[..]], "{about}");
        assert_eq!(log.note(b"more").unwrap(), Noted::Itself);
        let applied = Lsn(30);
        log.store_cursor(&Cursor { applied, data: vec![] }, CursorSync::Now).unwrap();
        log.trim(applied).unwrap();
        assert!(log.trimmed() > Lsn(1), "{about}");
        drop(log);

        // Once more, from what that left; still full, unless trimming has given room.
        let (log, again) = open(&config);
        assert_eq!(again.head, found.head, "{about}: {again:?}");
        assert_eq!(
            again.gap.is_some(),
            spoil == "damaged",
            "{about}: a gap is told until it is passed: {again:?}"
        );
        let head = log.head();
        give_space(&disk);
        wait_for("space", || {
            log.level() < Level::Full && log.append(head.0 as u8, &[&payload(head.0, 300)]).is_ok()
        });
        fill(&log, 20, 300);
        let upto = log.head();
        check(&log);
        log.store_cursor(&Cursor { applied: upto, data: vec![] }, CursorSync::Now).unwrap();
        log.close().unwrap();
        let (log, found) = open(&config);
        assert!(found.gap.is_none() && found.head == upto, "{about}: {found:?}");
        assert_eq!(read(&log, upto).unwrap(), vec![], "{about}");
        log.close().unwrap();
        std::fs::remove_dir_all(&config.dir).unwrap();
    }
}

#[test]
fn a_tiny_disk_loses_nothing_that_was_taken() {
    let seed = common::seed();
    for (nth, kib) in (0..).zip([12, 40, 100, 270, 300, 600]) {
        common::on_small_disk_seeded(kib << 10, "on_a_tiny_disk", seed.wrapping_add(nth));
    }
}

/// Space comes and goes, the log is closed and killed: what it took is there, what it refused is not.
#[test]
#[ignore = "run by a_tiny_disk_loses_nothing_that_was_taken"]
fn on_a_tiny_disk() {
    let disk = small_disk();
    let mut random = fastrand::Rng::with_seed(common::seed());
    let beside = common::scratch();
    let mut config = Config::new(disk.join("log"));
    config.segment_bytes_max = 16 << 10;
    let mut log = match SyncLog::open(config.clone()) {
        Ok((log, _)) => log,
        // Not even its small files find a place.
        Err(OpenError::Disk { source, .. }) if source.kind() == std::io::ErrorKind::StorageFull => return,
        Err(error) => panic!("{error}"),
    };
    let (mut taken, mut noted, mut refused) = (0, false, 0);
    let check = |log: &SyncLog, found: &synclog::Recovery, taken: u64, noted: bool| {
        assert!(found.gap.is_none() && log.head() == Lsn(taken + 1), "{taken}: {found:?}");
        let records = read(log, Lsn::ZERO).unwrap();
        assert_eq!(records.len() as u64, taken + 1 - log.trimmed().0);
        assert!(
            records
                .iter()
                .all(|record| record.payload == payload(record.lsn.0, record.lsn.0 as usize % 3000))
        );
        let notes = log.notes();
        assert!(!noted || notes.everything || notes.notes == [&b"noted"[..]], "{notes:?}");
    };
    for _ in 0..400 {
        match random.u32(..20) {
            0 => take_space(&disk, random.u64(..20_000)),
            1 if disk.join("ballast").exists() => give_space(&disk),
            2 => noted |= log.note(b"noted").is_ok(),
            3 => {
                let applied = Lsn(random.u64(log.trimmed().0..=log.head().0));
                log.store_cursor(&Cursor { applied, data: vec![] }, CursorSync::Now).unwrap();
                log.trim(applied).unwrap();
            }
            4 => {
                log.close().unwrap();
                let (again, found) = open(&config);
                assert!(found.clean, "{found:?}");
                check(&again, &found, taken, noted);
                log = again;
            }
            5 => {
                let mut killed = config.clone();
                killed.dir = beside.path().join("killed");
                crash_copy(&config.dir, &killed.dir);
                let (killed, found) = open(&killed);
                check(&killed, &found, taken, noted);
            }
            _ => {
                let lsn = log.head().0;
                match log.append(0, &[&payload(lsn, lsn as usize % 3000)]) {
                    Ok(_) => taken += 1,
                    Err(error) => {
                        assert!(error.is_full(), "{error}");
                        refused += 1;
                    }
                }
            }
        }
    }
    println!("{taken} taken, {refused} refused");
}
