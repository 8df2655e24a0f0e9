//! Opening a log on a disk without a free byte.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::path::Path;

use common::{
    crash_copy, cut_to, fill, flip, give_space, len, open, payload, read, segments, small, small_disk,
    take_space, wait_for,
};
use synclog::{AppendError, Config, Cursor, CursorSync, Level, Lsn, Noted, SyncLog};

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
