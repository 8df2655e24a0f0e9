//! Requests that we cannot read, wholly or in part.

use super::*;

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
        // Only of what may have run after all.
        assert_eq!(write.mark(NOW).is_some(), frame == compressed);
        for code in [13, 15, 22, 40_430, 40_432, 40_587] {
            let write = session.request(&frame).unwrap();
            drop(write.outcome(&reply(&rawdoc! {"ok": 0.0, "code": code}), NOW));
        }
        drop(session.request(&frame).unwrap().orphan(Lost::ServerClosed));
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
    drop(session.request(&compressed).unwrap().orphan(Lost::Broken));
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

/// A write that may be over anything has a mark that names nothing. While it may still run, nothing is compared in
/// vain; when it has ended, everything is, also when that is found out by another run.
#[test]
fn a_write_over_anything_that_nobody_answers() {
    let capture = capture();
    let session = session(&capture);
    let body = rawdoc! {"inventNew": 1, "$db": "admin"};
    let (mark, write) = marked(&session, &request(&body), 5).unwrap();
    assert!(mark.targets.is_empty());
    let orphan = write.orphan(Lost::Broken).unwrap();
    assert_eq!(orphan.mark, Some(5));
    assert!(capture.take_missed().is_empty() && capture.unrecorded().under_way == 1);
    drop(orphan);
    assert_eq!((capture.take_missed(), capture.unrecorded().under_way), (EVERYTHING, 0));

    let (_, refused) = marked(&session, &request(&body), 6).unwrap();
    assert_eq!(told(&refused.outcome(&reply(&rawdoc! {"ok": 0.0, "code": 59}), NOW)), ["closed 6"]);
    assert!(capture.take_missed().is_empty());
    let (_, done) = marked(&session, &request(&body), 7).unwrap();
    assert_eq!(told(&done.outcome(&reply(&rawdoc! {"ok": 1.0}), NOW)), ["closed 7"]);
    assert_eq!(capture.take_missed(), EVERYTHING);
    drop(unmarked(&session, &request(&body)));
    assert_eq!(capture.take_missed(), EVERYTHING);

    let later = super::capture();
    drop(later.enter_orphan(&mark, NOW));
    assert_eq!(later.take_missed(), EVERYTHING);
}
