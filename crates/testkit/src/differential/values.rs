//! Random documents, filters and changes: few enough values that they meet.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Decimal128, Document, Regex, Timestamp, doc};
use fastrand::Rng;

/// Of the command's `let`.
pub(super) const VARIABLE: &str = "$$step";

/// How many `_id`s a collection has.
fn ids(coll: &str) -> i32 {
    match coll {
        "hot" => 6,
        "folded" => 8,
        "warm" | "valid" | "moderate" => 40,
        "keyed" => 400,
        "wide" => 300,
        _ => 24,
    }
}

/// One of the collection's `_id`s, in any of the types that the server takes for the same.
pub(super) fn id(rng: &mut Rng, coll: &str) -> Bson {
    let at = rng.i32(0..ids(coll));
    if coll == "folded" {
        let name = format!("key{at}");
        return if rng.bool() { name.to_uppercase() } else { name }.into();
    }
    if coll == "wide" {
        return at.into();
    }
    match at % 8 {
        5 => format!("key{at}").into(),
        6 => doc! {"a": at, "b": "x"}.into(),
        7 => ObjectId::from_bytes([u8::try_from(at).unwrap_or(0); 12]).into(),
        _ => match rng.u8(0..12) {
            0 => f64::from(at).into(),
            1 => i64::from(at).into(),
            2 => number(&at.to_string()),
            _ => at.into(),
        },
    }
}

fn number(text: &str) -> Bson {
    text.parse::<Decimal128>().map_or(Bson::Null, Bson::Decimal128)
}

pub(super) fn document(rng: &mut Rng, coll: &str) -> Document {
    let mut document = doc! {};
    if rng.u8(0..8) != 0 {
        document.insert("_id", id(rng, coll));
    }
    document.extend(fields(rng));
    if coll == "unique" || coll == "partial" {
        document.insert("k", rng.i32(0..60));
    }
    if rng.u8(0..20) == 0 {
        // Not the first field: the server moves it there.
        let id = document.remove("_id");
        document.extend(id.map(|id| ("_id".to_owned(), id)));
    }
    document
}

fn fields(rng: &mut Rng) -> Document {
    let list: Vec<Bson> = (0..rng.usize(0..4)).map(|_| Bson::from(rng.i32(0..5))).collect();
    let mut fields =
        doc! {"n": rng.i32(0..20), "s": text(rng), "l": list, "o": {"x": rng.i32(0..5), "y": "z"}};
    match rng.u8(0..16) {
        0 => _ = fields.insert("v", number("1.50")),
        1 => _ = fields.insert("v", DateTime::from_millis(rng.i64(0..1_000_000))),
        2 => _ = fields.insert("v", Bson::Null),
        3 => _ = fields.insert("v", f64::from(rng.i32(0..9)) / 3.0),
        // The server puts its own time in.
        4 => _ = fields.insert("v", Timestamp { time: 0, increment: 0 }),
        // No number: operators will stumble over it, and a validator refuses it.
        5 => _ = fields.insert("n", text(rng)),
        6 => _ = fields.insert("k", rng.i32(0..60)),
        7 => _ = fields.remove("l"),
        _ => {}
    }
    fields
}

fn text(rng: &mut Rng) -> &'static str {
    ["a", "A", "b", "bb", "ä"][rng.usize(0..5)]
}

/// A filter, and whether it names one `_id`.
pub(super) fn filter(rng: &mut Rng, coll: &str) -> (Document, bool) {
    let n = rng.i32(0..20);
    // A predicate keeps what is behind it from being sent again: where there are many, all is converged.
    let draw = match coll {
        "keyed" => rng.u8(0..26),
        "hot" if rng.u8(0..30) != 0 => rng.u8(0..26),
        _ => rng.u8(0..40),
    };
    let filter = match draw {
        0..22 => return (doc! {"_id": id(rng, coll)}, true),
        22 => return (doc! {"_id": {"$eq": id(rng, coll)}}, true),
        23..26 => return (doc! {"_id": id(rng, coll), "n": {"$gte": n / 2}}, true),
        26 => doc! {"_id": {"$in": [id(rng, coll), id(rng, coll)]}},
        27 if rng.bool() => doc! {"_id": id(rng, coll), "v": Timestamp { time: 0, increment: 0 }},
        27 => doc! {"_id": {"$in": [id(rng, coll)]}},
        28 => doc! {"_id": {"$gt": rng.i32(0..ids(coll))}, "n": n},
        29..31 => doc! {"n": n},
        31 => doc! {"n": {"$lt": n / 4}},
        32 => doc! {"s": text(rng), "n": {"$gt": n}},
        33 => doc! {"l": rng.i32(0..5), "n": {"$gt": n}},
        34 => doc! {"$or": [{"n": n}, {"o.x": rng.i32(0..5), "s": text(rng)}]},
        35 => doc! {"$expr": {"$eq": [{"$mod": [{"$convert": {
            "input": "$n", "to": "int", "onError": 1, "onNull": 1,
        }}, 20]}, n]}},
        36 => {
            doc! {"s": Regex { pattern: bson::raw::cstr!("^b").into(), options: bson::raw::cstr!("i").into() }, "n": n}
        }
        37 => doc! {"$expr": {"$eq": ["$n", VARIABLE]}},
        38 => doc! {"k": rng.i32(0..60)},
        _ => doc! {"n": {"$type": "string"}},
    };
    (filter, false)
}

/// What an update does, and its array filters.
pub(super) fn change(rng: &mut Rng) -> (Bson, Option<Vec<Document>>) {
    let n = rng.i32(0..20);
    let change = match rng.u8(0..48) {
        0..10 => doc! {"$inc": {"n": rng.i32(1..4)}},
        10..15 => doc! {"$set": {"s": text(rng)}},
        15 => doc! {"$set": {"n": n, "z": 1, "m": text(rng), "10": 1, "9": 2}},
        16 => doc! {"$set": {"k": rng.i32(0..60)}},
        17..20 => doc! {"$push": {"l": {"$each": [rng.i32(0..5)], "$slice": -6}}},
        20 => doc! {"$push": {"l": {"$each": [rng.i32(0..5), 9], "$sort": 1, "$slice": 5}}},
        21 => doc! {"$addToSet": {"l": rng.i32(0..5)}},
        22 => doc! {"$pull": {"l": {"$gte": rng.i32(0..5)}}},
        23 => doc! {"$pop": {"l": if rng.bool() { 1 } else { -1 }}},
        24 => doc! {"$unset": {"v": "", "m": ""}},
        25 => doc! {"$mul": {"n": 2}},
        26 => doc! {"$min": {"n": n}, "$max": {"o.x": n}},
        27 => doc! {"$rename": {"m": "r", "r": "m"}},
        28 => doc! {"$rename": {"m": "r"}},
        29 => doc! {"$bit": {"o.x": {"xor": 5}}},
        30 => doc! {"$set": {"l.$[item]": n}},
        31 => doc! {"$inc": {"l.$[]": 1}},
        32 => doc! {"$set": {"l.$": n}},
        33 => doc! {"$setOnInsert": {"born": n}, "$inc": {"n": 1}},
        34 => doc! {"$inc": {"s": 1}}, // a text: refused, or midway
        35 => doc! {"$set": {"n": text(rng)}},
        36 => doc! {"$set": {"_id": 0}}, // refused but for one
        37 => doc! {"$currentDate": {"at": true}},
        38 => doc! {"$foo": {"n": 1}},
        39..42 => {
            let mut replacement = fields(rng);
            replacement.insert("k", rng.i32(0..60));
            if rng.u8(0..8) == 0 {
                // Where it is the same number in another type, the server takes that one.
                replacement.insert("_id", f64::from(rng.i32(0..6)));
            }
            replacement
        }
        at => return (pipeline(rng, at).into(), None),
    };
    let filters = change.to_string().contains("$[item]").then(|| vec![doc! {"item": {"$gt": n / 4}}]);
    (change.into(), filters)
}

fn pipeline(rng: &mut Rng, at: u8) -> Vec<Document> {
    let stage = match at {
        42 => doc! {"$set": {"at": "$$NOW"}},
        43 => doc! {"$set": {"r": {"$rand": {}}}},
        44 => doc! {"$replaceWith": {"$mergeObjects": ["$$ROOT", {"w": rng.i32(0..9)}]}},
        45 => doc! {"$set": {"n": {"$add": ["$n", VARIABLE]}}},
        46 if rng.bool() => doc! {"$set": {"_id": f64::from(rng.i32(0..6))}},
        46 => doc! {"$unset": ["v", "m"]},
        _ => doc! {"$set": {"n": {"$add": ["$n", 1]}, "was": "$n"}},
    };
    vec![stage]
}
