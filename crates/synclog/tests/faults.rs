//! What still holds after each failure of the disk, and then after reopening.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{check_all, fill, open, payload, read, read_through, scratch, segments, small};
use synclog::{
    AppendError, Call, Config, Cursor, CursorError, CursorSync, Faults, Lsn, ReadError, SyncLog, Verdict,
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
