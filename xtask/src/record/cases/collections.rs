//! What is refused, what changes collections, and what writes them as a whole.

use bson::{Bson, Document, doc};

use super::{Case, Servers, case, insert, on, sessions::of_session, three, update, with};

pub(super) fn refusals() -> Vec<Case> {
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

pub(super) fn shapes() -> Vec<Case> {
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

pub(super) fn writers() -> Vec<Case> {
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
            "apply_ops_fails_midway",
            three(),
            vec![doc! {
                "applyOps": [
                    {"op": "i", "ns": "shop.items", "o": {"_id": 9}}, {"op": "i", "ns": "shop.none", "o": {"_id": 9}},
                ],
                "$db": "admin",
            }],
        ),
        case(
            "buckets",
            vec![doc! {"create": "items", "timeseries": {"timeField": "at"}}],
            vec![
                doc! {"delete": "system.buckets.items", "deletes": [{"q": {}, "limit": 0}]},
                doc! {"findAndModify": "system.buckets.items", "query": {}, "remove": true},
                doc! {"drop": "system.buckets.items"},
            ],
        ),
        case(
            "list_of_views_dropped",
            [three(), vec![doc! {"create": "view", "viewOn": "items", "pipeline": Bson::Array(vec![])}]]
                .concat(),
            vec![doc! {"drop": "system.views"}],
        ),
        case(
            "validate",
            three(),
            vec![doc! {"validate": "items"}, doc! {"validate": "items", "repair": true}],
        ),
        case(
            "apply_ops",
            three(),
            vec![doc! {
                "applyOps": [{"op": "i", "ns": "shop.items", "o": {"_id": 9}}], "$db": "admin",
            }],
        ),
    ]
}
