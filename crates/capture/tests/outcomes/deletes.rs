//! Deletes, and findAndModify of both kinds.

use super::*;

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
