//! kill -9, over and over, against counters of what was acknowledged.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{payload, read, small, wait_for};
use synclog::{Config, Cursor, CursorSync, Durability, LogView, Lsn, SyncLog};

const THREADS: usize = 4;

/// Set `SYNCLOG_KILL_ROUNDS` for more.
const ROUNDS: u64 = 200;

/// In the file of counters, behind those of the threads: the last note, and the last one that may be cleared.
const NOTED: usize = THREADS;
const CLEARED: usize = THREADS + 1;

#[test]
fn what_was_acknowledged_survives_kill_nine() {
    let mut random = fastrand::Rng::with_seed(common::seed());
    let rounds =
        std::env::var("SYNCLOG_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let dir = common::scratch();
    let acked = acked_file(dir.path());
    let mut everything = 0;
    for round in 0..rounds {
        let before = appended(&acked);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env("SYNCLOG_KILL_DIR", dir.path())
            .env("SYNCLOG_KILL_SEED", random.u64(..).to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let until = before + random.u64(1..300);
        wait_for("the child to append", || {
            assert!(child.try_wait().unwrap().is_none(), "round {round}: the child ended by itself");
            appended(&acked) >= until
        });
        child.kill().unwrap();
        child.wait().unwrap();
        everything += u64::from(check(&config(dir.path()), &counts(&acked), round));
    }
    // A note is torn only where it crosses a page.
    assert!(everything <= 1 + rounds / 20, "{everything} of {rounds}");
}

/// Each thread's records are there, in order, without a hole, up to the last one that was acknowledged. Gives
/// whether everything was noted.
fn check(config: &Config, acked: &[u64; THREADS + 2], round: u64) -> bool {
    LogView::open(&config.dir).unwrap().verify(|fault| panic!("round {round}: {fault:?}"));
    let (log, found) = SyncLog::open(config.clone()).unwrap();
    assert!(found.gap.is_none(), "round {round}: {found:?}");
    let mut last = [None; THREADS];
    for record in read(&log, Lsn::ZERO).unwrap() {
        let (nth, count) =
            (record.kind as usize, u64::from_le_bytes(record.payload[..8].try_into().unwrap()));
        assert!(
            last[nth].is_none_or(|last| count == last + 1),
            "round {round}: {count} after {:?}",
            last[nth]
        );
        assert_eq!(record.payload[8..], payload(count, count as usize % 700), "round {round}");
        last[nth] = Some(count);
    }
    for nth in 0..THREADS {
        // With all of a thread's records trimmed, the cursor covers them.
        let kept = last[nth].map_or(log.cursor().is_some(), |last| last >= acked[nth]);
        assert!(
            kept || acked[nth] == 0,
            "round {round}: thread {nth} has {:?}, {} acknowledged",
            last[nth],
            acked[nth]
        );
    }
    let notes = log.notes();
    for count in acked[CLEARED] + 1..=acked[NOTED] {
        let noted = notes.everything || notes.notes.iter().any(|note| note[..] == note_text(count));
        assert!(noted, "round {round}: note {count} of {:?} is lost: {notes:?}", &acked[THREADS..]);
    }
    if notes.everything {
        log.clear_notes(notes.upto).unwrap();
    }
    log.close().unwrap();
    notes.everything
}

fn note_text(count: u64) -> Vec<u8> {
    format!("db.collection{count}").into_bytes()
}

#[test]
#[ignore = "run by what_was_acknowledged_survives_kill_nine"]
fn child() {
    let dir = PathBuf::from(std::env::var_os("SYNCLOG_KILL_DIR").unwrap());
    let seed = std::env::var("SYNCLOG_KILL_SEED").unwrap().parse().unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut config = config(&dir);
    config.durability = if random.bool() { Durability::Process } else { Durability::Journal };
    let (log, _) = SyncLog::open(config).unwrap();
    let acked = acked_file(&dir);
    // A record may have been appended and not acknowledged: go on from what the log has.
    let mut next: [u64; THREADS] = std::array::from_fn(|nth| counts(&acked)[nth] + 1);
    for record in read(&log, Lsn::ZERO).unwrap() {
        let count = u64::from_le_bytes(record.payload[..8].try_into().unwrap());
        next[record.kind as usize] = count + 1;
    }
    thread::scope(|scope| {
        for (nth, next) in next.into_iter().enumerate() {
            let (log, acked) = (&log, &acked);
            scope.spawn(move || {
                for count in next.. {
                    let filler = payload(count, count as usize % 700);
                    log.append(nth as u8, &[&count.to_le_bytes(), &filler]).unwrap();
                    // In the page cache as well: it survives as the record must.
                    acked.write_all_at(&count.to_le_bytes(), 8 * nth as u64).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for count in counts(&acked)[NOTED] + 1.. {
                log.note(&note_text(count)).unwrap();
                acked.write_all_at(&count.to_le_bytes(), 8 * NOTED as u64).unwrap();
                if count % 50 == 0 {
                    acked.write_all_at(&count.to_le_bytes(), 8 * CLEARED as u64).unwrap();
                    log.clear_notes(log.notes().upto).unwrap();
                }
                // Leaves the processor to the others.
                thread::sleep(Duration::from_micros(200));
            }
        });
        scope.spawn(|| {
            let mut random = random;
            let mut reader = log.reader(log.cursor().map_or(Lsn::ZERO, |cursor| cursor.applied)).unwrap();
            loop {
                for _ in 0..random.u32(1..60) {
                    while reader.next().unwrap().is_none() {
                        thread::sleep(Duration::from_micros(200));
                    }
                }
                let sync = if random.bool() { CursorSync::Now } else { CursorSync::Later };
                let cursor = Cursor { applied: reader.position(), data: vec![] };
                log.store_cursor(&cursor, sync).unwrap();
                if sync == CursorSync::Now {
                    // Some are kept, so that there is something to check.
                    log.trim(Lsn(cursor.applied.0.saturating_sub(300))).unwrap();
                }
            }
        });
    });
}

fn config(dir: &Path) -> Config {
    let mut config = small(dir);
    config.segment_bytes_max = 64 << 10;
    config
}

fn acked_file(dir: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join("acked")).unwrap()
}

fn appended(acked: &File) -> u64 {
    counts(acked)[..THREADS].iter().sum()
}

fn counts(acked: &File) -> [u64; THREADS + 2] {
    let mut bytes = [0; 8 * (THREADS + 2)];
    let _ = acked.read_exact_at(&mut bytes, 0);
    std::array::from_fn(|nth| u64::from_le_bytes(bytes[8 * nth..][..8].try_into().unwrap()))
}

/// The folder is ours alone again as soon as the child is dead.
#[test]
fn the_lock_ends_with_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("SYNCLOG_KILL_DIR", dir.path())
        .env("SYNCLOG_KILL_SEED", "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let acked = acked_file(dir.path());
    wait_for("the child to append", || counts(&acked).iter().any(|count| *count > 0));
    let error = common::open_error(&config(dir.path())).to_string();
    assert!(error.contains(&format!("process {}", child.id())), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(SyncLog::open(config(dir.path())).is_ok());
    assert!(fs::metadata(dir.path().join("log/LOCK")).is_ok());
}
