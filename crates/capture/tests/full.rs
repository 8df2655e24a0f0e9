//! A log that is full, or fails: what is kept, what is noted, what is missed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bson::rawdoc;
use capture::{Capture, Config, Detail, Lost, Missed};
use common::*;
use record::{Doubt, Namespace, Record};

fn capture() -> Arc<Capture> {
    Capture::new(Config::default())
}

fn insert1() -> Vec<u8> {
    request(&insert(&[rawdoc! {"_id": 1}]))
}

fn ok1() -> Vec<u8> {
    reply(&rawdoc! {"n": 1, "ok": 1.0})
}

fn missed(names: &[&str]) -> Missed {
    Missed { everything: false, namespaces: names.iter().map(|name| Namespace::parse(name)).collect() }
}

#[test]
fn what_could_not_be_appended_is_missed() {
    let capture = capture();
    let session = session(&capture);
    // No mark: nothing to append at the end, the namespace is missed then and not before.
    let write = unmarked(&session, &insert1());
    assert!(capture.take_missed().is_empty());
    assert_eq!((capture.unrecorded().writes, capture.unrecorded().under_way), (1, 1));
    let ended = write.outcome(&ok1(), NOW);
    assert!(ended.appends.is_empty());
    assert_eq!(capture.take_missed(), missed(&["shop.items"]));
    assert_eq!((capture.unrecorded().writes, capture.unrecorded().under_way), (1, 0));
    // An orphan may run on: it is missed when somebody has seen its end.
    let orphan = unmarked(&session, &insert1()).orphan(Lost::ServerClosed).unwrap();
    assert_eq!(orphan.mark, None);
    assert!(capture.take_missed().is_empty());
    drop(orphan);
    assert_eq!(capture.take_missed(), missed(&["shop.items"]));
    // A write that did nothing misses nothing.
    drop(unmarked(&session, &insert1()).outcome(&reply(&rawdoc! {"ok": 0.0, "code": 13}), NOW));
    drop(unmarked(&session, &insert1()).never_sent(NOW));
    assert!(capture.take_missed().is_empty());
    // One that nobody ends, because its session died, is missed.
    drop(unmarked(&session, &insert1()));
    assert_eq!(capture.take_missed(), missed(&["shop.items"]));
    assert_eq!(capture.unrecorded().under_way, 0);
}

/// The mark is there and its entry is not: the namespace is missed at once, and the mark gets its end later.
#[test]
fn a_mark_whose_entry_could_not_be_appended_gets_an_end_later() {
    let capture = capture();
    let session = session(&capture);
    let (_, write) = marked(&session, &insert1(), 1).unwrap();
    let [unended] = &write.outcome(&ok1(), NOW).not_appended(0)[..] else { panic!("one mark is open") };
    assert_eq!(capture.take_missed(), missed(&["shop.items"]));
    let (kind, payload) = unended.record(NOW);
    let Ok(Record::Entry(entry)) = Record::decode(kind as u8, &payload) else { panic!("an entry") };
    assert_eq!((entry.mark, entry.doubt), (1, Some(Doubt::NotKept)));
    assert_eq!(targets(&[entry.effects[0].target.clone()]), ["shop.items *"]);
    // One that did nothing is only closed.
    let (_, write) = marked(&session, &insert1(), 2).unwrap();
    let refused = write.outcome(&reply(&rawdoc! {"ok": 0.0, "code": 13}), NOW);
    let (kind, payload) = refused.not_appended(0)[0].record(NOW);
    assert_eq!(Record::decode(kind as u8, &payload), Ok(Record::Closed { mark: 2 }));
    assert!(capture.take_missed().is_empty());
    // What could be appended is not missed.
    let (_, write) = marked(&session, &insert1(), 3).unwrap();
    assert!(write.outcome(&ok1(), NOW).not_appended(1).is_empty());
    assert!(capture.take_missed().is_empty());
}

/// With the log nearly full, an entry keeps what was touched.
#[test]
fn a_write_can_be_kept_without_its_statements() {
    let capture = capture();
    let session = session(&capture);
    let (_, mut write) = marked(&session, &insert1(), 1).unwrap();
    write.keep(Detail::Touches);
    assert_eq!(told(&write.outcome(&ok1(), NOW)), ["not_kept 1", "shop.items key {_id: 1}"]);
    assert_eq!(capture.counters().touches_only, 1);
    // What has no statements anyway is as it was.
    let (_, mut write) = marked(&session, &request(&rawdoc! {"drop": "items"}), 2).unwrap();
    write.keep(Detail::Touches);
    assert_eq!(told(&write.outcome(&ok1(), NOW)), ["certain 2", "shop.items * over {drop: 1}"]);
    assert_eq!(capture.counters().touches_only, 1);
}

/// What is missed is put down before the write leaves, and once more at its end; where that fails, it is everything.
#[test]
fn what_is_missed_is_noted_before_the_write_leaves() {
    let noted: Arc<Mutex<Vec<String>>> = Arc::default();
    let (notes, works) = (noted.clone(), Arc::new(AtomicBool::new(true)));
    let can = works.clone();
    let note = move |ns: Option<&Namespace>| {
        notes.lock().unwrap().push(ns.map_or("*".to_owned(), ToString::to_string));
        can.load(Ordering::SeqCst)
    };
    let capture = Capture::noting(Config::default(), Box::new(note));
    let session = session(&capture);
    let write = unmarked(&session, &insert1());
    assert_eq!(*noted.lock().unwrap(), ["shop.items"]);
    assert!(capture.take_missed().is_empty());
    drop(write.outcome(&ok1(), NOW));
    assert_eq!(*noted.lock().unwrap(), ["shop.items", "shop.items"]);
    assert_eq!(capture.take_missed(), missed(&["shop.items"]));
    works.store(false, Ordering::SeqCst);
    let write = unmarked(&session, &insert1());
    assert!(capture.take_missed().everything);
    drop(write);
}
