//! The log on a good day: order, reading, waiting, trimming, closing; and what it refuses.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{fill, open, open_error, payload, read, scratch, segments, small, wait_for};
use synclog::{
    AppendError, CURSOR_DATA_MAX, Call, Config, Cursor, CursorError, CursorSync, Durability, Faults, Lsn,
    OpenError, ReadError, SyncLog, TrimError, Verdict,
};

fn at(applied: u64) -> Cursor {
    Cursor { applied: Lsn(applied), data: vec![applied as u8; 3] }
}

#[test]
fn records_come_back_in_order_over_many_segments_and_reopens() {
    let dir = scratch();
    let config = small(dir.path());
    let mut id = None;
    for round in 0..5u64 {
        let (log, found) = open(&config);
        assert!(found.clean && found.gap.is_none() && found.notes.is_empty(), "{found:?}");
        assert_eq!((found.first, found.head), (Lsn(1), Lsn(1 + 100 * round)));
        assert_eq!(*id.get_or_insert(log.id()), log.id());
        fill(&log, 100, 100);
        let records = read(&log, Lsn::ZERO).unwrap();
        assert_eq!(records.len() as u64, 100 * (round + 1));
        for (nth, record) in (1..).zip(records) {
            assert_eq!((record.lsn, record.kind), (Lsn(nth), nth as u8));
            assert_eq!(record.payload, payload(nth, 100));
        }
        log.close().unwrap();
    }
    assert!(segments(&config.dir).len() > 10);
}

#[test]
fn payloads_of_every_shape() {
    let dir = scratch();
    let mut config = small(dir.path());
    config.record_bytes_max = 3 << 20;
    let (log, _) = open(&config);
    let big = payload(0, 3 << 20);
    let cases: Vec<Vec<&[u8]>> = vec![
        vec![],
        vec![b""],
        vec![b"one"],
        vec![b"", b"two", b"parts", b""],
        big.chunks(100_000).collect(),
        vec![&big],
        vec![&big[..4096]],
        vec![&big[..7]; 3000],
    ];
    for parts in &cases {
        log.append(1, parts).unwrap();
    }
    let refused = log.append(1, &[&big, b"x"]);
    assert!(matches!(refused, Err(AppendError::TooLarge { bytes, max }) if bytes == max + 1));
    let records = read(&log, Lsn(1)).unwrap();
    assert_eq!(records.len(), cases.len());
    for (record, parts) in records.iter().zip(&cases) {
        assert_eq!(record.payload, parts.concat());
    }
}

#[test]
fn a_reader_starts_anywhere_and_follows() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    fill(&log, 200, 50);
    for from in 1..=201 {
        let mut reader = log.reader(Lsn(from)).unwrap();
        assert_eq!(reader.position(), Lsn(from));
        let lsn = reader.next().unwrap().map(|record| record.lsn);
        assert_eq!(lsn, (from <= 200).then_some(Lsn(from)));
    }
    let refused = log.reader(Lsn(202));
    assert!(matches!(refused, Err(ReadError::Ahead { lsn: Lsn(202), head: Lsn(201) })));

    let mut follower = log.reader(log.head()).unwrap();
    assert_eq!(follower.next().unwrap(), None);
    fill(&log, 1, 50);
    assert_eq!(follower.next().unwrap().unwrap().lsn, Lsn(201));
    // A reader outlives the log.
    fill(&log, 1, 50);
    drop(log);
    assert_eq!(follower.next().unwrap().unwrap().lsn, Lsn(202));
    assert_eq!(follower.next().unwrap(), None);
}

#[test]
fn sixty_four_threads_append_and_none_loses_a_record() {
    let dir = scratch();
    let mut config = small(dir.path());
    config.segment_bytes_max = 64 << 10;
    let (log, _) = open(&config);
    let per_thread = 200u32;
    thread::scope(|scope| {
        for nth in 0..64u32 {
            let log = log.clone();
            scope.spawn(move || {
                let mut last = Lsn::ZERO;
                for count in 0..per_thread {
                    let lsn = log.append(7, &[&nth.to_le_bytes(), &count.to_le_bytes()]).unwrap();
                    assert!(lsn > last && log.head() > lsn);
                    last = lsn;
                }
            });
        }
        // And one reads behind them.
        let mut next = [0u32; 64];
        let mut reader = log.reader(Lsn::ZERO).unwrap();
        for expected in 1..=u64::from(64 * per_thread) {
            let mut record = None;
            wait_for("a record", || {
                record = reader.next().unwrap();
                record.is_some()
            });
            let record = record.unwrap();
            assert_eq!(record.lsn, Lsn(expected));
            let nth = u32::from_le_bytes(record.payload[..4].try_into().unwrap()) as usize;
            let count = u32::from_le_bytes(record.payload[4..].try_into().unwrap());
            assert_eq!(count, next[nth], "thread {nth}");
            next[nth] += 1;
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_appends_and_for_the_disk() {
    let dir = scratch();
    let mut config = small(dir.path());
    // Only a request syncs within the life of this test.
    config.flush_interval = Duration::from_secs(3600);
    let (log, _) = open(&config);
    let woken = {
        let log = log.clone();
        tokio::spawn(async move {
            log.wait_appended(Lsn(3)).await;
            log.head()
        })
    };
    fill(&log, 3, 10);
    assert_eq!((log.head(), log.durable()), (Lsn(4), Lsn(1)));
    assert!(woken.await.unwrap() > Lsn(3));
    log.wait_appended(Lsn(2)).await;

    let waiters: Vec<_> = (2..=4)
        .map(|upto| {
            let log = log.clone();
            tokio::spawn(async move {
                log.wait_durable(Lsn(upto)).await.unwrap();
                assert!(log.durable() >= Lsn(upto));
            })
        })
        .collect();
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(log.durable(), Lsn(4));

    // Nobody waits for ever for what a closed log cannot get any more.
    let late = {
        let log = log.clone();
        tokio::spawn(async move { log.wait_durable(Lsn(5)).await })
    };
    log.close().unwrap();
    let error = late.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
}

#[tokio::test]
async fn the_flusher_syncs_by_itself() {
    let dir = scratch();
    let mut config = small(dir.path());
    config.flush_interval = Duration::from_millis(5);
    let (log, _) = open(&config);
    fill(&log, 10, 10);
    wait_for("the flusher", || log.durable() == Lsn(11));
}

#[tokio::test]
async fn with_process_durability_nobody_waits() {
    let dir = scratch();
    let mut config = small(dir.path());
    config.durability = Durability::Process;
    let (log, _) = open(&config);
    fill(&log, 100, 100);
    assert_eq!(log.durable(), log.head());
    log.wait_durable(log.head()).await.unwrap();
    log.store_cursor(&at(50), CursorSync::Now).unwrap();
    log.close().unwrap();
    let (_, found) = open(&config);
    assert!(found.clean, "{found:?}");
}

/// A backlog of dirty pages would stall appends: whatever the durability, it goes to the disk every 8 MiB.
#[test]
fn the_disk_is_kept_busy_before_a_segment_is_full() {
    for durability in [Durability::Process, Durability::Journal] {
        let dir = scratch();
        let mut config = Config::new(dir.path().join("log"));
        config.durability = durability;
        config.flush_interval = Duration::from_secs(3600);
        let synced = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&synced);
        config.faults = Some(Faults::new(move |call| {
            let flushes = thread::current().name() == Some("synclog-flush");
            count.fetch_add(usize::from(call == Call::SyncFile && flushes), Ordering::SeqCst);
            Verdict::Pass
        }));
        let (log, _) = open(&config);
        let record = vec![7; 1 << 20];
        for round in 1..4 {
            for _ in 0..8 {
                log.append(1, &[&record]).unwrap();
            }
            wait_for("a sync", || synced.load(Ordering::SeqCst) >= round);
        }
        assert_eq!(segments(&config.dir).len(), 1);
    }
}

#[test]
fn trim_deletes_what_the_durable_cursor_covers_and_no_more() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    fill(&log, 300, 100);
    let files = segments(&config.dir).len();
    assert!(matches!(log.trim(Lsn(2)), Err(TrimError::NotCovered { upto: Lsn(2), applied: Lsn(0) })));

    log.store_cursor(&at(150), CursorSync::Now).unwrap();
    assert!(matches!(log.trim(Lsn(151)), Err(TrimError::NotCovered { upto: Lsn(151), applied: Lsn(150) })));
    log.trim(Lsn(150)).unwrap();
    let (first, left) = (log.trimmed(), segments(&config.dir).len());
    assert!(first > Lsn(100) && first <= Lsn(150), "{first}");
    assert!(left < files && left > 5);
    assert_eq!(read(&log, Lsn::ZERO).unwrap()[0].lsn, first);
    assert!(
        matches!(log.reader(Lsn(1)), Err(ReadError::Trimmed { lsn: Lsn(1), first: told }) if told == first)
    );
    let stats = log.stats();
    assert_eq!((stats.first, stats.head, stats.segments), (first, Lsn(301), left));
    assert_eq!(stats.bytes, segments(&config.dir).iter().map(|path| common::len(path)).sum::<u64>());
    assert!(stats.oldest_ms > 0 && stats.poisoned.is_none() && stats.records == 301 - first.0);

    // Everything is applied: one segment stays, and the positions go on after a reopen.
    log.store_cursor(&at(301), CursorSync::Now).unwrap();
    log.trim(Lsn(301)).unwrap();
    assert_eq!(segments(&config.dir).len(), 1);
    log.close().unwrap();
    for _ in 0..3 {
        let (log, found) = open(&config);
        assert!(found.clean && found.head == Lsn(301), "{found:?}");
        assert_eq!(log.cursor(), Some(at(301)));
        log.trim(Lsn(301)).unwrap();
        assert_eq!((log.trimmed(), segments(&config.dir).len()), (Lsn(301), 1));
    }
}

#[test]
fn a_later_cursor_frees_segments_only_once_it_is_on_disk() {
    let dir = scratch();
    let mut config = small(dir.path());
    config.flush_interval = Duration::from_secs(3600);
    let (log, _) = open(&config);
    fill(&log, 100, 100);
    log.store_cursor(&at(50), CursorSync::Later).unwrap();
    assert_eq!(log.cursor(), Some(at(50)));
    // A cursor is never ahead of the log on disk.
    assert!(log.durable() >= Lsn(50));
    assert!(matches!(log.trim(Lsn(50)), Err(TrimError::NotCovered { .. })));
    log.store_cursor(&at(60), CursorSync::Now).unwrap();
    log.trim(Lsn(60)).unwrap();
    assert!(log.trimmed() > Lsn(1));

    config.flush_interval = Duration::from_millis(5);
    log.close().unwrap();
    let (log, _) = open(&config);
    log.store_cursor(&at(90), CursorSync::Later).unwrap();
    wait_for("the flusher to sync the cursor", || log.trim(Lsn(90)).is_ok());
}

#[test]
fn trim_does_not_overtake_a_cursor_that_went_back() {
    let dir = scratch();
    let mut config = small(dir.path());
    config.flush_interval = Duration::from_secs(3600);
    let (log, _) = open(&config);
    fill(&log, 100, 100);
    log.store_cursor(&at(90), CursorSync::Now).unwrap();
    log.store_cursor(&at(40), CursorSync::Later).unwrap();
    assert!(matches!(log.trim(Lsn(90)), Err(TrimError::NotCovered { applied: Lsn(40), .. })));
    log.trim(Lsn(40)).unwrap();
    log.close().unwrap();
    let (log, found) = open(&config);
    assert!(found.clean && log.cursor() == Some(at(40)), "{found:?}");
}

#[test]
fn a_cursor_must_fit_and_lie_in_the_log() {
    let dir = scratch();
    let (log, _) = open(&small(dir.path()));
    fill(&log, 3, 10);
    let data = vec![0; CURSOR_DATA_MAX + 1];
    let large = log.store_cursor(&Cursor { applied: Lsn(1), data }, CursorSync::Now);
    assert!(matches!(large, Err(CursorError::TooLarge { bytes: 449 })));
    for applied in [0, 5] {
        let outside = log.store_cursor(&at(applied), CursorSync::Now);
        assert!(matches!(outside, Err(CursorError::Outside { first: Lsn(1), head: Lsn(4), .. })));
    }
    assert_eq!(log.cursor(), None);
    let full = Cursor { applied: Lsn(4), data: vec![9; CURSOR_DATA_MAX] };
    log.store_cursor(&full, CursorSync::Now).unwrap();
    log.close().unwrap();
    assert!(matches!(log.store_cursor(&full, CursorSync::Now), Err(CursorError::Closed)));
    assert_eq!(open(&small(dir.path())).0.cursor(), Some(full));
}

#[test]
fn trim_runs_beside_appends_and_readers() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    let read = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| fill(&log, 3000, 100));
        scope.spawn(|| {
            let mut reader = log.reader(Lsn::ZERO).unwrap();
            while reader.position() <= Lsn(3000) {
                if reader.next().unwrap().is_some()
                    && read.fetch_add(1, Ordering::Relaxed).is_multiple_of(100)
                {
                    log.store_cursor(&at(reader.position().0), CursorSync::Now).unwrap();
                    log.trim(reader.position()).unwrap();
                }
            }
        });
    });
    assert_eq!(read.into_inner(), 3000);
    assert!(log.trimmed() > Lsn(2800));
}

#[test]
fn a_second_open_names_the_first_ones_pid() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    let error = open_error(&config);
    assert!(
        matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    assert!(error.to_string().contains(&format!("in use by process {}", std::process::id())), "{error}");
    // Closing frees the folder, though a reader and a handle are still there.
    let reader = log.reader(Lsn::ZERO).unwrap();
    log.close().unwrap();
    log.close().unwrap();
    assert!(matches!(log.append(0, &[b"x"]), Err(AppendError::Closed)));
    open(&config).0.append(0, &[b"x"]).unwrap();
    drop(reader);
}

#[test]
fn dropping_the_last_handle_closes_the_log() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    fill(&log, 3, 10);
    let other = log.clone();
    drop(log);
    fill(&other, 3, 10);
    drop(other);
    let (_, found) = open(&config);
    assert!(found.clean && found.head == Lsn(7), "{found:?}");
}

#[test]
fn files_are_private_and_wider_ones_are_refused() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    fill(&log, 100, 100);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&config.dir), 0o700);
    for entry in fs::read_dir(&config.dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    log.close().unwrap();
    // Also what recovery has set aside: it holds records.
    let [first, cursor, reserve, torn, damaged] =
        ["0000000000000001.seg", "cursor", "reserve", "1-40-0.torn", "1-0-0.damaged"]
            .map(|name| config.dir.join(name));
    for path in [&torn, &damaged] {
        fs::copy(&first, path).unwrap();
    }
    let files = [&first, &cursor, &reserve, &torn, &damaged].map(|path| (path, 0o644, "chmod 600"));
    let folder = [(&config.dir, 0o750, "chmod 700"), (&config.dir, 0o701, "chmod 700")];
    let group = [&first, &cursor, &reserve].map(|path| (path, 0o620, "chmod 600"));
    for (path, mode, mend) in files.into_iter().chain(folder).chain(group) {
        let before = fs::metadata(path).unwrap().permissions();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let error = open_error(&config);
        assert!(matches!(&error, OpenError::TooOpen { path: named, .. } if named == path), "{error}");
        assert!(error.to_string().contains(&format!("{mend} {}", path.display())), "{error}");
        fs::set_permissions(path, before).unwrap();
    }
    assert!(open(&config).1.clean);
}

#[test]
fn settings_and_places_that_make_no_log_are_refused() {
    let dir = scratch();
    let mut config = small(dir.path());
    config.segment_bytes_max = 100;
    config.record_bytes_max = 0;
    let text = open_error(&config).to_string();
    assert!(text.contains("segment_bytes_max is 100") && text.contains("record_bytes_max is 0"), "{text}");

    let file = dir.path().join("file");
    fs::write(&file, b"not a folder").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = open_error(&Config::new(&path));
        assert!(matches!(error, OpenError::Disk { .. }), "{error}");
        assert!(error.to_string().contains("file"), "{error}");
    }
}

#[test]
fn the_handles_can_be_shared() {
    fn shared<T: Send + Sync + Clone + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<SyncLog>();
    sent::<synclog::Reader>();
}
