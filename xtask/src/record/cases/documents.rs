//! Inserts, updates, deletes and findAndModify.

use bson::{Bson, Document, Timestamp, doc};

use super::{Case, case, delete, find, insert, three, update, with};

pub(super) fn inserts() -> Vec<Case> {
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

pub(super) fn updates() -> Vec<Case> {
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

pub(super) fn deletes() -> Vec<Case> {
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

pub(super) fn finds() -> Vec<Case> {
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
