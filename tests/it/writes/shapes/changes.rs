//! Updates, deletes, findAndModify; what is not a function of the document; what is followed by namespace only.

use bson::raw::RawDocumentBuf;
use bson::{cstr, rawdoc};

use super::{CONVERGED, DIRTY, NOTHING, REPLAYED, delete, insert, shape, three, update};
use crate::writes::{Shape, Ways};

pub fn all() -> Vec<Shape> {
    [updates(), predicates(), found_and_modified(), not_pure(), collations(), not_followed()]
        .into_iter()
        .flatten()
        .collect()
}

/// One statement over the three documents.
fn statement(name: &'static str, statement: RawDocumentBuf, ways: Ways) -> Shape {
    shape(name, [three()], [update([statement])], ways)
}

fn updates() -> Vec<Shape> {
    let by_id = |u: RawDocumentBuf| rawdoc! {"q": {"_id": 1}, "u": u};
    let operators = rawdoc! {"$inc": {"n": 1}, "$rename": {"s": "t"}, "$push": {"l": 1}};
    let pipeline = rawdoc! {"q": {"_id": 1}, "u": [{"$set": {"m": {"$add": ["$n", 1]}}}, {"$unset": "s"}]};
    let new =
        rawdoc! {"q": {"_id": 9}, "u": {"$set": {"n": 1}, "$setOnInsert": {"made": true}}, "upsert": true};
    let new_replaced = rawdoc! {"q": {"_id": 9}, "u": {"n": 1}, "upsert": true};
    let there = rawdoc! {"q": {"_id": 1}, "u": {"$set": {"x": 1}}, "upsert": true};
    let items = || insert([rawdoc! {"_id": 1, "items": [{"k": "a", "n": 1}, {"k": "b", "n": 2}]}]);
    let of_items = |name, statement, ways| shape(name, [items()], [update([statement])], ways);
    let filters =
        rawdoc! {"q": {"_id": 1}, "u": {"$inc": {"items.$[it].n": 5}}, "arrayFilters": [{"it.k": "b"}]};
    let positional = rawdoc! {"q": {"_id": 1, "items.k": "b"}, "u": {"$set": {"items.$.n": 7}}};
    let unnamed = rawdoc! {"q": {"items.k": "b"}, "u": {"$set": {"items.$.n": 7}}};
    let found =
        rawdoc! {"findAndModify": "", "query": {"items.k": "b"}, "update": {"$set": {"items.$.n": 7}}};
    vec![
        statement("update_operators", by_id(operators), REPLAYED),
        statement("update_without_change", by_id(rawdoc! {"$set": {"n": 1}}), NOTHING),
        statement("update_pipeline", pipeline, REPLAYED),
        statement("replace", by_id(rawdoc! {"z": 1, "a": {"b": [1, 2]}}), REPLAYED),
        statement("replace_with_id_last", by_id(rawdoc! {"z": 1, "_id": 1}), REPLAYED),
        statement("upsert_by_id", new, REPLAYED),
        statement("upsert_replacement", new_replaced, REPLAYED),
        statement("upsert_by_id_that_is_there", there, REPLAYED),
        of_items("update_array_filters", filters, REPLAYED),
        of_items("update_positional", positional, REPLAYED),
        of_items("update_positional_unnamed", unnamed, CONVERGED),
        of_items("update_all_elements", by_id(rawdoc! {"$set": {"items.$[].n": 0}}), REPLAYED),
        shape("find_positional", [items()], [found], REPLAYED),
        shape("delete_one", [three()], [delete([rawdoc! {"q": {"_id": 2}, "limit": 1}])], REPLAYED),
        shape("delete_no_one", [three()], [delete([rawdoc! {"q": {"_id": 7}, "limit": 1}])], NOTHING),
    ]
}

fn predicates() -> Vec<Shape> {
    let two = || rawdoc! {"n": {"$gte": 2}};
    let x = || rawdoc! {"$set": {"x": 1}};
    let push = rawdoc! {"$push": {"list": {"$each": [3, 1, 2], "$sort": 1}}};
    vec![
        statement("upsert_unnamed", rawdoc! {"q": {"key": 1}, "u": x(), "upsert": true}, CONVERGED),
        statement("upsert_unnamed_there", rawdoc! {"q": {"n": 2}, "u": x(), "upsert": true}, CONVERGED),
        statement(
            "upsert_unnamed_many",
            rawdoc! {"q": {"key": 1}, "u": x(), "upsert": true, "multi": true},
            CONVERGED,
        ),
        statement("update_one_by_predicate", rawdoc! {"q": two(), "u": x()}, CONVERGED),
        statement("update_many", rawdoc! {"q": two(), "u": x(), "multi": true}, REPLAYED),
        statement("update_many_all", rawdoc! {"q": {}, "u": push, "multi": true}, REPLAYED),
        statement("update_many_no_one", rawdoc! {"q": {"n": 77}, "u": x(), "multi": true}, NOTHING),
        shape("delete_one_by_predicate", [three()], [delete([rawdoc! {"q": two(), "limit": 1}])], CONVERGED),
        shape("delete_many", [three()], [delete([rawdoc! {"q": two(), "limit": 0}])], REPLAYED),
        shape("delete_all", [three()], [delete([rawdoc! {"q": {}, "limit": 0}])], REPLAYED),
    ]
}

fn found_and_modified() -> Vec<Shape> {
    let find = |name, rest: RawDocumentBuf, ways| {
        let mut command = rawdoc! {"findAndModify": ""};
        rest.iter().flatten().for_each(|(key, value)| command.append(key, value));
        shape(name, [three()], [command], ways)
    };
    let inc = || rawdoc! {"$inc": {"n": 10}};
    let change =
        |name, query: RawDocumentBuf, ways| find(name, rawdoc! {"query": query, "update": inc()}, ways);
    let show = |name, query: RawDocumentBuf, fields: RawDocumentBuf, ways| {
        find(name, rawdoc! {"query": query, "update": inc(), "fields": fields}, ways)
    };
    let upsert = |name, query: RawDocumentBuf, new: bool, ways| {
        find(name, rawdoc! {"query": query, "update": inc(), "upsert": true, "new": new}, ways)
    };
    let n = || rawdoc! {"n": 2};
    vec![
        change("find_by_id", rawdoc! {"_id": 1}, REPLAYED),
        change("find_by_predicate", n(), REPLAYED),
        change("find_no_one", rawdoc! {"n": 77}, NOTHING),
        find("find_sorted", rawdoc! {"query": {}, "sort": {"n": -1}, "update": inc(), "new": true}, REPLAYED),
        show("find_with_id_shown", n(), rawdoc! {"n": 1}, REPLAYED),
        show("find_with_id_hidden", n(), rawdoc! {"_id": 0}, CONVERGED),
        show("find_with_id_made_up", n(), rawdoc! {"_id": "$n"}, CONVERGED),
        show("find_by_id_hidden", rawdoc! {"_id": 1}, rawdoc! {"_id": 0}, REPLAYED),
        find("find_replace", rawdoc! {"query": n(), "update": {"other": 1}}, REPLAYED),
        find("find_pipeline", rawdoc! {"query": n(), "update": [{"$set": {"m": "$n"}}]}, REPLAYED),
        upsert("find_upsert_by_id", rawdoc! {"_id": 9}, false, REPLAYED),
        upsert("find_upsert", rawdoc! {"k": 1}, false, CONVERGED),
        upsert("find_upsert_new", rawdoc! {"k": 1}, true, CONVERGED),
        upsert("find_upsert_that_is_there", n(), true, REPLAYED),
        find("find_remove", rawdoc! {"query": {"_id": 1}, "remove": true}, REPLAYED),
        find("find_remove_sorted", rawdoc! {"query": {}, "sort": {"n": -1}, "remove": true}, REPLAYED),
        find("find_remove_hidden", rawdoc! {"query": n(), "remove": true, "fields": {"_id": 0}}, CONVERGED),
        find("find_fails", rawdoc! {"query": n(), "update": {"$inc": {"s": 1}}}, NOTHING),
    ]
}

fn not_pure() -> Vec<Shape> {
    let date = rawdoc! {"$currentDate": {"at": true, "ts": {"$type": "timestamp"}}};
    let random = || rawdoc! {"r": {"$rand": {}}};
    let by_chance = rawdoc! {"$expr": {"$lt": [{"$rand": {}}, 2]}};
    let some = || rawdoc! {"n": {"$gt": 1}};
    let r = || rawdoc! {"$set": {"r": 1}};
    let with_let = |statement: RawDocumentBuf| {
        let mut command = update([statement]);
        command.append(cstr!("let"), rawdoc! {"x": 2});
        [command]
    };
    let by_let = rawdoc! {"q": {"$expr": {"$gte": ["$n", "$$x"]}}, "u": r(), "multi": true};
    let to_let = rawdoc! {"q": {"_id": 1}, "u": [{"$set": {"l": "$$x"}}]};
    vec![
        statement("current_date", rawdoc! {"q": {"_id": 1}, "u": date}, CONVERGED),
        statement("now", rawdoc! {"q": {"_id": 1}, "u": [{"$set": {"at": "$$NOW"}}]}, CONVERGED),
        statement("rand", rawdoc! {"q": {"_id": 1}, "u": [{"$set": random()}]}, CONVERGED),
        statement("rand_many", rawdoc! {"q": some(), "u": [{"$set": random()}], "multi": true}, CONVERGED),
        statement("rand_in_the_filter", rawdoc! {"q": by_chance, "u": r(), "multi": true}, DIRTY),
        statement("where", rawdoc! {"q": {"$where": "this.n > 1"}, "u": r(), "multi": true}, DIRTY),
        shape("let_in_the_filter", [three()], with_let(by_let), CONVERGED),
        shape("let_in_the_pipeline", [three()], with_let(to_let), CONVERGED),
    ]
}

fn collations() -> Vec<Shape> {
    let loose = || rawdoc! {"locale": "en", "strength": 2};
    let names = || insert([rawdoc! {"_id": "ann", "name": "Ann"}, rawdoc! {"_id": "bob", "name": "bob"}]);
    let x = || rawdoc! {"$set": {"x": 1}};
    let of_statement = [
        update([rawdoc! {"q": {"name": "ann"}, "u": x(), "multi": true, "collation": loose()}]),
        delete([rawdoc! {"q": {"_id": "BOB"}, "limit": 1, "collation": loose()}]),
    ];
    let of_collection = [
        names(),
        insert([rawdoc! {"_id": "ANN"}]), // refused: it is there already
        update([rawdoc! {"q": {"_id": "Ann"}, "u": x()}]),
        update([rawdoc! {"q": {"name": "ANN"}, "u": {"$set": {"y": 1}}, "multi": true}]),
        delete([rawdoc! {"q": {"_id": "BOB"}, "limit": 1}]),
        insert([rawdoc! {"_id": "Bob"}, rawdoc! {"_id": "carl"}]),
    ];
    let numbers = [insert([rawdoc! {"_id": 1}]), update([rawdoc! {"q": {"_id": 1}, "u": x()}])];
    let create = || rawdoc! {"create": "", "collation": loose()};
    vec![
        shape("collation_of_a_statement", [names()], of_statement, [0, 2, 0]),
        shape("collation_of_the_collection", [create()], of_collection, [0, 5, 0]),
        shape("collation_does_not_matter_to_numbers", [create()], numbers, [2, 0, 0]),
    ]
}

fn not_followed() -> Vec<Shape> {
    let out = rawdoc! {"$out": "out_into_itself"};
    let merge = rawdoc! {"$merge": "merge_into_itself"};
    let set = || rawdoc! {"$set": {"m": 1}};
    let aggregate = |last: RawDocumentBuf| rawdoc! {"aggregate": "", "pipeline": [set(), last], "cursor": {}};
    let reads = [aggregate(rawdoc! {"$match": {}}), rawdoc! {"find": ""}, rawdoc! {"count": ""}];
    let while_dirty = [
        aggregate(rawdoc! {"$out": "written_to_while_dirty"}),
        update([rawdoc! {"q": {"_id": 2}, "u": {"$set": {"n": 20}}}]),
        update([rawdoc! {"q": {"_id": 3}, "u": {"$set": {"n": 30}}}]),
        insert([rawdoc! {"_id": 4}]),
    ];
    vec![
        shape("only_read", [three()], reads, NOTHING),
        shape("out_into_itself", [three()], [aggregate(out)], DIRTY),
        shape("merge_into_itself", [three()], [aggregate(merge)], DIRTY),
        shape("drop", [three()], [rawdoc! {"drop": ""}], REPLAYED),
        shape("drop_nothing", [], [rawdoc! {"drop": ""}], NOTHING),
        shape("convert_to_capped", [three()], [rawdoc! {"convertToCapped": "", "size": 100_000}], DIRTY),
        shape("written_to_while_dirty", [three()], while_dirty, [0, 3, 1]),
    ]
}
