//! Updates: by key, by predicate, in batches, that insert.

use super::*;

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
