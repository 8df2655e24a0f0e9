//! What an open makes of every kind of broken log: never wrong data, never silence.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{
    check_payloads, crash_copy, crashed, cut_to, files, fill, flip, goes_on, held, len, make_newer, open,
    open_error, quiet, read, read_through, scratch, segments, store,
};
use synclog::{Call, Config, Faults, LogView, Lsn, OpenError, Recovery, SyncLog, Verdict};

#[test]
fn cut_at_every_byte_of_the_last_three_records() {
    let dir = scratch();
    let config = quiet(dir.path());
    let (log, _) = open(&config);
    fill(&log, 10, 21);
    // 32 bytes of header, 21 of payload, 3 of padding.
    let (record, end) = (56, 64 + 10 * 56);
    for cut in end - 3 * record..=end {
        let copy = crashed(&config, dir.path());
        cut_to(&segments(&copy.dir)[0], cut);
        let (log, found) = open(&copy);
        let whole = (cut - 64) / record;
        let torn = (cut - 64) % record;
        assert_eq!((found.head, found.torn_bytes), (Lsn(whole + 1), torn), "cut at {cut}");
        assert_eq!(found.set_aside.len(), usize::from(torn > 0), "cut at {cut}");
        assert!(found.gap.is_none() && !found.clean, "cut at {cut}: {found:?}");
        let records = read(&log, Lsn::ZERO).unwrap();
        assert_eq!(records.len() as u64, whole);
        check_payloads(&records, 21, "cut");
        assert_eq!(found.set_aside.iter().map(|path| len(path)).sum::<u64>(), torn);
        goes_on(&log, &copy, 21);
    }
}

#[test]
fn what_was_synced_is_not_taken_for_a_torn_tail() {
    let dir = scratch();
    let config = quiet(dir.path());
    let (log, _) = open(&config);
    fill(&log, 10, 21);
    log.close().unwrap();
    // The last record of a closed log, and whole files at the end: all of it was durable.
    for damage in [0, 1] {
        let copy = crashed(&config, dir.path());
        let last = segments(&copy.dir).pop().unwrap();
        if damage == 0 {
            cut_to(&last, len(&last) - 56)
        } else {
            fs::remove_file(&last).unwrap()
        }
        let (log, found) = open(&copy);
        assert!(found.gap.is_some() && !found.clean, "{found:?}");
        // No position is given twice.
        assert_eq!(found.head, Lsn(11));
        goes_on(&log, &copy, 21);
    }
}

/// Flips every byte of every file of a log and checks what an open, and reading through, make of it.
fn flip_every_byte(config: &Config, dir: &Path, records: u64, payload_bytes: usize, cursor: u64) {
    for original in fs::read_dir(&config.dir).unwrap().map(|entry| entry.unwrap().path()) {
        let name = original.file_name().unwrap().to_owned();
        // `tests/reserve.rs` does the same to the reserve.
        if name == "LOCK" || name == "spare" || name == "reserve" {
            continue;
        }
        for at in 0..len(&original) as usize {
            let about = format!("byte {at} of {}", original.display());
            let copy = crashed(config, dir);
            flip(&copy.dir.join(&name), at);
            let (log, found) = open(&copy);
            let (read, damage) = read_through(&log);
            check_payloads(&read, payload_bytes, &about);
            let lost = records - read.len() as u64;
            let reported = found.gap.is_some() || found.torn_bytes > 0 || damage > 0;
            assert!(lost == 0 || reported, "{about}: {lost} records lost in silence: {found:?}");
            assert!(
                lost == 0 || found.gap.is_some() || damage > 0 || lost == 1,
                "{about}: cut {lost}: {found:?}"
            );
            assert!(found.gap.is_some() || found.head == Lsn(records + 1) || found.torn_bytes > 0, "{about}");
            let stored = log.cursor().map_or(0, |cursor| cursor.applied.0);
            assert!(stored == cursor || !found.notes.is_empty(), "{about}: cursor {stored}: {found:?}");
        }
    }
}

#[test]
fn flip_every_byte_of_a_crashed_log() {
    let dir = scratch();
    let config = quiet(dir.path());
    let (log, _) = open(&config);
    fill(&log, 3, 21);
    store(&log, 2);
    fill(&log, 1, 21);
    store(&log, 3);
    fill(&log, 2, 21);
    flip_every_byte(&config, dir.path(), 6, 21, 3);
}

#[test]
fn flip_every_byte_of_a_closed_log_of_three_runs() {
    let dir = scratch();
    let config = quiet(dir.path());
    for run in 0..3 {
        let (log, _) = open(&config);
        fill(&log, 2, 21);
        store(&log, 2 + run);
        log.close().unwrap();
    }
    flip_every_byte(&config, dir.path(), 6, 21, 4);
}

#[test]
fn a_hole_in_an_unsynced_segment_is_a_gap_and_the_log_opens() {
    let dir = scratch();
    let (config, gate) = held(dir.path());
    let (log, _) = open(&config);
    fill(&log, 30, 100);
    let record = 136;
    let copy = crashed(&config, dir.path());
    drop(gate);
    assert_eq!(segments(&copy.dir).len(), 2);
    // Record 11, in the first of two segments; records 12 to 29 lie behind it, 30 in the next.
    flip(&segments(&copy.dir)[0], 64 + 10 * record + 50);
    let (log, found) = open(&copy);
    let gap = found.gap.clone().unwrap();
    assert!(gap.contains("damaged at position 11"), "{gap}");
    assert_eq!(found.head, Lsn(31));
    // Whole bytes are set aside, the records before stay, and those behind the file, too.
    assert_eq!(found.set_aside.len(), 1);
    assert_eq!(found.set_aside, files(&copy.dir, "damaged"));
    let (records, damage) = read_through(&log);
    let lsns: Vec<u64> = records.iter().map(|record| record.lsn.0).collect();
    assert_eq!(lsns, (1..=10).chain(30..=30).collect::<Vec<_>>());
    assert_eq!(damage, 0, "what was reported at open is not reported again by the reader");
    drop(log);

    // It is told again, whoever opens the log, until a cursor has passed it.
    let (log, found) = open(&copy);
    assert!(found.gap.is_some() && found.set_aside.is_empty(), "{found:?}");
    fill(&log, 1, 100);
    store(&log, 31);
    drop(log);
    assert!(open(&copy).1.gap.is_some());
    let (log, _) = open(&copy);
    store(&log, 32);
    drop(log);
    let (log, found) = open(&copy);
    assert!(found.gap.is_none(), "{found:?}");
    assert!(found.notes.iter().any(|note| note.contains("1 damaged file")), "{found:?}");
    goes_on(&log, &copy, 100);
}

/// Whoever has kept what a gap means need not hear of it again, also when nothing is appended; of a new one, always.
#[test]
fn a_gap_that_was_dealt_with_is_not_told_again() {
    let dir = scratch();
    let (config, gate) = held(dir.path());
    let (log, _) = open(&config);
    fill(&log, 30, 100);
    let copy = crashed(&config, dir.path());
    drop(gate);
    flip(&segments(&copy.dir)[0], 64 + 10 * 136 + 50);
    for _ in 0..2 {
        assert!(open(&copy).1.gap.is_some());
    }
    let (log, found) = open(&copy);
    assert!(found.gap.is_some());
    log.forget_gap().unwrap();
    // It survives the death of the process, and other cursors.
    let mut died = copy.clone();
    died.dir = dir.path().join("died");
    crash_copy(&copy.dir, &died.dir);
    assert!(open(&died).1.gap.is_none());
    store(&log, 5);
    log.close().unwrap();
    for _ in 0..2 {
        let (log, found) = open(&copy);
        assert!(found.gap.is_none(), "{found:?}");
        assert_eq!(
            read_through(&log),
            (read(&log, Lsn::ZERO).unwrap(), 0),
            "the gap is still crossed in silence"
        );
        log.close().unwrap();
    }
    // Another one, at the same position: its end is gone, and nothing was appended since.
    segments(&copy.dir)[1..].iter().for_each(|path| fs::remove_file(path).unwrap());
    for _ in 0..2 {
        let (log, found) = open(&copy);
        assert!(found.gap.is_some(), "{found:?}");
        assert_eq!(found.head, Lsn(31));
        drop(log);
    }
    open(&copy).0.forget_gap().unwrap();
    let (log, found) = open(&copy);
    assert!(found.gap.is_none(), "{found:?}");
    goes_on(&log, &copy, 100);
}

#[test]
fn damage_in_a_synced_segment_is_found_by_the_reader() {
    let dir = scratch();
    let config = quiet(dir.path());
    let (log, _) = open(&config);
    fill(&log, 100, 100);
    log.close().unwrap();
    let files = segments(&config.dir);
    let mut expected: Vec<u64> = (1..=100).collect();
    // Record 5 flipped; the last record of the second segment cut off.
    flip(&files[0], 64 + 4 * 136 + 40);
    let per_segment = (len(&files[0]) - 64) / 136;
    cut_to(&files[1], len(&files[1]) - 136);
    let (log, found) = open(&config);
    assert!(found.clean, "{found:?}");
    expected.retain(|lsn| *lsn != 5 && *lsn != 2 * per_segment);
    let (records, damage) = read_through(&log);
    assert_eq!(records.iter().map(|record| record.lsn.0).collect::<Vec<_>>(), expected);
    assert_eq!(damage, 2);
    check_payloads(&records, 100, "behind damage");

    let error = read(&log, Lsn::ZERO).unwrap_err().to_string();
    assert!(error.contains("damaged at position 5") && error.contains("go on at 6"), "{error}");
    // One who starts behind the damage is not bothered.
    assert!(!read(&log, Lsn(6)).unwrap_err().to_string().contains("position 5 "));
    assert_eq!(read(&log, Lsn(2 * per_segment + 1)).unwrap().len() as u64, 100 - 2 * per_segment);
}

#[test]
fn a_whole_record_in_the_wrong_place_is_damage() {
    let dir = scratch();
    let config = quiet(dir.path());
    let (log, _) = open(&config);
    fill(&log, 100, 100);
    log.close().unwrap();
    let last = segments(&config.dir).len() - 1;
    // A record taken out, one doubled: every checksum is right.
    for (segment, doubled) in [(0, false), (0, true), (last, false), (last, true)] {
        let copy = crashed(&config, dir.path());
        let path = &segments(&copy.dir)[segment];
        let mut bytes = fs::read(path).unwrap();
        let fourth = 64 + 3 * 136..64 + 4 * 136;
        if doubled {
            let record = bytes[fourth].to_vec();
            bytes.splice(64 + 4 * 136..64 + 4 * 136, record);
        } else {
            bytes.drain(fourth);
        }
        fs::write(path, bytes).unwrap();
        let (log, found) = open(&copy);
        let (records, damage) = read_through(&log);
        assert!(found.gap.is_some() || damage > 0, "{found:?}");
        assert!(records.is_sorted_by(|one, next| one.lsn < next.lsn));
        check_payloads(&records, 100, "wrong place");
        goes_on(&log, &copy, 100);
    }
}

#[test]
fn files_missing_in_front_in_the_middle_and_at_the_end() {
    let dir = scratch();
    let config = quiet(dir.path());
    let (log, _) = open(&config);
    fill(&log, 150, 100);
    store(&log, 10);
    log.close().unwrap();
    let count = segments(&config.dir).len();
    for missing in [0, count / 2, count - 1] {
        let copy = crashed(&config, dir.path());
        fs::remove_file(&segments(&copy.dir)[missing]).unwrap();
        let (log, found) = open(&copy);
        let (records, damage) = read_through(&log);
        assert!(records.len() < 150);
        assert!(found.gap.is_some() || damage == 1, "segment {missing}: {found:?}");
        assert_eq!(found.head, Lsn(151));
        goes_on(&log, &copy, 100);
    }
    // All of them, and only the cursor is left; or nothing at all but the segments.
    let copy = crashed(&config, dir.path());
    segments(&copy.dir).iter().for_each(|path| fs::remove_file(path).unwrap());
    let (log, found) = open(&copy);
    assert!(found.gap.is_some() && found.head == Lsn(151), "{found:?}");
    goes_on(&log, &copy, 100);
    let copy = crashed(&config, dir.path());
    fs::remove_file(copy.dir.join("cursor")).unwrap();
    let (log, found) = open(&copy);
    // Nobody can say whether files before or behind are missing, too (found by fuzzing).
    assert!(found.gap.is_some() && log.cursor().is_none() && found.head == Lsn(151), "{found:?}");
    assert_eq!(read(&log, Lsn::ZERO).unwrap().len(), 150);
}

#[test]
fn a_torn_cursor_slot_leaves_the_other_one() {
    let dir = scratch();
    let config = quiet(dir.path());
    let (log, _) = open(&config);
    fill(&log, 10, 21);
    store(&log, 3);
    store(&log, 4);
    let slot_of = |at: usize| {
        u64::from_le_bytes(fs::read(config.dir.join("cursor")).unwrap()[at..][..8].try_into().unwrap())
    };
    let newest = if slot_of(40) == 4 { 0 } else { 512 };
    for (torn_at, expected) in [(newest, 3), (512 - newest, 4)] {
        for keep in [0, 8, 60, 300, 511] {
            let copy = crashed(&config, dir.path());
            let path = copy.dir.join("cursor");
            let mut bytes = fs::read(&path).unwrap();
            bytes[torn_at + keep..torn_at + 512].fill(0xaa);
            fs::write(&path, bytes).unwrap();
            let (log, found) = open(&copy);
            assert_eq!(log.cursor().unwrap().applied, Lsn(expected), "{found:?}");
            assert!(found.gap.is_none() && found.notes.iter().any(|note| note.contains("torn")), "{found:?}");
        }
    }
    // None left: the log starts earlier.
    for bytes in [vec![], vec![0xaa; 1024]] {
        let copy = crashed(&config, dir.path());
        fs::write(copy.dir.join("cursor"), bytes).unwrap();
        let (log, found) = open(&copy);
        assert!(log.cursor().is_none() && !found.notes.is_empty(), "{found:?}");
        assert_eq!(read(&log, Lsn::ZERO).unwrap().len(), 10);
    }
}

#[test]
fn a_crash_during_a_roll_leaves_nothing_behind() {
    let dir = scratch();
    let config = quiet(dir.path());
    let (log, _) = open(&config);
    fill(&log, 5, 21);
    for (bytes, torn) in [(0, 0), (10, 0), (64, 0), (100, 36)] {
        let copy = crashed(&config, dir.path());
        let path = copy.dir.join("0000000000000006.seg");
        fs::copy(copy.dir.join("LOCK"), &path).unwrap();
        fs::write(&path, vec![0; bytes]).unwrap();
        let (log, found) = open(&copy);
        assert_eq!((found.head, found.torn_bytes), (Lsn(6), torn), "{bytes} bytes: {found:?}");
        assert!(found.gap.is_none());
        assert_eq!(read(&log, Lsn::ZERO).unwrap().len(), 5);
    }
    // The host went down before a segment's name was on disk: its records were not durable.
    let copy = crashed(&config, dir.path());
    fs::copy(&segments(&copy.dir)[0], copy.dir.join("spare")).unwrap();
    let (_, found) = open(&copy);
    assert_eq!((found.head, found.torn_bytes, found.set_aside.len()), (Lsn(6), 5 * 56, 1));
}

#[test]
fn a_segment_of_another_log_is_set_aside() {
    let (dir, other_dir) = (scratch(), scratch());
    let (config, other) = (quiet(dir.path()), quiet(other_dir.path()));
    for config in [&config, &other] {
        let (log, _) = open(config);
        fill(&log, 60, 100);
        log.close().unwrap();
    }
    for nth in 0..segments(&config.dir).len() {
        let copy = crashed(&config, dir.path());
        fs::copy(&segments(&other.dir)[nth], &segments(&copy.dir)[nth]).unwrap();
        let (log, found) = open(&copy);
        assert!(found.gap.is_some() && found.set_aside.len() == 1, "{found:?}");
        assert_eq!(found.head, Lsn(61));
        let (records, damage) = read_through(&log);
        assert!(records.len() < 60 && damage == 0, "{damage}");
        goes_on(&log, &copy, 100);
    }
}

#[test]
fn a_payload_that_holds_a_segment_does_not_pass_for_records() {
    let dir = scratch();
    let config = quiet(dir.path());
    let (log, _) = open(&config);
    fill(&log, 10, 21);
    let other_dir = scratch();
    let other = quiet(other_dir.path());
    let (other_log, _) = open(&other);
    fill(&other_log, 40, 21);
    // Its own older bytes, and another log's with positions that would fit; torn, both.
    for bytes in [fs::read(&segments(&config.dir)[0]).unwrap(), fs::read(&segments(&other.dir)[0]).unwrap()] {
        let before = crashed(&config, dir.path());
        let (log, _) = open(&before);
        log.append(1, &[&bytes, b"end"]).unwrap();
        let mut torn = before.clone();
        torn.dir = dir.path().join("torn");
        crash_copy(&before.dir, &torn.dir);
        let last = segments(&torn.dir).pop().unwrap();
        cut_to(&last, len(&last) - 8);
        let (log, found) = open(&torn);
        assert_eq!(found.head, Lsn(11), "{found:?}");
        assert!(found.gap.is_none() && found.torn_bytes > bytes.len() as u64, "{found:?}");
        assert_eq!(read(&log, Lsn::ZERO).unwrap().len(), 10);
    }
}

#[test]
fn a_newer_log_is_refused_and_left_alone() {
    let dir = scratch();
    let config = quiet(dir.path());
    let (log, _) = open(&config);
    fill(&log, 10, 21);
    log.close().unwrap();
    for (name, size) in [("0000000000000001.seg", 64), ("cursor", 512), ("reserve", 512)] {
        let copy = crashed(&config, dir.path());
        let path = copy.dir.join(name);
        let bytes = make_newer(&path, size);
        let error = open_error(&copy);
        assert!(matches!(&error, OpenError::Newer { version: 2, path: named } if *named == path), "{error}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn a_recovery_that_dies_on_its_way_does_not_forget_the_gap() {
    let dir = scratch();
    let (config, gate) = held(dir.path());
    let (log, _) = open(&config);
    fill(&log, 40, 100);
    let whole = crashed(&config, dir.path());
    drop(gate);
    // With a segment behind the damage, and with records behind it in the last one.
    for damaged in [0, 1] {
        // How many calls a recovery makes, and then it is stopped at each of them.
        let mut calls = 1;
        loop {
            let mut stopped = whole.clone();
            stopped.dir = dir.path().join("stopped");
            crash_copy(&whole.dir, &stopped.dir);
            flip(&segments(&stopped.dir)[damaged], 64 + 5 * 136 + 50);
            stopped.faults = Some(stop_after(calls));
            let died = SyncLog::open(stopped.clone()).is_err();
            stopped.faults = None;
            let (log, found) = open(&stopped);
            assert!(found.gap.is_some(), "stopped after {calls} calls: {found:?}");
            assert_eq!(found.head, Lsn(41), "stopped after {calls} calls: {found:?}");
            check_payloads(&read_through(&log).0, 100, "stopped");
            if !died {
                break;
            }
            calls += 1;
        }
        assert!(calls > 10);
    }
}

/// From the `nth` changing call on, none succeeds: as if the process had died there. Reading goes on.
fn stop_after(nth: u32) -> Faults {
    let left = AtomicU32::new(nth);
    Faults::new(move |call| {
        let take = |left: u32| left.checked_sub(1);
        if call == Call::Read || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            Verdict::Pass
        } else {
            Verdict::Fail(5)
        }
    })
}

#[test]
fn whatever_becomes_of_a_file_it_is_told() {
    let mut random = fastrand::Rng::with_seed(common::seed());
    let dir = scratch();
    let config = quiet(dir.path());
    let records = 80;
    for _ in 0..2 {
        let (log, _) = open(&config);
        fill(&log, records / 2, 150);
        store(&log, 7);
        log.close().unwrap();
    }
    for round in 0..400 {
        let copy = crashed(&config, dir.path());
        let mut paths = segments(&copy.dir);
        paths.push(copy.dir.join("cursor"));
        let path = &paths[random.usize(..paths.len())];
        let mut bytes = fs::read(path).unwrap();
        let at = random.usize(..bytes.len());
        let stop = (at + random.usize(1..600)).min(bytes.len());
        let to = random.usize(..=bytes.len() - (stop - at));
        let what = random.u32(..6);
        match what {
            0 => bytes.truncate(at),
            1 => bytes[at..stop].fill(0),
            2 => bytes[at..stop].fill_with(|| random.u8(..)),
            3 => drop(bytes.drain(at..stop)),
            4 => bytes.extend_from_within(at..stop),
            _ => bytes.copy_within(at..stop, to),
        }
        fs::write(path, bytes).unwrap();
        let seen = LogView::open(&copy.dir).unwrap().verify(|_| {});
        let (log, found) = open(&copy);
        let about = format!(
            "round {round}, change {what} at {at}..{stop} of {}: {found:?}, {seen:?}",
            path.display()
        );
        let (read, damage) = read_through(&log);
        check_payloads(&read, 150, &about);
        assert!(read.is_sorted_by(|one, next| one.lsn < next.lsn), "{about}");
        assert!(read.len() as u64 == records || found.gap.is_some() || damage > 0, "{about}");
        assert!(found.head > Lsn(records) || found.gap.is_some(), "{about}");
        // Whoever only looked was told as well.
        assert!(seen.faults > 0 || (found.gap.is_none() && damage == 0), "{about}");
        goes_on(&log, &copy, 150);
    }
}

#[test]
fn torn_tails_do_not_fill_the_folder() {
    let dir = scratch();
    let mut config = quiet(dir.path());
    for _ in 0..12 {
        let (log, _) = open(&config);
        fill(&log, 2, 21);
        let copy = crashed(&config, dir.path());
        let last = segments(&copy.dir).pop().unwrap();
        cut_to(&last, len(&last) - 8);
        drop(log);
        let next = dir.path().join("next");
        let _ = fs::remove_dir_all(&next);
        fs::rename(&copy.dir, &next).unwrap();
        config.dir = next;
        let found: Recovery = open(&config).1;
        assert_eq!(found.torn_bytes, 48);
    }
    assert!(files(&config.dir, "torn").len() <= 5);
}
