//! The log equals a `Vec`, whatever is done to it: append, read, sync, cursor, trim, notes, reopen, crash,
//! torn write, full disk; and the level follows its size.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{crash_copy, cut_to, len, open, payload, scratch, segments, small};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use synclog::{
    Config, Cursor, CursorSync, Durability, Faults, Level, LogView, Lsn, ReadError, Reader, SyncLog, Verdict,
};
use tempfile::TempDir;

#[derive(Debug, Clone)]
enum Op {
    Append {
        len: usize,
        parts: usize,
    },
    /// The disk is full while this is appended; some bytes may get through.
    AppendToFullDisk {
        len: usize,
        through: usize,
    },
    Sync,
    Read {
        records: usize,
    },
    StoreCursor {
        behind: u64,
        sync: CursorSync,
    },
    Trim {
        behind: u64,
    },
    Note {
        which: u8,
        /// While the disk refuses everything.
        refused: bool,
    },
    ClearNotes {
        /// Noted after the reader has looked.
        between: Option<u8>,
    },
    Reopen,
    /// The process dies; all that was written is there.
    Crash,
    /// The process dies while it appends; so many bytes of the record are there.
    TornAppend {
        len: usize,
        through: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let len = || prop_oneof![4 => 0..300usize, 1 => 2000..9000usize];
    let sync = prop_oneof![Just(CursorSync::Now), Just(CursorSync::Later)];
    prop_oneof![
        20 => (len(), 0..20usize).prop_map(|(len, parts)| Op::Append { len, parts }),
        2 => (len(), 0..200usize).prop_map(|(len, through)| Op::AppendToFullDisk { len, through }),
        2 => Just(Op::Sync),
        4 => (0..40usize).prop_map(|records| Op::Read { records }),
        4 => (0..20u64, sync).prop_map(|(behind, sync)| Op::StoreCursor { behind, sync }),
        3 => (0..30u64).prop_map(|behind| Op::Trim { behind }),
        3 => (0..12u8, prop::bool::weighted(0.1)).prop_map(|(which, refused)| Op::Note { which, refused }),
        2 => prop::option::of(0..12u8).prop_map(|between| Op::ClearNotes { between }),
        1 => Just(Op::Reopen),
        1 => Just(Op::Crash),
        1 => (len(), 0..400u64).prop_map(|(len, through)| Op::TornAppend { len, through }),
    ]
}

/// The log and what it must equal.
struct Model {
    runtime: tokio::runtime::Runtime,
    config: Config,
    full: Arc<AtomicBool>,
    through: Arc<AtomicUsize>,
    crashes: u32,
    log: SyncLog,
    reader: Reader,
    /// `records[lsn - 1]`.
    records: Vec<(u8, Vec<u8>)>,
    cursor: Option<Cursor>,
    durable: Lsn,
    notes: BTreeSet<u8>,
    /// A note was refused, and that is not cleared: everything may be noted.
    refused: bool,
    /// Last: it is deleted after the log is closed.
    dir: TempDir,
}

impl Model {
    fn new(durability: Durability) -> Model {
        let dir = scratch();
        let mut config = small(dir.path());
        config.durability = durability;
        config.bytes_max = Some(64 << 10);
        let full = Arc::new(AtomicBool::new(false));
        let through = Arc::new(AtomicUsize::new(0));
        config.faults = Some(Faults::new({
            let (full, through) = (Arc::clone(&full), Arc::clone(&through));
            move |call| match call {
                synclog::Call::Allocate if full.load(Ordering::SeqCst) => Verdict::Fail(28),
                synclog::Call::Write if full.load(Ordering::SeqCst) => {
                    Verdict::Short(through.load(Ordering::SeqCst))
                }
                _ => Verdict::Pass,
            }
        }));
        let (log, found) = open(&config);
        assert!(found.clean);
        let reader = log.reader(Lsn::ZERO).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (records, cursor, durable) = (Vec::new(), None, Lsn(1));
        let (notes, refused) = (BTreeSet::new(), false);
        Model {
            runtime,
            dir,
            config,
            full,
            through,
            crashes: 0,
            log,
            reader,
            records,
            cursor,
            durable,
            notes,
            refused,
        }
    }

    fn head(&self) -> Lsn {
        Lsn(self.records.len() as u64 + 1)
    }

    fn run(&mut self, op: &Op) {
        let head = self.head();
        let bytes = |len: usize| payload(head.0, len);
        match op {
            Op::Append { len, parts } => {
                let whole = bytes(*len);
                let parts: Vec<&[u8]> = whole.chunks(len / (parts + 1) + 1).collect();
                assert_eq!(self.log.append(head.0 as u8, &parts).unwrap(), head);
                self.records.push((head.0 as u8, whole));
            }
            Op::AppendToFullDisk { len, through } => {
                self.through.store((*through).min(31 + len), Ordering::SeqCst);
                self.full.store(true, Ordering::SeqCst);
                let refused = self.log.append(0, &[&bytes(*len)]);
                self.full.store(false, Ordering::SeqCst);
                assert!(refused.unwrap_err().is_full());
            }
            Op::Sync => {
                self.runtime.block_on(self.log.wait_durable(head)).unwrap();
                self.durable = head;
            }
            Op::Read { records } => self.read(*records),
            Op::StoreCursor { behind, sync } => {
                let applied = Lsn(head.0.saturating_sub(*behind)).max(self.log.trimmed());
                let cursor = Cursor { applied, data: bytes(17) };
                self.log.store_cursor(&cursor, *sync).unwrap();
                assert!(self.log.durable() >= applied);
                self.cursor = Some(cursor);
            }
            Op::Trim { behind } => {
                let upto = Lsn(head.0.saturating_sub(*behind));
                let before = self.log.trimmed();
                match self.log.trim(upto) {
                    Ok(()) => assert!(self.log.trimmed() <= upto.max(before)),
                    Err(_) => assert_eq!(self.log.trimmed(), before),
                }
            }
            Op::Note { which, refused: true } => {
                self.through.store(usize::from(*which), Ordering::SeqCst);
                self.full.store(true, Ordering::SeqCst);
                let noted = self.log.note(&[*which; 3]);
                self.full.store(false, Ordering::SeqCst);
                // One that is there already needs no disk; another one is everything now.
                assert!(noted.is_err() || self.notes.contains(which) || self.refused);
                self.refused |= !self.notes.contains(which);
            }
            Op::Note { which, refused: false } => {
                self.log.note(&[*which; 3]).unwrap();
                self.notes.insert(*which);
            }
            Op::ClearNotes { between } => {
                let told = self.log.notes();
                self.check_notes();
                self.notes.clear();
                if let Some(which) = between {
                    self.log.note(&[*which; 3]).unwrap();
                    self.notes.insert(*which);
                }
                self.log.clear_notes(told.upto).unwrap();
                // With a half that is shut, there may be no room for the one in between.
                self.refused &= between.is_some();
            }
            Op::Reopen => {
                self.log.close().unwrap();
                let found = self.open();
                assert!(found.clean, "{found:?}");
            }
            Op::Crash => {
                self.crash();
                let found = self.open();
                assert_eq!((found.torn_bytes, found.set_aside.len()), (0, 0), "{found:?}");
            }
            Op::TornAppend { len: payload_len, through } => {
                let newest = |model: &Model| segments(&model.config.dir).pop().unwrap();
                let before = (newest(self), len(&newest(self)));
                self.log.append(0, &[&bytes(*payload_len)]).unwrap();
                let after = newest(self);
                let start = if before.0 == after { before.1 } else { 64 };
                let whole = len(&after) - start;
                let through = through % whole;
                self.crash();
                let last: PathBuf = self.config.dir.join(after.file_name().unwrap());
                cut_to(&last, start + through);
                let found = self.open();
                assert_eq!(found.torn_bytes, through, "{found:?}");
            }
        }
        self.check();
    }

    /// What the next process finds; this one's log is done with.
    fn crash(&mut self) {
        self.crashes += 1;
        let copy = self.dir.path().join(format!("crash-{}", self.crashes));
        crash_copy(&self.config.dir, &copy);
        self.config.dir = copy;
    }

    fn open(&mut self) -> synclog::Recovery {
        let position = self.reader.position();
        // What a look at it told before.
        LogView::open(&self.config.dir).unwrap().verify(|fault| panic!("{fault:?}"));
        let (log, found) = open(&self.config);
        assert!(found.gap.is_none(), "{found:?}");
        assert_eq!((found.head, found.first), (self.head(), log.trimmed()));
        self.log = log;
        self.durable = self.head();
        let position = position.max(self.log.trimmed()).min(self.head());
        self.reader = self.log.reader(position).unwrap();
        found
    }

    fn read(&mut self, records: usize) {
        for _ in 0..records {
            let lsn = self.reader.position();
            let record = match self.reader.next() {
                Ok(Some(record)) => record,
                Ok(None) => return assert_eq!(lsn, self.head()),
                Err(ReadError::Trimmed { first, .. }) => {
                    assert!(lsn < first && first == self.log.trimmed());
                    self.reader = self.log.reader(first).unwrap();
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let expected = &self.records[lsn.0 as usize - 1];
            assert_eq!((record.lsn, record.kind, &record.payload[..]), (lsn, expected.0, &expected.1[..]));
        }
    }

    fn check_notes(&self) {
        let told = self.log.notes();
        let notes: BTreeSet<u8> = told.notes.iter().map(|note| note[0]).collect();
        assert_eq!(notes.len(), told.notes.len(), "{told:?}");
        assert!(told.everything <= self.refused, "{told:?}");
        assert!(told.everything || notes == self.notes, "{told:?}, not {:?}", self.notes);
    }

    fn check(&self) {
        self.check_notes();
        let stats = self.log.stats();
        let files: u64 = segments(&self.config.dir).iter().map(|path| len(path)).sum();
        assert_eq!(stats.bytes, files);
        let expected = match files * 100 / (64 << 10) {
            0..80 => Level::Normal,
            80..90 => Level::Warning,
            90..100 => Level::Tight,
            _ => Level::Full,
        };
        assert_eq!((stats.level, self.log.level()), (expected, expected));
        let (trimmed, durable, head) = (self.log.trimmed(), self.log.durable(), self.log.head());
        let applied = self.cursor.as_ref().map_or(Lsn(1), |cursor| cursor.applied);
        assert_eq!((head, self.log.cursor().as_ref()), (self.head(), self.cursor.as_ref()));
        assert!(trimmed <= durable && durable <= head && durable >= self.durable && applied <= durable);
        assert!(trimmed == Lsn(1) || self.cursor.is_some());
        assert_eq!(self.log.stats().segments, segments(&self.config.dir).len());
    }

    /// Everything that was not trimmed.
    fn check_all(&mut self) {
        self.reader = self.log.reader(Lsn::ZERO).unwrap();
        self.read(usize::MAX);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/model.proptest-regressions"))),
        ..ProptestConfig::default()
    })]
    #[test]
    fn the_log_equals_a_vec(ops in prop::collection::vec(op(), 1..120), process: bool) {
        let mut model = Model::new(if process { Durability::Process } else { Durability::Journal });
        for op in &ops {
            model.run(op);
        }
        model.check_all();
        model.run(&Op::Reopen);
        model.check_all();
    }
}
