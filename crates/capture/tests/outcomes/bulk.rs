//! `bulkWrite` (8.0), by its published shape: wire-facts 4.

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
    let open =
        |place: &str| format!("{place} update {{q: {{a: 1}}, u: {{$set: {{b: 1}}}}, upsert: true}} n=0/0");
    let mark = [K1, "shop.items *"];
    check(&body, &told_by(&[], upserted(1)), &mark, &["predicate", keyed, &open("shop.items *")]);
    check(&body, &told_by(&[], upserted(0)), &mark, &["predicate", keyed, &open("shop.items where {a: 1}")]);
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
    check(&body, &told_by(&[], rawdoc! {"nMatched": 1, "nModified": 1}), &all, &["coarse", all[0], all[1]]);
    // It may have been an insert.
    check(&body, &told_by(&[], rawdoc! {"nInserted": 1, "nModified": 0}), &all, &["coarse", all[0], all[1]]);
}

/// An unordered one that ends early names what failed till then only.
#[test]
fn that_are_cut_short() {
    let (insert, update) = (INSERT1.replace("n=1", "n=0"), counts(UPDATE2, "0/0"));
    let fields = rawdoc! {"errorsOnly": true, "ordered": false};
    let none =
        rawdoc! {"nErrors": 0, "nInserted": 0, "nMatched": 1, "nModified": 1, "nUpserted": 0, "nDeleted": 0};
    let lines = ["part_of_batch", INSERT1, &counts(UPDATE2, "1/1")];
    check(&bulk(&ops()[..2], fields.clone()), &told_by(&[], none), &MARK[..2], &lines);
    let full = rawdoc! {"ok": 0.0, "idx": 1, "code": 146, "errmsg": "x", "n": 0};
    let totals =
        rawdoc! {"nErrors": 1, "nInserted": 1, "nMatched": 0, "nModified": 0, "nUpserted": 0, "nDeleted": 0};
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
