//! What still holds after each failure of the disk, and then after reopening.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{fill, open, payload, read, read_through, scratch, segments, small};
use synclog::{
    AppendError, Call, Config, Cursor, CursorError, CursorSync, Faults, Level, Lsn, OpenError, ReadError,
    SyncLog, TrimError, Verdict,
};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// Verdicts that a test can change while the log is open.
#[derive(Clone, Default)]
struct Judge(Arc<Mutex<Vec<(Call, Verdict)>>>);

impl Judge {
    fn set(&self, verdicts: &[(Call, Verdict)]) {
        *self.0.lock().unwrap() = verdicts.to_vec();
    }

    fn config(&self, dir: &Path) -> Config {
        let mut config = small(dir);
        config.flush_interval = Duration::from_secs(3600);
        let verdicts = Arc::clone(&self.0);
        config.faults = Some(Faults::new(move |call| {
            let verdicts = verdicts.lock().unwrap();
            verdicts.iter().find(|(of, _)| *of == call).map_or(Verdict::Pass, |(_, verdict)| *verdict)
        }));
        config
    }
}

fn check_all(log: &SyncLog, payload_bytes: usize) {
    let records = read(log, Lsn(1)).unwrap();
    assert_eq!(records.len() as u64, log.head().0 - 1);
    for record in records {
        assert_eq!(record.payload, payload(record.lsn.0, payload_bytes));
    }
}

#[test]
fn a_failed_write_leaves_no_trace_and_the_next_one_works() {
    let dir = scratch();
    let judge = Judge::default();
    let config = judge.config(dir.path());
    let (log, _) = open(&config);
    fill(&log, 5, 100);
    let file = segments(&config.dir).pop().unwrap();
    let bytes = common::len(&file);
    let cases = [
        Verdict::Fail(ENOSPC),
        Verdict::Fail(EIO),
        Verdict::Short(0),
        Verdict::Short(1),
        Verdict::Short(100),
    ];
    for verdict in cases {
        judge.set(&[(Call::Write, verdict)]);
        let error = log.append(9, &[&payload(1, 100)]).unwrap_err();
        assert!(matches!(error, AppendError::Disk { .. }), "{error}");
        assert_eq!(error.is_full(), verdict != Verdict::Fail(EIO), "{error}");
        assert_eq!((log.head(), common::len(&file)), (Lsn(6), bytes), "{verdict:?}");
    }
    judge.set(&[]);
    fill(&log, 5, 100);
    check_all(&log, 100);
    log.close().unwrap();
    let (log, found) = open(&config);
    assert!(found.clean, "{found:?}");
    check_all(&log, 100);
}

#[test]
fn a_disk_that_is_full_at_a_roll_refuses_and_recovers() {
    let dir = scratch();
    let judge = Judge::default();
    let config = judge.config(dir.path());
    let (log, _) = open(&config);
    fill(&log, 1, 100);
    judge.set(&[(Call::Allocate, Verdict::Fail(ENOSPC))]);
    // One segment may have been made ahead; then there are no more.
    let error = loop {
        let lsn = log.head();
        match log.append(lsn.0 as u8, &[&payload(lsn.0, 100)]) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(error.is_full(), "{error}");
    assert!(log.append(0, &[&payload(0, 100)]).is_err());
    judge.set(&[]);
    fill(&log, 100, 100);
    check_all(&log, 100);
}

#[test]
fn a_failed_cut_poisons() {
    let dir = scratch();
    let judge = Judge::default();
    let config = judge.config(dir.path());
    let (log, _) = open(&config);
    fill(&log, 5, 100);
    judge.set(&[(Call::Write, Verdict::Short(50)), (Call::Truncate, Verdict::Fail(EIO))]);
    assert!(matches!(log.append(0, &[&payload(0, 100)]), Err(AppendError::Poisoned(_))));
    judge.set(&[]);
    assert!(matches!(log.append(0, &[&payload(0, 100)]), Err(AppendError::Poisoned(_))));
    check_all(&log, 100);
    assert!(log.close().is_err());
    // The torn bytes are cut by the next open.
    let (log, found) = open(&config);
    assert_eq!((found.head, found.torn_bytes), (Lsn(6), 50), "{found:?}");
    check_all(&log, 100);
}

#[tokio::test]
async fn a_failed_sync_poisons_and_nobody_is_told_otherwise() {
    let dir = scratch();
    let judge = Judge::default();
    let config = judge.config(dir.path());
    let (log, _) = open(&config);
    fill(&log, 5, 100);
    log.wait_durable(Lsn(6)).await.unwrap();
    fill(&log, 5, 100);
    judge.set(&[(Call::SyncFile, Verdict::Fail(EIO))]);
    let error = log.wait_durable(Lsn(11)).await.unwrap_err();
    assert!(error.to_string().contains(".seg"), "{error}");
    // Never repeated, though the disk would say yes now.
    judge.set(&[]);
    assert!(log.wait_durable(Lsn(11)).await.is_err());
    assert_eq!(log.durable(), Lsn(6));
    log.wait_durable(Lsn(6)).await.unwrap();
    assert!(matches!(log.append(0, &[b"x"]), Err(AppendError::Poisoned(_))));
    let cursor = Cursor { applied: Lsn(3), data: vec![] };
    assert!(matches!(log.store_cursor(&cursor, CursorSync::Now), Err(CursorError::Poisoned(_))));
    assert!(log.stats().poisoned.is_some());
    check_all(&log, 100);
    assert!(log.close().is_err());
    let (log, found) = open(&config);
    assert!(!found.clean && found.gap.is_none() && found.head == Lsn(11), "{found:?}");
    check_all(&log, 100);
}

/// What becomes of the n-th call, and of those after it.
#[derive(Debug, Clone, Copy)]
struct Failure {
    nth: u32,
    verdict: Verdict,
    goes_on: bool,
}

/// Each call of a run fails once, in each way, and then again with all that follow.
#[tokio::test]
async fn fail_every_call_in_every_way() {
    let ways = [
        (Verdict::Fail(ENOSPC), false),
        (Verdict::Fail(EIO), false),
        (Verdict::Short(1), false),
        (Verdict::Short(45), false),
        (Verdict::Fail(ENOSPC), true),
        (Verdict::Fail(EIO), true),
    ];
    for (verdict, goes_on) in ways {
        let mut nth = 0;
        while fail(Failure { nth, verdict, goes_on }).await {
            nth += 1;
        }
        assert!(nth > 150, "{nth} calls");
    }
}

/// Whether the run made so many calls.
async fn fail(failure: Failure) -> bool {
    let dir = scratch();
    let calls = Arc::new(AtomicU32::new(0));
    let failed = Arc::new(Mutex::new(Vec::new()));
    let mut config = small(dir.path());
    config.faults = Some(Faults::new({
        let (calls, failed) = (Arc::clone(&calls), Arc::clone(&failed));
        move |call| {
            let nth = calls.fetch_add(1, Ordering::SeqCst);
            let fails = nth == failure.nth || (failure.goes_on && nth > failure.nth);
            // Only a write can be short.
            let short = matches!(failure.verdict, Verdict::Short(_)) && call != Call::Write;
            if !fails || short {
                return Verdict::Pass;
            }
            failed.lock().unwrap().push(call);
            failure.verdict
        }
    }));
    let kept = work(&config, failure.goes_on).await;
    config.faults = None;
    let (log, found) = open(&config);
    let failed = failed.lock().unwrap();
    let about = format!("{failure:?}, {:?}: {kept:?}, {found:?}", failed.first());
    let (records, damage) = read_through(&log);
    assert_eq!(damage, 0, "{about}");
    assert!(records.iter().all(|record| record.payload == payload(record.lsn.0, 200)), "{about}");
    assert!(log.head() >= kept.head, "{about}");
    // What the disk could not read at open counts as damage; nothing else loses a record.
    if !failed.contains(&Call::Read) {
        assert!(found.gap.is_none(), "{about}");
        assert_eq!(records.len() as u64, log.head().0 - log.trimmed().0, "{about}");
    }
    let notes = log.notes();
    assert!(!kept.noted || notes.everything || !notes.notes.is_empty(), "{about}: {notes:?}");
    calls.load(Ordering::SeqCst) > failure.nth
}

/// What a run was promised.
#[derive(Debug, Default)]
struct Kept {
    head: Lsn,
    noted: bool,
}

/// Uses all that a log can do and shrugs at errors. Unless they go on, what failed works when it is tried again.
async fn work(config: &Config, goes_on: bool) -> Kept {
    let mut kept = Kept { head: Lsn(1), noted: false };
    for round in 0..2 {
        let Ok((log, found)) = SyncLog::open(config.clone()) else { continue };
        assert!(found.head >= kept.head, "{found:?}");
        for step in 0..40u64 {
            let lsn = log.head();
            if let Ok(appended) = log.append(lsn.0 as u8, &[&payload(lsn.0, 200)]) {
                assert_eq!(appended, lsn);
                kept.head = lsn.next();
            }
            assert_eq!(log.head(), kept.head.max(lsn));
            if step % 15 == 10 {
                let durable = log.wait_durable(log.head()).await;
                assert!(durable.is_err() || log.durable() == log.head());
                let cursor = Cursor { applied: Lsn(1.max(log.head().0 / 2)), data: vec![round] };
                let stored = log.store_cursor(&cursor, CursorSync::Now);
                assert!(
                    goes_on
                        || stored.is_err()
                        || log.trim(cursor.applied).is_ok()
                        || log.trim(cursor.applied).is_ok()
                );
                let notes = log.notes();
                let _ = log.clear_notes(notes.upto);
                kept.noted = log.note(&[round; 10]).is_ok();
            }
        }
        let _ = log.close();
    }
    kept
}

#[test]
fn a_full_disk_refuses_and_works_again_once_there_is_space() {
    common::on_small_disk(1 << 20, "on_a_full_disk");
}

#[test]
#[ignore = "run by a_full_disk_refuses_and_works_again_once_there_is_space"]
fn on_a_full_disk() {
    let disk = common::small_disk();
    let mut config = Config::new(disk.join("log"));
    config.segment_bytes_max = 256 << 10;
    let (log, _) = open(&config);
    let mut kept = 0;
    for round in 0..3u64 {
        let error = loop {
            let lsn = log.head();
            match log.append(lsn.0 as u8, &[&payload(lsn.0, 3000)]) {
                Ok(_) => kept += 1,
                Err(error) => break error,
            }
        };
        assert!(error.is_full(), "{error}");
        assert_eq!(log.head(), Lsn(kept + 1));
        // Not one byte is left: reading, the cursor and trimming work.
        common::take_space(&disk, 0);
        let records = read(&log, Lsn::ZERO).unwrap();
        assert!(records.iter().all(|record| record.payload == payload(record.lsn.0, 3000)));
        let cursor = Cursor { applied: Lsn(kept + 1), data: vec![round as u8] };
        log.store_cursor(&cursor, CursorSync::Now).unwrap();
        log.trim(cursor.applied).unwrap();
        common::give_space(&disk);
        let lsn = log.head();
        assert_eq!(log.append(lsn.0 as u8, &[&payload(lsn.0, 3000)]).unwrap(), lsn);
        kept += 1;
    }
    log.close().unwrap();
    // With less space than a segment wants, the log opens and can be read and trimmed.
    common::take_space(&disk, 64 << 10);
    let (log, found) = open(&config);
    assert!(found.clean && found.head == Lsn(kept + 1), "{found:?}");
    read(&log, Lsn::ZERO).unwrap();
    log.trim(log.cursor().unwrap().applied).unwrap();
    log.append(0, &[b"goes on"]).unwrap();
}

/// Whoever gives up on a segment that the disk does not give out goes on behind it.
#[test]
fn a_segment_that_cannot_be_read_can_be_skipped() {
    let dir = scratch();
    let judge = Judge::default();
    let config = judge.config(dir.path());
    let (log, _) = open(&config);
    fill(&log, 100, 100);
    let mut reader = log.reader(Lsn(5)).unwrap();
    judge.set(&[(Call::Read, Verdict::Fail(EIO))]);
    for _ in 0..3 {
        assert!(matches!(reader.next(), Err(ReadError::Disk { .. })));
        assert_eq!(reader.position(), Lsn(5));
    }
    let second = reader.skip_segment();
    judge.set(&[]);
    assert!(second > Lsn(5) && second < Lsn(100), "{second}");
    let mut read = 0;
    while let Some(record) = reader.next().unwrap() {
        assert_eq!(record.lsn, Lsn(second.0 + read));
        read += 1;
    }
    assert_eq!(second.0 + read, 101);
    // The last segment has none behind it: the head is next.
    let mut reader = log.reader(Lsn(100)).unwrap();
    judge.set(&[(Call::Read, Verdict::Fail(EIO))]);
    assert!(reader.next().is_err());
    assert_eq!(reader.skip_segment(), Lsn(101));
    judge.set(&[]);
    assert_eq!(reader.next().unwrap(), None);
    fill(&log, 1, 100);
    assert_eq!(reader.next().unwrap().unwrap().lsn, Lsn(101));
}

#[tokio::test]
async fn a_thread_that_dies_is_noticed() {
    for (name, call) in [("synclog-flush", Call::SyncFile), ("synclog-make", Call::Allocate)] {
        let dir = scratch();
        let mut config = small(dir.path());
        config.faults = Some(Faults::new(move |asked| {
            let dies = asked == call && std::thread::current().name() == Some(name);
            assert!(!dies, "declared: this thread is to die");
            Verdict::Pass
        }));
        let (log, _) = open(&config);
        let error = loop {
            if let Err(error) = log.append(0, &[&[1; 1000]]) {
                break error;
            }
        };
        assert!(matches!(error, AppendError::Poisoned(_)), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        // What was synced before stays synced; beyond that nobody waits for ever.
        assert!(log.wait_durable(log.head()).await.is_err() || log.durable() == log.head());
    }
}

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
