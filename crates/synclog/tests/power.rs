//! The power fails at any call: of what was not synced, any pages, lengths and names survive. What was promised is there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{open, payload, scratch, small};
use synclog::{Change, Config, Cursor, CursorSync, Durability, Faults, Lsn, ReadError, SyncLog, Verdict};

const PAGE: usize = 4096;

/// Set `SYNCLOG_POWER_ROUNDS` for more runs; each has about a dozen power losses.
const RUNS: u64 = 40;

/// What the disk and the page cache hold.
#[derive(Default)]
struct Sim {
    files: HashMap<u64, File>,
    /// Names on disk, and what was done to them since.
    names: BTreeMap<String, u64>,
    pending: Vec<NameChange>,
    syncing: usize,
    promised: Promised,
    random: fastrand::Rng,
    /// One in so many calls is the last one.
    rarity: u32,
    images: Vec<Image>,
}

#[derive(Default, Clone)]
struct File {
    disk: Vec<u8>,
    cache: Vec<u8>,
    /// Two threads may sync it at the same time.
    syncing: Vec<Vec<u8>>,
}

#[derive(Clone)]
enum NameChange {
    Set(String, u64),
    Rename(String, String),
    Remove(String),
}

/// What the log has said.
#[derive(Default, Clone, Copy, Debug)]
struct Promised {
    durable: u64,
    applied: u64,
    appended: u64,
    closed: bool,
}

/// What the next start finds.
struct Image {
    files: BTreeMap<String, Vec<u8>>,
    promised: Promised,
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn apply(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Set(name, file) => drop(names.insert(name.clone(), *file)),
        NameChange::Remove(name) => drop(names.remove(name)),
        NameChange::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
    }
}

impl Sim {
    fn see(&mut self, change: Change<'_>) {
        if self.random.u32(..self.rarity) == 0 {
            self.lose_power();
        }
        match change {
            Change::Created { file, path } => {
                // An inode may be used again.
                self.files.insert(file, File::default());
                self.pending.push(NameChange::Set(name(path), file));
            }
            Change::Written { file, offset, slices } => {
                let cache = &mut self.files.get_mut(&file).unwrap().cache;
                let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                let stop = offset as usize + bytes.len();
                cache.resize(cache.len().max(stop), 0);
                cache[offset as usize..stop].copy_from_slice(&bytes);
            }
            Change::Truncated { file, len } => {
                self.files.get_mut(&file).unwrap().cache.resize(len as usize, 0)
            }
            Change::SyncBegins { file } => {
                let file = self.files.get_mut(&file).unwrap();
                file.syncing.push(file.cache.clone());
            }
            Change::Synced { file } => {
                let file = self.files.get_mut(&file).unwrap();
                // The older one: the other may have seen less than it claims.
                file.disk = file.syncing.remove(0);
            }
            Change::DirSyncBegins => self.syncing = self.pending.len(),
            Change::DirSynced => {
                let done: Vec<_> = self.pending.drain(..std::mem::take(&mut self.syncing)).collect();
                done.iter().for_each(|change| apply(&mut self.names, change));
            }
            Change::Renamed { from, to } => self.pending.push(NameChange::Rename(name(from), name(to))),
            Change::Removed { path } => self.pending.push(NameChange::Remove(name(path))),
            other => panic!("{other:?}"),
        }
    }

    fn lose_power(&mut self) {
        let mut names = self.names.clone();
        // A journal keeps the order of names; every so often, one that does not.
        let in_order = self.random.u32(..4) > 0;
        let kept = self.random.usize(..=self.pending.len());
        for (nth, change) in self.pending.iter().enumerate() {
            if if in_order { nth < kept } else { self.random.bool() } {
                apply(&mut names, change);
            }
        }
        let share = self.random.u32(..=100);
        let files = names.into_iter().map(|(name, file)| {
            let file = &self.files[&file];
            let lens = [
                file.disk.len(),
                file.cache.len(),
                self.random.usize(..=file.cache.len().max(file.disk.len())),
            ];
            // A length on its way lies between the two.
            let (least, most) = (lens[0].min(lens[1]), lens[0].max(lens[1]));
            let len = lens[self.random.usize(..3)].clamp(least, most);
            let mut bytes = vec![0; len];
            for (nth, page) in bytes.chunks_mut(PAGE).enumerate() {
                let from = if self.random.u32(..100) < share { &file.cache } else { &file.disk };
                let from = from.get(nth * PAGE..).unwrap_or_default();
                let many = from.len().min(page.len());
                page[..many].copy_from_slice(&from[..many]);
            }
            (name, bytes)
        });
        let image = Image { files: files.collect(), promised: self.promised };
        self.images.push(image);
    }
}

/// One process after the other, until enough was recorded.
fn work(config: &Config, sim: &Arc<Mutex<Sim>>, random: &mut fastrand::Rng) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for _ in 0..random.u32(1..4) {
        let (log, found) = open(config);
        assert!(found.gap.is_none(), "{found:?}");
        let promise = |change: &dyn Fn(&mut Promised)| change(&mut sim.lock().unwrap().promised);
        promise(&|promised| promised.closed = false);
        for _ in 0..random.u32(1..60) {
            match random.u32(..10) {
                0 => {
                    let head = log.head();
                    runtime.block_on(log.wait_durable(head)).unwrap();
                    if config.durability != Durability::Process {
                        promise(&|promised| promised.durable = promised.durable.max(head.0));
                    }
                }
                1 => {
                    let applied = Lsn(random.u64(log.trimmed().0..=log.head().0));
                    let applied = applied.max(log.cursor().unwrap_or_default().applied);
                    let sync = if random.bool() { CursorSync::Now } else { CursorSync::Later };
                    log.store_cursor(&Cursor { applied, data: vec![] }, sync).unwrap();
                    if sync == CursorSync::Now {
                        promise(&|promised| {
                            promised.applied = applied.0;
                            if config.durability != Durability::Process {
                                promised.durable = promised.durable.max(applied.0);
                            }
                        });
                        log.trim(applied).unwrap();
                    }
                }
                2 => drop(log.note(&payload(random.u64(..20), 20)).unwrap()),
                3 => log.clear_notes(log.notes().upto).unwrap(),
                _ => {
                    let lsn = log.head();
                    promise(&|promised| promised.appended = lsn.0 + 1);
                    let len = if random.u32(..10) == 0 { random.usize(..9000) } else { random.usize(..700) };
                    assert_eq!(log.append(lsn.0 as u8, &[&body(lsn.0, len)]).unwrap(), lsn);
                }
            }
        }
        log.note(b"last").unwrap();
        log.close().unwrap();
        promise(&|promised| {
            promised.durable = promised.appended.max(1);
            promised.closed = true;
        });
    }
}

/// Tells its own length, so that any part of it can be checked.
fn body(lsn: u64, len: usize) -> Vec<u8> {
    let mut body = (len as u64).to_le_bytes().to_vec();
    body.extend(payload(lsn, len));
    body
}

fn check(image: &Image, config: &Config, boot: [u8; 16], about: &str) {
    let _ = fs::remove_dir_all(&config.dir);
    fs::DirBuilder::new().mode(0o700).create(&config.dir).unwrap();
    for (name, bytes) in &image.files {
        let path = config.dir.join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let mut config = config.clone();
    config.faults = None;
    config.boot_id = Some(boot);
    let (log, found) = SyncLog::open(config.clone()).unwrap_or_else(|error| panic!("{about}: {error}"));
    let about = format!("{about}: {:?}, {found:?}", image.promised);
    let (first, head) = (log.trimmed(), log.head());
    let applied = log.cursor().unwrap_or_default().applied;
    let durable = image.promised.durable;
    assert!(head.0 >= durable, "{about}");
    // With `Process`, a cursor may be ahead of the log on disk: that is told as a gap.
    let behind = found.gap.as_ref().is_some_and(|gap| gap.contains("had reached"));
    assert!(!behind || config.durability == Durability::Process, "{about}");
    assert!(applied.0 >= image.promised.applied, "{about}");
    assert!(first <= applied.max(Lsn(1)), "{about}");
    // What is applied may have been trimmed, and not all of it may be gone.
    let from = applied.max(first);
    let mut reader = log.reader(from).unwrap();
    let (mut due, mut damaged) = (from.0, false);
    loop {
        match reader.next() {
            Ok(Some(record)) => {
                let lsn = record.lsn.0;
                assert!(lsn == due || found.gap.is_some() || damaged, "{about}: {lsn} instead of {due}");
                assert!(
                    due >= durable || lsn == due,
                    "{about}: durable records from {due} to {lsn} are gone"
                );
                let len = u64::from_le_bytes(record.payload[..8].try_into().unwrap()) as usize;
                assert!(
                    record.kind == lsn as u8 && record.payload == body(lsn, len),
                    "{about}: {lsn} is wrong"
                );
                due = lsn + 1;
            }
            Ok(None) => break,
            Err(error @ ReadError::Damaged { lsn, .. }) => {
                assert!(lsn.0 >= durable, "{about}: was durable: {error}");
                damaged = true;
            }
            Err(error) => panic!("{about}: {error}"),
        }
    }
    assert!(due >= durable, "{about}: only up to {due}");
    assert!(due == head.0 || found.gap.is_some(), "{about}: only up to {due}");
    if image.promised.closed {
        assert!(
            log.notes().everything || log.notes().notes.iter().any(|note| note[..] == *b"last"),
            "{about}"
        );
    }
}

#[test]
fn the_power_fails_anywhere() {
    let seed = common::seed();
    let runs = std::env::var("SYNCLOG_POWER_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(RUNS);
    let (mut images, mut cut) = (0, 0);
    for run in 0..runs {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_add(run));
        let sim = Arc::new(Mutex::new(Sim {
            random: fastrand::Rng::with_seed(random.u64(..)),
            rarity: random.u32(10..60),
            promised: Promised { durable: 1, applied: 0, appended: 1, closed: false },
            ..Sim::default()
        }));
        let dir = scratch();
        let mut config = small(dir.path());
        config.boot_id = Some([1; 16]);
        config.durability = if random.u32(..4) == 0 { Durability::Process } else { Durability::Journal };
        let seen = Arc::clone(&sim);
        let slow = fastrand::Rng::with_seed(random.u64(..));
        let slow = Mutex::new(slow);
        let judge = move |_| {
            // Each thread is behind the others at times.
            let micros = slow.lock().unwrap().u64(..6000);
            if micros < 600 {
                std::thread::sleep(Duration::from_micros(micros));
            }
            Verdict::Pass
        };
        config.faults = Some(Faults::new(judge).with_witness(move |change| seen.lock().unwrap().see(change)));
        work(&config, &sim, &mut random);
        config.dir = dir.path().join("after");
        let lost = std::mem::take(&mut sim.lock().unwrap().images);
        for (nth, image) in lost.iter().enumerate() {
            for boot in [[1; 16], [2; 16]] {
                let about = format!("SYNCLOG_SEED={seed}, run {run}, power loss {nth}, boot {}", boot[0]);
                check(image, &config, boot, &about);
            }
            cut += u32::from(image.promised.appended > image.promised.durable);
        }
        images += lost.len();
    }
    println!("{images} power losses, {cut} with records that were not durable");
    assert!(images > runs as usize * 3, "{images}");
}
