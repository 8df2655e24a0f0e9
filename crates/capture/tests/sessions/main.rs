//! Sessions from request to end: what is captured, contention, transactions, orphans, and what is missed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

#[path = "../common/mod.rs"]
mod common;
mod transactions;
mod unreadable;

use std::sync::Arc;

use bson::raw::RawDocumentBuf;
use bson::{Binary, rawdoc, spec::BinarySubtype};
use capture::{Capture, Class, Config, Kind, Lost, Missed, Pattern, Session, Write};
use common::*;
use record::{Doubt, Namespace};
use wire::Flags;

fn capture() -> Arc<Capture> {
    Capture::new(Config::default())
}

fn insert1() -> Vec<u8> {
    request(&insert(&[rawdoc! {"_id": 1}]))
}

fn ok1() -> Vec<u8> {
    reply(&rawdoc! {"n": 1, "ok": 1.0})
}

fn write(session: &Session, body: &RawDocumentBuf, lsn: u64) -> Write {
    marked(session, &request(body), lsn).expect("captured").1
}

fn missed(names: &[&str]) -> Missed {
    Missed { everything: false, namespaces: names.iter().map(|name| Namespace::parse(name)).collect() }
}

const EVERYTHING: Missed = Missed { everything: true, namespaces: Vec::new() };

#[test]
fn requests_are_classed_by_name() {
    let capture = capture();
    let session = session(&capture);
    let cases = [
        ("insert", Class::Hold),
        ("update", Class::Watch),
        ("findandmodify", Class::Watch),
        ("aggregate", Class::Watch),
        ("commitTransaction", Class::Watch),
        ("createIndexes", Class::Watch),
        ("somethingNew", Class::Watch),
        ("find", Class::Pass),
        ("getMore", Class::Pass),
        ("hello", Class::Pass),
        ("explain", Class::Pass),
    ];
    for (name, class) in cases {
        assert_eq!(session.classify(name), class, "{name}");
    }
}

#[test]
fn what_is_not_captured() {
    let include = vec![Pattern::parse("shop").unwrap(), Pattern::parse("admin").unwrap()];
    let exclude = vec![Pattern::parse("shop.tmp*").unwrap()];
    let capture = Capture::new(Config { include, exclude, ..Config::default() });
    let session = session(&capture);
    let pipeline = |stage: RawDocumentBuf| rawdoc! {"aggregate": "items", "pipeline": [stage], "cursor": {}};
    let nothing = [
        rawdoc! {"find": "items"},
        rawdoc! {"insert": "tmp1", "documents": [{"a": 1}]},
        rawdoc! {"insert": "items", "documents": [{"a": 1}], "$db": "other"},
        rawdoc! {"insert": "system.users", "documents": [{"a": 1}], "$db": "admin"},
        rawdoc! {"insert": "system.js", "documents": [{"a": 1}]},
        rawdoc! {"insert": "x", "documents": [{"a": 1}], "$db": "__dualsync"},
        rawdoc! {"dropDatabase": 1, "$db": "local"},
        rawdoc! {"renameCollection": "other.a", "to": "other.b", "$db": "admin"},
        pipeline(rawdoc! {"$match": {}}),
        pipeline(rawdoc! {"$out": "tmp2"}),
        with(&pipeline(rawdoc! {"$out": "b"}), &rawdoc! {"explain": true}),
        rawdoc! {"aggregate": 1, "pipeline": [], "cursor": {}},
        rawdoc! {"mapReduce": "items", "out": {"inline": 1}},
        rawdoc! {"createSearchIndexes": "items", "indexes": [], "$db": "other"},
        rawdoc! {"inventNew": 1, "$db": "other"},
        rawdoc! {"validate": "items"},
        rawdoc! {"validate": "items", "repair": false},
        rawdoc! {"validate": "items", "repair": bson::raw::RawBson::Null},
        rawdoc! {"getMore": 5_i64, "collection": "items"},
        rawdoc! {"commitTransaction": 1, "$db": "admin"},
    ];
    for body in nothing {
        assert!(session.request(&request(&body)).is_none(), "{body:?}");
    }
    drop(session.request(&request(&rawdoc! {"inventNew": 1, "$db": "admin"})).unwrap().never_sent(NOW));
    let counters = capture.counters();
    assert!(counters.not_replicated.is_empty());
    assert_eq!(counters.unknown.get("inventNew"), Some(&1));
    assert!(counters.excluded >= 5, "{counters:?}");
    assert!(capture.take_missed().is_empty());
    // What changes anything but documents is counted when it has.
    let user = request(&rawdoc! {"createUser": "u", "$db": "admin"});
    let refused = reply(&rawdoc! {"ok": 0.0, "code": 13, "errmsg": "no"});
    for (answer, counted) in [(refused, None), (reply(&rawdoc! {"ok": 1.0}), Some(&1))] {
        let mut write = session.request(&user).unwrap();
        assert_eq!(write.mark(NOW), None);
        assert!(write.outcome(&answer, NOW).appends.is_empty());
        assert_eq!(capture.counters().not_replicated.get("createUser"), counted);
    }
    assert!(session.request(&user).unwrap().never_sent(NOW).appends.is_empty());
    assert!(session.request(&user).unwrap().unacknowledged(NOW).appends.is_empty());
    assert_eq!(capture.counters().not_replicated.get("createUser"), Some(&2));
    assert!(capture.take_missed().is_empty());
    // Only the captured side of a rename counts.
    let rename = rawdoc! {"renameCollection": "shop.a", "to": "other.b", "$db": "admin"};
    let (mark, _write) = marked(&session, &request(&rename), 1).unwrap();
    assert_eq!(targets(&mark.targets), ["shop.a *"]);
}

/// As many indexes before as after says that none was made, unless somebody drops one meanwhile.
#[test]
fn indexes_that_change_beside_each_other() {
    let capture = capture();
    let session = session(&capture);
    let create = || rawdoc! {"createIndexes": "items", "indexes": [{"key": {"a": 1}, "name": "a_1"}]};
    let same = reply(&rawdoc! {"numIndexesBefore": 2, "numIndexesAfter": 2, "ok": 1.0});
    assert_eq!(told(&write(&session, &create(), 1).outcome(&same, NOW)), ["closed 1"]);
    let creates = write(&session, &create(), 2);
    let drops = write(&session, &rawdoc! {"dropIndexes": "items", "index": "b_1"}, 3);
    assert_eq!(told(&drops.outcome(&reply(&rawdoc! {"nIndexesWas": 3, "ok": 1.0}), NOW))[0], "shape 3");
    assert_eq!(told(&creates.outcome(&same, NOW)), ["shape 2", "shop.items *"]);
}

#[test]
fn an_insert_without_id_gets_one_and_is_known_by_it() {
    let capture = capture();
    let session = session(&capture);
    let body = rawdoc! {"insert": "items"};
    let documents = [rawdoc! {"a": 1}, rawdoc! {"_id": 2}];
    for frame in [request(&insert(&documents)), request_in_sequence(&body, "documents", &documents)] {
        let (mark, mut write) = marked(&session, &frame, 1).unwrap();
        let sent = write.forward().expect("another frame");
        assert_eq!((sent.len(), write.request_id()), (frame.len() + 17, 7));
        assert!(write.forward().is_none());
        let text = targets(&mark.targets);
        assert!(text[0].starts_with("shop.items key {_id: ObjectId("), "{text:?}");
        let lines = told(&write.outcome(&reply(&rawdoc! {"n": 2, "ok": 1.0}), NOW));
        assert_eq!(lines[0], "certain 1"); // it did not meet itself
        assert!(lines[1].starts_with(&text[0]) && lines[1].ends_with(", a: 1} n=1/0"), "{lines:?}");
    }
    assert!(session.request(&insert1()).unwrap().forward().is_none());
}

#[test]
fn a_mark_carries_the_connection() {
    let capture = capture();
    let (mark, _write) = marked(&session(&capture), &insert1(), 1).unwrap();
    assert_eq!((&mark.via[..], mark.in_transaction, mark.at_ms), ("10.0.0.1:5", false, NOW));
}

#[test]
fn who_waits_for_the_disk() {
    let capture = capture();
    let session = session(&capture);
    let cases = [
        (rawdoc! {}, false),
        (rawdoc! {"writeConcern": {"w": 1}}, false),
        (rawdoc! {"writeConcern": {"w": 3}}, false),
        (rawdoc! {"writeConcern": {"w": "majority"}}, true),
        (rawdoc! {"writeConcern": {"j": true}}, true),
        (rawdoc! {"writeConcern": {"w": 1, "j": false}}, false),
    ];
    for (fields, waits) in cases {
        let write = session.request(&request(&with(&insert(&[rawdoc! {"_id": 1}]), &fields))).unwrap();
        assert_eq!(write.waits_for_durable(), waits, "{fields:?}");
    }
}

/// Both of two writes that may touch the same document are in doubt, and only while both are in flight.
#[test]
fn contended_writes_are_in_doubt() {
    let capture = capture();
    let (one, other) = (session(&capture), session(&capture));
    let by = |q: RawDocumentBuf| update(&[rawdoc! {"q": q, "u": {"$inc": {"a": 1}}, "multi": true}]);
    let changed = reply(&rawdoc! {"n": 1, "nModified": 1, "ok": 1.0});
    let cases = [
        (rawdoc! {"_id": 1}, rawdoc! {"_id": 1.0}, "contended"),
        (rawdoc! {"_id": 1}, rawdoc! {"_id": 2}, "certain"),
        (rawdoc! {"_id": 1}, rawdoc! {"a": 2}, "contended"),
        (rawdoc! {"a": 1}, rawdoc! {"a": 2}, "contended"),
    ];
    for (a, b, doubt) in cases {
        let first = write(&one, &by(a), 1);
        let second = write(&other, &by(b), 2);
        // In flight until the entry is in the log, not only until the reply.
        let ended = first.outcome(&changed, NOW);
        assert_eq!(told(&ended)[0], format!("{doubt} 1"));
        drop(ended);
        assert_eq!(told(&second.outcome(&changed, NOW))[0], format!("{doubt} 2"));
    }
    let first = write(&one, &by(rawdoc! {"_id": 1}), 1).outcome(&changed, NOW);
    let second = write(&other, &by(rawdoc! {"_id": 1}), 2);
    assert_eq!(told(&first)[0], "certain 1"); // it had ended before the other was sent
    drop(first);
    assert_eq!(told(&second.outcome(&changed, NOW))[0], "contended 2");
    // A reason of its own says more.
    let first = write(&one, &by(rawdoc! {"_id": 1}), 1);
    let second = write(&other, &update(&[rawdoc! {"q": {"a": 1}, "u": {"a": 1}}]), 2);
    assert_eq!(told(&second.outcome(&changed, NOW))[0], "predicate 2");
    assert_eq!(told(&first.outcome(&changed, NOW))[0], "contended 1");
    let counters = capture.counters();
    assert_eq!((counters.in_doubt[&Doubt::Contended], counters.entries[&Kind::Update]), (8, 12));
}

/// D2: an orphan of an earlier run counts as in flight.
#[test]
fn an_entered_orphan_contends() {
    let capture = capture();
    let session = session(&capture);
    let orphan = write(&session, &insert(&[rawdoc! {"_id": 1}]), 1).orphan(Lost::ServerClosed).unwrap();
    let targets = orphan.mark_record.targets.clone();
    assert_eq!((orphan.mark, &orphan.mark_record.via[..]), (Some(1), "10.0.0.1:5"));
    let next = write(&session, &insert(&[rawdoc! {"_id": 1}]), 2);
    assert_eq!(told(&next.outcome(&ok1(), NOW))[0], "contended 2");
    drop(orphan);
    let next = write(&session, &insert(&[rawdoc! {"_id": 1}]), 3);
    assert_eq!(told(&next.outcome(&ok1(), NOW))[0], "certain 3");

    let ticket = capture.enter(&targets);
    let next = write(&session, &insert(&[rawdoc! {"_id": 1}]), 4);
    assert_eq!(told(&next.outcome(&ok1(), NOW))[0], "contended 4");
    assert!(ticket.contended());
}

/// wire-facts 3: moreToCome gets no reply, whatever the write concern says.
#[test]
fn writes_without_a_reply() {
    let capture = capture();
    let session = session(&capture);
    let body = insert(&[rawdoc! {"_id": 1}]);
    assert!(write(&session, &body, 1).expects_reply());
    let (_, write) = marked(&session, &request_with(&body, Flags::MORE_TO_COME), 1).unwrap();
    assert!(!write.expects_reply());
    let lines = told(&write.unacknowledged(NOW));
    assert_eq!(lines, ["unacknowledged 1", "shop.items key {_id: 1} insert {_id: 1} n=0/0"]);
    let upsert = update(&[rawdoc! {"q": {"a": 1}, "u": {"b": 1}, "upsert": true}]);
    let (_, write) = marked(&session, &request_with(&upsert, Flags::MORE_TO_COME), 2).unwrap();
    assert!(told(&write.unacknowledged(NOW))[1].starts_with("shop.items * update")); // D3
}

#[test]
fn a_request_that_never_left_did_nothing() {
    let capture = capture();
    let session = session(&capture);
    let (_, write) = marked(&session, &insert1(), 1).unwrap();
    assert_eq!(told(&write.never_sent(NOW)), ["closed 1"]);
    drop(session.unscanned(&insert1()[..30]).unwrap().never_sent(NOW));
    drop(session.request(&insert1()).unwrap().never_sent(NOW)); // without a mark
    assert!(capture.take_missed().is_empty());
}

/// wire-facts 4: with `batchSize: 0` the getMore does the writing.
#[test]
fn an_aggregate_that_writes_later() {
    let capture = capture();
    let session = session(&capture);
    let body = rawdoc! {"aggregate": "items", "pipeline": [{"$out": "b"}], "cursor": {"batchSize": 0}};
    let answer = reply(&rawdoc! {"cursor": {"firstBatch": [], "id": 77_i64, "ns": "shop.items"}, "ok": 1.0});
    assert_eq!(told(&write(&session, &body, 1).outcome(&answer, NOW)), ["closed 1"]);
    assert_eq!(session.classify("getMore"), Class::Watch);
    assert!(session.request(&request(&rawdoc! {"getMore": 78_i64, "collection": "items"})).is_none());
    let more = write(&session, &rawdoc! {"getMore": 77_i64, "collection": "items"}, 2);
    let answer = reply(&rawdoc! {"cursor": {"nextBatch": [], "id": 0_i64, "ns": "shop.items"}, "ok": 1.0});
    assert_eq!(told(&more.outcome(&answer, NOW)), ["coarse 2", "shop.b *"]);

    // Into a database whose name nobody can read.
    let into = rawdoc! {"$out": {"db": "stats", "coll": "b"}};
    let mut body = request(&rawdoc! {"aggregate": "items", "pipeline": [into], "cursor": {"batchSize": 0}});
    let at = body.windows(6).position(|bytes| bytes == b"stats\0").unwrap();
    body[at] = 0xff;
    let answer = reply(&rawdoc! {"cursor": {"firstBatch": [], "id": 78_i64, "ns": "shop.items"}, "ok": 1.0});
    drop(session.request(&body).unwrap().outcome(&answer, NOW));
    capture.take_missed();
    let more = write(&session, &rawdoc! {"getMore": 78_i64, "collection": "items"}, 3);
    drop(more.outcome(&reply(&rawdoc! {"cursor": {"nextBatch": [], "id": 0_i64}, "ok": 1.0}), NOW));
    assert_eq!(capture.take_missed(), EVERYTHING);
}
