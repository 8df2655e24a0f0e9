//! What a request and its reply become: tables of (request, reply) -> (mark, entry).
//!
//! Replies are those of a real server (`wire-facts.md` section 5, or seen on 6.0.5), without the fields of a replica
//! set where these do not matter.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod common;

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

#[test]
fn updates_by_key() {
    let one = |q: RawDocumentBuf| update(&[rawdoc! {"q": q, "u": {"$inc": {"a": 1}}}]);
    let line = |q: &str, counts: &str| format!("{K1} update {{q: {q}, u: {{$inc: {{a: 1}}}}}} n={counts}");
    let (changed, same) =
        (rawdoc! {"n": 1, "nModified": 1, "ok": 1.0}, rawdoc! {"n": 1, "nModified": 0, "ok": 1.0});
    check(&one(rawdoc! {"_id": 1}), &changed, &[K1], &["certain", &line("{_id: 1}", "1/1")]);
    check(&one(rawdoc! {"_id": 1}), &same, &[K1], &["closed"]);
    check(&one(rawdoc! {"_id": 1}), &rawdoc! {"n": 0, "nModified": 0, "ok": 1.0}, &[K1], &["closed"]);
    let eq = rawdoc! {"_id": {"$eq": 1}, "b": 2};
    check(&one(eq), &changed, &[K1], &["certain", &line("{_id: {$eq: 1}, b: 2}", "1/1")]);
    let failed = failing(rawdoc! {"n": 0, "nModified": 0}, 0, 14);
    check(&one(rawdoc! {"_id": 1}), &failed, &[K1], &["closed"]);

    // A key, but the server's clock decides whether (D15).
    let locked = rawdoc! {"_id": 1, "$expr": {"$gt": ["$until", "$$NOW"]}};
    let text = line("{_id: 1, $expr: {$gt: [$until, $$NOW]}}", "1/1");
    check(&one(locked), &changed, &[K1], &["non_deterministic", &text]);

    let multi = update(&[rawdoc! {"q": {"_id": 1}, "u": {"$inc": {"a": 1}}, "multi": true}]);
    let text = format!("{K1} update {{q: {{_id: 1}}, u: {{$inc: {{a: 1}}}}, multi: true}} n=1/1");
    check(&multi, &changed, &[K1], &["certain", &text]);
    check(&multi, &failed, &[K1], &["closed"]);
}

/// wire-facts 9.2: a filter that does not pin `_id` is a predicate; an impure one its namespace (D15).
#[test]
fn updates_by_predicate() {
    let changed = rawdoc! {"n": 1, "nModified": 1, "ok": 1.0};
    let predicates = [
        (rawdoc! {"a": 1}, "{a: 1}"),
        (rawdoc! {}, "{}"),
        (rawdoc! {"_id": {"$in": [1]}}, "{_id: {$in: [1]}}"),
        (rawdoc! {"_id": {"$gt": 1}}, "{_id: {$gt: 1}}"),
        (
            rawdoc! {"_id": bson::Regex { pattern: bson::cstr!("^a").into(), options: bson::cstr!("").into() }},
            "{_id: /^a/}",
        ),
        (rawdoc! {"_id": null}, "{_id: null}"),
        (rawdoc! {"_id": [1]}, "{_id: [1]}"),
        (rawdoc! {"email": "a@b"}, "{email: a@b}"),
    ];
    for (q, text) in predicates {
        let place = format!("shop.items where {text}");
        let one = update(&[rawdoc! {"q": q.clone(), "u": {"$set": {"b": 1}}}]);
        let line = format!("{place} update {{q: {text}, u: {{$set: {{b: 1}}}}}} n=1/1");
        check(&one, &changed, &[&place], &["predicate", &line]);
        let many = update(&[rawdoc! {"q": q, "u": {"$set": {"b": 1}}, "multi": true}]);
        let line = format!("{place} update {{q: {text}, u: {{$set: {{b: 1}}}}, multi: true}} n=5/4");
        check(&many, &rawdoc! {"n": 5, "nModified": 4, "ok": 1.0}, &[&place], &["certain", &line]);
        check(&many, &rawdoc! {"n": 5, "nModified": 0, "ok": 1.0}, &[&place], &["closed"]);
        // 5.2: a multi statement failing midway says n:0, and has changed documents.
        let line = format!("{place} update {{q: {text}, u: {{$set: {{b: 1}}}}, multi: true}} n=0/0");
        check(&many, &failing(rawdoc! {"n": 0, "nModified": 0}, 0, 14), &[&place], &["multi_failed", &line]);
    }
    // A variable that is not defined: no document was looked at.
    let many = update(&[rawdoc! {"q": {"$expr": "$$x"}, "u": {"$set": {"b": 1}}, "multi": true}]);
    let place = "shop.items where {$expr: $$x}";
    check(&many, &failing(rawdoc! {"n": 0, "nModified": 0}, 0, 17_276), &[place], &["closed"]);
    for q in [rawdoc! {"$where": "true"}, rawdoc! {"$expr": {"$lt": [{"$rand": {}}, 0.5]}}] {
        let many = update(&[rawdoc! {"q": q.clone(), "u": {"$set": {"b": 1}}, "multi": true}]);
        let capture = Capture::new(Config::default());
        let (mark, write) = marked(&session(&capture), &request(&many), 9).unwrap();
        assert_eq!(targets(&mark.targets), ["shop.items *"], "{q:?}");
        let lines = told(&write.outcome(&reply(&changed), NOW));
        assert_eq!(lines[0], "non_deterministic 9");
        assert!(lines[1].starts_with("shop.items * update"), "{lines:?}");
    }
}

/// wire-facts 9.2: what the change itself leaves to the server.
#[test]
fn changes_that_are_not_in_the_command() {
    let zero = Timestamp { time: 0, increment: 0 };
    let doubt = |update: RawDocumentBuf, command: RawDocumentBuf| {
        let update = with(&rawdoc! {"q": {"_id": 1}}, &update);
        let capture = Capture::new(Config::default());
        let body = with(&common::update(&[update]), &command);
        let (mark, write) = marked(&session(&capture), &request(&body), 9).unwrap();
        assert_eq!(targets(&mark.targets), [K1]);
        let lines = told(&write.outcome(&reply(&rawdoc! {"n": 1, "nModified": 1, "ok": 1.0}), NOW));
        lines[0].trim_end_matches(" 9").to_owned()
    };
    let cases = [
        (rawdoc! {"u": {"$currentDate": {"at": true}}}, "non_deterministic"),
        (rawdoc! {"u": {"$set": {"text": "$$NOW", "at": zero}}}, "certain"),
        (rawdoc! {"u": {"text": "$$NOW"}}, "certain"),
        (rawdoc! {"u": {"at": zero}}, "non_deterministic"),
        (rawdoc! {"u": {"a": {"at": zero}}}, "certain"),
        (rawdoc! {"u": [{"$set": {"at": "$$NOW"}}]}, "non_deterministic"),
        (rawdoc! {"u": [{"$set": {"at": "$$CLUSTER_TIME"}}]}, "non_deterministic"),
        (rawdoc! {"u": [{"$set": {"x": {"$rand": {}}}}]}, "non_deterministic"),
        (rawdoc! {"u": [{"$set": {"x": {"$add": ["$x", "$$ROOT.y"]}}}]}, "certain"),
        (rawdoc! {"u": {"$pull": {"l": {"$gt": 3}}}}, "certain"),
        (rawdoc! {"u": {"$set": {"l.$[e].x": 1}}, "arrayFilters": [{"e.y": 2}]}, "certain"),
        (rawdoc! {"u": {"$set": {"x": 1}}, "collation": {"locale": "de"}}, "context"),
        (rawdoc! {"u": {"$set": {"x": 1}}, "hint": {"a": 1}}, "context"),
        (rawdoc! {"u": {"$set": {"x": 1}}, "sort": {"a": 1}}, "certain"),
        (rawdoc! {"u": {"$set": {"x": 1}}, "unheardOf": true}, "context"),
        (
            rawdoc! {"u": [{"$set": {"x": 1}}], "upsert": true, "upsertSupplied": true, "c": {"new": {"_id": 1}}},
            "context",
        ),
        (rawdoc! {"u": [{"$set": {"x": "$$step"}}], "c": {"step": 1}}, "context"),
        (rawdoc! {"u": [{"$set": {"x": "$$step"}}], "c": {"step": {"$rand": {}}}}, "non_deterministic"),
    ];
    for (update, expected) in cases {
        assert_eq!(doubt(update.clone(), rawdoc! {}), expected, "{update:?}");
    }
    let uses = rawdoc! {"u": [{"$set": {"x": "$$step"}}]};
    assert_eq!(doubt(uses.clone(), rawdoc! {"let": {"step": 1}}), "context");
    assert_eq!(doubt(uses, rawdoc! {"let": {"step": "$$NOW"}}), "non_deterministic");
    assert_eq!(doubt(rawdoc! {"u": {"$inc": {"x": 1}}}, rawdoc! {"let": {"step": 1}}), "certain");
}

/// D16: a collation of its own may make a text key match others. Predicates carry it, and the variables they use.
#[test]
fn collations_and_variables_of_predicates() {
    let changed = rawdoc! {"n": 1, "nModified": 1, "ok": 1.0};
    let mark = |body: &RawDocumentBuf| {
        let capture = Capture::new(Config::default());
        let (mark, write) = marked(&session(&capture), &request(body), 9).unwrap();
        let lines = told(&write.outcome(&reply(&changed), NOW));
        (targets(&mark.targets), lines[0].trim_end_matches(" 9").to_owned())
    };
    let by = |q: RawDocumentBuf, more: RawDocumentBuf| {
        update(&[with(&rawdoc! {"q": q, "u": {"$set": {"b": 1}}}, &more)])
    };
    let german = rawdoc! {"collation": {"locale": "de"}, "multi": true};
    let (place, doubt) = mark(&by(rawdoc! {"_id": "A"}, german.clone()));
    assert_eq!((&place[0][..], &doubt[..]), ("shop.items where {_id: A} collated {locale: de}", "context"));
    let (place, doubt) = mark(&by(rawdoc! {"_id": 1}, german));
    assert_eq!((&place[0][..], &doubt[..]), (K1, "context"));

    // A sparse index leaves documents out that the filter matches; of a batch, `n` does not tell which.
    let hinted = rawdoc! {"multi": true, "hint": "sparse_1"};
    assert_eq!(mark(&by(rawdoc! {"a": 1}, hinted.clone())).1, "context");
    assert_eq!(mark(&by(rawdoc! {"_id": 1}, hinted)).1, "context");

    let uses = rawdoc! {"$expr": {"$eq": ["$a", "$$wanted"]}};
    let body = with(&by(uses.clone(), rawdoc! {"multi": true}), &rawdoc! {"let": {"wanted": 1}});
    let (place, doubt) = mark(&body);
    let text = "shop.items where {$expr: {$eq: [$a, $$wanted]}} let {wanted: 1}";
    assert_eq!((&place[0][..], &doubt[..]), (text, "context"));
    let body = with(&by(uses, rawdoc! {"multi": true}), &rawdoc! {"let": {"wanted": "$$NOW"}});
    let (place, doubt) = mark(&body);
    assert_eq!((&place[0][..], &doubt[..]), ("shop.items *", "non_deterministic"));
    let body = with(&by(rawdoc! {"a": 1}, rawdoc! {"multi": true}), &rawdoc! {"let": {"wanted": "$$NOW"}});
    assert_eq!(mark(&body), (vec!["shop.items where {a: 1}".to_owned()], "certain".to_owned()));
}

/// Batches: a reply has totals only. Keyed statements whose parts in it are not known are certain all the same.
#[test]
fn batches_of_updates() {
    let by = |id: i32| rawdoc! {"q": {"_id": id}, "u": {"$inc": {"a": 1}}};
    let line = |id: i32, counts: &str| {
        format!("shop.items key {{_id: {id}}} update {{q: {{_id: {id}}}, u: {{$inc: {{a: 1}}}}}} n={counts}")
    };
    let (each1, each2, part1, part2) = (line(1, "1/1"), line(2, "1/1"), line(1, "0/0"), line(2, "0/0"));
    let two = update(&[by(1), by(2)]);
    let counts = |n: i32, modified: i32| rawdoc! {"n": n, "nModified": modified, "ok": 1.0};
    check(&two, &counts(2, 2), &[K1, K2], &["certain", &each1, &each2]);
    check(&two, &counts(2, 1), &[K1, K2], &["certain", &part1, &part2]);
    check(&two, &counts(1, 1), &[K1, K2], &["certain", &part1, &part2]);
    check(&two, &counts(2, 0), &[K1, K2], &["closed"]);
    check(&two, &failing(rawdoc! {"n": 1, "nModified": 1}, 1, 2), &[K1, K2], &["certain", &each1]);
    check(&two, &failing(rawdoc! {"n": 0, "nModified": 0}, 0, 2), &[K1, K2], &["closed"]);
    let unordered = with(&two, &rawdoc! {"ordered": false});
    check(&unordered, &failing(rawdoc! {"n": 1, "nModified": 1}, 0, 2), &[K1, K2], &["certain", &each2]);

    // A multi statement beside another: whose documents they were is not said.
    let many = rawdoc! {"q": {"c": 1}, "u": {"$set": {"b": 1}}, "multi": true};
    let place = "shop.items where {c: 1}";
    let mixed = update(&[by(1), many]);
    let text = format!("{place} update {{q: {{c: 1}}, u: {{$set: {{b: 1}}}}, multi: true}} n=0/0");
    check(&mixed, &counts(2, 2), &[K1, place], &["part_of_batch", &part1, &text]);
    let failed = failing(rawdoc! {"n": 1, "nModified": 1}, 1, 14);
    check(&mixed, &failed, &[K1, place], &["multi_failed", &each1, &text]);
    let single = update(&[by(1), rawdoc! {"q": {"c": 1}, "u": {"$set": {"b": 1}}}]);
    let text = format!("{place} update {{q: {{c: 1}}, u: {{$set: {{b: 1}}}}}} n=1/1");
    check(&single, &counts(2, 2), &[K1, place], &["predicate", &each1, &text]);
}

/// wire-facts 9.1: the reply names what an upsert inserted; without a reply it is anywhere (D3).
#[test]
fn upserts() {
    let up = |q: RawDocumentBuf| rawdoc! {"q": q, "u": {"$set": {"b": 1}}, "upsert": true};
    let keyed = update(&[up(rawdoc! {"_id": 1})]);
    let text = |counts: &str| {
        format!("{K1} update {{q: {{_id: 1}}, u: {{$set: {{b: 1}}}}, upsert: true}} n={counts}")
    };
    let inserted = rawdoc! {"n": 1, "upserted": [{"index": 0, "_id": 1}], "nModified": 0, "ok": 1.0};
    check(&keyed, &inserted, &[K1], &["certain", &text("1/0")]);
    check(&keyed, &rawdoc! {"n": 1, "nModified": 1, "ok": 1.0}, &[K1], &["certain", &text("1/1")]);
    check(&keyed, &rawdoc! {"n": 1, "nModified": 0, "ok": 1.0}, &[K1], &["closed"]);
    check(&keyed, &rawdoc! {"ok": 0.0, "code": 91}, &[K1], &["command_failed", &text("0/0")]);

    let open = update(&[up(rawdoc! {"a": 1})]);
    let any = "shop.items *";
    check(&open, &inserted, &[any], &["predicate", K1]);
    let found = "shop.items where {a: 1} update {q: {a: 1}, u: {$set: {b: 1}}, upsert: true} n=1/1";
    check(&open, &rawdoc! {"n": 1, "nModified": 1, "ok": 1.0}, &[any], &["predicate", found]);
    let unknown = "shop.items * update {q: {a: 1}, u: {$set: {b: 1}}, upsert: true} n=0/0";
    check(&open, &rawdoc! {"ok": 0.0, "code": 91}, &[any], &["command_failed", unknown]);

    // Two inserted, one matched: its counts are what is left of the totals.
    let mixed = update(&[up(rawdoc! {"_id": 1}), up(rawdoc! {"a": 1}), up(rawdoc! {"_id": 3})]);
    let answer = rawdoc! {"n": 3, "upserted": [{"index": 0, "_id": 1}, {"index": 1, "_id": 2}], "nModified": 1, "ok": 1.0};
    let three = "shop.items key {_id: 3} update {q: {_id: 3}, u: {$set: {b: 1}}, upsert: true} n=1/1";
    check(&mixed, &answer, &[K1, any, K3], &["predicate", &text("1/0"), K2, three]);
}

#[test]
fn deletes() {
    let by = |id: i32| rawdoc! {"q": {"_id": id}, "limit": 1};
    let n = |n: i32| rawdoc! {"n": n, "ok": 1.0};
    let line = |key: &str, id: i32, n: i32| format!("{key} delete {{q: {{_id: {id}}}, limit: 1}} n={n}/0");
    check(&delete(&[by(1)]), &n(1), &[K1], &["certain", &line(K1, 1, 1)]);
    check(&delete(&[by(1)]), &n(0), &[K1], &["closed"]);
    let two = delete(&[by(1), by(2)]);
    check(&two, &n(2), &[K1, K2], &["certain", &line(K1, 1, 1), &line(K2, 2, 1)]);
    check(&two, &n(1), &[K1, K2], &["certain", &line(K1, 1, 0), &line(K2, 2, 0)]);
    let place = "shop.items where {a: 1}";
    let one = delete(&[rawdoc! {"q": {"a": 1}, "limit": 1}]);
    let text = |limit: i32, n: i32| format!("{place} delete {{q: {{a: 1}}, limit: {limit}}} n={n}/0");
    check(&one, &n(1), &[place], &["predicate", &text(1, 1)]);
    let many = delete(&[rawdoc! {"q": {"a": 1}, "limit": 0}]);
    check(&many, &n(6), &[place], &["certain", &text(0, 6)]);
    check(&many, &n(0), &[place], &["closed"]);
    // 5.2: deleteMany failing midway says n:0, and has deleted documents.
    check(&many, &failing(rawdoc! {"n": 0}, 0, 2), &[place], &["multi_failed", &text(0, 0)]);
    // 4: a limit that is neither is refused as a whole. What is no number is 0 (seen on 6.0.5).
    let odd = delete(&[rawdoc! {"q": {"a": 1}, "limit": 0.5}]);
    check(&odd, &rawdoc! {"ok": 0.0, "code": 9}, &[place], &["closed"]);
    for limit in [RawBson::Boolean(true), RawBson::Null, RawBson::Double(0.0)] {
        let many = delete(&[rawdoc! {"q": {"a": 1}, "limit": limit}]);
        check(&many, &n(6), &[place], &["certain", &text(0, 6)]);
    }
}

/// wire-facts 5.1: the key from the filter, from `value._id`, or from `upserted`.
#[test]
fn find_and_modifies() {
    let found = |value: RawDocumentBuf| {
        rawdoc! {"lastErrorObject": {"n": 1, "updatedExisting": true}, "value": value, "ok": 1.0}
    };
    let none = rawdoc! {"lastErrorObject": {"n": 0, "updatedExisting": false}, "value": null, "ok": 1.0};
    let place = "shop.items where {a: 1}";

    let keyed = find_and_modify(&rawdoc! {"query": {"_id": 1, "a": 1}, "update": {"$inc": {"b": 1}}});
    let text = format!("{K1} update {{q: {{_id: 1, a: 1}}, u: {{$inc: {{b: 1}}}}}} n=1/1");
    check(&keyed, &found(rawdoc! {"a": 1}), &[K1], &["certain", &text]);
    check(&keyed, &none, &[K1], &["closed"]);

    let open = |more: RawDocumentBuf| find_and_modify(&with(&rawdoc! {"query": {"a": 1}}, &more));
    let body = open(rawdoc! {"update": {"$inc": {"b": 1}}, "sort": {"c": 1}});
    let text = format!("{K2} update {{q: {{_id: 2}}, u: {{$inc: {{b: 1}}}}}} n=1/1");
    check(&body, &found(rawdoc! {"_id": 2, "a": 1}), &[place], &["certain", &text]);
    let hidden = |q: &str| format!("{place} update {{q: {q}, u: {{$inc: {{b: 1}}}}}} n=1/1");
    check(&body, &found(rawdoc! {"a": 1}), &[place], &["hidden_id", &hidden("{a: 1}")]);
    check(&body, &none, &[place], &["closed"]);
    // 5.3: any ok:0 is nothing.
    for code in [11000, 9, 2, 11601, 112] {
        check(&body, &rawdoc! {"ok": 0.0, "code": code}, &[place], &["closed"]);
    }
    // A projection may make up an _id, or leave a part of it (seen on 6.0.5).
    for fields in [
        rawdoc! {"_id": "$o"},
        rawdoc! {"_id": {"$literal": 7}},
        rawdoc! {"_id": null},
        rawdoc! {"_id": 0},
        rawdoc! {"_id": false},
        rawdoc! {"_id": {"x": 1}},
        rawdoc! {"_id.x": 1},
        rawdoc! {"a": 0, "_id.x": 0},
        rawdoc! {"_id.x": "$a"},
        rawdoc! {"_id": 1, "_id.x": 1},
    ] {
        let body = open(rawdoc! {"update": {"$inc": {"b": 1}}, "fields": fields});
        check(&body, &found(rawdoc! {"_id": 2}), &[place], &["hidden_id", &hidden("{a: 1}")]);
    }
    for fields in [
        rawdoc! {"a": 1},
        rawdoc! {"a": 0},
        rawdoc! {"_id": 1},
        rawdoc! {"_id": true, "a": 1},
        rawdoc! {"_id": f64::NAN},
        rawdoc! {"a._id": 1},
        rawdoc! {"_idx": 1},
        rawdoc! {"a": {"$add": ["$a", 1]}},
    ] {
        let body = open(rawdoc! {"update": {"$inc": {"b": 1}}, "fields": fields});
        check(&body, &found(rawdoc! {"_id": 2}), &[place], &["certain", &text]);
    }
    // Every number but zero sets a flag (seen on 6.0.5).
    let number = |text: &str| RawBson::Decimal128(text.parse().unwrap());
    for remove in
        [RawBson::Double(0.5), RawBson::Double(f64::NAN), number("1E-6000"), RawBson::Int64(1 << 32)]
    {
        let body = open(rawdoc! {"remove": remove});
        let removed = rawdoc! {"lastErrorObject": {"n": 1}, "value": {"_id": 2}, "ok": 1.0};
        let text = format!("{K2} delete {{q: {{_id: 2}}, limit: 1}} n=1/0");
        check(&body, &removed, &[place], &["certain", &text]);
    }
    for zero in [RawBson::Double(-0.0), number("-0.00E+7"), RawBson::Null, RawBson::Boolean(false)] {
        let neither = open(rawdoc! {"remove": zero});
        check(&neither, &rawdoc! {"ok": 0.0, "code": 9}, &["shop.items *"], &["closed"]);
    }
    // U13: a positional operator needs the filter to find its element.
    let list = find_and_modify(&rawdoc! {"query": {"l": 3}, "update": {"$set": {"l.$": 4}}});
    let text = format!("{K2} update {{q: {{$and: [{{_id: 2}}, {{l: 3}}]}}, u: {{$set: {{l.$: 4}}}}}} n=1/1");
    check(&list, &found(rawdoc! {"_id": 2}), &["shop.items where {l: 3}"], &["certain", &text]);
    let all = find_and_modify(&rawdoc! {"query": {"l": 3}, "update": {"$set": {"l.$[]": 4}}});
    let text = format!("{K2} update {{q: {{_id: 2}}, u: {{$set: {{l.$[]: 4}}}}}} n=1/1");
    check(&all, &found(rawdoc! {"_id": 2}), &["shop.items where {l: 3}"], &["certain", &text]);

    // The filter was the server's to judge; with the key it does not matter any more, the change does.
    let impure = find_and_modify(&rawdoc! {"query": {"$where": "true"}, "update": {"$inc": {"b": 1}}});
    let text = format!("{K2} update {{q: {{_id: 2}}, u: {{$inc: {{b: 1}}}}}} n=1/1");
    check(&impure, &found(rawdoc! {"_id": 2}), &["shop.items *"], &["certain", &text]);
    let dated = open(rawdoc! {"update": {"$currentDate": {"b": true}}});
    let text = format!("{K2} update {{q: {{_id: 2}}, u: {{$currentDate: {{b: true}}}}}} n=1/1");
    check(&dated, &found(rawdoc! {"_id": 2}), &[place], &["non_deterministic", &text]);

    let remove = open(rawdoc! {"remove": true, "sort": {"c": 1}});
    let gone = rawdoc! {"lastErrorObject": {"n": 1}, "value": {"_id": 2, "a": 1}, "ok": 1.0};
    let text = format!("{K2} delete {{q: {{_id: 2}}, limit: 1}} n=1/0");
    check(&remove, &gone, &[place], &["certain", &text]);
    check(&remove, &rawdoc! {"lastErrorObject": {"n": 0}, "value": null, "ok": 1.0}, &[place], &["closed"]);
    // w:0 does not silence it (seen on 6.0.5).
    let silent = with(&remove, &rawdoc! {"writeConcern": {"w": 0}});
    check(&silent, &gone, &[place], &["certain", &text]);

    let upsert = open(rawdoc! {"update": {"$inc": {"b": 1}}, "upsert": true});
    let made = rawdoc! {"lastErrorObject": {"n": 1, "updatedExisting": false, "upserted": 2}, "value": null, "ok": 1.0};
    check(&upsert, &made, &["shop.items *"], &["predicate", K2]);
    let text = format!("{K2} update {{q: {{_id: 2}}, u: {{$inc: {{b: 1}}}}}} n=1/1");
    check(&upsert, &found(rawdoc! {"_id": 2}), &["shop.items *"], &["certain", &text]);
    let keyed = find_and_modify(&rawdoc! {"query": {"_id": 2}, "update": {"b": 1}, "upsert": true});
    let text = format!("{K2} update {{q: {{_id: 2}}, u: {{b: 1}}, upsert: true}} n=1/0");
    check(&keyed, &made, &[K2], &["certain", &text]);
    // A reply that lacks what it must have.
    let text = format!("{K2} update {{q: {{_id: 2}}, u: {{b: 1}}, upsert: true}} n=1/0");
    check(&keyed, &rawdoc! {"value": null, "ok": 1.0}, &[K2], &["command_failed", &text]);
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

/// wire-facts 4: commands that are followed by namespace.
#[test]
fn coarse_commands() {
    let done = rawdoc! {"ok": 1.0};
    let check_as = |reason: &str, body: RawDocumentBuf, places: &[&str]| {
        let entry: Vec<&str> = std::iter::once(reason).chain(places.iter().copied()).collect();
        self::check(&body, &done, places, &entry);
        let failed: Vec<&str> = std::iter::once("command_failed").chain(places.iter().copied()).collect();
        self::check(&body, &rawdoc! {"ok": 0.0, "code": 50}, places, &failed);
        self::check(&body, &rawdoc! {"ok": 0.0, "code": 13}, places, &["closed"]);
    };
    // Collections that may be gone.
    check_as("dropped", rawdoc! {"drop": "items"}, &["shop.items *"]);
    check_as("dropped", rawdoc! {"dropDatabase": 1}, &["shop **"]);
    check_as("dropped", rawdoc! {"convertToCapped": "items", "size": 1}, &["shop.items *"]);
    let rename = rawdoc! {"renameCollection": "shop.a.x", "to": "store.b", "$db": "admin"};
    check_as("dropped", rename, &["shop.a.x *", "store.b *"]);
    // No document is changed.
    check_as("shape", rawdoc! {"createIndexes": "items", "indexes": []}, &["shop.items *"]);
    check_as("shape", rawdoc! {"collMod": "items", "validator": {}}, &["shop.items *"]);
    let check = |body: RawDocumentBuf, places: &[&str]| check_as("coarse", body, places);
    check(rawdoc! {"cloneCollectionAsCapped": "items", "toCollection": "b", "size": 1}, &["shop.b *"]);
    check(rawdoc! {"mapReduce": "items", "out": "sums"}, &["shop.sums *"]);
    check(rawdoc! {"mapreduce": "items", "out": {"merge": "sums", "db": "stats"}}, &["stats.sums *"]);
    let ops = rawdoc! {"applyOps": [
        {"op": "i", "ns": "shop.a", "o": {"_id": 1}}, {"op": "d", "ns": "shop.a", "o": {"_id": 2}},
        {"op": "c", "ns": "blog.$cmd", "o": {"drop": "b"}}, {"op": "i", "ns": "local.x", "o": {}},
        {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": [{"op": "u", "ns": "deep.c", "o": {}}]}},
    ], "$db": "admin"};
    check(ops, &["deep.c *", "shop.a *", "blog **"]);
    check(rawdoc! {"inventNew": 1}, &["shop **"]);

    let pipeline = |stage: RawDocumentBuf| rawdoc! {"aggregate": "items", "pipeline": [{"$match": {}}, stage], "cursor": {}};
    check(pipeline(rawdoc! {"$out": "b"}), &["shop.b *"]);
    check(pipeline(rawdoc! {"$out": {"db": "stats", "coll": "b"}}), &["stats.b *"]);
    check(pipeline(rawdoc! {"$merge": "b"}), &["shop.b *"]);
    check(pipeline(rawdoc! {"$merge": {"into": "b"}}), &["shop.b *"]);
    check(pipeline(rawdoc! {"$merge": {"into": {"db": "stats", "coll": "b"}}}), &["stats.b *"]);
    check(pipeline(rawdoc! {"$merge": {"into": 5}}), &["shop **"]);

    // 5.3: a drop of nothing did nothing; a $merge that failed has written.
    self::check(&rawdoc! {"drop": "items"}, &rawdoc! {"ok": 0.0, "code": 26}, &["shop.items *"], &["closed"]);
    for code in [11000, 2, 50, 26] {
        let (body, answer) = (pipeline(rawdoc! {"$merge": "b"}), rawdoc! {"ok": 0.0, "code": code});
        self::check(&body, &answer, &["shop.b *"], &["command_failed", "shop.b *"]);
    }
    // What a `$merge` makes up may be too large midway (seen on 6.0.5).
    let (body, answer) = (pipeline(rawdoc! {"$merge": "b"}), rawdoc! {"ok": 0.0, "code": 10_334});
    self::check(&body, &answer, &["shop.b *"], &["command_failed", "shop.b *"]);
}

/// Seen on 6.0.5: the second operation fails with a code that would mean "there is no such collection", and the first
/// one is applied.
#[test]
fn apply_ops_that_fails_midway() {
    let ops = [
        rawdoc! {"op": "i", "ns": "shop.a", "o": {"_id": 1}},
        rawdoc! {"op": "i", "ns": "shop.b", "o": {"_id": 1}},
    ];
    let body = rawdoc! {"applyOps": [ops[0].clone(), ops[1].clone()], "$db": "admin"};
    let places = ["shop.a *", "shop.b *"];
    let midway = rawdoc! {"applied": 2, "code": 26, "results": [true, false], "ok": 0.0};
    check(&body, &midway, &places, &["command_failed", places[0], places[1]]);
    check(&body, &rawdoc! {"ok": 0.0, "code": 13}, &places, &["closed"]);
}

/// Clients may write to the buckets of a time-series collection and drop the list of a database's views; the server
/// repairs documents for who asks (all seen on 6.0.5).
#[test]
fn collections_that_stand_for_others() {
    let done = rawdoc! {"n": 1, "ok": 1.0};
    let on = |name: &bson::raw::CStr, rest: RawDocumentBuf| {
        with(&[(name, "system.buckets.heat")].into_iter().collect(), &rest)
    };
    for body in [
        on(bson::cstr!("insert"), rawdoc! {"documents": [{"_id": 1}]}),
        on(bson::cstr!("delete"), rawdoc! {"deletes": [{"q": {}, "limit": 0}]}),
        on(bson::cstr!("findAndModify"), rawdoc! {"query": {}, "remove": true}),
    ] {
        check(&body, &done, &["shop.heat *"], &["coarse", "shop.heat *"]);
    }
    check(&on(bson::cstr!("drop"), rawdoc! {}), &done, &["shop.heat *"], &["dropped", "shop.heat *"]);
    check(&rawdoc! {"drop": "system.views"}, &done, &["shop **"], &["dropped", "shop **"]);
    let ops = rawdoc! {"applyOps": [{"op": "d", "ns": "shop.system.views", "o": {"_id": 1}}], "$db": "admin"};
    check(&ops, &rawdoc! {"applied": 1, "results": [true], "ok": 1.0}, &["shop **"], &["coarse", "shop **"]);
    let repair = rawdoc! {"validate": "items", "repair": true};
    check(&repair, &rawdoc! {"repaired": true, "ok": 1.0}, &["shop.items *"], &["coarse", "shop.items *"]);
    let rename = rawdoc! {"internalRenameIfOptionsAndIndexesMatch": 1, "from": "shop.a", "to": "shop.b", "$db": "admin"};
    check(&rename, &done, &["shop.a *", "shop.b *"], &["dropped", "shop.a *", "shop.b *"]);
}

/// Queryable Encryption: the server stores other documents than it was sent, and writes to state collections.
#[test]
fn encrypted_writes() {
    let bodies = [
        insert(&[rawdoc! {"_id": 1}]),
        update(&[rawdoc! {"q": {"_id": 1}, "u": {"$set": {"a": 1}}}]),
        delete(&[rawdoc! {"q": {"_id": 1}, "limit": 1}]),
        find_and_modify(&rawdoc! {"query": {"_id": 1}, "update": {"$set": {"a": 1}}}),
    ];
    for body in bodies {
        let body = with(&body, &encryption());
        check(&body, &rawdoc! {"n": 1, "ok": 1.0}, &ENCRYPTED, &[&["coarse"], &ENCRYPTED[..]].concat());
        check(
            &body,
            &rawdoc! {"ok": 0.0, "code": 2},
            &ENCRYPTED,
            &[&["command_failed"], &ENCRYPTED[..]].concat(),
        );
    }
    let unknown = with(&insert(&[rawdoc! {"_id": 1}]), &rawdoc! {"encryptionInformation": true});
    check(&unknown, &rawdoc! {"n": 1, "ok": 1.0}, &["shop.items *"], &["coarse", "shop.items *"]);
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

/// `bulkWrite` (8.0), by its published shape: wire-facts 4.
mod bulk_writes {
    use super::*;

    fn bulk(ops: &[RawDocumentBuf], fields: RawDocumentBuf) -> RawDocumentBuf {
        let mut array = bson::raw::RawArrayBuf::new();
        ops.iter().for_each(|op| array.push(op.clone()));
        let mut body = rawdoc! {"bulkWrite": 1};
        body.append(bson::cstr!("ops"), array);
        body.append(
            bson::cstr!("nsInfo"),
            rawdoc! {"a": [{"ns": "shop.items"}, {"ns": "shop.other"}, {"ns": "local.x"}]}
                .get_array("a")
                .unwrap(),
        );
        body.append(bson::cstr!("$db"), "admin");
        with(&body, &fields)
    }

    /// A reply with these results and totals.
    fn told_by(results: &[RawDocumentBuf], totals: RawDocumentBuf) -> RawDocumentBuf {
        let mut batch = bson::raw::RawArrayBuf::new();
        results.iter().for_each(|result| batch.push(result.clone()));
        let mut cursor = rawdoc! {"id": 0_i64};
        cursor.append(bson::cstr!("firstBatch"), batch);
        cursor.append(bson::cstr!("ns"), "admin.$cmd.bulkWrite");
        let mut answer = rawdoc! {"ok": 1.0};
        answer.append(bson::cstr!("cursor"), cursor);
        with(&answer, &totals)
    }

    fn ok(idx: i32, n: i32) -> RawDocumentBuf {
        rawdoc! {"ok": 1.0, "idx": idx, "n": n}
    }

    fn ops() -> [RawDocumentBuf; 4] {
        [
            rawdoc! {"insert": 0, "document": {"_id": 1}},
            rawdoc! {"update": 1, "filter": {"_id": 2}, "updateMods": {"$inc": {"n": 1}}, "sort": {"a": 1}},
            rawdoc! {"delete": 0, "filter": {"a": 1}, "multi": true},
            rawdoc! {"insert": 2, "document": {"_id": 9}},
        ]
    }

    const MARK: [&str; 3] = [K1, "shop.other key {_id: 2}", "shop.items where {a: 1}"];
    const UPDATE2: &str = "shop.other key {_id: 2} update {q: {_id: 2}, u: {$inc: {n: 1}}}";
    const DELETE: &str = "shop.items where {a: 1} delete {q: {a: 1}, limit: 0}";
    fn counts(text: &str, counts: &str) -> String {
        format!("{text} n={counts}")
    }

    #[test]
    fn with_a_result_for_each() {
        let body = bulk(&ops(), rawdoc! {});
        let all = [ok(0, 1), with(&ok(1, 1), &rawdoc! {"nModified": 1}), ok(2, 5), ok(3, 1)];
        let (update, delete) = (counts(UPDATE2, "1/1"), counts(DELETE, "5/0"));
        check(&body, &told_by(&all, rawdoc! {}), &MARK, &["certain", INSERT1, &update, &delete]);
        // What changed nothing is left away, whatever its namespace.
        let some = [ok(0, 1), with(&ok(1, 1), &rawdoc! {"nModified": 0}), ok(2, 0), ok(3, 1)];
        check(&body, &told_by(&some, rawdoc! {}), &MARK, &["certain", INSERT1]);
        // Ordered: behind a failure nothing is run, also when it is of a namespace that is not captured.
        let failed = |idx: i32| rawdoc! {"ok": 0.0, "idx": idx, "code": 11000, "errmsg": "x", "n": 0};
        let first = [ok(0, 1), failed(1)];
        check(&body, &told_by(&first, rawdoc! {"nErrors": 1}), &MARK, &["certain", INSERT1]);
        check(&body, &told_by(&[failed(0)], rawdoc! {"nErrors": 1}), &MARK, &["closed"]);
        // Unordered, with a statement over many documents that failed on its way.
        let body = bulk(&ops(), rawdoc! {"ordered": false});
        let midway = [failed(0), with(&ok(1, 1), &rawdoc! {"nModified": 1}), failed(2), ok(3, 1)];
        let delete = counts(DELETE, "0/0");
        check(&body, &told_by(&midway, rawdoc! {}), &MARK, &["multi_failed", &update, &delete]);
    }

    #[test]
    fn with_errors_only() {
        let body = bulk(&ops(), rawdoc! {"errorsOnly": true});
        let totals = |modified: i32, deleted: i32| {
            rawdoc! {"nErrors": 0, "nInserted": 2, "nMatched": 1, "nModified": modified, "nUpserted": 0, "nDeleted": deleted}
        };
        let (update, delete) = (counts(UPDATE2, "1/1"), counts(DELETE, "5/0"));
        check(&body, &told_by(&[], totals(1, 5)), &MARK, &["certain", INSERT1, &update, &delete]);
        check(&body, &told_by(&[], totals(0, 0)), &MARK, &["certain", INSERT1]);
        // Upserts that the reply does not name: by their key, or anywhere.
        let up = |q: RawDocumentBuf| rawdoc! {"update": 0, "filter": q, "updateMods": {"$set": {"b": 1}}, "upsert": true};
        let body = bulk(&[up(rawdoc! {"_id": 1}), up(rawdoc! {"a": 1})], rawdoc! {"errorsOnly": true});
        let upserted = |n: i32| rawdoc! {"nMatched": 1, "nModified": 1, "nUpserted": n, "nDeleted": 0};
        let keyed = "shop.items key {_id: 1} update {q: {_id: 1}, u: {$set: {b: 1}}, upsert: true} n=0/0";
        let open = |place: &str| {
            format!("{place} update {{q: {{a: 1}}, u: {{$set: {{b: 1}}}}, upsert: true}} n=0/0")
        };
        let mark = [K1, "shop.items *"];
        check(&body, &told_by(&[], upserted(1)), &mark, &["predicate", keyed, &open("shop.items *")]);
        check(
            &body,
            &told_by(&[], upserted(0)),
            &mark,
            &["predicate", keyed, &open("shop.items where {a: 1}")],
        );
    }

    #[test]
    fn upserts_are_named_by_their_results() {
        let up = |q: RawDocumentBuf| rawdoc! {"update": 0, "filter": q, "updateMods": {"$set": {"b": 1}}, "upsert": true};
        let body = bulk(&[up(rawdoc! {"a": 1})], rawdoc! {});
        let named = |id: i32| with(&ok(0, 1), &rawdoc! {"nModified": 0, "upserted": {"_id": id}});
        check(&body, &told_by(&[named(2)], rawdoc! {}), &["shop.items *"], &["predicate", K2]);
    }

    /// What the first reply does not tell is in doubt, and so is what is refused midway.
    #[test]
    fn that_are_told_in_part() {
        let body = bulk(&ops()[..2], rawdoc! {});
        let more = rawdoc! {"ok": 1.0, "cursor": {"id": 5_i64, "firstBatch": [{"ok": 1.0, "idx": 0, "n": 1}], "ns": "x"}};
        let (insert, update) = (INSERT1.replace("n=1", "n=0"), counts(UPDATE2, "0/0"));
        check(&body, &more, &MARK[..2], &["part_of_batch", &insert, &update]);
        check(&body, &rawdoc! {"ok": 1.0}, &MARK[..2], &["part_of_batch", &insert, &update]);
        check(&body, &rawdoc! {"ok": 0.0, "code": 91}, &MARK[..2], &["command_failed", &insert, &update]);
        check(&body, &rawdoc! {"ok": 0.0, "code": 59}, &MARK[..2], &["closed"]);
        // An operation that nobody knows: of every namespace.
        let body = bulk(&[rawdoc! {"replace": 0}], rawdoc! {});
        let all = ["shop.items *", "shop.other *"];
        check(
            &body,
            &told_by(&[], rawdoc! {"nMatched": 1, "nModified": 1}),
            &all,
            &["coarse", all[0], all[1]],
        );
        // It may have been an insert.
        check(
            &body,
            &told_by(&[], rawdoc! {"nInserted": 1, "nModified": 0}),
            &all,
            &["coarse", all[0], all[1]],
        );
    }

    /// An unordered one that ends early names what failed till then only.
    #[test]
    fn that_are_cut_short() {
        let (insert, update) = (INSERT1.replace("n=1", "n=0"), counts(UPDATE2, "0/0"));
        let fields = rawdoc! {"errorsOnly": true, "ordered": false};
        let none = rawdoc! {"nErrors": 0, "nInserted": 0, "nMatched": 1, "nModified": 1, "nUpserted": 0, "nDeleted": 0};
        let lines = ["part_of_batch", INSERT1, &counts(UPDATE2, "1/1")];
        check(&bulk(&ops()[..2], fields.clone()), &told_by(&[], none), &MARK[..2], &lines);
        let full = rawdoc! {"ok": 0.0, "idx": 1, "code": 146, "errmsg": "x", "n": 0};
        let totals = rawdoc! {"nErrors": 1, "nInserted": 1, "nMatched": 0, "nModified": 0, "nUpserted": 0, "nDeleted": 0};
        let body = bulk(&ops()[..2], fields);
        check(&body, &told_by(&[full], totals), &MARK[..2], &["part_of_batch", &insert, &update]);
    }

    /// What the server writes elsewhere, or changes on the way, is followed by namespace.
    #[test]
    fn over_collections_that_stand_for_others() {
        let named = |info: RawDocumentBuf| {
            let mut infos = bson::raw::RawArrayBuf::new();
            infos.push(info);
            let mut body = rawdoc! {"bulkWrite": 1, "ops": [{"insert": 0, "document": {"_id": 1}}]};
            body.append(bson::cstr!("nsInfo"), infos);
            with(&body, &rawdoc! {"$db": "admin"})
        };
        let done = told_by(&[ok(0, 1)], rawdoc! {"nInserted": 1});
        let buckets = named(rawdoc! {"ns": "shop.system.buckets.heat"});
        check(&buckets, &done, &["shop.heat *"], &["coarse", "shop.heat *"]);
        let encrypted = named(with(&rawdoc! {"ns": "shop.items"}, &encryption()));
        check(&encrypted, &done, &ENCRYPTED, &[&["coarse"], &ENCRYPTED[..]].concat());
    }

    #[test]
    fn in_sequences_and_not_captured() {
        let capture = Capture::new(Config::default());
        let frame = |ns: &str| {
            let (ops, infos) = (ops(), rawdoc! {"ns": ns});
            let ops: Vec<u8> = ops[..1].iter().flat_map(|op| op.as_bytes().to_vec()).collect();
            let body = rawdoc! {"bulkWrite": 1, "$db": "admin"};
            let sequence = |name, bytes| wire::Section::Sequence(wire::Sequence::new(name, bytes).unwrap());
            let sections =
                [wire::Section::Body(&body), sequence("ops", &ops), sequence("nsInfo", infos.as_bytes())];
            wire::encode_msg(7, 0, wire::Flags::default(), &sections).unwrap()
        };
        let (mark, write) = marked(&session(&capture), &frame("shop.items"), 9).unwrap();
        assert_eq!(targets(&mark.targets), [K1]);
        drop(write.never_sent(NOW));
        assert!(session(&capture).request(&frame("local.items")).is_none());
        // Too large to hold: it may be any namespace.
        let write = session(&capture).unscanned(&frame("shop.items")[..80]).unwrap();
        drop(write.outcome(&reply(&rawdoc! {"ok": 1.0}), NOW));
        assert!(capture.take_missed().everything);
    }
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
