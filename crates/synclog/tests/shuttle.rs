//! Append, flush and read in thousands of orders: `cargo test -p synclog --features shuttle --test shuttle`.
//!
//! Time does not pass here: whoever waits is woken, or the run ends as a deadlock.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use common::{payload, scratch, small};
use shuttle::{future, thread};
use synclog::{Change, Config, Cursor, CursorSync, Faults, Lsn, SyncLog, Verdict};

/// Set `SYNCLOG_SHUTTLE_ROUNDS` for more.
const ROUNDS: usize = 300;

/// Bytes of each segment: written, seen by a sync that has begun, and synced.
#[derive(Default)]
struct Synced(HashMap<u64, [u64; 3]>);

impl Synced {
    fn see(&mut self, change: Change<'_>) {
        match change {
            Change::Created { file, path } if path.ends_with("spare") => drop(self.0.insert(file, [0; 3])),
            Change::Written { file, offset, slices } => {
                let bytes = slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
                self.of(file, |segment| segment[0] = segment[0].max(offset + bytes));
            }
            Change::SyncBegins { file } => self.of(file, |segment| segment[1] = segment[0]),
            Change::Synced { file } => self.of(file, |segment| segment[2] = segment[1]),
            _ => {}
        }
    }

    /// Other files do not count.
    fn of(&mut self, file: u64, change: impl FnOnce(&mut [u64; 3])) {
        if let Some(segment) = self.0.get_mut(&file) {
            change(segment);
        }
    }

    /// Of records, without the headers.
    fn record_bytes(&self) -> u64 {
        self.0.values().map(|bytes| bytes[2].saturating_sub(64)).sum()
    }
}

const PAYLOAD: usize = 1000;
const RECORD: u64 = 32 + PAYLOAD as u64;
const THREADS: u64 = 2;
const EACH: u64 = 4;
const ALL: u64 = THREADS * EACH;

fn open(config: &Config) -> SyncLog {
    SyncLog::open(config.clone()).unwrap().0
}

/// Four records fill a segment, so there are rolls.
fn append_flush_read() {
    let dir = scratch();
    let synced = Arc::new(Mutex::new(Synced::default()));
    let mut config = small(dir.path());
    let seen = Arc::clone(&synced);
    config.faults = Some(Faults::new(|_| Verdict::Pass).with_witness(move |change| {
        seen.lock().unwrap_or_else(PoisonError::into_inner).see(change);
    }));
    let log = open(&config);
    let durable = |upto: Lsn| {
        let synced = synced.lock().unwrap_or_else(PoisonError::into_inner).record_bytes();
        assert!(synced >= (upto.0 - 1) * RECORD, "{upto} is called durable with {synced} bytes");
    };

    let writers: Vec<_> = (0..THREADS)
        .map(|nth| {
            let log = log.clone();
            thread::spawn(move || {
                for _ in 0..EACH {
                    log.append(nth as u8, &[&payload(nth, PAYLOAD)]).unwrap();
                }
            })
        })
        .collect();
    let reader = thread::spawn({
        let log = log.clone();
        move || {
            let mut reader = log.reader(Lsn(1)).unwrap();
            let mut read = [0; THREADS as usize];
            for lsn in 1..=ALL {
                future::block_on(log.wait_appended(Lsn(lsn)));
                let record = reader.next().unwrap().unwrap();
                assert_eq!(record.lsn, Lsn(lsn));
                assert_eq!(record.payload, payload(u64::from(record.kind), PAYLOAD));
                read[record.kind as usize] += 1;
                if lsn == ALL / 2 {
                    let cursor = Cursor { applied: reader.position(), data: vec![] };
                    log.store_cursor(&cursor, CursorSync::Now).unwrap();
                    log.trim(cursor.applied).unwrap();
                }
            }
            assert_eq!(read, [EACH; THREADS as usize]);
        }
    });
    for upto in [Lsn(3), Lsn(ALL + 1)] {
        // Beyond the head, the flusher would go by its interval.
        future::block_on(log.wait_appended(Lsn(upto.0 - 1)));
        future::block_on(log.wait_durable(upto)).unwrap();
        assert!(log.durable() >= upto && log.durable() <= log.head());
        durable(upto);
    }
    writers.into_iter().chain([reader]).for_each(|thread| thread.join().unwrap());
    log.note(b"at the end").unwrap();
    log.close().unwrap();
    durable(Lsn(ALL + 1));
    let log = open(&config);
    assert_eq!((log.head(), log.notes().notes.len()), (Lsn(ALL + 1), 1));
}

fn rounds() -> usize {
    std::env::var("SYNCLOG_SHUTTLE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

#[test]
fn in_any_order() {
    shuttle::check_random(append_flush_read, rounds());
}

#[test]
fn in_orders_with_few_switches() {
    shuttle::check_pct(append_flush_read, rounds(), 3);
}

/// A note between the look at the notes and their clearing is not lost.
#[test]
fn notes_beside_clearing() {
    shuttle::check_random(
        || {
            let dir = scratch();
            let log = open(&small(dir.path()));
            let noting = thread::spawn({
                let log = log.clone();
                move || (0..6).for_each(|nth| assert!(log.note(&[nth % 2]).is_ok()))
            });
            let mut seen = std::collections::HashSet::new();
            for _ in 0..3 {
                let told = log.notes();
                assert!(!told.everything);
                seen.extend(told.notes.iter().map(|note| note[0]));
                log.clear_notes(told.upto).unwrap();
            }
            noting.join().unwrap();
            seen.extend(log.notes().notes.iter().map(|note| note[0]));
            assert_eq!(seen.len(), 2);
        },
        rounds(),
    );
}
