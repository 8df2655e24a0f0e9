//! What the shop deals in: identifiers of five BSON types, and documents of nearly all of them.

use bson::oid::ObjectId;
use bson::raw::cstr;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp, doc};
use fastrand::Rng;

pub(super) fn product_id(index: u64) -> String {
    format!("sku-{index:06}")
}

pub(super) fn customer_id(index: u64) -> ObjectId {
    let mut bytes = [0x5a; 12];
    bytes[4..].copy_from_slice(&index.to_be_bytes());
    ObjectId::from_bytes(bytes)
}

pub(super) fn cart_id(index: u64) -> i64 {
    index as i64
}

/// A document as `_id`; its numbers have different types on purpose.
pub(super) fn order_id(client: usize, number: u64) -> Document {
    doc! { "client": client as i32, "number": number as i64 }
}

pub(super) fn session_id(client: usize, number: u64) -> Binary {
    let bytes = [(client as u64).to_be_bytes(), number.to_be_bytes()].concat();
    Binary { subtype: BinarySubtype::Uuid, bytes }
}

pub(super) fn product(rng: &mut Rng, index: u64) -> Document {
    doc! {
        "_id": product_id(index),
        "name": word(rng),
        "price": price(rng),
        "stock": rng.i32(0..500),
        "weight": rng.f64() * 10.0,
        "tags": [word(rng), word(rng)],
        "sold": 0_i64,
    }
}

pub(super) fn customer(rng: &mut Rng, index: u64) -> Document {
    doc! {
        "_id": customer_id(index),
        "name": { "first": word(rng), "last": word(rng) },
        "since": date(rng),
        "visits": 1,
        "seen": [],
        "notes": anything(rng),
    }
}

pub(super) fn order(rng: &mut Rng, id: Document, customer: u64) -> Document {
    let lines: Vec<Document> = (0..rng.usize(1..5)).map(|_| line(rng)).collect();
    doc! {
        "_id": id,
        "customer": customer_id(customer),
        "placed": date(rng),
        "status": "new",
        "lines": lines,
        "extra": { "a": anything(rng), "b": anything(rng), "": anything(rng) },
    }
}

pub(super) fn session(rng: &mut Rng, id: Binary) -> Document {
    let bytes = (0..rng.usize(0..64)).map(|_| rng.u8(..)).collect();
    doc! {
        "_id": id,
        "token": Binary { subtype: BinarySubtype::Generic, bytes },
        "ends": date(rng),
    }
}

pub(super) fn line(rng: &mut Rng) -> Document {
    doc! { "sku": product_id(rng.u64(0..1000)), "n": rng.i32(1..9), "price": price(rng) }
}

/// Cents as a decimal with two places, so that `1.50` stays `1.50`.
fn price(rng: &mut Rng) -> Bson {
    let cents = rng.u32(1..100_000);
    let decimal = format!("{}.{:02}", cents / 100, cents % 100).parse::<Decimal128>();
    decimal.map_or(Bson::Null, Bson::Decimal128)
}

pub(super) fn date(rng: &mut Rng) -> DateTime {
    DateTime::from_millis(1_600_000_000_000 + rng.i64(0..200_000_000_000))
}

pub(super) fn word(rng: &mut Rng) -> String {
    const PARTS: [&str; 8] = ["ka", "lo", "müs", "ten", "ri", "日本", "ö", "zap"];
    (0..rng.usize(1..5)).map(|_| PARTS[rng.usize(..PARTS.len())]).collect()
}

/// One value of any type that a document may hold, odd ones included. Never a `Timestamp(0, 0)`, which the server
/// replaces by its own time at the top level of a document.
fn anything(rng: &mut Rng) -> Bson {
    match rng.u8(0..18) {
        0 => Bson::Null,
        1 => Bson::Boolean(rng.bool()),
        2 => Bson::Int32(rng.i32(..)),
        3 => Bson::Int64(rng.i64(..)),
        4 => Bson::Double(rng.f64()),
        5 => Bson::Double([f64::NAN, -0.0, f64::INFINITY, f64::MIN_POSITIVE][rng.usize(..4)]),
        6 => price(rng),
        7 => Bson::String(word(rng)),
        8 => Bson::String("with\0a zero byte".to_owned()),
        9 => Bson::DateTime(date(rng)),
        10 => Bson::ObjectId(customer_id(rng.u64(..))),
        11 => Bson::Binary(session_id(rng.usize(..9), rng.u64(..))),
        12 => Bson::RegularExpression(Regex { pattern: cstr!("^a.*b$").into(), options: cstr!("im").into() }),
        13 => Bson::Timestamp(Timestamp { time: rng.u32(1..), increment: rng.u32(..) }),
        14 => [Bson::MinKey, Bson::MaxKey, Bson::Symbol("symbol".to_owned())][rng.usize(..3)].clone(),
        15 => Bson::JavaScriptCode("function () { return 1; }".to_owned()),
        16 => Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
            code: "x".to_owned(),
            scope: doc! { "x": 1 },
        }),
        _ => bson::bson!([[], {}, { "z": 1, "a": [{ "deep": [1, 2.5, null] }] }]),
    }
}
