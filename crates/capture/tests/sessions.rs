//! Sessions from request to end: what is captured, contention, transactions, orphans, and what is missed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod common;

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
        rawdoc! {"inventNew": 1, "$db": "admin"},
        rawdoc! {"inventNew": 1, "$db": "other"},
        rawdoc! {"validate": "items"},
        rawdoc! {"getMore": 5_i64, "collection": "items"},
        rawdoc! {"commitTransaction": 1, "$db": "admin"},
    ];
    for body in nothing {
        assert!(session.request(&request(&body)).is_none(), "{body:?}");
    }
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

/// Commands over several databases are sent to `admin`; and a collection's uuid counts for more than the name that
/// stands beside it in `applyOps` (seen on 6.0.5).
#[test]
fn what_may_be_anywhere() {
    let capture = capture();
    let session = session(&capture);
    let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: vec![1; 16] };
    for body in [
        rawdoc! {"inventNew": 1, "$db": "admin"},
        rawdoc! {"applyOps": [{"op": "d", "ns": "shop.a", "ui": uuid.clone(), "o": {"_id": 2}}]},
        rawdoc! {"applyOps": [{"op": "c", "ns": "shop.$cmd", "ui": uuid, "o": {"drop": "a"}}], "$db": "admin"},
    ] {
        let write = || session.request(&request(&body)).unwrap();
        drop(write().outcome(&reply(&rawdoc! {"ok": 0.0, "code": 59}), NOW));
        assert!(capture.take_missed().is_empty());
        drop(write().outcome(&reply(&rawdoc! {"ok": 1.0}), NOW));
        assert_eq!(capture.take_missed(), EVERYTHING, "{body:?}");
    }
    assert_eq!(capture.counters().unknown.get("inventNew"), Some(&2));
    let of_none =
        rawdoc! {"applyOps": [{"op": "i", "ns": "shop.a", "ui": bson::raw::RawBson::Null, "o": {"_id": 2}}]};
    assert_eq!(targets(&marked(&session, &request(&of_none), 1).unwrap().0.targets), ["shop.a *"]);
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

/// wire-facts 1.2: a frame that no server runs, whatever it answers. Only if one takes it all the same, it may have
/// written anywhere.
#[test]
fn unreadable_requests() {
    let capture = capture();
    let session = session(&capture);
    let insert = insert(&[rawdoc! {"_id": 1}]);
    let unknown_flag = request_with(&insert, Flags(1 << 5));
    let mut checksum = request_with(&insert, Flags::CHECKSUM_PRESENT);
    *checksum.last_mut().unwrap() ^= 1;
    let tail = |bytes: &[u8]| {
        let mut frame = [&insert1()[..], bytes].concat();
        let length = i32::try_from(frame.len()).unwrap();
        frame[..4].copy_from_slice(&length.to_le_bytes());
        frame
    };
    let mut no_bson = request_with(&with(&insert, &rawdoc! {"x": true}), Flags::default());
    let at = no_bson.windows(4).position(|bytes| bytes == b"\x08x\0\x01").unwrap();
    no_bson[at] = 0x55;
    let sections = [tail(b"\0\x05\0\0\0\0"), tail(b"\x03"), tail(b"\x01")];
    let compressed = compressed(&insert1(), 5);
    for frame in [vec![unknown_flag, checksum, no_bson, compressed.clone()], sections.into()].concat() {
        let mut write = session.request(&frame).unwrap();
        assert!(write.mark(NOW).is_none());
        for code in [13, 15, 22, 40_430, 40_432, 40_587] {
            let write = session.request(&frame).unwrap();
            drop(write.outcome(&reply(&rawdoc! {"ok": 0.0, "code": code}), NOW));
        }
        assert!(session.request(&frame).unwrap().orphan(Lost::ServerClosed).is_none());
        if frame != compressed {
            assert!(session.request(&frame).unwrap().orphan(Lost::Broken).is_none());
            drop(session.request(&frame).unwrap().unacknowledged(NOW));
        }
        assert!(capture.take_missed().is_empty());
        drop(write.outcome(&ok1(), NOW));
        assert_eq!(capture.take_missed(), EVERYTHING);
    }
    // A server that closes has not inflated it; one that answers what comes behind it has.
    drop(session.request(&compressed).unwrap().unacknowledged(NOW));
    assert_eq!(capture.take_missed(), EVERYTHING);
    assert!(session.request(&compressed).unwrap().orphan(Lost::Broken).is_none());
    assert_eq!(capture.take_missed(), EVERYTHING);
    // Other opcodes are not ours.
    let mut query = insert1();
    query[12..16].copy_from_slice(&2004_i32.to_le_bytes());
    assert!(session.request(&query).is_none());
}

/// wire-facts 1.4: a server takes compressed requests, negotiated or not, and answers in kind.
#[test]
fn compressed_requests() {
    let capture = capture();
    let session = session(&capture);
    let (mark, mut write) = marked(&session, &compressed(&insert1(), 0), 1).unwrap();
    assert_eq!(targets(&mark.targets), ["shop.items key {_id: 1}"]);
    assert_eq!((write.request_id(), write.forward()), (7, None));
    let ended = write.outcome(&compressed(&ok1(), 0), NOW);
    assert_eq!(told(&ended), ["certain 1", "shop.items key {_id: 1} insert {_id: 1} n=1/0"]);
    // With an `_id` in it, it is not compressed any more.
    let lacking = request(&insert(&[rawdoc! {"a": 1}]));
    let sent = marked(&session, &compressed(&lacking, 0), 2).unwrap().1.forward().unwrap();
    assert_eq!(sent.len(), lacking.len() + 17);
    assert!(session.request(&compressed(&request(&rawdoc! {"ping": 1}), 0)).is_none());
    let nested = compressed(&compressed(&insert1(), 0), 0);
    assert!(session.request(&nested).is_none(), "no server takes it");
    assert!(capture.take_missed().is_empty());
}

/// Seen on 6.0.5: names that are not UTF-8 are taken, and a symbol for a collection's name.
#[test]
fn names_that_cannot_be_read() {
    let capture = capture();
    let session = session(&capture);
    /// The body, with every `~` in it as a byte that is no UTF-8.
    fn odd(body: &RawDocumentBuf) -> Vec<u8> {
        let bytes = request(body);
        bytes.iter().map(|byte| if *byte == b'~' { 0xff } else { *byte }).collect()
    }
    let documents = rawdoc! {"documents": [{"_id": 1}]};
    let mut failed = Vec::new();
    for (body, place) in [
        (with(&rawdoc! {"insert": "i~"}, &documents), "shop **"),
        (with(&rawdoc! {"insert": "items", "comment": "~"}, &documents), "shop.items key {_id: 1}"),
        (
            find_and_modify(&rawdoc! {"comment": "~", "query": {"_id": 1}, "remove": 0.5}),
            "shop.items key {_id: 1}",
        ),
        (with(&rawdoc! {"findAndModify": "i~"}, &rawdoc! {"remove": true}), "shop **"),
        (rawdoc! {"drop": "i~"}, "shop **"),
        (rawdoc! {"aggregate": "items", "pipeline": [{"$out": "o~"}], "cursor": {}}, "shop **"),
        (rawdoc! {"aggregate": "items", "pipeline": [{"$merge": {"into": "o~"}}], "cursor": {}}, "shop **"),
        (rawdoc! {"mapReduce": "items", "out": "o~"}, "shop **"),
        (
            with(&rawdoc! {"insert": bson::RawBson::Symbol("items".to_owned())}, &documents),
            "shop.items key {_id: 1}",
        ),
        (rawdoc! {"drop": bson::RawBson::Symbol("items".to_owned())}, "shop.items *"),
    ] {
        match marked(&session, &odd(&body), 1) {
            Some((mark, _)) if targets(&mark.targets) == [place] => {}
            other => failed.push(format!("{body:?}: {:?}", other.map(|(mark, _)| targets(&mark.targets)))),
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    for body in [
        with(&rawdoc! {"insert": "items", "$db": "s~"}, &documents),
        rawdoc! {"renameCollection": "a.~", "to": "a.c", "$db": "admin"},
        rawdoc! {"aggregate": "items", "pipeline": [{"$out": {"db": "~", "coll": "c"}}], "cursor": {}},
    ] {
        let write = || session.request(&odd(&body)).unwrap();
        drop(write().outcome(&reply(&rawdoc! {"ok": 0.0, "code": 13}), NOW));
        assert!(capture.take_missed().is_empty());
        drop(write().outcome(&ok1(), NOW));
        assert_eq!(capture.take_missed(), EVERYTHING, "{body:?}");
    }
    // What is no name at all is refused.
    for body in [
        with(&rawdoc! {"insert": 5}, &documents),
        rawdoc! {"drop": null},
        rawdoc! {"renameCollection": 5, "to": "a.b", "$db": "admin"},
    ] {
        for code in [2, 13, 14, 73] {
            let ended = session.request(&request(&body)).unwrap();
            let ended = ended.outcome(&reply(&rawdoc! {"ok": 0.0, "code": code}), NOW);
            assert!(ended.appends.is_empty(), "no mark, no entry");
        }
    }
    assert!(session.request(&request(&with(&documents, &rawdoc! {"$db": 5}))).is_none());
    assert!(capture.take_missed().is_empty());
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

#[test]
fn requests_too_large_to_hold() {
    let capture = capture();
    let session = session(&capture);
    let body = rawdoc! {"insert": "items", "$db": "shop"};
    let documents: Vec<u8> = rawdoc! {"a": "x".repeat(1_000)}.into_bytes();
    let sections = [
        wire::Section::Body(&body),
        wire::Section::Sequence(wire::Sequence::new("documents", &documents).unwrap()),
    ];
    let frame = wire::encode_msg(7, 0, Flags::default(), &sections).unwrap();
    let mut write = session.unscanned(&frame[..200]).unwrap();
    assert_eq!((write.request_id(), write.forward()), (7, None));
    assert!(write.mark(NOW).is_some());
    write.marked(1);
    assert_eq!(told(&write.outcome(&ok1(), NOW)), ["coarse 1", "shop.items *"]);
    // Its body is not all here: it may be anywhere.
    let write = session.unscanned(&request(&insert(&[rawdoc! {"_id": "x".repeat(1_000)}]))[..100]).unwrap();
    drop(write.outcome(&ok1(), NOW));
    assert_eq!(capture.take_missed(), EVERYTHING);
    assert!(session.unscanned(&request(&rawdoc! {"insert": "x", "$db": "local"})).is_none());
    assert!(session.unscanned(&frame[..10]).is_none());
    // Where it writes stands in the body, and need not be the command's database.
    let out = rawdoc! {"aggregate": "x", "pipeline": [{"$out": {"db": "store", "coll": "b"}}], "cursor": {}};
    let mut write = session.unscanned(&request(&out)).unwrap();
    let Some(record::Record::Mark(mark)) =
        write.mark(NOW).and_then(|mark| record::Record::decode(1, &mark).ok())
    else {
        panic!()
    };
    assert_eq!(targets(&mark.targets), ["store.b *"]);
    drop(write.never_sent(NOW));
    let rename = rawdoc! {"renameCollection": "shop.a", "to": "store.b", "$db": "admin"};
    let write = session.unscanned(&request(&rename)).unwrap();
    drop(write.never_sent(NOW));
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
}

mod transactions {
    use super::*;

    fn fields(number: i64) -> RawDocumentBuf {
        let id = Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] };
        rawdoc! {"lsid": {"id": id}, "txnNumber": number, "autocommit": false}
    }

    fn statement(session: &Session, id: i32, number: i64, lsn: u64) -> Write {
        write(session, &with(&insert(&[rawdoc! {"_id": id}]), &fields(number)), lsn)
    }

    fn hold(session: &Session, id: i32, number: i64, lsn: u64) {
        let ended = statement(session, id, number, lsn).outcome(&ok1(), NOW);
        assert!(ended.appends.is_empty() && ended.orphans.is_empty());
    }

    fn end(session: &Session, name: &str, number: i64) -> Option<Write> {
        let body = with(
            &[(<&bson::raw::CStr>::try_from(name).unwrap(), 1)].into_iter().collect(),
            &with(&fields(number), &rawdoc! {"$db": "admin"}),
        );
        let mut write = session.request(&request(&body))?;
        assert!(write.mark(NOW).is_none());
        Some(write)
    }

    fn ended(session: &Session, name: &str, number: i64, answer: &RawDocumentBuf) -> Vec<String> {
        let write = end(session, name, number).expect("a known transaction");
        told(&write.outcome(&reply(answer), NOW))
    }

    const BOTH: [&str; 4] = [
        "transaction 1",
        "shop.items key {_id: 1} insert {_id: 1} n=1/0",
        "transaction 2",
        "shop.items key {_id: 2} insert {_id: 2} n=1/0",
    ];

    const ONE: [&str; 4] = [
        "one transaction 1",
        "shop.items key {_id: 1} insert {_id: 1} n=1/0",
        "shop.items key {_id: 2} insert {_id: 2} n=1/0",
        "closed 2",
    ];

    /// wire-facts 7: statements and commit may come over different connections.
    #[test]
    fn are_told_at_their_end() {
        let capture = capture();
        let (one, other) = (session(&capture), session(&capture));
        // (command, reply, what is told; empty: still open)
        let over = |code: i32| rawdoc! {"ok": 0.0, "code": code};
        let transient = || rawdoc! {"errorLabels": ["TransientTransactionError"]};
        let cases: Vec<(&str, RawDocumentBuf, &[&str])> = vec![
            ("commitTransaction", rawdoc! {"ok": 1.0}, &ONE),
            ("commitTransaction", rawdoc! {"ok": 1.0, "writeConcernError": {"code": 100}}, &BOTH),
            ("commitTransaction", over(251), &BOTH),
            ("commitTransaction", over(225), &BOTH),
            ("commitTransaction", with(&over(251), &transient()), &["closed 1", "closed 2"]),
            ("abortTransaction", with(&over(251), &transient()), &["closed 1", "closed 2"]),
            ("abortTransaction", over(251), &BOTH),
            ("abortTransaction", rawdoc! {"ok": 1.0}, &["closed 1", "closed 2"]),
            ("abortTransaction", over(256), &BOTH),
            ("commitTransaction", over(91), &[]),
            ("commitTransaction", over(13), &[]),
        ];
        for (number, (name, answer, expected)) in cases.into_iter().enumerate() {
            let number = number as i64;
            hold(&one, 1, number, 1);
            hold(&other, 2, number, 2);
            assert_eq!(ended(&one, name, number, &answer), expected, "{name} {answer:?}");
            if expected.is_empty() {
                // The driver asks again.
                assert_eq!(ended(&other, "commitTransaction", number, &rawdoc! {"ok": 1.0}), BOTH);
            }
            assert!(end(&one, "commitTransaction", number).is_none());
        }
    }

    /// D12: in flight until the end.
    #[test]
    fn contend_until_their_end() {
        let capture = capture();
        let session = session(&capture);
        hold(&session, 1, 5, 1);
        let meanwhile = write(&session, &insert(&[rawdoc! {"_id": 1}]), 2);
        assert_eq!(told(&meanwhile.outcome(&ok1(), NOW))[0], "contended 2");
        ended(&session, "commitTransaction", 5, &rawdoc! {"ok": 1.0});
        let behind = write(&session, &insert(&[rawdoc! {"_id": 1}]), 3);
        assert_eq!(told(&behind.outcome(&ok1(), NOW))[0], "certain 3");
    }

    /// wire-facts 5.3: what is refused before it runs ends by itself, the transaction goes on.
    #[test]
    fn lose_refused_statements_only() {
        let capture = capture();
        let session = session(&capture);
        hold(&session, 1, 5, 1);
        for (lsn, code) in [(10, 40415), (11, 59), (12, 263)] {
            let refused = statement(&session, 3, 5, lsn);
            let lines = told(&refused.outcome(&reply(&rawdoc! {"ok": 0.0, "code": code}), NOW));
            assert_eq!(lines, [format!("closed {lsn}")]);
        }
        let delete = with(&delete(&[rawdoc! {"q": {"_id": 9}, "limit": 1}]), &fields(5));
        let nothing = write(&session, &delete, 13).outcome(&reply(&rawdoc! {"n": 0, "ok": 1.0}), NOW);
        assert_eq!(told(&nothing), ["closed 13"]);
        hold(&session, 2, 5, 2);
        assert_eq!(ended(&session, "commitTransaction", 5, &rawdoc! {"ok": 1.0}), ONE);
    }

    /// Each write reads as of the transaction's beginning, and a commit that was sent twice may be done by either.
    #[test]
    fn are_in_doubt_unless_everything_is_known() {
        let capture = capture();
        let session = session(&capture);
        let commit = |number| ended(&session, "commitTransaction", number, &rawdoc! {"ok": 1.0});
        let update = |q: RawDocumentBuf| update(&[rawdoc! {"q": q, "u": {"$set": {"a": 1}}}]);
        let one = |command: RawDocumentBuf, answer: RawDocumentBuf, number| {
            let write = write(&session, &with(&command, &fields(number)), 9);
            assert!(told(&write.outcome(&reply(&answer), NOW)).is_empty());
        };
        // By a filter, though of one document only.
        hold(&session, 1, 1, 1);
        one(update(rawdoc! {"a": 2}), rawdoc! {"n": 1, "nModified": 1, "ok": 1.0}, 1);
        assert!(commit(1).iter().all(|line| !line.contains("one transaction")));
        // Two commits under way.
        hold(&session, 1, 2, 1);
        hold(&session, 2, 2, 2);
        let first = end(&session, "commitTransaction", 2).unwrap();
        let second = end(&session, "commitTransaction", 2).unwrap();
        assert_eq!(told(&second.outcome(&reply(&rawdoc! {"ok": 1.0}), NOW)), BOTH);
        assert!(told(&first.outcome(&reply(&rawdoc! {"ok": 1.0}), NOW)).is_empty());
        // Not alone.
        hold(&session, 1, 3, 1);
        hold(&session, 2, 3, 2);
        let other = write(&session, &insert(&[rawdoc! {"_id": 2}]), 3);
        assert_eq!(commit(3), BOTH);
        assert_eq!(told(&other.outcome(&ok1(), NOW))[0], "contended 3");
        // Alone, and known.
        hold(&session, 1, 4, 1);
        one(update(rawdoc! {"_id": 2}), rawdoc! {"n": 1, "nModified": 1, "ok": 1.0}, 4);
        assert_eq!(commit(4)[0], "one transaction 1");
    }

    /// wire-facts 7: a higher number ends the older transaction.
    #[test]
    fn end_when_the_session_goes_on() {
        let capture = capture();
        let session = session(&capture);
        hold(&session, 1, 5, 1);
        hold(&session, 2, 5, 2);
        let next = statement(&session, 3, 6, 3);
        assert_eq!(told(&next.outcome(&ok1(), NOW)), BOTH);
        assert!(end(&session, "commitTransaction", 5).is_none());
        assert!(end(&session, "commitTransaction", 6).is_some());
    }

    #[test]
    fn are_orphans_when_nobody_ends_them() {
        let capture = capture();
        let one = session(&capture);
        hold(&one, 1, 5, 1);
        // The commit was lost with its connection: it may be at work there.
        let other = capture.session("10.0.0.1:6".to_owned());
        assert!(end(&other, "commitTransaction", 5).unwrap().orphan(Lost::ServerClosed).is_none());
        assert!(capture.abandoned(NOW + 60_000).is_empty());
        let orphans = capture.abandoned(NOW + 80_000);
        assert_eq!(orphans.len(), 1);
        let mark = &orphans[0].mark_record;
        assert_eq!((orphans[0].mark, &mark.via[..], mark.in_transaction), (Some(1), "10.0.0.1:6", true));
        assert_eq!(targets(&mark.targets), ["shop.items key {_id: 1}"]);
        let meanwhile = write(&one, &insert(&[rawdoc! {"_id": 1}]), 2);
        assert_eq!(told(&meanwhile.outcome(&ok1(), NOW))[0], "contended 2");
        assert!(capture.abandoned(NOW + 80_000).is_empty());
    }

    /// What is done about the orphan may be done before a commit brings the write after all.
    #[test]
    fn a_lost_statement_may_still_be_committed() {
        let ok = rawdoc! {"ok": 1.0};
        let capture = capture();
        let session = session(&capture);
        assert!(end(&session, "commitTransaction", 5).is_none());
        let orphan = statement(&session, 1, 5, 1).orphan(Lost::ServerClosed).unwrap();
        assert!(orphan.mark_record.in_transaction);
        assert!(ended(&session, "commitTransaction", 5, &rawdoc! {"ok": 0.0, "code": 91}).is_empty());
        assert!(ended(&session, "abortTransaction", 4, &ok).is_empty());
        assert!(capture.take_missed().is_empty());
        assert!(ended(&session, "commitTransaction", 5, &ok).is_empty());
        assert_eq!(capture.take_missed(), missed(&["shop.items"]));
        // By then the server has given it up.
        let late = end(&session, "commitTransaction", 6).unwrap();
        drop(late.outcome(&reply(&ok), NOW + 100_000));
        assert!(capture.take_missed().is_empty());
        assert!(end(&session, "commitTransaction", 5).is_none());
    }

    /// A driver commits again after a restart of the proxy; the transaction is the server's, not a connection's.
    #[test]
    fn of_an_earlier_run_may_still_be_committed() {
        let earlier = capture();
        let mark = statement(&session(&earlier), 1, 5, 1).orphan(Lost::ServerClosed).unwrap().mark_record;
        let capture = capture();
        let session = session(&capture);
        let _ticket = capture.enter_orphan(&mark, NOW);
        ended(&session, "commitTransaction", 5, &rawdoc! {"ok": 1.0});
        assert_eq!(capture.take_missed(), missed(&["shop.items"]));
    }

    #[test]
    fn are_bounded() {
        let capture = Capture::new(Config { held_writes_max: 2, held_bytes_max: 500, ..Config::default() });
        let session = session(&capture);
        hold(&session, 1, 5, 1);
        let large = insert(&[rawdoc! {"_id": 2, "pad": "x".repeat(500)}]);
        let ended = write(&session, &with(&large, &fields(5)), 2).outcome(&ok1(), NOW);
        assert!(ended.appends.is_empty());
        let third = statement(&session, 3, 5, 3).outcome(&ok1(), NOW);
        assert_eq!((third.orphans.len(), third.orphans[0].mark), (1, Some(3)));
        let lines = super::transactions::ended(&session, "commitTransaction", 5, &rawdoc! {"ok": 1.0});
        assert_eq!(lines, ["transaction 1", BOTH[1], "transaction 2", "shop.items *"]);
        assert_eq!(capture.take_missed(), missed(&["shop.items"])); // of the third
    }

    /// A statement that may be over any namespace takes effect with the commit, not with its reply.
    #[test]
    fn with_a_statement_that_may_be_anywhere() {
        let capture = capture();
        let session = session(&capture);
        let mut body = request(&with(&insert(&[rawdoc! {"_id": 1}]), &fields(5)));
        let at = body.windows(5).position(|bytes| bytes == b"shop\0").unwrap();
        body[at] = 0xff;
        drop(session.request(&body).unwrap().outcome(&ok1(), NOW));
        assert_eq!(capture.take_missed(), EVERYTHING);
        ended(&session, "commitTransaction", 5, &rawdoc! {"ok": 1.0});
        assert_eq!(capture.take_missed(), EVERYTHING);
    }

    /// A mark that was not appended: its namespace is missed when the transaction ends.
    #[test]
    fn without_a_mark_are_missed_at_their_end() {
        let capture = capture();
        let session = session(&capture);
        let body = with(&insert(&[rawdoc! {"_id": 1}]), &fields(5));
        drop(unmarked(&session, &request(&body)).outcome(&ok1(), NOW));
        assert!(capture.take_missed().is_empty());
        assert!(ended(&session, "commitTransaction", 5, &rawdoc! {"ok": 1.0}).is_empty());
        assert_eq!(capture.take_missed(), missed(&["shop.items"]));
    }
}
