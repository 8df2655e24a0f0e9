//! What a request and its reply become: tables of (request, reply) -> (mark, entry).
//!
//! Replies are those of a real server (`wire-facts.md` section 5, or seen on 6.0.5), without the fields of a replica
//! set where these do not matter.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod bulk;
mod collections;
#[path = "../common/mod.rs"]
mod common;
mod deletes;
mod updates;

use bson::raw::{RawBson, RawDocumentBuf};
use bson::{Timestamp, oid::ObjectId, rawdoc};
use capture::{Capture, Config};
use common::*;

/// `entry` is `["closed"]`, or the doubt (or `certain`) and one line for each effect.
#[track_caller]
fn check(body: &RawDocumentBuf, answer: &RawDocumentBuf, mark: &[&str], entry: &[&str]) {
    let capture = Capture::new(Config::default());
    let (record, write) = marked(&session(&capture), &request(body), 9).expect("captured");
    assert_eq!(targets(&record.targets), mark, "mark of {body:?}");
    let ended = write.outcome(&reply(answer), NOW);
    let lines: Vec<String> = told(&ended).iter().map(|line| line.replace(" 9", "")).collect();
    assert_eq!(lines, entry, "entry of {body:?} after {answer:?}");
}

const K1: &str = "shop.items key {_id: 1}";
const K2: &str = "shop.items key {_id: 2}";
const K3: &str = "shop.items key {_id: 3}";
const INSERT1: &str = "shop.items key {_id: 1} insert {_id: 1} n=1/0";
const INSERT2: &str = "shop.items key {_id: 2} insert {_id: 2} n=1/0";
const INSERT3: &str = "shop.items key {_id: 3} insert {_id: 3} n=1/0";

fn three() -> RawDocumentBuf {
    insert(&[rawdoc! {"_id": 1}, rawdoc! {"_id": 2}, rawdoc! {"_id": 3}])
}

fn failing(fields: RawDocumentBuf, index: i32, code: i32) -> RawDocumentBuf {
    with(&fields, &rawdoc! {"writeErrors": [{"index": index, "code": code, "errmsg": "x"}], "ok": 1.0})
}

/// wire-facts 5.1 and 5.2: ordered and unordered batches.
#[test]
fn inserts() {
    let all = &[K1, K2, K3];
    let unordered = with(&three(), &rawdoc! {"ordered": false});
    check(&three(), &rawdoc! {"n": 3, "ok": 1.0}, all, &["certain", INSERT1, INSERT2, INSERT3]);
    check(&three(), &failing(rawdoc! {"n": 1}, 1, 11000), all, &["certain", INSERT1]);
    check(&unordered, &failing(rawdoc! {"n": 2}, 1, 11000), all, &["certain", INSERT1, INSERT3]);
    check(&three(), &failing(rawdoc! {"n": 0}, 0, 11000), all, &["closed"]);
    // An index out of range is no statement of ours.
    check(&three(), &failing(rawdoc! {"n": 3}, 7, 1), all, &["certain", INSERT1, INSERT2, INSERT3]);
    // A count that does not add up.
    let lines = ["part_of_batch", INSERT1, INSERT2, INSERT3];
    check(&three(), &rawdoc! {"n": 2, "ok": 1.0}, all, &lines);

    let stamped = rawdoc! {"_id": 1, "at": Timestamp { time: 0, increment: 0 }};
    let line = format!("{K1} insert {{_id: 1, at: Timestamp(0, 0)}} n=1/0");
    check(&insert(&[stamped]), &rawdoc! {"n": 1, "ok": 1.0}, &[K1], &["non_deterministic", &line]);
    let nested = rawdoc! {"_id": 1, "a": {"at": Timestamp { time: 0, increment: 0 }}};
    let line = format!("{K1} insert {{_id: 1, a: {{at: Timestamp(0, 0)}}}} n=1/0");
    check(&insert(&[nested]), &rawdoc! {"n": 1, "ok": 1.0}, &[K1], &["certain", &line]);
    // An array is no _id (seen: error 53); when it is refused, nothing happened.
    let array = insert(&[rawdoc! {"_id": [1]}]);
    check(&array, &failing(rawdoc! {"n": 0}, 0, 53), &["shop.items *"], &["closed"]);
}

/// wire-facts 5.2: a writeConcernError means applied. 5.3: what ok:0 leaves open.
#[test]
fn errors_of_the_command() {
    let applied = rawdoc! {"n": 3, "writeConcernError": {"code": 64, "errmsg": "x"}, "ok": 1.0};
    let all = &[K1, K2, K3];
    check(&three(), &applied, all, &["certain", INSERT1, INSERT2, INSERT3]);
    let unknown = |text: &str| format!("{text} n=0/0");
    let unknown = [K1, K2, K3].map(|key| unknown(&format!("{key} insert {}", &key[15..])));
    let unknown: Vec<&str> =
        std::iter::once("command_failed").chain(unknown.iter().map(String::as_str)).collect();
    for code in [11601, 11602, 11600, 91, 189, 50, 262, 237, 175, 112, 10107, 13435, 1, 0, 8000] {
        check(&three(), &rawdoc! {"ok": 0.0, "code": code}, all, &unknown);
    }
    check(&three(), &rawdoc! {"ok": 0.0}, all, &unknown);
    check(&three(), &rawdoc! {}, all, &unknown);
    for code in [
        9, 13, 14, 16, 18, 20, 40415, 40414, 40433, 59, 72, 73, 166, 263, 323, 352, 40571, 2, 10334, 225,
        10065, 4886600,
    ] {
        check(&three(), &rawdoc! {"ok": 0.0, "code": code}, all, &["closed"]);
    }
    // Not primary, a conflict: nothing, for one statement over one document.
    for code in [112, 10107, 13435, 13436] {
        check(&insert(&[rawdoc! {"_id": 1}]), &rawdoc! {"ok": 0.0, "code": code}, &[K1], &["closed"]);
        let many = update(&[rawdoc! {"q": {"a": 1}, "u": {"$inc": {"a": 1}}, "multi": true}]);
        let line = "shop.items where {a: 1} update {q: {a: 1}, u: {$inc: {a: 1}}, multi: true} n=0/0";
        let answer = rawdoc! {"ok": 0.0, "code": code};
        check(&many, &answer, &["shop.items where {a: 1}"], &["command_failed", line]);
    }
}

/// wire-facts 6: what a reply calls retried has been answered before (D18).
#[test]
fn retried_statements() {
    let answer = rawdoc! {"n": 3, "retriedStmtIds": [0], "ok": 1.0};
    check(&three(), &answer, &[K1, K2, K3], &["retried", INSERT1, INSERT2, INSERT3]);
    let body = find_and_modify(&rawdoc! {"query": {"_id": 1}, "update": {"b": 1}});
    let answer = rawdoc! {"lastErrorObject": {"n": 1, "updatedExisting": true}, "value": {"_id": 1}, "retriedStmtId": 0, "ok": 1.0};
    let text = format!("{K1} update {{q: {{_id: 1}}, u: {{b: 1}}}} n=1/1");
    check(&body, &answer, &[K1], &["retried", &text]);
}

/// wire-facts 3: w:0 without moreToCome is answered with n:0, whatever happened.
#[test]
fn silenced_replies() {
    let silent = with(&three(), &rawdoc! {"writeConcern": {"w": 0}});
    let lines = [1, 2, 3].map(|id| format!("shop.items key {{_id: {id}}} insert {{_id: {id}}} n=0/0"));
    let lines: Vec<&str> =
        std::iter::once("unacknowledged").chain(lines.iter().map(String::as_str)).collect();
    check(&silent, &rawdoc! {"n": 0, "ok": 1.0}, &[K1, K2, K3], &lines);
    check(&silent, &rawdoc! {"ok": 0.0, "code": 40415}, &[K1, K2, K3], &["closed"]);
}

fn encryption() -> RawDocumentBuf {
    rawdoc! {"encryptionInformation": {"type": 1, "schema": {"shop.items": {
        "escCollection": "enxcol_.items.esc", "ecocCollection": "enxcol_.items.ecoc", "fields": [],
    }}}}
}

const ENCRYPTED: [&str; 3] = ["shop.enxcol_.items.ecoc *", "shop.enxcol_.items.esc *", "shop.items *"];

/// A batch in which we find nothing: the server refuses it, or has found more than we have.
#[test]
fn batches_without_statements() {
    let body = rawdoc! {"insert": "items"};
    check(&body, &rawdoc! {"ok": 0.0, "code": 40_414}, &["shop.items *"], &["closed"]);
    check(&body, &rawdoc! {"n": 1, "ok": 1.0}, &["shop.items *"], &["coarse", "shop.items *"]);
}

/// A reply that nobody can read leaves everything in doubt; one from a replica set has the source's time.
#[test]
fn other_replies() {
    let capture = Capture::new(Config::default());
    let (_, write) = marked(&session(&capture), &request(&three()), 9).unwrap();
    assert_eq!(told(&write.outcome(b"not a frame", NOW))[0], "command_failed 9");

    let (_, write) = marked(&session(&capture), &request(&three()), 9).unwrap();
    let answer = rawdoc! {"n": 3, "opTime": {"ts": Timestamp { time: 5, increment: 1 }, "t": 1_i64}, "ok": 1.0,
    "operationTime": Timestamp { time: 5, increment: 2 }};
    let ended = write.outcome(&reply(&answer), NOW + 3);
    let Ok(record::Record::Entry(entry)) = record::Record::decode(2, &ended.appends[0].1) else { panic!() };
    assert_eq!(entry.operation_time, Some(Timestamp { time: 5, increment: 2 }));
    assert_eq!((entry.mark, entry.at_ms), (9, NOW + 3));
}

#[test]
fn a_large_batch_is_marked_by_its_namespace() {
    let documents: Vec<RawDocumentBuf> =
        (0..2_000).map(|_| rawdoc! {"_id": {"a": ObjectId::new(), "b": ObjectId::new()}}).collect();
    let capture = Capture::new(Config::default());
    let (mark, write) = marked(&session(&capture), &request(&insert(&documents)), 9).unwrap();
    assert_eq!(targets(&mark.targets), ["shop.items *"]);
    let lines = told(&write.outcome(&reply(&rawdoc! {"n": 2_000, "ok": 1.0}), NOW));
    assert_eq!((lines.len(), &lines[0][..]), (2_001, "certain 9"));
}
