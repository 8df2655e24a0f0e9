//! Transactions, from their first statement to their end (wire-facts 7).

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
    end_at(session, name, number, NOW)
}

fn end_at(session: &Session, name: &str, number: i64, now_ms: u64) -> Option<Write> {
    let body = with(
        &[(<&bson::raw::CStr>::try_from(name).unwrap(), 1)].into_iter().collect(),
        &with(&fields(number), &rawdoc! {"$db": "admin"}),
    );
    let mut write = session.request(&request(&body))?;
    assert!(write.mark(now_ms).is_none());
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
    // Found as it was to become: nothing was written, so it met no conflict, and the reply does not say so.
    let found = |last: RawDocumentBuf| {
        with(&rawdoc! {"lastErrorObject": last}, &rawdoc! {"value": {"_id": 2, "a": 1}, "ok": 1.0})
    };
    let modify = |fields: RawDocumentBuf| find_and_modify(&with(&rawdoc! {"query": {"_id": 2}}, &fields));
    let set = || rawdoc! {"update": {"$set": {"a": 1}}};
    one(modify(set()), found(rawdoc! {"n": 1, "updatedExisting": true}), 5);
    assert_eq!(commit(5)[0], "transaction 9");
    one(modify(rawdoc! {"remove": true}), found(rawdoc! {"n": 1}), 6);
    assert_eq!(commit(6)[0], "one transaction 9");
    let upsert = with(&set(), &rawdoc! {"upsert": true});
    one(modify(upsert), found(rawdoc! {"n": 1, "updatedExisting": false, "upserted": 2}), 7);
    assert_eq!(commit(7)[0], "one transaction 9");
    // Alone, and known.
    hold(&session, 1, 8, 1);
    one(update(rawdoc! {"_id": 2}), rawdoc! {"n": 1, "nModified": 1, "ok": 1.0}, 8);
    assert_eq!(commit(8)[0], "one transaction 1");
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

/// mongod's reaper comes late, and a commit does not look at the transaction's age: one that was given up may be committed.
#[test]
fn that_were_given_up_may_still_be_committed() {
    let ok = rawdoc! {"ok": 1.0};
    let capture = capture();
    let session = session(&capture);
    let later = NOW + 3_600_000;
    let give_up = |number| {
        hold(&session, 1, number, 1);
        assert_eq!(capture.abandoned(later).len(), 1);
    };
    let ended_late = |name: &str, number, answer: &RawDocumentBuf| {
        let write = end_at(&session, name, number, later).expect("a transaction that was given up");
        drop(write.outcome(&reply(answer), later));
        capture.take_missed()
    };
    give_up(5);
    assert!(end(&session, "commitTransaction", 4).is_none());
    assert_eq!(ended_late("commitTransaction", 5, &ok), missed(&["shop.items"]));
    give_up(6);
    assert_eq!(
        ended_late("commitTransaction", 6, &rawdoc! {"ok": 0.0, "code": 256}),
        missed(&["shop.items"])
    );
    give_up(7);
    assert!(ended_late("abortTransaction", 7, &ok).is_empty());
    assert!(end(&session, "commitTransaction", 7).is_none());
    give_up(8);
    hold(&session, 2, 9, 2);
    assert!(end(&session, "commitTransaction", 8).is_none(), "the session has gone on");
    // Only a part of it was given up.
    assert_eq!(capture.abandoned(later).len(), 1);
    assert!(statement(&session, 3, 9, 3).outcome(&ok1(), later).appends.is_empty());
    assert_eq!(ended(&session, "commitTransaction", 9, &ok)[0], "transaction 3");
    assert_eq!(capture.take_missed(), missed(&["shop.items"]));
}

/// With too many to remember each, the namespaces of the oldest are of any session.
#[test]
fn that_were_given_up_are_bounded() {
    let capture = Capture::new(Config { strays_max: 2, ..Config::default() });
    let session = session(&capture);
    let of = |session: u8, name: &str| {
        let id = Binary { subtype: BinarySubtype::Uuid, bytes: vec![session; 16] };
        let fields = rawdoc! {"lsid": {"id": id}, "txnNumber": 1_i64, "autocommit": false};
        let insert = with(&rawdoc! {"insert": name}, &rawdoc! {"documents": [{"_id": 1}]});
        (with(&insert, &fields), with(&rawdoc! {"commitTransaction": 1, "$db": "admin"}, &fields))
    };
    for (number, name) in [(1, "a"), (2, "b"), (3, "c")] {
        drop(write(&session, &of(number, name).0, 1).outcome(&ok1(), NOW));
        assert_eq!(capture.abandoned(NOW + 80_000).len(), 1);
    }
    let mut commit = session.request(&request(&of(9, "x").1)).unwrap();
    commit.mark(NOW + 80_000);
    drop(commit.outcome(&reply(&rawdoc! {"ok": 1.0}), NOW + 80_000));
    assert_eq!(capture.take_missed(), missed(&["shop.a"]));
    let mut commit = session.request(&request(&of(3, "c").1)).unwrap();
    commit.mark(NOW + 3_600_000);
    drop(commit.outcome(&reply(&rawdoc! {"ok": 1.0}), NOW + 3_600_000));
    assert_eq!(capture.take_missed(), missed(&["shop.c"]));
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
    assert!(ended(&session, "abortTransaction", 4, &ok).is_empty());
    assert!(capture.take_missed().is_empty());
    assert!(ended(&session, "commitTransaction", 5, &rawdoc! {"ok": 0.0, "code": 91}).is_empty());
    assert_eq!(capture.take_missed(), missed(&["shop.items"]), "it may be committed");
    assert!(capture.take_missed().is_empty());
    assert!(ended(&session, "commitTransaction", 5, &ok).is_empty());
    assert_eq!(capture.take_missed(), missed(&["shop.items"]));
    // By then the server has given it up.
    let late = end_at(&session, "commitTransaction", 6, NOW + 200_000).unwrap();
    drop(late.outcome(&reply(&ok), NOW + 200_000));
    assert!(capture.take_missed().is_empty());
    assert!(end(&session, "commitTransaction", 5).is_none());
}

/// What a commit may bring is noted before it leaves, and missed whatever ends it; not before it can run no more.
#[test]
fn a_commit_without_a_reply_may_bring_lost_statements() {
    let noted = Arc::new(std::sync::Mutex::new(Vec::new()));
    let notes = Arc::clone(&noted);
    let note = move |ns: Option<&Namespace>| {
        notes.lock().unwrap().push(ns.map(ToString::to_string));
        true
    };
    let capture = Capture::noting(Config::default(), Box::new(note));
    let session = session(&capture);
    drop(statement(&session, 1, 5, 1).orphan(Lost::ServerClosed).unwrap());
    let abort = end(&session, "abortTransaction", 5).unwrap();
    assert!(noted.lock().unwrap().is_empty());
    drop(abort.never_sent(NOW));

    let commit = || end(&session, "commitTransaction", 5).unwrap();
    let first = commit();
    assert_eq!(*noted.lock().unwrap(), [Some("shop.items".to_owned())]);
    let orphan = first.orphan(Lost::Broken).unwrap();
    assert_eq!((orphan.mark, orphan.mark_record.in_transaction), (None, false));
    assert_eq!(capture.unrecorded().under_way, 1);
    assert!(capture.take_missed().is_empty());
    drop(orphan);
    assert_eq!(capture.unrecorded().under_way, 0);
    assert_eq!(capture.take_missed(), missed(&["shop.items"]));

    drop(commit().unacknowledged(NOW));
    assert_eq!(capture.take_missed(), missed(&["shop.items"]));
    drop(commit().outcome(b"no reply", NOW));
    assert_eq!(capture.take_missed(), missed(&["shop.items"]));
    drop(commit().never_sent(NOW));
    assert!(capture.take_missed().is_empty());

    capture.missed_everything_before(NOW);
    capture.take_missed();
    noted.lock().unwrap().clear();
    drop(commit().orphan(Lost::Broken).unwrap());
    assert!(noted.lock().unwrap().contains(&None));
    assert!(capture.take_missed().everything);
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
    let lines = self::ended(&session, "commitTransaction", 5, &rawdoc! {"ok": 1.0});
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
