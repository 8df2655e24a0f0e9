//! What the tests of the log share.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use synclog::{
    Call, Config, Cursor, CursorSync, Faults, Lsn, OpenError, ReadError, Record, Recovery, SyncLog, Verdict,
};
use tempfile::TempDir;

/// A folder in memory where there is one: many tests open a log thousands of times.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(dir) = tempfile::Builder::new().prefix("synclog-").tempdir_in(memory)
    {
        return dir;
    }
    tempfile::tempdir().unwrap()
}

/// Small segments, so that a few records roll.
pub(crate) fn small(dir: &Path) -> Config {
    let mut config = Config::new(dir.join("log"));
    config.segment_bytes_max = 4096;
    config
}

pub(crate) fn open(config: &Config) -> (SyncLog, Recovery) {
    SyncLog::open(config.clone()).unwrap()
}

pub(crate) fn open_error(config: &Config) -> OpenError {
    match SyncLog::open(config.clone()) {
        Ok(_) => panic!("the log opened"),
        Err(error) => error,
    }
}

/// The payload that record `lsn` has in these tests.
pub(crate) fn payload(lsn: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(lsn);
    (0..len).map(|_| random.u8(..)).collect()
}

/// Appends records with [`payload`]s, so that any reader can check them.
pub(crate) fn fill(log: &SyncLog, records: u64, len: usize) {
    for _ in 0..records {
        let lsn = log.head();
        assert_eq!(log.append(lsn.0 as u8, &[&payload(lsn.0, len)]).unwrap(), lsn);
    }
}

/// All records from `from` on, up to the first damage.
pub(crate) fn read(log: &SyncLog, from: Lsn) -> Result<Vec<Record>, ReadError> {
    let mut reader = log.reader(from)?;
    let mut records = Vec::new();
    while let Some(record) = reader.next()? {
        records.push(record);
    }
    Ok(records)
}

/// All records that can be read, and how often damage was met.
pub(crate) fn read_through(log: &SyncLog) -> (Vec<Record>, usize) {
    let (mut records, mut damage) = (Vec::new(), 0);
    let mut reader = log.reader(Lsn::ZERO).unwrap();
    loop {
        match reader.next() {
            Ok(Some(record)) => records.push(record),
            Ok(None) => return (records, damage),
            Err(ReadError::Damaged { .. }) => damage += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

/// What the disk holds after the process died: everything that was written. The copy can be opened at once.
pub(crate) fn crash_copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::DirBuilder::new().mode(0o700).create(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        // The maker may be about to rename or remove its file.
        let Ok(bytes) = fs::read(&path) else { continue };
        let copy = to.join(path.file_name().unwrap());
        fs::write(&copy, bytes).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Each record is there, as [`fill`] has appended it.
pub(crate) fn check_all(log: &SyncLog, payload_bytes: usize) {
    let records = read(log, Lsn(1)).unwrap();
    assert_eq!(records.len() as u64, log.head().0 - 1);
    for record in records {
        assert_eq!(record.payload, payload(record.lsn.0, payload_bytes));
    }
}

/// The segment files, oldest first.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    files(dir, "seg")
}

pub(crate) fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    found
}

pub(crate) fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

pub(crate) fn cut_to(path: &Path, len: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x20;
    fs::write(path, bytes).unwrap();
}

/// Makes a file's block of so many bytes one of the next format, whole. Gives what the file holds then.
pub(crate) fn make_newer(path: &Path, block: usize) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..block]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(path, &bytes).unwrap();
    bytes
}

/// Runs an ignored test of this binary on a file system of its own, of `bytes`, which it finds with [`small_disk`].
pub(crate) fn on_small_disk(bytes: u64, test: &str) {
    on_small_disk_seeded(bytes, test, 0);
}

/// The same; [`seed`] is given to the test.
pub(crate) fn on_small_disk_seeded(bytes: u64, test: &str, seed: u64) {
    if std::env::var_os("SYNCLOG_NO_SMALL_DISK").is_some() {
        return println!("skipped, as SYNCLOG_NO_SMALL_DISK asks: {test}");
    }
    let dir = scratch();
    let script = r#"mount -t tmpfs -o "size=$1,mode=0700" tmpfs "$2" || exit 99; shift 2; exec "$@""#;
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", &bytes.to_string()])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("SYNCLOG_SMALL_DISK", dir.path())
        .env("SYNCLOG_SEED", seed.to_string())
        .status();
    match status.as_ref().map(std::process::ExitStatus::code) {
        Ok(Some(0)) => {}
        Ok(Some(1 | 99)) | Err(_) => panic!(
            "this host gives no mount namespace ({status:?}): run as root, or set SYNCLOG_NO_SMALL_DISK to go without"
        ),
        other => panic!("{test} failed on its small disk: {other:?}"),
    }
}

/// Where [`on_small_disk`] has put the file system.
pub(crate) fn small_disk() -> PathBuf {
    PathBuf::from(std::env::var_os("SYNCLOG_SMALL_DISK").unwrap())
}

/// Takes all space but `left` bytes from a disk, in a file called `ballast`.
pub(crate) fn take_space(disk: &Path, left: u64) {
    let ballast = fs::OpenOptions::new().append(true).create(true).open(disk.join("ballast")).unwrap();
    while (&ballast).write(&[0; 4096]).is_ok() {}
    ballast.set_len(len(&disk.join("ballast")).saturating_sub(left)).unwrap();
}

pub(crate) fn give_space(disk: &Path) {
    fs::remove_file(disk.join("ballast")).unwrap();
}

/// Waits for a condition.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The seed of a random test: `SYNCLOG_SEED`, or a new one. It is printed, for the case that the test fails.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("SYNCLOG_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("SYNCLOG_SEED={seed}");
    seed
}

/// A log of its own boot, whose flusher only works on request.
pub(crate) fn quiet(dir: &Path) -> Config {
    let mut config = small(dir);
    config.flush_interval = Duration::from_secs(3600);
    config.boot_id = Some([1; 16]);
    config
}

/// As `quiet`, and a sync does not come to its end before the gate opens.
pub(crate) fn held(dir: &Path) -> (Config, Gate) {
    let mut config = quiet(dir);
    let gate = Gate(Arc::new(AtomicBool::new(false)));
    let open = Arc::clone(&gate.0);
    config.faults = Some(Faults::new(move |call| {
        let flusher = std::thread::current().name() == Some("synclog-flush");
        if call == Call::SyncFile && flusher {
            wait_for("the gate", || open.load(Ordering::SeqCst));
        }
        Verdict::Pass
    }));
    (config, gate)
}

pub(crate) struct Gate(Arc<AtomicBool>);

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

pub(crate) fn store(log: &SyncLog, applied: u64) {
    log.store_cursor(&Cursor { applied: Lsn(applied), data: vec![] }, CursorSync::Now).unwrap();
}

/// The same settings for a copy of the log as the process left it when it died.
pub(crate) fn crashed(config: &Config, dir: &Path) -> Config {
    let mut copy = config.clone();
    copy.dir = dir.join("crashed");
    crash_copy(&config.dir, &copy.dir);
    copy
}

pub(crate) fn check_payloads(records: &[Record], payload_bytes: usize, about: &str) {
    for record in records {
        assert_eq!(record.payload, payload(record.lsn.0, payload_bytes), "{about}: record {}", record.lsn);
        assert_eq!(record.kind, record.lsn.0 as u8, "{about}");
    }
}

/// The log takes records again, and keeps them.
pub(crate) fn goes_on(log: &SyncLog, config: &Config, payload_bytes: usize) {
    let head = log.head();
    fill(log, 3, payload_bytes);
    log.close().unwrap();
    let (log, found) = open(config);
    assert_eq!(found.head, Lsn(head.0 + 3));
    let records = read(&log, head).unwrap();
    assert_eq!(records.len(), 3);
    check_payloads(&records, payload_bytes, "after recovery");
}
