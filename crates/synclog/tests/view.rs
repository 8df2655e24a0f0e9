//! Looking into a folder: a live log, a copy, a damaged one; nothing is changed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use common::{
    crash_copy, cut_to, fill, flip, len, make_newer, open, payload, read_through, scratch, segments, small,
};
use synclog::{Cursor, CursorSync, LogView, Lsn, OpenError, ReadError, Record, ViewReader};

fn all(reader: &mut ViewReader) -> Vec<Record> {
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

/// Names, times and bytes of all that is in a folder.
fn state(dir: &Path) -> BTreeMap<String, (SystemTime, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let changed = entry.metadata().unwrap().modified().unwrap();
            (entry.file_name().into_string().unwrap(), (changed, fs::read(entry.path()).unwrap()))
        })
        .collect()
}

#[test]
fn a_view_tells_all_and_changes_nothing() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    fill(&log, 100, 200);
    log.store_cursor(&Cursor { applied: Lsn(40), data: b"here".to_vec() }, CursorSync::Now).unwrap();
    log.trim(Lsn(40)).unwrap();
    log.note(b"one").unwrap();
    log.note(b"two").unwrap();
    log.clear_notes(log.notes().upto).unwrap();
    log.note(b"three").unwrap();
    let copy = dir.path().join("copy");
    crash_copy(&config.dir, &copy);
    let stats = log.stats();

    for (place, about) in [(&config.dir, "live"), (&copy, "copy")] {
        if about == "copy" {
            // A copy may be anybody's, and read-only.
            for entry in fs::read_dir(place).unwrap() {
                fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o444)).unwrap();
            }
            fs::set_permissions(place, fs::Permissions::from_mode(0o555)).unwrap();
        }
        let before = state(place);
        let view = LogView::open(place).unwrap();
        assert_eq!((view.id, view.first(), view.head()), (log.id(), stats.first, stats.head), "{about}");
        assert_eq!(view.segments.len(), stats.segments);
        assert_eq!(view.segments.iter().map(|segment| segment.bytes).sum::<u64>(), stats.bytes);
        assert!(view.segments.windows(2).all(|pair| pair[0].end == Some(pair[1].base)));
        assert!(view.segments.iter().all(|segment| segment.fault.is_none() && segment.created_ms > 0));
        assert_eq!(view.cursor, log.cursor());
        assert!(!view.closed && view.durable >= Lsn(40));
        assert_eq!((&view.notes[..], view.noted_everything), (&log.notes().notes[..], false));
        for from in [0, stats.first.0, 50, 77, 100, 101] {
            let records = all(&mut view.records(Lsn(from)));
            let first = from.max(stats.first.0);
            assert_eq!(records.len() as u64, 101 - first, "{about} from {from}");
            assert!(records.iter().zip(first..).all(|(record, lsn)| {
                record.lsn == Lsn(lsn) && record.payload == payload(lsn, 200) && record.kind == lsn as u8
            }));
        }
        assert!(
            matches!(view.records(Lsn(1)).next(), Err(ReadError::Trimmed { first, .. }) if first == stats.first)
        );
        let verified = view.verify(|fault| panic!("{about}: {fault:?}"));
        assert_eq!((verified.records, verified.faults, verified.torn_bytes), (stats.records, 0, 0));
        assert_eq!(verified.bytes + 64 * stats.segments as u64, stats.bytes);
        // The live log's own threads may change its folder at any time.
        assert!(about == "live" || state(place) == before, "{about} was changed");
    }
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o700)).unwrap();
    log.close().unwrap();
    assert!(LogView::open(&config.dir).unwrap().closed);
}

#[test]
fn each_bad_place_is_told_and_passed() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    fill(&log, 100, 200);
    drop(log);
    let files = segments(&config.dir);
    flip(&files[0], 64 + 10); // a header
    flip(&files[1], 64 + 40); // a payload
    flip(&files[1], 2000);
    cut_to(&files[2], len(&files[2]) - 100);
    flip(&files[3], 20); // the segment's own header
    fs::remove_file(&files[4]).unwrap();
    let last = files.last().unwrap();
    cut_to(last, len(last) - 5);
    let view = LogView::open(&config.dir).unwrap();
    let mut faults = vec![];
    let verified = view.verify(|fault| faults.push(fault));
    let places: Vec<_> = faults
        .iter()
        .map(|fault| (files.iter().position(|file| *file == fault.path).unwrap(), fault.lsn.0))
        .collect();
    // 17 records fit into a segment.
    assert_eq!(places, [(0, 1), (1, 18), (1, 26), (2, 51), (3, 52), (5, 69), (5, 100)], "{faults:#?}");
    assert_eq!(verified.faults, 7);
    assert!(verified.torn_bytes > 0, "{verified:?}");

    let (mut records, mut damage) = (vec![], vec![]);
    let mut reader = view.records(Lsn::ZERO);
    loop {
        match reader.next() {
            Ok(Some(record)) => records.push(record),
            Ok(None) => break,
            Err(ReadError::Damaged { lsn, resume_at, .. }) => damage.push((lsn.0, resume_at.0)),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(damage, [(1, 2), (18, 19), (26, 27), (51, 52), (69, 86)], "{damage:?}");
    assert_eq!(records.len() as u64, verified.records);
    assert!(records.iter().all(|record| record.payload == payload(record.lsn.0, 200)));
}

/// Of a copy whose files were changed: what its verification tells.
fn faults(dir: &Path) -> Vec<String> {
    let mut faults = vec![];
    LogView::open(dir).unwrap().verify(|fault| faults.push(format!("{}: {}", fault.lsn, fault.what)));
    faults
}

#[test]
fn a_log_that_lost_its_end_or_its_beginning_is_not_whole() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    fill(&log, 100, 200);
    let applied = Lsn(40);
    log.store_cursor(&Cursor { applied, data: vec![] }, CursorSync::Now).unwrap();
    log.trim(applied).unwrap();
    log.close().unwrap();
    assert_eq!(faults(&config.dir), [""; 0]);
    let lost = |about: &str, change: &dyn Fn(&Path), lsn: u64, what: &str| {
        let copy = dir.path().join("copy");
        crash_copy(&config.dir, &copy);
        change(&copy);
        let told = faults(&copy);
        assert!(told.len() == 1, "{about}: {told:?}");
        assert!(told[0].starts_with(&format!("{lsn}: ")) && told[0].contains(what), "{about}: {told:?}");
        // 40 records were applied, 100 written: it says where it had been, not where it ends now.
        assert_eq!(LogView::open(&copy).unwrap().head(), Lsn(101), "{about}");
    };
    let last = |dir: &Path| segments(dir).pop().unwrap();
    let view = LogView::open(&config.dir).unwrap();
    let (first_base, last_base) = (view.first().0, view.segments.last().unwrap().base.0);
    // 232 bytes each.
    lost("a record", &|dir| cut_to(&last(dir), len(&last(dir)) - 232), 100, "had reached 101");
    lost("part of a record", &|dir| cut_to(&last(dir), len(&last(dir)) - 1), 100, "had reached 101");
    lost("a file", &|dir| fs::remove_file(last(dir)).unwrap(), last_base, "had reached 101");
    let all = |dir: &Path| segments(dir).iter().for_each(|path| fs::remove_file(path).unwrap());
    lost("all files", &all, 1, "had reached 101");
    let first = |dir: &Path| fs::remove_file(&segments(dir)[0]).unwrap();
    lost("the first file", &first, 40, "missing");
    // Nor is its end known.
    lost("the cursor", &|dir| fs::remove_file(dir.join("cursor")).unwrap(), first_base, "cursor");
    // All that is left is a cursor that tells nothing (found by fuzzing).
    let copy = dir.path().join("copy");
    crash_copy(&config.dir, &copy);
    all(&copy);
    fs::write(copy.join("cursor"), [0xaa; 1024]).unwrap();
    let told = faults(&copy);
    assert!(told.len() == 1 && told[0].contains("cursor"), "{told:?}");
}

#[test]
fn what_is_no_file_is_told_and_holds_nobody_up() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    fill(&log, 60, 200);
    log.close().unwrap();
    let copy = dir.path().join("copy");
    let make_fifo = |path: &Path| {
        let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
        assert!(made.success());
    };
    for (about, nth, puts) in [
        (
            "a dangling link",
            1,
            &(|path: &Path| std::os::unix::fs::symlink("nowhere", path).unwrap()) as &dyn Fn(&Path),
        ),
        ("a pipe", 1, &make_fifo),
        ("a folder", 1, &|path: &Path| fs::create_dir(path).unwrap()),
        ("a pipe in front", 0, &make_fifo),
        ("a dangling link at the end", 3, &|path: &Path| {
            std::os::unix::fs::symlink("nowhere", path).unwrap()
        }),
    ] {
        crash_copy(&config.dir, &copy);
        let file = segments(&copy)[nth].clone();
        fs::remove_file(&file).unwrap();
        puts(&file);
        let view = LogView::open(&copy).unwrap();
        assert_eq!(view.verify(|_| {}).faults, 1, "{about}");
        let (mut reader, mut read, mut told) = (view.records(Lsn::ZERO), 0, 0);
        loop {
            match reader.next() {
                Ok(Some(record)) => {
                    assert_eq!(record.payload, payload(record.lsn.0, 200), "{about}");
                    read += 1;
                }
                Ok(None) => break,
                Err(ReadError::Disk { .. }) => {
                    told += 1;
                    if !reader.skip_segment() {
                        break;
                    }
                }
                Err(error) => panic!("{about}: {error}"),
            }
        }
        // 17 records fit into a segment.
        assert_eq!((read, told), (if nth == 3 { 51 } else { 43 }, 1), "{about}");
        for name in ["cursor", "reserve"] {
            crash_copy(&config.dir, &copy);
            fs::remove_file(copy.join(name)).unwrap();
            make_fifo(&copy.join(name));
            let error = LogView::open(&copy).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("no regular file"), "{error}");
        }
    }
}

#[test]
fn notes_that_are_gone_are_everything() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    log.note(b"one").unwrap();
    log.close().unwrap();
    assert!(!LogView::open(&config.dir).unwrap().noted_everything);
    fs::remove_file(config.dir.join("reserve")).unwrap();
    let view = LogView::open(&config.dir).unwrap();
    assert!(view.noted_everything && view.notes.is_empty());
}

#[test]
fn a_view_follows_a_log_that_is_appended_and_trimmed() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    fill(&log, 1, 100);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..200 {
                fill(&log, 20, 100);
                if round % 10 == 9 {
                    let applied = Lsn(log.head().0 - 50);
                    log.store_cursor(&Cursor { applied, data: vec![] }, CursorSync::Now).unwrap();
                    log.trim(applied).unwrap();
                }
            }
            done.store(true, Ordering::SeqCst);
        });
        let mut reader = LogView::open(&config.dir).unwrap().records(Lsn::ZERO);
        let (mut read, mut expected, mut verified) = (0, 0, 0);
        loop {
            let last_time = done.load(Ordering::SeqCst);
            match reader.next() {
                Ok(Some(record)) => {
                    assert!(expected == 0 || record.lsn == Lsn(expected), "{} for {expected}", record.lsn);
                    assert_eq!(record.payload, payload(record.lsn.0, 100));
                    expected = record.lsn.0 + 1;
                    read += 1;
                }
                Ok(None) if last_time => break,
                Ok(None) => std::thread::yield_now(),
                Err(ReadError::Trimmed { first, .. }) => expected = first.0,
                Err(error) => panic!("{error}"),
            }
            if read % 100 == 99 {
                let view = LogView::open(&config.dir).unwrap();
                verified += view.verify(|fault| panic!("{fault:?}")).records;
            }
        }
        assert_eq!(expected, log.head().0);
        assert!(read > 50 && verified > 0, "{read} {verified}");
    });
}

/// File by file, while it is written and trimmed: what is not in the copy is told, by a look and by an open.
#[test]
fn a_copy_of_a_live_log_is_whole_or_told() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    let mut copied = config.clone();
    copied.dir = dir.path().join("copy");
    let done = AtomicBool::new(false);
    let (mut whole, mut told) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                fill(&log, 20, 200);
                let applied = Lsn(log.head().0 - log.head().0.min(50));
                if applied > log.trimmed() {
                    log.store_cursor(&Cursor { applied, data: vec![] }, CursorSync::Now).unwrap();
                    log.trim(applied).unwrap();
                }
            }
        });
        for _ in 0..100 {
            crash_copy(&config.dir, &copied.dir);
            let seen = LogView::open(&copied.dir).unwrap().verify(|_| {});
            let (after, found) = open(&copied);
            let (records, damage) = read_through(&after);
            assert!(records.iter().all(|record| record.payload == payload(record.lsn.0, 200)));
            let applied = after.cursor().map_or(Lsn(1), |cursor| cursor.applied);
            let dense = records.first().is_none_or(|first| first.lsn <= applied)
                && records.windows(2).all(|pair| pair[0].lsn.next() == pair[1].lsn)
                && after.head() >= applied;
            let tells = found.gap.is_some() || damage > 0;
            assert!(dense || tells, "{found:?}");
            assert!(seen.faults > 0 || !tells, "{seen:?}, {found:?}");
            if tells { told += 1 } else { whole += 1 }
        }
        done.store(true, Ordering::SeqCst);
    });
    println!("{whole} whole, {told} told");
}

/// Whoever asks for what comes later gets that, and no word of damage before.
#[test]
fn what_is_not_written_yet_can_be_waited_for() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    fill(&log, 5, 100);
    for from in [6, 20, 60] {
        let mut reader = LogView::open(&config.dir).unwrap().records(Lsn(from));
        while log.head() <= Lsn(from) {
            assert_eq!(reader.next().unwrap(), None, "{from} at {}", log.head());
            fill(&log, 1, 100);
        }
        let record = reader.next().unwrap().unwrap();
        assert_eq!((record.lsn, &record.payload[..]), (Lsn(from), &payload(from, 100)[..]));
    }
}

#[test]
fn what_is_no_log_or_a_newer_one_is_refused() {
    let dir = scratch();
    assert!(matches!(LogView::open(dir.path()), Err(OpenError::NotALog { .. })));
    let error = LogView::open(dir.path().join("nowhere")).unwrap_err().to_string();
    assert!(error.contains("nowhere"), "{error}");
    let config = small(dir.path());
    let (log, _) = open(&config);
    fill(&log, 3, 100);
    log.close().unwrap();
    for (name, size) in [("0000000000000001.seg", 64), ("cursor", 512), ("reserve", 512)] {
        let copy = dir.path().join("copy");
        crash_copy(&config.dir, &copy);
        make_newer(&copy.join(name), size);
        let error = LogView::open(&copy).unwrap_err();
        assert!(matches!(&error, OpenError::Newer { version: 2, path } if path.ends_with(name)), "{error}");
    }
}
