//! The table: one command, or a few, and the way that their entries take. Why it is the right one stands in the
//! design, section 4. An empty name stands for the shape's own collection.

mod changes;

use bson::oid::ObjectId;
use bson::raw::{RawArrayBuf, RawBson, RawDocumentBuf};
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, Decimal128, RawJavaScriptCodeWithScope, Regex, Timestamp, cstr, rawdoc};

use super::{Shape, Ways};

const REPLAYED: Ways = [1, 0, 0];
const CONVERGED: Ways = [0, 1, 0];
const DIRTY: Ways = [0, 0, 1];
const NOTHING: Ways = [0, 0, 0];

pub fn all() -> Vec<Shape> {
    [inserts(), ids(), batches(), changes::all(), large()].into_iter().flatten().collect()
}

fn shape(
    name: &'static str,
    before: impl IntoIterator<Item = RawDocumentBuf>,
    run: impl IntoIterator<Item = RawDocumentBuf>,
    ways: Ways,
) -> Shape {
    Shape { name, before: before.into_iter().collect(), run: run.into_iter().collect(), ways }
}

fn insert(documents: impl IntoIterator<Item = RawDocumentBuf>) -> RawDocumentBuf {
    let mut command = rawdoc! {"insert": ""};
    command.append(cstr!("documents"), documents.into_iter().collect::<RawArrayBuf>());
    command
}

fn update(updates: impl IntoIterator<Item = RawDocumentBuf>) -> RawDocumentBuf {
    let mut command = rawdoc! {"update": ""};
    command.append(cstr!("updates"), updates.into_iter().collect::<RawArrayBuf>());
    command
}

fn delete(deletes: impl IntoIterator<Item = RawDocumentBuf>) -> RawDocumentBuf {
    let mut command = rawdoc! {"delete": ""};
    command.append(cstr!("deletes"), deletes.into_iter().collect::<RawArrayBuf>());
    command
}

fn unordered(mut command: RawDocumentBuf) -> RawDocumentBuf {
    command.append(cstr!("ordered"), false);
    command
}

/// Three documents: `n` is 1, 2, 3, `s` is a text.
fn three() -> RawDocumentBuf {
    insert((1..=3).map(|id| rawdoc! {"_id": id, "n": id, "s": "text"}))
}

/// An update in doubt: what was inserted must also survive being copied.
fn touch() -> RawDocumentBuf {
    update([rawdoc! {"q": {"_id": 1}, "u": {"$currentDate": {"touched": true}}}])
}

fn inserts() -> Vec<Shape> {
    let mut twice = rawdoc! {"_id": 1, "a": 1};
    twice.append(cstr!("a"), "again");
    twice.append(cstr!("b"), rawdoc! {"x": 1});
    let dollar = rawdoc! {"_id": 1, "$set": {"x": 1}, "b": {"$inner": 1}};
    let dotted = rawdoc! {"_id": 1, "a.b": 1, "c": {"d.e": 2}, "": "no name"};
    let zero = Timestamp { time: 0, increment: 0 };
    let set_zero = update([rawdoc! {"q": {"_id": 1}, "u": {"$set": {"at": zero}}}]);
    vec![
        shape("insert_without_id", [], [insert([rawdoc! {"a": 1}, rawdoc! {"a": 2}])], REPLAYED),
        shape("insert_with_id_last", [], [insert([rawdoc! {"a": 1, "_id": 1}])], REPLAYED),
        shape("insert_empty", [], [insert([rawdoc! {}])], REPLAYED),
        shape("insert_no_documents", [], [insert([])], NOTHING),
        shape("insert_dollar_field", [], [insert([dollar.clone()])], REPLAYED),
        shape("copy_dollar_field", [insert([dollar])], [touch()], CONVERGED),
        shape("insert_dotted_fields", [], [insert([dotted.clone()])], REPLAYED),
        shape("copy_dotted_fields", [insert([dotted])], [touch()], CONVERGED),
        shape("insert_fields_twice", [], [insert([twice.clone()])], REPLAYED),
        shape("copy_fields_twice", [insert([twice])], [touch()], CONVERGED),
        shape("insert_every_type", [], [insert([every_type()])], REPLAYED),
        shape("copy_every_type", [insert([every_type()])], [touch()], CONVERGED),
        shape("insert_zero_timestamp", [], [insert([rawdoc! {"_id": 1, "at": zero}])], CONVERGED),
        shape(
            "insert_zero_timestamp_inside",
            [],
            [insert([rawdoc! {"_id": 1, "in": {"at": zero}}])],
            REPLAYED,
        ),
        shape("set_zero_timestamp", [insert([rawdoc! {"_id": 1}])], [set_zero, touch()], [1, 1, 0]),
        shape("insert_refused", [three()], [insert([rawdoc! {"_id": 1, "other": 1}])], NOTHING),
    ]
}

fn ids() -> Vec<Shape> {
    let nested = |x: i32| rawdoc! {"a": x, "b": "text"};
    let null = || rawdoc! {"_id": RawBson::Null, "n": 1};
    let set_null = rawdoc! {"q": {"_id": RawBson::Null}, "u": {"$set": {"n": 2}}};
    let three_types = [
        insert([rawdoc! {"_id": 5, "n": 1}]),
        insert([rawdoc! {"_id": 5.0, "n": 2}]), // refused
        update([rawdoc! {"q": {"_id": 5.0}, "u": {"$inc": {"n": 1}}}]),
        delete([rawdoc! {"q": {"_id": 5_i64}, "limit": 1}]),
        insert([rawdoc! {"_id": 5_i64, "n": 3}]),
        update([rawdoc! {"q": {"_id": 5}, "u": {"replaced": true}}]),
    ];
    let documents = [
        insert([rawdoc! {"_id": nested(1)}, rawdoc! {"_id": nested(2)}, rawdoc! {"_id": {}}]),
        update([rawdoc! {"q": {"_id": nested(1)}, "u": {"$set": {"n": 1}}}]),
        delete([rawdoc! {"q": {"_id": nested(2)}, "limit": 1}]),
    ];
    let many_kinds = [
        rawdoc! {"_id": RawBson::Null},
        rawdoc! {"_id": true},
        rawdoc! {"_id": "text"},
        rawdoc! {"_id": f64::NAN},
        rawdoc! {"_id": RawBson::MinKey},
        rawdoc! {"_id": RawBson::MaxKey},
        rawdoc! {"_id": DateTime::from_millis(-1)},
        rawdoc! {"_id": Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] }},
        rawdoc! {"_id": Timestamp { time: 1, increment: 2 }},
        rawdoc! {"_id": 1.5},
    ];
    let by_eq = [
        update([rawdoc! {"q": {"_id": {"$eq": 1}, "n": 1}, "u": {"$set": {"n": 7}}}]),
        update([rawdoc! {"q": {"_id": 2, "n": "not"}, "u": {"$set": {"n": 7}}}]), // matches nothing
    ];
    let by_in = delete([rawdoc! {"q": {"_id": {"$in": [1, 3]}}, "limit": 0}]);
    vec![
        shape("id_5_in_three_types", [], three_types, [5, 0, 0]),
        shape("id_is_a_document", [], documents, [3, 0, 0]),
        shape("id_of_many_kinds", [], [insert(many_kinds)], REPLAYED),
        shape("id_null_is_a_predicate", [insert([null()])], [update([set_null])], CONVERGED),
        shape("id_by_eq_and_more", [three()], by_eq, REPLAYED),
        shape("id_by_in_is_a_predicate", [three()], [by_in], REPLAYED),
    ]
}

fn batches() -> Vec<Shape> {
    let twice = || insert([rawdoc! {"_id": 1}, rawdoc! {"_id": 1, "again": true}, rawdoc! {"_id": 2}]);
    let one_fails = || {
        update([
            rawdoc! {"q": {"_id": 1}, "u": {"$inc": {"n": 10}}},
            rawdoc! {"q": {"_id": 2}, "u": {"$inc": {"s": 10}}},
            rawdoc! {"q": {"_id": 3}, "u": {"$inc": {"n": 10}}},
        ])
    };
    let one_misses = update([
        rawdoc! {"q": {"_id": 1}, "u": {"$set": {"n": 10}}},
        rawdoc! {"q": {"_id": 99}, "u": {"$set": {"n": 10}}},
        rawdoc! {"q": {"_id": 3}, "u": {"$set": {"n": 3}}},
    ]);
    let deletes = delete([
        rawdoc! {"q": {"_id": 1}, "limit": 1},
        rawdoc! {"q": {"_id": 98}, "limit": 1},
        rawdoc! {"q": {"_id": 3}, "limit": 0},
    ]);
    let the_same = update([
        rawdoc! {"q": {"_id": 1}, "u": {"$inc": {"n": 1}}},
        rawdoc! {"q": {"_id": 1}, "u": {"$mul": {"n": 3}}},
    ]);
    let many = update([
        rawdoc! {"q": {"n": {"$gt": 1}}, "u": {"$inc": {"n": 1}}, "multi": true},
        rawdoc! {"q": {"n": {"$gt": 2}}, "u": {"$set": {"big": true}}, "multi": true},
    ]);
    let mixed = update([
        rawdoc! {"q": {"_id": 1}, "u": {"$set": {"x": 1}}},
        rawdoc! {"q": {"_id": 8}, "u": {"$set": {"x": 1}}, "upsert": true},
        rawdoc! {"q": {"key": 9}, "u": {"$set": {"x": 1}}, "upsert": true},
        rawdoc! {"q": {"n": 3}, "u": {"$set": {"x": 1}}},
    ]);
    let one_text =
        || insert([rawdoc! {"_id": 1, "v": 1}, rawdoc! {"_id": 2, "v": "text"}, rawdoc! {"_id": 3, "v": 1}]);
    let midway = || rawdoc! {"q": {}, "u": {"$inc": {"v": 1}}, "multi": true};
    let and_more = [midway(), rawdoc! {"q": {"_id": 3}, "u": {"$set": {"x": 1}}}];
    vec![
        shape("insert_ordered_with_an_error", [], [twice()], REPLAYED),
        shape("insert_unordered_with_an_error", [], [unordered(twice())], REPLAYED),
        shape("update_ordered_with_an_error", [three()], [one_fails()], REPLAYED),
        shape("update_unordered_with_an_error", [three()], [unordered(one_fails())], REPLAYED),
        shape("update_batch_with_a_miss", [three()], [one_misses], REPLAYED),
        shape("delete_batch_with_a_miss", [three()], [deletes], REPLAYED),
        shape("update_the_same_twice", [three()], [the_same], REPLAYED),
        shape("update_several_many", [three()], [many], CONVERGED),
        shape("update_mixed", [three()], [mixed], CONVERGED),
        shape("update_many_fails_midway", [one_text()], [update([midway()])], CONVERGED),
        shape("update_many_fails_in_a_batch", [one_text()], [unordered(update(and_more))], CONVERGED),
    ]
}

fn large() -> Vec<Shape> {
    let fifteen = || insert([rawdoc! {"_id": 1, "n": 1, "filler": "x".repeat(15 << 20)}]);
    let small = || insert((0..20_000).map(|id| rawdoc! {"_id": id, "n": id % 7}));
    let set = update([rawdoc! {"q": {"_id": 1}, "u": {"$set": {"n": 2}}}]);
    let set_by_n = update([rawdoc! {"q": {"n": 1}, "u": {"$set": {"n": 2}}}]);
    let most = delete([rawdoc! {"q": {"n": {"$lt": 6}}, "limit": 0}]);
    vec![
        shape("insert_15_mib", [], [fifteen()], REPLAYED),
        shape("update_15_mib", [fifteen()], [set], REPLAYED),
        shape("copy_15_mib", [fifteen()], [touch()], CONVERGED),
        shape("insert_as_large_as_can_be", [], [insert([largest()])], REPLAYED),
        shape("copy_as_large_as_can_be", [insert([largest()])], [set_by_n], CONVERGED),
        shape("insert_20_000", [], [small()], REPLAYED),
        shape("delete_17_000_of_20_000", [small()], [most], REPLAYED),
    ]
}

/// 16 MiB, the most that the server takes.
fn largest() -> RawDocumentBuf {
    let bare = rawdoc! {"_id": 1, "n": 1, "filler": ""}.as_bytes().len();
    rawdoc! {"_id": 1, "n": 1, "filler": "x".repeat((16 << 20) - bare)}
}

fn every_type() -> RawDocumentBuf {
    let binary = |subtype, bytes: &[u8]| Binary { subtype, bytes: bytes.to_vec() };
    let code = RawJavaScriptCodeWithScope { code: "return x".to_owned(), scope: rawdoc! {"x": 1} };
    let decimal = [0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x3c, 0x30]; // 1.0, which is not 1
    rawdoc! {
        "_id": 1,
        "double": 1.5, "negative_zero": -0.0, "nan": f64::NAN, "infinite": f64::INFINITY, "tiny": 5e-324,
        "string": "t\u{0}xt ü \u{1f980}", "empty": "",
        "document": {"b": 1, "a": {}}, "array": [1, "two", [3.0], {}],
        "binary": binary(BinarySubtype::Generic, b"\x00\xff"),
        "binary_old": binary(BinarySubtype::BinaryOld, b"old"),
        "uuid": binary(BinarySubtype::Uuid, &[9; 16]),
        "md5": binary(BinarySubtype::Md5, &[1; 16]),
        "own": binary(BinarySubtype::UserDefined(200), b"x"),
        "undefined": RawBson::Undefined,
        "object_id": ObjectId::from_bytes([5; 12]),
        "true": true, "false": false,
        "date": DateTime::from_millis(-62_135_596_800_000), "date_min": DateTime::MIN,
        "null": RawBson::Null,
        "regex": RawBson::RegularExpression(Regex { pattern: cstr!("^a.*").into(), options: cstr!("im").into() }),
        "code": RawBson::JavaScriptCode("return 1".to_owned()),
        "code_with_scope": RawBson::JavaScriptCodeWithScope(code),
        "symbol": RawBson::Symbol("symbol".to_owned()),
        "int32": i32::MIN, "int64": i64::MAX, "small_int64": 1_i64,
        "timestamp": Timestamp { time: u32::MAX, increment: 1 },
        "decimal": Decimal128::from_bytes(decimal),
        "min": RawBson::MinKey, "max": RawBson::MaxKey,
    }
}
