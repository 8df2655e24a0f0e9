//! Commands that are followed by the namespaces that they name.

use super::*;

/// wire-facts 4: commands that are followed by namespace.
#[test]
fn coarse_commands() {
    let done = rawdoc! {"ok": 1.0};
    let check_ended = |reason: &str, body: RawDocumentBuf, places: &[&str], effects: &[&str]| {
        let entry: Vec<&str> = std::iter::once(reason).chain(effects.iter().copied()).collect();
        self::check(&body, &done, places, &entry);
        let failed: Vec<&str> = std::iter::once("command_failed").chain(effects.iter().copied()).collect();
        self::check(&body, &rawdoc! {"ok": 0.0, "code": 50}, places, &failed);
        self::check(&body, &rawdoc! {"ok": 0.0, "code": 13}, places, &["closed"]);
    };
    let check_as =
        |reason: &str, body: RawDocumentBuf, places: &[&str]| check_ended(reason, body, places, places);
    // Collections that are gone, by a command that can be sent again.
    let certain = |body, places: &[&str], effects: &[&str]| check_ended("certain", body, places, effects);
    certain(rawdoc! {"drop": "items"}, &["shop.items *"], &["shop.items * over {drop: 1}"]);
    certain(rawdoc! {"dropDatabase": 1}, &["shop **"], &["shop ** over {dropDatabase: 1}"]);
    let rename = rawdoc! {"renameCollection": "shop.b.x", "to": "shop.a", "$db": "admin"};
    let names = ["shop.a *", "shop.b.x *"];
    certain(rename, &names, &["shop.a *", "shop.b.x * over {rename: shop.a}"]);
    // Or that may be.
    check_as("dropped", rawdoc! {"convertToCapped": "items", "size": 1}, &["shop.items *"]);
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
        {"op": "c", "ns": "news.b", "o": {"drop": "b"}},
    ], "$db": "admin"};
    check(ops, &["deep.c *", "shop.a *", "blog **", "news **"]);
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

/// What was excluded takes the name of what was captured: no command that could be sent again.
#[test]
fn a_rename_from_an_excluded_collection() {
    let capture = Capture::new(Config { exclude: vec!["shop.b".parse().unwrap()], ..Config::default() });
    let rename = rawdoc! {"renameCollection": "shop.b", "to": "shop.a", "dropTarget": true, "$db": "admin"};
    let (mark, write) = marked(&session(&capture), &request(&rename), 9).unwrap();
    assert_eq!(targets(&mark.targets), ["shop.a *"]);
    assert_eq!(told(&write.outcome(&reply(&rawdoc! {"ok": 1.0}), NOW)), ["dropped 9", "shop.a *"]);
}

/// What a message names is not kept name by name: some are five bytes there, and hundreds here.
#[test]
fn more_names_than_anybody_needs() {
    let check = |body: &RawDocumentBuf, expected: &[&str]| {
        let capture = Capture::new(Config::default());
        let (mark, write) = marked(&session(&capture), &request(body), 9).unwrap();
        assert_eq!(targets(&mark.targets), expected);
        drop(write.outcome(&reply(&rawdoc! {"ok": 1.0}), NOW));
        assert_eq!(capture.take_missed().everything, expected.is_empty());
    };
    let bodies = |name: &dyn Fn(usize) -> String| {
        let (mut ops, mut infos) = (bson::RawArrayBuf::new(), bson::RawArrayBuf::new());
        for nth in 0..5_000 {
            ops.push(rawdoc! {"op": "i", "ns": name(nth), "o": {"_id": 1}});
            infos.push(rawdoc! {"ns": name(nth)});
        }
        let one = rawdoc! {"insert": 0, "document": {"_id": 1}};
        let bulk = rawdoc! {"bulkWrite": 1, "ops": [one], "nsInfo": infos, "$db": "admin"};
        [rawdoc! {"applyOps": ops, "$db": "admin"}, bulk]
    };
    for body in bodies(&|nth| format!("{}.c{nth}", if nth % 2 == 0 { "shop" } else { "blog" })) {
        check(&body, &["blog **", "shop **"]);
    }
    for body in bodies(&|nth| format!("db{nth}.c")) {
        check(&body, &[]);
    }
    // Each name takes its place in the mark, also where it says no more.
    let long = "x".repeat(200);
    let mut infos = bson::RawArrayBuf::new();
    let mut ops = bson::RawArrayBuf::new();
    (0..2).for_each(|nth| infos.push(rawdoc! {"ns": format!("shop.{long}{nth}")}));
    (0..1_000)
        .for_each(|nth| ops.push(rawdoc! {"delete": nth % 2, "filter": {"$where": "true"}, "multi": true}));
    let bulk = rawdoc! {"bulkWrite": 1, "ops": ops, "nsInfo": infos, "$db": "admin"};
    let names = [format!("shop.{long}0 *"), format!("shop.{long}1 *")];
    let (mark, _) = marked(&session(&Capture::new(Config::default())), &request(&bulk), 9).unwrap();
    assert_eq!(targets(&mark.targets), names);
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
    let repairs: [bson::raw::RawBson; 6] =
        [true.into(), 0.5.into(), f64::NAN.into(), "".into(), rawdoc! {}.into(), (-1).into()];
    for repair in repairs {
        let repair = rawdoc! {"validate": "items", "repair": repair};
        check(
            &repair,
            &rawdoc! {"repaired": true, "ok": 1.0},
            &["shop.items *"],
            &["coarse", "shop.items *"],
        );
    }
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
