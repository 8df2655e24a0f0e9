//! Documents of every type that BSON has, byte by byte where a driver would not write them.

use anyhow::Result;
use bson::oid::ObjectId;
use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Timestamp, cstr, doc, rawdoc,
};
use mongodb::Database;

/// A moment long ago.
pub(super) const A_DAY: i64 = 1_600_000_000_000;

/// `types` has an `_id` of every type that one can have, `odd` every other value.
pub(super) async fn fill(database: &Database) -> Result<()> {
    let types = database.collection::<Document>("types");
    types.insert_many(ids().into_iter().map(|value| doc! {"_id": value.clone(), "v": value})).await?;
    let mut list = RawArrayBuf::new();
    for (n, (kind, bytes)) in (0_i32..).zip(values()) {
        list.push(with_value(n, kind, &bytes)?);
    }
    let mut twice = rawdoc! {"_id": "duplicate fields", "a": 1, "b": {}};
    twice.append(cstr!("a"), "again");
    twice.append(cstr!("b"), rawdoc! {"c": 1, "": {"": [[], {}]}});
    list.push(twice);
    list.push(rawdoc! {"": 1, "_id": "the id is not the first field", "$dollar": {"a.b": 1}});
    list.push(rawdoc! {"_id": "large", "text": "ü".repeat(400_000)});
    let mut insert = rawdoc! {"insert": "odd"};
    insert.append(cstr!("documents"), list);
    let reply = database.run_raw_command(insert).await?;
    anyhow::ensure!(!reply.contains_key("writeErrors"), "{reply}");
    Ok(())
}

/// One value of each type that can be an `_id`, and numbers of every type around zero.
fn ids() -> Vec<Bson> {
    let mut all = vec![
        Bson::MinKey,
        Bson::Null,
        Bson::Int32(-7),
        Bson::Int64(1 << 40),
        Bson::Double(f64::NAN),
        Bson::Double(f64::NEG_INFINITY),
        Bson::Double(-0.0),
        Bson::Double(0.1),
        Bson::String(String::new()),
        Bson::String("text".into()),
        Bson::Symbol("symbol".into()),
        Bson::Document(doc! {"a": 1, "b": {"c": [1, "x"]}}),
        Bson::Document(Document::new()),
        Bson::Binary(Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0, 1, 2] }),
        Bson::Binary(Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![7; 16] }),
        Bson::ObjectId(ObjectId::new()),
        Bson::Boolean(false),
        Bson::Boolean(true),
        Bson::DateTime(DateTime::from_millis(-1)),
        Bson::Timestamp(Timestamp { time: 5, increment: 6 }),
        Bson::JavaScriptCode("f()".into()),
        Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: "g()".into(), scope: doc! {"x": 1} }),
        Bson::MaxKey,
    ];
    let decimals = ["0.2", "1E+6000", "-5"];
    all.extend(decimals.iter().filter_map(|text| text.parse::<Decimal128>().ok()).map(Bson::Decimal128));
    all
}

/// Values as type and bytes (the BSON specification's table of elements).
fn values() -> Vec<(u8, Vec<u8>)> {
    let text = |text: &str| {
        let length = i32::try_from(text.len() + 1).unwrap_or(0).to_le_bytes();
        [length.as_slice(), text.as_bytes(), &[0]].concat()
    };
    let double = |bits: u64| (0x01, bits.to_le_bytes().to_vec());
    let decimal = |bits: u128| (0x13, bits.to_le_bytes().to_vec());
    let scope = rawdoc! {"x": 1, "y": {"z": "s"}}.into_bytes();
    let code = text("g()");
    let code_length = i32::try_from(4 + code.len() + scope.len()).unwrap_or(0).to_le_bytes();
    let binary = |subtype: u8, bytes: &[u8]| {
        let length = i32::try_from(bytes.len()).unwrap_or(0).to_le_bytes();
        (0x05, [length.as_slice(), &[subtype], bytes].concat())
    };
    vec![
        // NaNs that differ in their payload and sign, zeros, and numbers that are no normal ones.
        double(0x7ff8_0000_0000_0000),
        double(0x7ff8_dead_beef_0001),
        double(0xfff8_0000_0000_0001),
        double(0x8000_0000_0000_0000),
        double(0x0000_0000_0000_0001),
        double(f64::INFINITY.to_bits()),
        // Decimals: NaN with a payload, infinities, zeros with exponents, the same value with other digits.
        decimal(0x7c00_0000_0000_0000_0000_0000_0000_0000),
        decimal(0x7c00_0000_0000_0000_0000_0000_0000_0007),
        decimal(0xf800_0000_0000_0000_0000_0000_0000_0000),
        decimal(0x3040_0000_0000_0000_0000_0000_0000_0000),
        decimal(0xb040_0000_0000_0000_0000_0000_0000_0000),
        decimal(0x3040_0000_0000_0000_0000_0000_0000_0001),
        decimal(0x303e_0000_0000_0000_0000_0000_0000_000a),
        (0x06, Vec::new()),                                       // undefined
        (0x0a, Vec::new()),                                       // null
        (0xff, Vec::new()),                                       // minKey
        (0x7f, Vec::new()),                                       // maxKey
        (0x0b, b"^a.*\0imsx\0".to_vec()),                         // regular expression
        (0x0c, [text("d.c").as_slice(), &[3; 12]].concat()),      // dbPointer
        (0x0d, text("f()")),                                      // code
        (0x0e, text("symbol")),                                   // symbol
        (0x0f, [code_length.as_slice(), &code, &scope].concat()), // code with scope
        (0x11, u64::MAX.to_le_bytes().to_vec()),                  // timestamp
        (0x09, i64::MIN.to_le_bytes().to_vec()),                  // date
        (0x12, i64::MIN.to_le_bytes().to_vec()),                  // 64-bit number
        (0x04, rawdoc! {"0": 1, "1": [{}, []]}.into_bytes()),     // array
        binary(0, &[]),
        binary(2, &[3, 0, 0, 0, 1, 2, 3]),
        binary(3, &[9; 16]),
        binary(0x80, &[1]),
    ]
}

fn with_value(id: i32, kind: u8, bytes: &[u8]) -> Result<RawDocumentBuf> {
    let fields = [&[0x10], b"_id\0".as_slice(), &id.to_le_bytes(), &[kind], b"v\0", bytes, &[0]].concat();
    let length = i32::try_from(fields.len() + 4)?.to_le_bytes();
    Ok(RawDocumentBuf::from_bytes([length.as_slice(), &fields].concat())?)
}
