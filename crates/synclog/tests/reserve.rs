//! Notes: kept on a full disk, over kills, torn writes and damage; never lost unseen.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{crash_copy, fill, flip, open, scratch, small, small_disk, take_space, wait_for};
use synclog::{Call, Change, Config, Durability, Faults, NoteError, Noted, SyncLog, Verdict};

fn told(log: &SyncLog) -> (bool, Vec<String>) {
    let notes = log.notes();
    let texts = notes.notes.iter().map(|note| String::from_utf8(note.to_vec()).unwrap());
    (notes.everything, texts.collect())
}

fn only(notes: &[&str]) -> (bool, Vec<String>) {
    (false, notes.iter().map(|note| (*note).to_owned()).collect())
}

fn reserve(config: &Config) -> PathBuf {
    config.dir.join("reserve")
}

/// The same settings elsewhere.
fn within(config: &Config, dir: &Path) -> Config {
    let mut config = config.clone();
    config.dir = dir.to_owned();
    config
}

/// What the next process finds if this one dies now.
fn after_a_crash(config: &Config, dir: &Path) -> (SyncLog, Config) {
    let mut copy = within(config, &dir.join(format!("crashed-{}", fastrand::u64(..))));
    copy.faults = None;
    crash_copy(&config.dir, &copy.dir);
    let (log, _) = open(&copy);
    (log, copy)
}

#[test]
fn notes_are_kept_once_in_order_and_over_crashes() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    assert_eq!(told(&log), only(&[]));
    for note in ["a.one", "b.two", "a.one", "", "c"] {
        assert_eq!(log.note(note.as_bytes()).unwrap(), Noted::Itself);
    }
    assert_eq!(told(&log), only(&["a.one", "b.two", "", "c"]));
    assert_eq!(told(&after_a_crash(&config, dir.path()).0), only(&["a.one", "b.two", "", "c"]));
    log.close().unwrap();
    assert!(matches!(log.note(b"late"), Err(NoteError::Closed)));
    let (log, found) = open(&config);
    assert!(found.clean && found.notes.is_empty(), "{found:?}");
    assert_eq!(told(&log), only(&["a.one", "b.two", "", "c"]));
}

#[test]
fn clearing_takes_what_was_told_and_nothing_that_came_after() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    for round in 0..50 {
        log.note(b"old").unwrap();
        log.note(b"both").unwrap();
        let upto = log.notes().upto;
        // The same once more: it may have happened after the reader looked at it.
        log.note(b"both").unwrap();
        log.note(b"new").unwrap();
        log.clear_notes(upto).unwrap();
        let (everything, mut notes) = told(&log);
        notes.sort();
        assert_eq!((everything, notes), only(&["both", "new"]), "round {round}");
        let (log_after, _) = after_a_crash(&config, dir.path());
        let (everything, mut notes) = told(&log_after);
        notes.sort();
        // What was told and taken back by the same clearing may be told again, not less.
        assert!(
            !everything && notes.contains(&"both".to_owned()) && notes.contains(&"new".to_owned()),
            "{notes:?}"
        );
        let upto = log.notes().upto;
        // An older clearing takes no more than it knew of.
        log.clear_notes(upto).unwrap();
        assert_eq!(told(&log), only(&[]));
        assert_eq!(told(&after_a_crash(&config, dir.path()).0), only(&[]));
    }
}

#[test]
fn a_reserve_that_is_full_says_everything_until_that_is_cleared() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    for round in 0..5 {
        let mut kept = 0u32;
        let mut last = Noted::Itself;
        while last == Noted::Itself {
            last = log.note(format!("{round}-{kept:0100}").as_bytes()).unwrap();
            kept += 1;
        }
        assert!((1000..3000).contains(&kept), "{kept}");
        assert!(log.notes().everything && log.notes().notes.len() as u32 == kept - 1);
        // A note that is there already needs no room.
        assert_eq!(log.note(format!("{round}-{:0100}", 0).as_bytes()).unwrap(), Noted::Itself);
        let upto = log.notes().upto;
        assert_eq!(log.note(&[b'x'; 200]).unwrap(), Noted::AsEverything);
        log.clear_notes(upto).unwrap();
        assert!(log.notes().everything, "the later note is lost");
        assert!(after_a_crash(&config, dir.path()).0.notes().everything);
        log.clear_notes(log.notes().upto).unwrap();
        assert_eq!(told(&log), only(&[]));
        assert_eq!(told(&after_a_crash(&config, dir.path()).0), only(&[]));
        // Half of the room is there at once, the other half after the next clearing.
        assert_eq!(log.note(b"again").unwrap(), Noted::Itself);
        log.clear_notes(log.notes().upto).unwrap();
    }
    // One that is larger than the file.
    assert_eq!(log.note(&vec![7; 1 << 20]).unwrap(), Noted::AsEverything);
}

#[test]
fn any_flipped_byte_is_everything_or_changes_nothing() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    for note in ["a.one", "b.two", "c.three"] {
        log.note(note.as_bytes()).unwrap();
    }
    let notes = told(&log);
    let places = (0..520).chain(4090..4300).chain([4096 + (128 << 10), 266_239]);
    let mut everything = 0;
    for at in places {
        let copy = within(&config, &dir.path().join("flipped"));
        crash_copy(&config.dir, &copy.dir);
        flip(&reserve(&copy), at);
        let (log, found) = open(&copy);
        let now = told(&log);
        assert!(now.0 || now == notes, "byte {at}: {now:?}");
        assert_eq!(now.0, found.notes.iter().any(|note| note.contains("reserve")), "byte {at}: {found:?}");
        everything += u32::from(now.0);
        // It goes on, and is whole again once that is cleared.
        assert!(log.note(b"next").is_ok());
        log.clear_notes(log.notes().upto).unwrap();
        log.clear_notes(log.notes().upto).unwrap();
        drop(log);
        let (log, found) = open(&copy);
        assert!(!log.notes().everything && found.notes.is_empty(), "byte {at}: {found:?}");
    }
    assert!(everything > 500, "{everything}");
}

#[test]
fn a_reserve_that_is_gone_cut_or_another_logs_is_everything() {
    let dir = scratch();
    let config = small(dir.path());
    let (log, _) = open(&config);
    fill(&log, 3, 10);
    log.note(b"a").unwrap();
    log.close().unwrap();
    let other = within(&config, &dir.path().join("other"));
    let (foreign, _) = open(&other);
    foreign.note(b"foreign").unwrap();
    foreign.close().unwrap();
    let path = reserve(&config);
    let spoil: [&dyn Fn(); 4] = [
        &|| std::fs::remove_file(&path).unwrap(),
        &|| common::cut_to(&path, 5000),
        &|| common::cut_to(&path, 0),
        &|| assert!(std::fs::copy(reserve(&other), &path).is_ok()),
    ];
    for (nth, spoil) in spoil.into_iter().enumerate() {
        spoil();
        let (log, found) = open(&config);
        assert_eq!(told(&log), (true, vec![]), "{nth}: {found:?}");
        assert!(found.gap.is_none() && !found.notes.is_empty(), "{nth}: {found:?}");
        log.close().unwrap();
        let (log, _) = open(&config);
        assert_eq!(told(&log), (true, vec![]), "{nth}: it is said until it is cleared");
        log.clear_notes(log.notes().upto).unwrap();
        log.note(b"a").unwrap();
        assert_eq!(told(&log), only(&["a"]));
        log.close().unwrap();
    }
}

/// The disk refuses at each call in turn; some writes stop in the middle. Then the process dies.
#[test]
fn whatever_call_fails_no_note_is_lost_unseen() {
    let mut random = fastrand::Rng::with_seed(common::seed());
    for sticky in [false, true] {
        let mut nth = 0;
        loop {
            let dir = scratch();
            let calls = Arc::new(AtomicU32::new(0));
            let armed = Arc::new(AtomicBool::new(false));
            let short = random.usize(0..40);
            let mut config = small(dir.path());
            config.flush_interval = std::time::Duration::from_secs(3600);
            config.faults = Some(Faults::new({
                let (calls, armed) = (Arc::clone(&calls), Arc::clone(&armed));
                move |call| {
                    let other_thread =
                        std::thread::current().name().is_some_and(|name| name.starts_with("synclog"));
                    if !armed.load(Ordering::SeqCst) || other_thread {
                        return Verdict::Pass;
                    }
                    let at = calls.fetch_add(1, Ordering::SeqCst);
                    match at == nth || (sticky && at > nth) {
                        false => Verdict::Pass,
                        true if call == Call::Write && short > 10 => Verdict::Short(short - 10),
                        true => Verdict::Fail(5),
                    }
                }
            }));
            let (log, _) = open(&config);
            armed.store(true, Ordering::SeqCst);
            let mut wanted = BTreeSet::new();
            let mut lost = false;
            for round in 0..4u32 {
                for note in 0..5u32 {
                    let note = format!("{}", (round + note) % 7);
                    lost |= log.note(note.as_bytes()).is_err();
                    wanted.insert(note);
                }
                let told = log.notes();
                let known: BTreeSet<String> =
                    told.notes.iter().map(|note| String::from_utf8(note.to_vec()).unwrap()).collect();
                assert!(told.everything || wanted.is_subset(&known), "call {nth}: {wanted:?} {known:?}");
                assert!(told.everything || !lost);
                let between = log.note(b"between");
                // They are dealt with, whether the reserve can forget them or not.
                let _ = log.clear_notes(told.upto);
                wanted.clear();
                lost = between.is_err();
                wanted.insert("between".into());
            }
            let now = log.notes();
            let (after, _) = after_a_crash(&config, dir.path());
            let after = after.notes();
            for (notes, about) in [(now, "now"), (after, "after a crash")] {
                let known: BTreeSet<String> =
                    notes.notes.iter().map(|note| String::from_utf8(note.to_vec()).unwrap()).collect();
                // What could not be put on disk was an error, and is in memory only.
                let excused = about != "now" && lost;
                assert!(
                    notes.everything || excused || wanted.is_subset(&known),
                    "{about}, call {nth}, sticky {sticky}: {wanted:?} {known:?}"
                );
            }
            if calls.load(Ordering::SeqCst) <= nth {
                break;
            }
            nth += 1;
        }
        assert!(nth > 20, "{nth} calls");
    }
}

#[test]
fn a_device_that_hangs_in_a_note_or_an_append_is_everything_at_once() {
    let dir = scratch();
    let device = Arc::new(Mutex::new(()));
    let asked = Arc::new(AtomicU32::new(0));
    let mut config = small(dir.path());
    config.hang_after = std::time::Duration::from_millis(50);
    config.faults = Some(Faults::new({
        let (device, asked) = (Arc::clone(&device), Arc::clone(&asked));
        move |call| {
            if call == Call::Write {
                asked.fetch_add(1, Ordering::SeqCst);
                drop(device.lock().unwrap());
            }
            Verdict::Pass
        }
    }));
    let (log, _) = open(&config);
    for append in [false, true] {
        let hanging = device.lock().unwrap();
        let before = asked.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            let held =
                scope.spawn(|| if append { drop(log.append(0, &[b"x"])) } else { drop(log.note(b"held")) });
            wait_for("the device to hang", || asked.load(Ordering::SeqCst) > before);
            if append {
                assert!(log.append(0, &[b"x"]).is_err());
            }
            let begun = std::time::Instant::now();
            for _ in 0..100 {
                assert!(matches!(log.note(b"x"), Err(NoteError::Hung)));
            }
            assert!(begun.elapsed() < 20 * config.hang_after, "{:?}", begun.elapsed());
            assert!(log.notes().everything);
            drop(hanging);
            held.join().unwrap();
        });
        wait_for("the device to answer", || log.note(b"x").is_ok());
        log.clear_notes(log.notes().upto).unwrap();
        assert_eq!(told(&log), only(&[]));
    }
}

/// What only memory knew gets to the disk as soon as that works again, and at the close.
#[test]
fn what_was_lost_is_told_once_the_disk_works_again() {
    for closes in [false, true] {
        let dir = scratch();
        let broken = Arc::new(AtomicBool::new(false));
        let mut config = small(dir.path());
        config.flush_interval = Duration::from_millis(if closes { 3_600_000 } else { 10 });
        let breaks = Arc::clone(&broken);
        config.faults = Some(Faults::new(move |call| match call {
            Call::Write if breaks.load(Ordering::SeqCst) => Verdict::Fail(5),
            _ => Verdict::Pass,
        }));
        let (log, _) = open(&config);
        broken.store(true, Ordering::SeqCst);
        assert!(matches!(log.note(b"lost"), Err(NoteError::Disk { .. })));
        broken.store(false, Ordering::SeqCst);
        if closes {
            log.close().unwrap();
            let (log, found) = open(&config);
            assert!(log.notes().everything && found.gap.is_none(), "{found:?}");
        } else {
            wait_for("the next sync", || after_a_crash(&config, dir.path()).0.notes().everything);
        }
    }
}

/// Where the reserve cannot be written even at the close, the cursor tells.
#[test]
fn what_the_reserve_cannot_keep_is_a_gap_for_the_next_open() {
    for poisoned in [false, true] {
        let dir = scratch();
        let fails = Arc::new(AtomicU32::new(0));
        let fails_sync = Arc::new(AtomicBool::new(false));
        let mut config = small(dir.path());
        config.flush_interval = Duration::from_secs(3600);
        config.faults = Some(Faults::new({
            let (fails, fails_sync) = (Arc::clone(&fails), Arc::clone(&fails_sync));
            move |call| {
                let flusher = std::thread::current().name() == Some("synclog-flush");
                let left = fails.load(Ordering::SeqCst);
                if call == Call::Write && left > 0 {
                    fails.fetch_sub(u32::from(!flusher), Ordering::SeqCst);
                    return Verdict::Fail(5);
                }
                // Not of the segment that is made ahead.
                if call == Call::SyncFile && flusher && fails_sync.swap(false, Ordering::SeqCst) {
                    return Verdict::Fail(5);
                }
                Verdict::Pass
            }
        }));
        let (log, _) = open(&config);
        fill(&log, 3, 10);
        fails_sync.store(poisoned, Ordering::SeqCst);
        // The note, the flag for it, and that flag at the close, twice.
        fails.store(4, Ordering::SeqCst);
        assert!(matches!(log.note(b"lost"), Err(NoteError::Disk { .. })));
        assert_eq!(log.close().is_err(), poisoned);
        assert_eq!(fails.load(Ordering::SeqCst), 0);
        let (log, found) = open(&config);
        assert!(found.gap.is_some() && !found.clean, "{found:?}");
        assert_eq!(log.head().0, 4);
    }
}

/// Notes get to the disk in each interval: with any durability, in a poisoned log, and what was found at the open.
#[test]
fn notes_are_synced_whatever_the_log_does() {
    for durability in [Durability::Process, Durability::Journal] {
        let dir = scratch();
        let mut config = small(dir.path());
        config.durability = durability;
        config.flush_interval = Duration::from_millis(10);
        let (synced, fails) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, fail) = (Arc::clone(&synced), Arc::clone(&fails));
        let path = reserve(&config);
        config.faults = Some(
            Faults::new(move |call| match call {
                Call::SyncFile if fail.swap(false, Ordering::SeqCst) => Verdict::Fail(5),
                _ => Verdict::Pass,
            })
            .with_witness(move |change| {
                let inode =
                    std::fs::metadata(&path).map_or(0, |meta| std::os::unix::fs::MetadataExt::ino(&meta));
                if matches!(change, Change::Synced { file } if file == inode) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }),
        );
        let more = |what: &str, begin: &dyn Fn()| {
            let before = synced.load(Ordering::SeqCst);
            begin();
            wait_for(what, || synced.load(Ordering::SeqCst) > before);
        };
        let (log, _) = open(&config);
        more("a note", &|| drop(log.note(b"one")));
        log.close().unwrap();
        let opened = Mutex::new(None);
        more("notes of an earlier run", &|| *opened.lock().unwrap() = Some(open(&config).0));
        let log = opened.into_inner().unwrap().unwrap();
        if durability == Durability::Journal {
            fails.store(true, Ordering::SeqCst);
            wait_for("the log to be poisoned", || log.append(0, &[b"x"]).is_err());
            more("a note in a poisoned log", &|| drop(log.note(b"two")));
        }
    }
}

#[test]
fn a_full_disk_takes_notes() {
    common::on_small_disk(1 << 20, "on_a_full_disk");
}

#[test]
#[ignore = "run by a_full_disk_takes_notes"]
fn on_a_full_disk() {
    let disk = small_disk();
    let mut config = Config::new(disk.join("log"));
    config.segment_bytes_max = 64 << 10;
    let (log, _) = open(&config);
    while log.append(0, &[&[1; 1000]]).is_ok() {}
    take_space(&disk, 0);
    for nth in 0..1000 {
        assert_eq!(log.note(format!("namespace {nth}").as_bytes()).unwrap(), Noted::Itself);
    }
    log.clear_notes(log.notes().upto).unwrap();
    assert_eq!(log.note(b"after").unwrap(), Noted::Itself);
    assert_eq!(told(&log), only(&["after"]));
    log.close().unwrap();
}
