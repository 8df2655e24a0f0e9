//! A device that does not answer: who waits, for how long, and what goes on meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{check_all, fill, open, payload, read, scratch, segments, small};
use synclog::{
    AppendError, Call, Config, Cursor, CursorError, CursorSync, Faults, Level, Lsn, NoteError, Noted,
    OpenError, SyncLog, TrimError, Verdict,
};

const ENOSPC: i32 = 28;

/// Makes one kind of call hang for as long as somebody holds the lock. The number counts these calls.
fn hanging(config: &mut Config, hangs: Call) -> (Arc<Mutex<()>>, Arc<AtomicU32>) {
    let (device, asked) = (Arc::new(Mutex::new(())), Arc::new(AtomicU32::new(0)));
    let (hung, count) = (Arc::clone(&device), Arc::clone(&asked));
    config.hang_after = Duration::from_millis(200);
    config.faults = Some(Faults::new(move |call| {
        if call == hangs {
            count.fetch_add(1, Ordering::SeqCst);
            drop(hung.lock().unwrap());
        }
        Verdict::Pass
    }));
    (device, asked)
}

fn is_hung(result: &Result<Lsn, AppendError>) -> bool {
    matches!(result, Err(AppendError::Hung { .. }))
}

/// A device that hangs while the next segment is made stops one append for a while, the others not at all.
#[test]
fn a_device_that_hangs_at_a_roll_is_an_error_and_no_standstill() {
    let dir = scratch();
    let mut config = small(dir.path());
    let (device, _) = hanging(&mut config, Call::Allocate);
    let (log, _) = open(&config);
    let hanging = device.lock().unwrap();
    // The spare that was made before, then no more.
    let mut appended = 0;
    while let Ok(lsn) = log.append(1, &[&[0; 100]]) {
        appended = lsn.0;
    }
    assert!(appended > 0 && appended < 10_000, "{appended}");
    assert!((0..1000).all(|_| is_hung(&log.append(1, &[&[0; 100]]))), "they would wait 50 ms each");
    drop(hanging);
    // The maker is done at some time; nothing was lost or doubled.
    while is_hung(&log.append(1, &[&[0; 100]])) {
        std::thread::yield_now();
    }
    assert_eq!(log.head(), Lsn(appended + 2));
}

/// One append is held by the device; the others are told after a while, and later ones at once.
#[test]
fn a_device_that_hangs_in_an_append_holds_that_one_only() {
    let dir = scratch();
    let mut config = small(dir.path());
    config.segment_bytes_max = 1 << 20;
    let (device, asked) = hanging(&mut config, Call::Write);
    let (log, _) = open(&config);
    fill(&log, 1, 100);
    let hanging = device.lock().unwrap();
    let before = asked.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        let held = scope.spawn(|| log.append(2, &[&payload(2, 100)]));
        common::wait_for("an append to hang", || asked.load(Ordering::SeqCst) > before);
        let others: Vec<_> = (0..8).map(|_| scope.spawn(|| log.append(3, &[b"x"]))).collect();
        assert!(others.into_iter().all(|other| is_hung(&other.join().unwrap())));
        assert!(!held.is_finished());
        let begun = Instant::now();
        assert!((0..1000).all(|_| is_hung(&log.append(3, &[b"x"]))));
        assert!(begun.elapsed() < 200 * config.hang_after, "they waited: {:?}", begun.elapsed());
        // Looking does not wait for the device.
        assert_eq!((log.head(), log.stats().level), (Lsn(2), synclog::Level::Normal));
        drop(hanging);
        assert_eq!(held.join().unwrap().unwrap(), Lsn(2));
    });
    // After a hang nobody waits, so that whoever holds the log for a moment refuses the next one.
    common::wait_for("the log to take records again", || !is_hung(&log.append(3, &[&payload(3, 100)])));
    assert_eq!(log.head(), Lsn(4));
    check_all(&log, 100);
}

/// Whoever waits for a segment waits for that only, not for one who hangs in an append meanwhile.
#[test]
fn a_device_that_hangs_in_an_append_does_not_hold_who_waits_for_a_segment() {
    let dir = scratch();
    let (making, writing) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(())));
    let (makes, writes) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let full = Arc::new(AtomicBool::new(false));
    let mut config = small(dir.path());
    config.hang_after = Duration::from_millis(300);
    config.faults = Some(Faults::new({
        let (making, writing, full) = (Arc::clone(&making), Arc::clone(&writing), Arc::clone(&full));
        let (makes, writes) = (Arc::clone(&makes), Arc::clone(&writes));
        move |call| {
            let (device, count) = match call {
                Call::Allocate => (&making, &makes),
                Call::Write => (&writing, &writes),
                _ => return Verdict::Pass,
            };
            count.fetch_add(1, Ordering::SeqCst);
            drop(device.lock().unwrap());
            let refused = call == Call::Allocate && full.load(Ordering::SeqCst);
            if refused { Verdict::Fail(ENOSPC) } else { Verdict::Pass }
        }
    }));
    let (log, _) = open(&config);
    full.store(true, Ordering::SeqCst);
    while log.append(1, &[&[0; 100]]).is_ok() {}
    full.store(false, Ordering::SeqCst);
    let head = log.head();
    let (slow_maker, slow_writer) = (making.lock().unwrap(), writing.lock().unwrap());
    let (made, written) = (makes.load(Ordering::SeqCst), writes.load(Ordering::SeqCst));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| log.append(1, &[&[0; 100]]));
        common::wait_for("the maker to be asked", || makes.load(Ordering::SeqCst) > made);
        // A small record fits what is left.
        let hangs = scope.spawn(|| log.append(2, &[b"x"]));
        common::wait_for("an append to hang", || writes.load(Ordering::SeqCst) > written);
        let deadline = Instant::now() + 20 * config.hang_after;
        while !waits.is_finished() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let told = waits.is_finished();
        drop((slow_maker, slow_writer));
        assert!(told, "it waits for the one who hangs");
        assert!(is_hung(&waits.join().unwrap()));
        assert_eq!(hangs.join().unwrap().unwrap(), head);
    });
}

/// A close does not wait for an append that the disk does not answer; the folder stays ours until it has.
#[tokio::test]
async fn a_close_beside_an_append_that_hangs_says_so_and_can_be_repeated() {
    let dir = scratch();
    let mut config = small(dir.path());
    let (device, asked) = hanging(&mut config, Call::Write);
    let (log, _) = open(&config);
    fill(&log, 1, 100);
    let cursor = Cursor { applied: Lsn(2), data: vec![] };
    let runtime = tokio::runtime::Handle::current();
    let hanging = device.lock().unwrap();
    let before = asked.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        let held = scope.spawn(|| log.append(2, &[&payload(2, 100)]));
        common::wait_for("an append to hang", || asked.load(Ordering::SeqCst) > before);
        let closing = scope.spawn(|| {
            let closed = log.close();
            // Nor do those who only want to know whether it is closed.
            let stored = log.store_cursor(&cursor, CursorSync::Now);
            (closed, stored, runtime.block_on(log.wait_durable(Lsn(9))))
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        while !closing.is_finished() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let told = closing.is_finished();
        let locked = matches!(SyncLog::open(small(dir.path())), Err(OpenError::Locked { .. }));
        drop(hanging);
        assert!(told, "it waits for the device");
        assert!(locked, "the append may still write to the folder");
        let (closed, stored, waited) = closing.join().unwrap();
        assert!(closed.unwrap_err().to_string().contains("not closed in order"));
        assert!(matches!(stored, Err(CursorError::Closed)), "{stored:?}");
        assert!(waited.is_err());
        assert_eq!(held.join().unwrap().unwrap(), Lsn(2));
    });
    assert!(matches!(log.append(0, &[b"x"]), Err(AppendError::Closed)));
    log.close().unwrap();
    let (log, found) = open(&small(dir.path()));
    assert!(found.clean && found.head == Lsn(3), "{found:?}");
    check_all(&log, 100);
}

/// What is under way when the log is closed ends before another process may have the folder; later calls are refused.
#[test]
fn a_close_waits_for_a_trim_and_a_clearing_and_refuses_later_ones() {
    let dir = scratch();
    let mut config = small(dir.path());
    let (device, asked) = hanging(&mut config, Call::Remove);
    let (log, _) = open(&config);
    fill(&log, 200, 100);
    let cursor = Cursor { applied: Lsn(200), data: vec![] };
    log.store_cursor(&cursor, CursorSync::Now).unwrap();
    let upto = log.notes().upto;
    let hanging = device.lock().unwrap();
    let before = asked.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        let trims = scope.spawn(|| log.trim(Lsn(200)));
        common::wait_for("the trim to hang", || asked.load(Ordering::SeqCst) > before);
        let closes = scope.spawn(|| log.close());
        common::wait_for("the log to be closing", || matches!(log.append(0, &[]), Err(AppendError::Closed)));
        assert!(matches!(SyncLog::open(small(dir.path())), Err(OpenError::Locked { .. })));
        drop(hanging);
        assert!(matches!(trims.join().unwrap(), Err(TrimError::Closed)));
        closes.join().unwrap().unwrap();
    });
    let (before, head) = (segments(&config.dir).len(), log.head());
    assert!(matches!(log.trim(Lsn(200)), Err(TrimError::Closed)));
    assert!(log.clear_notes(upto).is_err());
    assert_eq!(segments(&config.dir).len(), before);
    let (log, found) = open(&small(dir.path()));
    assert!(found.clean && found.gap.is_none(), "{found:?}");
    assert_eq!(read(&log, Lsn::ZERO).unwrap().last().unwrap().lsn.next(), head);
}

/// Who trims on a slow disk holds up no roll: the maker does not wait for them.
#[test]
fn a_trim_that_hangs_holds_up_no_roll() {
    let dir = scratch();
    let (device, asked) = (Arc::new(Mutex::new(())), Arc::new(AtomicU32::new(0)));
    let mut config = Config::new(dir.path().join("log"));
    config.bytes_max = Some(1 << 20);
    config.hang_after = Duration::from_millis(300);
    config.faults = Some(Faults::new({
        let (device, asked) = (Arc::clone(&device), Arc::clone(&asked));
        move |call| {
            if call == Call::Remove && std::thread::current().name() != Some("synclog-make") {
                asked.fetch_add(1, Ordering::SeqCst);
                drop(device.lock().unwrap());
            }
            Verdict::Pass
        }
    }));
    let (log, _) = open(&config);
    while log.level() < Level::Warning {
        fill(&log, 1, 1000);
    }
    let applied = Lsn(log.head().0 / 2);
    log.store_cursor(&Cursor { applied, data: vec![] }, CursorSync::Now).unwrap();
    let hanging = device.lock().unwrap();
    let before = asked.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        let trims = scope.spawn(|| log.trim(applied));
        common::wait_for("the trim to hang", || asked.load(Ordering::SeqCst) > before);
        let mut appended = vec![];
        for _ in 0..4 {
            // Longer than the maker's interval: it looks at what it could trim.
            std::thread::sleep(Duration::from_millis(150));
            // Each needs a segment of its own.
            appended.push(log.append(0, &[&[0; 150_000]]));
        }
        drop(hanging);
        trims.join().unwrap().unwrap();
        assert!(appended.iter().all(Result::is_ok), "{appended:?}");
    });
}

/// A close waits for a last sync, or for a segment that is being made, but not for ever.
#[test]
fn a_close_on_a_device_that_hangs_says_so_and_can_be_repeated() {
    for hangs in [Call::SyncFile, Call::Allocate, Call::Remove] {
        let dir = scratch();
        let mut config = small(dir.path());
        let (device, asked) = hanging(&mut config, hangs);
        config.hang_after = Duration::from_millis(40);
        config.flush_interval = Duration::from_secs(3600);
        let (log, _) = open(&config);
        common::wait_for("the next segment to be made", || config.dir.join("spare").exists());
        fill(&log, 1, 100);
        let hanging = device.lock().unwrap();
        let before = asked.load(Ordering::SeqCst);
        if hangs == Call::Allocate {
            while asked.load(Ordering::SeqCst) == before {
                fill(&log, 1, 100);
            }
        }
        for _ in 0..2 {
            let error = log.close().unwrap_err().to_string();
            assert!(error.contains("not closed in order"), "{hangs:?}: {error}");
            assert!(matches!(SyncLog::open(small(dir.path())), Err(OpenError::Locked { .. })), "{hangs:?}");
        }
        assert!(asked.load(Ordering::SeqCst) > before, "{hangs:?}: it was not asked for");
        assert!(matches!(log.append(0, &[b"x"]), Err(AppendError::Closed)));
        drop(hanging);
        log.close().unwrap();
        let (log, found) = open(&small(dir.path()));
        assert!(found.clean, "{hangs:?}: {found:?}");
        check_all(&log, 100);
    }
}

/// Nobody who notes something waits for the file being made; what is noted meanwhile is *everything*.
#[test]
fn a_reserve_that_is_being_made_holds_up_no_note() {
    let dir = scratch();
    let (device, asked) = (Arc::new(Mutex::new(())), Arc::new(AtomicU32::new(0)));
    let full = Arc::new(AtomicBool::new(true));
    let mut config = small(dir.path());
    config.hang_after = Duration::from_secs(30);
    config.faults = Some(Faults::new({
        let (device, asked, full) = (Arc::clone(&device), Arc::clone(&asked), Arc::clone(&full));
        move |call| match call {
            // At open, the reserve is the first file.
            Call::Create if full.swap(false, Ordering::SeqCst) => Verdict::Fail(ENOSPC),
            // A segment that is made ahead is empty: this is the reserve.
            Call::Write if std::thread::current().name() == Some("synclog-make") => {
                asked.fetch_add(1, Ordering::SeqCst);
                drop(device.lock().unwrap());
                Verdict::Pass
            }
            _ => Verdict::Pass,
        }
    }));
    let hanging = device.lock().unwrap();
    let (log, found) = open(&config);
    assert!(found.notes.iter().any(|note| note.contains("reserve cannot be made")), "{found:?}");
    common::wait_for("the reserve to be made", || asked.load(Ordering::SeqCst) > 0);
    let error = log.note(b"one").unwrap_err();
    assert!(matches!(error, NoteError::Disk { .. }), "{error}");
    assert!(log.notes().everything);
    drop(hanging);
    common::wait_for("a note to be kept", || log.note(b"two").is_ok_and(|noted| noted == Noted::Itself));
    drop(log);
    let (log, _) = open(&small(dir.path()));
    let notes = log.notes();
    assert!(notes.everything && notes.notes == [&b"two"[..]], "{notes:?}");
}

/// What fails though there is room is tried ever more rarely.
#[test]
fn a_reserve_that_cannot_be_made_is_tried_ever_more_rarely() {
    let dir = scratch();
    let tries = Arc::new(AtomicU32::new(0));
    let mut config = small(dir.path());
    config.faults = Some(Faults::new({
        let tries = Arc::clone(&tries);
        move |call| {
            // Only the reserve is written by this thread.
            let fails = call == Call::Write && std::thread::current().name() == Some("synclog-make");
            let first = call == Call::Create && tries.load(Ordering::SeqCst) == 0;
            if fails || first {
                tries.fetch_add(1, Ordering::SeqCst);
                return Verdict::Fail(ENOSPC);
            }
            Verdict::Pass
        }
    }));
    let begun = Instant::now();
    let (_log, _) = open(&config);
    common::wait_for("five tries", || tries.load(Ordering::SeqCst) >= 5);
    // Once at open, then after 100, 200 and 400 ms.
    assert!(begun.elapsed() > Duration::from_millis(700), "{:?}", begun.elapsed());
}
