//! The commands that are recorded: every shape of wire facts 5.2 and 5.3 that a server shows without being forced to.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, Timestamp, doc};

/// Where a case is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Servers {
    Standalone,
    ReplicaSet,
    Both,
}

/// Commands on a fresh database.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) servers: Servers,
    pub(super) before: Vec<Document>,
    pub(super) commands: Vec<Document>,
}

pub(super) fn all() -> Vec<Case> {
    let standalone = [updates(), deletes(), shapes(), writers()].map(|cases| on(Servers::Standalone, cases));
    let replica_set = [sessions(), transactions()].map(|cases| on(Servers::ReplicaSet, cases));
    let both = [inserts(), finds(), refusals()];
    both.into_iter().chain(standalone).chain(replica_set).flatten().collect()
}

fn case(name: &'static str, before: Vec<Document>, commands: Vec<Document>) -> Case {
    Case { name, servers: Servers::Both, before, commands }
}

fn on(servers: Servers, cases: Vec<Case>) -> Vec<Case> {
    cases.into_iter().map(|case| Case { servers, ..case }).collect()
}

/// `_id` and `n` are 1, 2, 3; `s` is a text.
fn three() -> Vec<Document> {
    let documents: Vec<Document> = (1..=3).map(|id| doc! {"_id": id, "n": id, "s": "text"}).collect();
    vec![doc! {"insert": "items", "documents": documents}]
}

fn insert(documents: Vec<Document>) -> Document {
    doc! {"insert": "items", "documents": documents}
}

fn update(updates: Vec<Document>) -> Document {
    doc! {"update": "items", "updates": updates}
}

fn delete(deletes: Vec<Document>) -> Document {
    doc! {"delete": "items", "deletes": deletes}
}

fn find(fields: Document) -> Document {
    with(doc! {"findAndModify": "items"}, fields)
}

fn with(mut command: Document, fields: Document) -> Document {
    command.extend(fields);
    command
}

fn inserts() -> Vec<Case> {
    let twice = || insert(vec![doc! {"_id": 4}, doc! {"_id": 1}, doc! {"_id": 5}]);
    let stamped = doc! {"_id": 4, "at": Timestamp { time: 0, increment: 0 }};
    let valid = vec![doc! {"create": "items", "validator": {"n": {"$gt": 0}}}];
    let series = vec![doc! {"create": "items", "timeseries": {"timeField": "at"}}];
    let at = || insert(vec![doc! {"_id": 1, "at": bson::DateTime::from_millis(5)}]);
    vec![
        case("insert", vec![], vec![insert(vec![doc! {"_id": 1}, doc! {"_id": 2}])]),
        case("insert_without_id", vec![], vec![insert(vec![doc! {"a": 1}])]),
        case("insert_ordered_with_a_clash", three(), vec![twice()]),
        case("insert_unordered_with_a_clash", three(), vec![with(twice(), doc! {"ordered": false})]),
        case("insert_all_clash", three(), vec![insert(vec![doc! {"_id": 1}])]),
        case("insert_zero_timestamp", vec![], vec![insert(vec![stamped])]),
        case("insert_invalid", valid, vec![insert(vec![doc! {"_id": 1, "n": 1}, doc! {"_id": 2, "n": 0}])]),
        case("insert_id_is_an_array", vec![], vec![insert(vec![doc! {"_id": [1]}])]),
        case("insert_silenced", three(), vec![with(twice(), doc! {"writeConcern": {"w": 0}})]),
        case("insert_silent", three(), vec![with(twice(), doc! {"writeConcern": {"w": 0}, "silent": true})]),
        case("insert_time_series", series, vec![at()]),
    ]
}

fn updates() -> Vec<Case> {
    let inc = || doc! {"$inc": {"n": 1}};
    let one = |q: Document| update(vec![doc! {"q": q, "u": inc()}]);
    let many = |q: Document, u: Document| doc! {"q": q, "u": u, "multi": true};
    let texts =
        || insert(vec![doc! {"_id": 1, "v": 1}, doc! {"_id": 2, "v": "text"}, doc! {"_id": 3, "v": 1}]);
    let midway = || many(doc! {}, doc! {"$inc": {"v": 1}});
    let upsert = |q: Document| doc! {"q": q, "u": inc(), "upsert": true};
    let batch = || {
        update(vec![
            doc! {"q": {"_id": 1}, "u": inc()},
            doc! {"q": {"_id": 2}, "u": {"$inc": {"s": 1}}},
            doc! {"q": {"_id": 3}, "u": inc()},
        ])
    };
    let slow = doc! {"$where": "sleep(20) || true"};
    let view = vec![doc! {"create": "items", "viewOn": "others", "pipeline": Bson::Array(vec![])}];
    vec![
        case("update_by_id", three(), vec![one(doc! {"_id": 1})]),
        case("update_no_one", three(), vec![one(doc! {"_id": 9})]),
        case(
            "update_to_the_same",
            three(),
            vec![update(vec![doc! {"q": {"_id": 1}, "u": {"$set": {"n": 1}}}])],
        ),
        case("update_by_predicate", three(), vec![one(doc! {"n": {"$gt": 1}})]),
        case("update_many", three(), vec![update(vec![many(doc! {"n": {"$gt": 1}}, inc())])]),
        case("update_many_fails_midway", vec![texts()], vec![update(vec![midway()])]),
        case(
            "update_many_fails_in_a_batch",
            vec![texts()],
            vec![with(
                update(vec![midway(), doc! {"q": {"_id": 1}, "u": {"$set": {"x": 1}}}]),
                doc! {"ordered": false},
            )],
        ),
        case(
            "update_many_out_of_time",
            three(),
            vec![with(update(vec![many(slow, doc! {"$set": {"x": 1}})]), doc! {"maxTimeMS": 30})],
        ),
        case(
            "update_many_undefined",
            three(),
            vec![update(vec![many(doc! {"$expr": {"$eq": ["$n", "$$x"]}}, inc())])],
        ),
        case("update_ordered_with_an_error", three(), vec![batch()]),
        case("update_unordered_with_an_error", three(), vec![with(batch(), doc! {"ordered": false})]),
        case("upsert_by_id", three(), vec![update(vec![upsert(doc! {"_id": 9})])]),
        case("upsert_unnamed", three(), vec![update(vec![upsert(doc! {"k": 9})])]),
        case(
            "upsert_supplied",
            three(),
            vec![update(vec![doc! {
                "q": {"_id": 9}, "u": [{"$set": {"n": 1}}], "upsert": true, "upsertSupplied": true,
                "c": {"new": {"_id": 9, "other": 1}},
            }])],
        ),
        case("upsert_that_is_there", three(), vec![update(vec![upsert(doc! {"n": 2})])]),
        case("upsert_by_a_list_of_one", three(), vec![update(vec![upsert(doc! {"_id": {"$in": [9]}})])]),
        case(
            "upserts_and_updates",
            three(),
            vec![update(vec![upsert(doc! {"_id": 1}), upsert(doc! {"k": 9}), upsert(doc! {"_id": 8})])],
        ),
        case(
            "update_dated",
            three(),
            vec![update(vec![doc! {"q": {"_id": 1}, "u": {"$currentDate": {"at": true}}}])],
        ),
        case(
            "update_now",
            three(),
            vec![update(vec![doc! {"q": {"_id": 1}, "u": [{"$set": {"at": "$$NOW"}}]}])],
        ),
        case(
            "update_let",
            three(),
            vec![with(
                update(vec![doc! {"q": {"_id": 1}, "u": [{"$set": {"n": "$$x"}}]}]),
                doc! {"let": {"x": 7}},
            )],
        ),
        case(
            "update_immutable",
            three(),
            vec![update(vec![doc! {"q": {"_id": 1}, "u": {"$set": {"_id": 2}}}])],
        ),
        case(
            "update_unknown_operator",
            three(),
            vec![update(vec![doc! {"q": {"_id": 1}, "u": {"$foo": {"n": 2}}}])],
        ),
        case(
            "update_hint_missing",
            three(),
            vec![update(vec![doc! {"q": {"_id": 1}, "u": inc(), "hint": "none_1"}])],
        ),
        case("update_a_view", view, vec![one(doc! {"_id": 1})]),
        case("update_silenced", three(), vec![with(one(doc! {"_id": 1}), doc! {"writeConcern": {"w": 0}})]),
    ]
}

fn deletes() -> Vec<Case> {
    let by = |q: Document, limit: i32| doc! {"q": q, "limit": limit};
    let midway = doc! {"$expr": {"$gt": [{"$divide": [1, {"$subtract": ["$n", 3]}]}, -5]}};
    vec![
        case("delete_by_id", three(), vec![delete(vec![by(doc! {"_id": 1}, 1)])]),
        case(
            "delete_batch_with_a_miss",
            three(),
            vec![delete(vec![by(doc! {"_id": 1}, 1), by(doc! {"_id": 9}, 1)])],
        ),
        case("delete_by_predicate", three(), vec![delete(vec![by(doc! {"n": {"$gt": 1}}, 1)])]),
        case("delete_many", three(), vec![delete(vec![by(doc! {"n": {"$gt": 1}}, 0)])]),
        case("delete_many_no_one", three(), vec![delete(vec![by(doc! {"n": 9}, 0)])]),
        case("delete_many_fails_midway", three(), vec![delete(vec![by(midway, 0)])]),
        case("delete_without_limit", three(), vec![delete(vec![doc! {"q": {"_id": 1}}])]),
        case("delete_limit_2", three(), vec![delete(vec![by(doc! {"_id": 1}, 2)])]),
    ]
}

fn finds() -> Vec<Case> {
    let inc = |query: Document| find(doc! {"query": query, "update": {"$inc": {"n": 10}}});
    let n = || doc! {"n": 2};
    vec![
        case("find_by_id", three(), vec![inc(doc! {"_id": 1})]),
        case("find_by_predicate", three(), vec![inc(n())]),
        case("find_new", three(), vec![with(inc(n()), doc! {"new": true})]),
        case("find_no_one", three(), vec![inc(doc! {"n": 9})]),
        case("find_hides_id", three(), vec![with(inc(n()), doc! {"fields": {"_id": 0}})]),
        case("find_makes_up_id", three(), vec![with(inc(n()), doc! {"fields": {"_id": "$n"}})]),
        case("find_upsert", three(), vec![with(inc(doc! {"k": 9}), doc! {"upsert": true})]),
        case("find_upsert_by_id", three(), vec![with(inc(doc! {"_id": 9}), doc! {"upsert": true})]),
        case("find_upsert_there", three(), vec![with(inc(n()), doc! {"upsert": true})]),
        case("find_remove", three(), vec![find(doc! {"query": n(), "remove": true})]),
        case("find_remove_no_one", three(), vec![find(doc! {"query": {"n": 9}, "remove": true})]),
        case("find_fails", three(), vec![find(doc! {"query": n(), "update": {"$inc": {"s": 1}}})]),
        case("find_silenced", three(), vec![with(inc(doc! {"_id": 1}), doc! {"writeConcern": {"w": 0}})]),
    ]
}

fn refusals() -> Vec<Case> {
    let mut cases = vec![
        case("unknown_field", three(), vec![with(insert(vec![doc! {"_id": 9}]), doc! {"unheardOf": 1})]),
        case(
            "unknown_field_in_a_statement",
            three(),
            vec![update(vec![
                doc! {"q": {"_id": 1}, "u": {"$set": {"n": 9}}},
                doc! {"q": {"_id": 2}, "u": {}, "unheardOf": 1},
            ])],
        ),
        case("no_documents", vec![], vec![insert(vec![])]),
        case("unknown_command", vec![], vec![doc! {"frobnicate": 1}]),
        case(
            "bulk_write_before_8",
            vec![],
            vec![doc! {
                "bulkWrite": 1, "ops": [{"insert": 0, "document": {"_id": 1}}], "nsInfo": [{"ns": "shop.items"}],
                "$db": "admin",
            }],
        ),
        case("system_collection", vec![], vec![doc! {"insert": "system.odd", "documents": [{"_id": 1}]}]),
    ];
    cases.extend(on(
        Servers::Standalone,
        vec![
            case(
                "two_members_wanted",
                vec![],
                vec![with(insert(vec![doc! {"_id": 1}]), doc! {"writeConcern": {"w": 2}})],
            ),
            case(
                "number_on_a_standalone",
                vec![],
                vec![with(insert(vec![doc! {"_id": 1}]), of_session(9, 1))],
            ),
        ],
    ));
    cases.extend(on(
        Servers::ReplicaSet,
        vec![case(
            "two_members_wanted",
            vec![],
            vec![with(insert(vec![doc! {"_id": 1}]), doc! {"writeConcern": {"w": 2}})],
        )],
    ));
    cases
}

fn shapes() -> Vec<Case> {
    let index = |key: &str, unique: bool| {
        doc! {"createIndexes": "items", "indexes": [{"key": {key: 1}, "name": format!("{key}_1"), "unique": unique}]}
    };
    let clash = vec![insert(vec![doc! {"_id": 1, "n": 1}, doc! {"_id": 2, "n": 1}])];
    vec![
        case(
            "create",
            vec![],
            vec![doc! {"create": "items"}, doc! {"create": "items", "capped": true, "size": 4096}],
        ),
        case("create_indexes", three(), vec![index("n", false), index("n", false)]),
        case("create_indexes_on_nothing", vec![], vec![index("n", false)]),
        case("create_indexes_clash", clash, vec![index("n", true)]),
        case("create_indexes_other_options", three(), vec![index("n", false), index("n", true)]),
        case(
            "drop_indexes",
            [three(), vec![index("n", false)]].concat(),
            vec![
                doc! {"dropIndexes": "items", "index": "n_1"},
                doc! {"dropIndexes": "items", "index": "n_1"},
                doc! {"dropIndexes": "items", "index": "*"},
            ],
        ),
        case(
            "coll_mod",
            three(),
            vec![doc! {"collMod": "items", "validator": {"n": 1}}, doc! {"collMod": "none"}],
        ),
        case("drop", three(), vec![doc! {"drop": "items"}, doc! {"drop": "items"}]),
        case("drop_database", three(), vec![doc! {"dropDatabase": 1}]),
        case(
            "rename",
            three(),
            vec![
                doc! {"renameCollection": "shop.items", "to": "shop.others", "$db": "admin"},
                doc! {"renameCollection": "shop.items", "to": "shop.others", "$db": "admin"},
            ],
        ),
        case("convert_to_capped", three(), vec![doc! {"convertToCapped": "items", "size": 4096}]),
        case(
            "clone_as_capped",
            three(),
            vec![doc! {"cloneCollectionAsCapped": "items", "toCollection": "others", "size": 4096}],
        ),
    ]
}

fn writers() -> Vec<Case> {
    let aggregate = |stage: Document| doc! {"aggregate": "items", "pipeline": [stage], "cursor": {}};
    let later = |stage: Document| with(aggregate(stage), doc! {"cursor": {"batchSize": 0}});
    let there = || [three(), vec![doc! {"insert": "sums", "documents": [{"_id": 2}]}]].concat();
    let merge = doc! {"$merge": {"into": "sums", "whenMatched": "fail"}};
    let reduce = |out: Bson| {
        doc! {
            "mapReduce": "items", "map": "function() { emit(this.n, 1) }", "reduce": "function(k, v) { return 1 }",
            "out": out,
        }
    };
    let more = || doc! {"getMore": 0_i64, "collection": "items"};
    vec![
        case("out", three(), vec![aggregate(doc! {"$out": "sums"})]),
        case("merge", three(), vec![aggregate(doc! {"$merge": "sums"})]),
        case("merge_fails", there(), vec![aggregate(merge)]),
        case("merge_later", three(), vec![later(doc! {"$merge": "sums"}), more()]),
        case("out_explained", three(), vec![with(aggregate(doc! {"$out": "sums"}), doc! {"explain": true})]),
        case("aggregate_that_reads", three(), vec![aggregate(doc! {"$match": {}})]),
        case("map_reduce", three(), vec![reduce("sums".into())]),
        case("map_reduce_inline", three(), vec![reduce(doc! {"inline": 1}.into())]),
        case(
            "apply_ops",
            three(),
            vec![doc! {
                "applyOps": [{"op": "i", "ns": "shop.items", "o": {"_id": 9}}], "$db": "admin",
            }],
        ),
    ]
}

/// Of another session for each case: the server remembers them.
fn of_session(session: u8, number: i64) -> Document {
    doc! {"lsid": {"id": Binary { subtype: BinarySubtype::Uuid, bytes: vec![session; 16] }}, "txnNumber": number}
}

fn sessions() -> Vec<Case> {
    let twice = |name, session: u8, command: Document| {
        let command = with(command, of_session(session, 1));
        case(name, three(), vec![command.clone(), command])
    };
    let inc = || doc! {"q": {"_id": 1}, "u": {"$inc": {"n": 1}}};
    let insert = |ids: &[i32]| insert(ids.iter().map(|id| doc! {"_id": *id}).collect());
    let overlap = vec![with(insert(&[8]), of_session(23, 1)), with(insert(&[8, 9]), of_session(23, 1))];
    let series = vec![doc! {"create": "items", "timeseries": {"timeField": "at"}}];
    let at = with(
        doc! {"insert": "items", "documents": [{"_id": 1, "at": bson::DateTime::from_millis(5)}]},
        of_session(24, 1),
    );
    let old = vec![with(insert(&[8]), of_session(25, 5)), with(insert(&[9]), of_session(25, 4))];
    on(
        Servers::ReplicaSet,
        vec![
            twice("retried_insert", 17, insert(&[8])),
            twice("retried_update", 18, update(vec![inc()])),
            twice(
                "retried_upsert",
                19,
                update(vec![doc! {"q": {"k": 1}, "u": {"$set": {"n": 1}}, "upsert": true}]),
            ),
            twice("retried_delete", 20, delete(vec![doc! {"q": {"n": 2}, "limit": 1}])),
            twice("retried_find", 21, find(doc! {"query": {"n": 2}, "update": {"$inc": {"n": 1}}})),
            twice(
                "retried_without_effect",
                22,
                update(vec![doc! {"q": {"_id": 77}, "u": {"$inc": {"n": 1}}}]),
            ),
            case("retried_overlap", three(), overlap),
            case("retried_time_series", series, vec![at.clone(), at]),
            case("retried_too_old", three(), old),
            case(
                "many_with_a_number",
                three(),
                vec![with(
                    update(vec![doc! {"q": {}, "u": {"$inc": {"n": 1}}, "multi": true}]),
                    of_session(26, 1),
                )],
            ),
        ],
    )
}

fn transactions() -> Vec<Case> {
    let of = |session: u8, command: Document| {
        with(command, with(of_session(session, 1), doc! {"autocommit": false}))
    };
    let first = |session: u8, command: Document| of(session, with(command, doc! {"startTransaction": true}));
    let end = |session: u8, name: &str| of(session, doc! {name: 1, "$db": "admin"});
    let inc = |id: i32| update(vec![doc! {"q": {"_id": id}, "u": {"$inc": {"n": 1}}}]);
    let number = |mut command: Document, number: i64| {
        command.insert("txnNumber", number);
        command
    };
    on(
        Servers::ReplicaSet,
        vec![
            case(
                "transaction",
                three(),
                vec![
                    first(33, inc(1)),
                    of(33, inc(2)),
                    end(33, "commitTransaction"),
                    end(33, "commitTransaction"),
                ],
            ),
            case(
                "transaction_aborted",
                three(),
                vec![first(34, inc(1)), end(34, "abortTransaction"), end(34, "abortTransaction")],
            ),
            case(
                "transaction_with_a_clash",
                three(),
                vec![
                    first(35, inc(1)),
                    of(35, insert(vec![doc! {"_id": 1}])),
                    of(35, inc(2)),
                    end(35, "commitTransaction"),
                ],
            ),
            case(
                "transaction_with_a_refusal",
                three(),
                vec![
                    first(36, inc(1)),
                    of(36, with(inc(2), doc! {"unheardOf": 1})),
                    end(36, "commitTransaction"),
                ],
            ),
            case(
                "transaction_fails_in_find",
                three(),
                vec![
                    first(37, inc(1)),
                    of(37, find(doc! {"query": {"_id": 1}, "update": {"$inc": {"s": 1}}})),
                    end(37, "commitTransaction"),
                ],
            ),
            case(
                "transaction_left_for_another",
                three(),
                vec![
                    first(38, inc(1)),
                    number(first(38, inc(2)), 2),
                    number(end(38, "commitTransaction"), 2),
                    end(38, "commitTransaction"),
                ],
            ),
            case(
                "abort_after_commit",
                three(),
                vec![first(39, inc(1)), end(39, "commitTransaction"), end(39, "abortTransaction")],
            ),
            case(
                "transaction_with_a_concern_at_its_end",
                three(),
                vec![first(40, inc(1)), with(end(40, "commitTransaction"), doc! {"writeConcern": {"w": 2}})],
            ),
            case(
                "drop_in_a_transaction",
                three(),
                vec![first(41, inc(1)), of(41, doc! {"drop": "items"}), end(41, "commitTransaction")],
            ),
            case(
                "create_in_a_transaction",
                three(),
                vec![first(42, doc! {"create": "others"}), of(42, inc(1)), end(42, "commitTransaction")],
            ),
        ],
    )
}
