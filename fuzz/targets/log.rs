//! Open, reader and view over a log whose files were changed in any way: never wrong data, never silence.
#![no_main]

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use dualsync_fuzz::Capped;
use libfuzzer_sys::fuzz_target;
use synclog::{Config, Cursor, CursorSync, LogView, Lsn, ReadError, SyncLog};

#[global_allocator]
static ALLOCATOR: Capped = Capped;

const RECORDS: u64 = 60;

#[derive(Debug, Arbitrary)]
enum Edit {
    Flip { file: u8, at: u16, bits: u8 },
    Write { file: u8, at: u16, bytes: Vec<u8> },
    Cut { file: u8, bytes: u16 },
    Extend { file: u8, bytes: Vec<u8> },
    Copy { from: u8, at: u16, to: u8, to_at: u16, bytes: u8 },
    Delete { file: u8 },
    Replace { file: u8, by: u8 },
    OtherBoot,
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(edits) = <Vec<Edit>>::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let mut files = original().clone();
    let mut boot = 1;
    for edit in edits.into_iter().take(8) {
        apply(&mut files, &mut boot, edit);
    }
    // Of a log without a trace nobody can tell that it was there.
    let traced = |(name, content): (&String, &Vec<u8>)| {
        name.ends_with(".seg") || (name == "cursor" && content.iter().any(|byte| *byte != 0))
    };
    if !files.iter().any(traced) {
        return;
    }
    let Ok(scratch) = tempfile::tempdir_in(fast()) else { return };
    let dir = scratch.path().join("log");
    DirBuilder::new().mode(0o700).create(&dir).expect("the log's folder");
    for (name, content) in &files {
        write(&dir.join(name), content);
    }
    let changed = files != *original();
    let cursor_changed = files.get("cursor") != original().get("cursor");
    check(&dir, boot, changed, cursor_changed);
});

fn check(dir: &Path, boot: u8, changed: bool, cursor_changed: bool) {
    let looked = look(dir);
    let (log, found) = match SyncLog::open(config(dir, boot)) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(changed, "{error}");
            return;
        }
    };
    let mut damaged = false;
    let mut seen = 0;
    let reader = match log.reader(Lsn::ZERO) {
        Ok(reader) => Some(reader),
        Err(ReadError::Damaged { resume_at, .. }) => {
            damaged = true;
            log.reader(resume_at).ok()
        }
        Err(_) => None,
    };
    let Some(mut reader) = reader else { return };
    loop {
        match reader.next() {
            Ok(Some(record)) => {
                assert_eq!(record.payload, payload(record.lsn.0), "record {}", record.lsn);
                assert_eq!(record.kind, kind(record.lsn.0), "record {}", record.lsn);
                seen += 1;
            }
            Ok(None) => break,
            Err(ReadError::Damaged { .. }) => damaged = true,
            Err(_) => return,
        }
    }
    // What is missing is told: as damage, as a gap, or as the torn tail that a crash leaves.
    // With the cursor's last slot gone as well, a note is all that is left to tell by.
    let noted = cursor_changed && !found.notes.is_empty();
    let told = damaged || found.gap.is_some() || found.torn_bytes > 0 || noted;
    assert!(seen == RECORDS || told, "{seen} of {RECORDS} records, and not a word: {found:?}");
    // Whoever only looked before was told as well; that the host went down does not show in the files.
    let shows = damaged || (found.gap.is_some() && boot == 1);
    assert!(!shows || looked.is_none_or(|faults| faults > 0), "a look saw nothing: {found:?}");
    // And it goes on.
    let head = log.head();
    assert!(head.0 > 0);
    if let Ok(lsn) = log.append(3, &[b"more"]) {
        assert_eq!(lsn, head);
    }
}

/// The bad places that a look at the folder tells; `None`: it cannot be looked at.
fn look(dir: &Path) -> Option<u64> {
    let view = LogView::open(dir).ok()?;
    let mut reader = view.records(Lsn::ZERO);
    // Each call goes on, or the files have an end.
    for _ in 0..10 * RECORDS {
        match reader.next() {
            Ok(Some(record)) => assert_eq!(record.payload, payload(record.lsn.0), "record {}", record.lsn),
            Ok(None) => return Some(view.verify(|_| {}).faults),
            Err(ReadError::Disk { .. }) if !reader.skip_segment() => return Some(view.verify(|_| {}).faults),
            Err(_) => {}
        }
    }
    panic!("a view's reader comes to no end: {view:?}");
}

fn apply(files: &mut BTreeMap<String, Vec<u8>>, boot: &mut u8, edit: Edit) {
    let names: Vec<String> = files.keys().cloned().collect();
    let Some(last) = names.len().checked_sub(1) else { return };
    let name = |file: u8| names[usize::from(file) % (last + 1)].clone();
    match edit {
        Edit::Flip { file, at, bits } => {
            if let Some(content) = files.get_mut(&name(file)) {
                let len = content.len().max(1);
                if let Some(byte) = content.get_mut(usize::from(at) % len) {
                    *byte ^= bits;
                }
            }
        }
        Edit::Write { file, at, bytes } => {
            if let Some(content) = files.get_mut(&name(file)) {
                let at = usize::from(at).min(content.len());
                let end = (at + bytes.len()).min(content.len());
                content[at..end].copy_from_slice(&bytes[..end - at]);
            }
        }
        Edit::Cut { file, bytes } => {
            if let Some(content) = files.get_mut(&name(file)) {
                content.truncate(content.len().saturating_sub(usize::from(bytes)));
            }
        }
        Edit::Extend { file, bytes } => {
            if let Some(content) = files.get_mut(&name(file)) {
                content.extend_from_slice(&bytes);
            }
        }
        Edit::Copy { from, at, to, to_at, bytes } => {
            let source = files.get(&name(from)).cloned().unwrap_or_default();
            let at = usize::from(at).min(source.len());
            let piece = source[at..(at + usize::from(bytes)).min(source.len())].to_vec();
            apply(files, boot, Edit::Write { file: to, at: to_at, bytes: piece });
        }
        Edit::Delete { file } => drop(files.remove(&name(file))),
        Edit::Replace { file, by } => {
            let content = files.get(&name(by)).cloned().unwrap_or_default();
            files.insert(name(file), content);
        }
        Edit::OtherBoot => *boot = 2,
    }
}

/// The files of a log that was closed in order, by name.
fn original() -> &'static BTreeMap<String, Vec<u8>> {
    static FILES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let scratch = tempfile::tempdir_in(fast()).expect("a scratch folder");
        let dir = scratch.path().join("log");
        let (log, _) = SyncLog::open(config(&dir, 1)).expect("a new log");
        for nth in 1..=RECORDS {
            log.append(kind(nth), &[&payload(nth)]).expect("a record");
        }
        log.store_cursor(&Cursor { applied: Lsn(5), data: b"resume".to_vec() }, CursorSync::Now)
            .expect("a cursor");
        log.close().expect("an end in order");
        let files = fs::read_dir(&dir).expect("the folder").flatten();
        let kept = files.filter(|file| file.file_name() != "LOCK");
        kept.map(|file| {
            (file.file_name().to_string_lossy().into_owned(), fs::read(file.path()).expect("a file"))
        })
        .collect()
    })
}

fn config(dir: &Path, boot: u8) -> Config {
    let mut config = Config::new(dir);
    config.segment_bytes_max = 4096;
    config.flush_interval = Duration::from_secs(3600);
    config.boot_id = Some([boot; 16]);
    config
}

fn payload(lsn: u64) -> Vec<u8> {
    (0..lsn * 7 % 300).map(|nth| (nth ^ lsn).to_le_bytes()[0]).collect()
}

fn kind(lsn: u64) -> u8 {
    lsn.to_le_bytes()[0]
}

fn write(path: &Path, content: &[u8]) {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.expect("a file").write_all(content).expect("its content");
}

/// In memory where there is such a folder: a run opens thousands of logs.
fn fast() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new("/tmp") }
}
