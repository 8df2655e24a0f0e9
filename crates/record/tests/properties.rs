//! Any record survives its encoding; any bytes are read or refused, never a panic.

#![allow(clippy::expect_used, reason = "a test: its helpers fail it")]

use bson::raw::RawDocumentBuf;
use bson::{Timestamp, doc, rawdoc};
use proptest::collection::vec;
use proptest::prelude::*;
use record::{
    Doubt, Effect, Entry, Key, Mark, Namespace, Op, Over, Predicate, Raw, Record, RecordKind, Target, Touch,
};

fn document() -> impl Strategy<Value = RawDocumentBuf> {
    ("[a-z$.]{1,8}", any::<i64>(), "\\PC{0,12}").prop_map(|(name, n, text)| {
        RawDocumentBuf::try_from(&doc! {name: n, "t": text}).expect("a raw document")
    })
}

fn touch() -> impl Strategy<Value = Touch> {
    prop_oneof![
        any::<i64>().prop_map(|id| Touch::Key(Key::of(&rawdoc! {"_id": id}).expect("a key"))),
        (document(), proptest::option::of(document()), proptest::option::of(document())).prop_map(
            |(f, l, b)| {
                Touch::Predicate(Predicate { filter: Raw(f), collation: l.map(Raw), variables: b.map(Raw) })
            }
        ),
        Just(Touch::Namespace),
        Just(Touch::Database),
    ]
}

fn target() -> impl Strategy<Value = Target> {
    ("[a-z]{1,5}", "[a-z.]{0,5}", touch())
        .prop_map(|(db, coll, touch)| Target::new(Namespace::new(&db, &coll), touch))
}

fn effect() -> impl Strategy<Value = Effect> {
    let op = prop_oneof![
        Just(None),
        document().prop_map(|d| Some(Op::Insert(d))),
        document().prop_map(|d| Some(Op::Update(d))),
        document().prop_map(|d| Some(Op::Delete(d))),
        Just(Some(Op::Over(Over::Drop.statement()))),
        Just(Some(Op::Over(Over::DropDatabase.statement()))),
        Just(Some(Op::Over(Over::Rename(Namespace::new("shop", "a.b")).statement()))),
    ];
    (target(), op, any::<u32>(), any::<u32>()).prop_map(|(target, op, n, modified)| Effect {
        target,
        op,
        n,
        modified,
    })
}

proptest! {
    #[test]
    fn an_entry_survives_its_encoding(
        mark in any::<u64>(), at_ms in any::<u64>(), atomic in any::<bool>(), effects in vec(effect(), 0..5),
        doubt in proptest::option::of(proptest::sample::select(Doubt::ALL)),
        ts in proptest::option::of((any::<u32>(), any::<u32>())),
    ) {
        let operation_time = ts.map(|(time, increment)| Timestamp { time, increment });
        let entry = Entry { mark, doubt, atomic, effects, operation_time, at_ms };
        let read = Record::decode(RecordKind::Entry as u8, &entry.encode());
        prop_assert_eq!(read, Ok(Record::Entry(entry)));
    }

    #[test]
    fn a_mark_survives_its_encoding(targets in vec(target(), 0..5), via in "[0-9.:]{0,20}", x in any::<bool>(), drops in any::<bool>(), at_ms in any::<u64>()) {
        let mark = Mark { targets, via, in_transaction: x, drops, at_ms };
        prop_assert_eq!(Record::decode(RecordKind::Mark as u8, &mark.encode()), Ok(Record::Mark(mark)));
    }

    #[test]
    fn any_bytes_are_read_or_refused(kind in 0u8..6, bytes in vec(any::<u8>(), 0..200)) {
        let _ = Record::decode(kind, &bytes);
    }

    #[test]
    fn a_damaged_entry_is_read_or_refused(effects in vec(effect(), 1..4), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let entry = Entry { mark: 7, doubt: None, atomic: false, effects, operation_time: None, at_ms: 1 };
        let mut bytes = entry.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Record::decode(RecordKind::Entry as u8, &bytes);
    }
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let newer = rawdoc! {"v": 2, "m": 1_i64};
    let error = Record::decode(RecordKind::Closed as u8, newer.as_bytes()).expect_err("newer");
    assert!(error.to_string().contains("newer"), "{error}");
}
