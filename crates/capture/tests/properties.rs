//! Whatever the bytes, nothing panics; an insert keeps every byte but the `_id` that it gets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod common;

use bson::raw::{RawBson, RawDocumentBuf};
use bson::{doc, rawdoc};
use capture::{Capture, Config, Lost};
use common::*;
use proptest::collection::vec;
use proptest::prelude::*;
use wire::OpMsg;

/// Names that capture looks at, and some others.
fn name() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "insert",
        "update",
        "delete",
        "findAndModify",
        "aggregate",
        "getMore",
        "applyOps",
        "bulkWrite",
        "drop",
        "renameCollection",
        "mapReduce",
        "commitTransaction",
        "unheardOf",
        "documents",
        "updates",
        "deletes",
        "q",
        "u",
        "multi",
        "upsert",
        "limit",
        "query",
        "fields",
        "remove",
        "collation",
        "arrayFilters",
        "let",
        "c",
        "pipeline",
        "$out",
        "$merge",
        "into",
        "out",
        "to",
        "ns",
        "op",
        "o",
        "nsInfo",
        "_id",
        "$eq",
        "$and",
        "$expr",
        "$set",
        "a.$.b",
        "$pull",
        "$db",
        "lsid",
        "id",
        "txnNumber",
        "autocommit",
        "writeConcern",
        "w",
        "j",
        "ordered",
        "ok",
        "n",
        "nModified",
        "code",
        "writeErrors",
        "index",
        "upserted",
        "lastErrorObject",
        "value",
        "cursor",
        "retriedStmtIds",
        "explain",
        "x",
    ])
}

fn value() -> impl Strategy<Value = RawBson> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(RawBson::Int32),
        (0_i32..3).prop_map(RawBson::Int32),
        any::<i64>().prop_map(RawBson::Int64),
        any::<f64>().prop_map(RawBson::Double),
        any::<bool>().prop_map(RawBson::Boolean),
        Just(RawBson::Null),
        "[a-z.$]{0,6}".prop_map(RawBson::String),
        Just(RawBson::String("$$NOW".into())),
        vec(any::<u8>(), 0..20).prop_map(|bytes| RawBson::Binary(bson::Binary {
            subtype: bson::spec::BinarySubtype::Uuid,
            bytes
        })),
        Just(RawBson::Timestamp(bson::Timestamp { time: 0, increment: 0 })),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            document_of(inner.clone()).prop_map(RawBson::Document),
            vec(inner, 0..6).prop_map(|values| {
                let mut array = bson::raw::RawArrayBuf::new();
                values.into_iter().for_each(|value| array.push(value));
                RawBson::Array(array)
            }),
        ]
    })
}

fn document_of(value: impl Strategy<Value = RawBson>) -> impl Strategy<Value = RawDocumentBuf> {
    vec((name(), value), 0..8).prop_map(|fields| {
        let mut doc = RawDocumentBuf::new();
        for (name, value) in fields {
            doc.append(<&bson::raw::CStr>::try_from(name).unwrap(), value);
        }
        doc
    })
}

/// A command of a known name with anything in it, on a database that is captured.
fn command() -> impl Strategy<Value = RawDocumentBuf> {
    (name(), value(), document_of(value())).prop_map(|(name, value, rest)| {
        let mut body = RawDocumentBuf::new();
        body.append(<&bson::raw::CStr>::try_from(name).unwrap(), value);
        common::with(&body, &rest)
    })
}

/// A batch with real statements of anything.
fn batch() -> impl Strategy<Value = RawDocumentBuf> {
    let lists =
        proptest::sample::select(vec![("insert", "documents"), ("update", "updates"), ("delete", "deletes")]);
    (lists, vec(document_of(value()), 0..5), document_of(value())).prop_map(
        |((name, list), elements, rest)| {
            let mut array = bson::raw::RawArrayBuf::new();
            elements.into_iter().for_each(|element| array.push(element));
            let mut body = RawDocumentBuf::new();
            body.append(<&bson::raw::CStr>::try_from(name).unwrap(), "items");
            body.append(<&bson::raw::CStr>::try_from(list).unwrap(), array);
            common::with(&body, &rest)
        },
    )
}

fn damage(frame: &mut [u8], damage: &[(prop::sample::Index, u8)]) {
    for (at, byte) in damage {
        if frame.len() > 21 {
            let at = 16 + at.index(frame.len() - 16); // the header's length stays: frames come whole
            frame[at] = *byte;
        }
    }
}

/// From request to end, in every way that a write can end.
fn play(frame: &[u8], answer: &[u8]) {
    let capture = Capture::new(Config::default());
    let session = session(&capture);
    let _ = session.unscanned(&frame[..frame.len().min(60)]);
    for way in 0..3 {
        let Some(mut write) = session.request(frame) else { continue };
        if write.mark(NOW).is_some() {
            write.marked(1);
        }
        if let Some(changed) = write.forward() {
            assert!(OpMsg::parse(&changed).is_ok());
        }
        match way {
            0 => {
                let ended = write.outcome(answer, NOW);
                for (kind, payload) in &ended.appends {
                    assert!(record::Record::decode(*kind as u8, payload).is_ok());
                }
                ended.not_appended(0);
            }
            1 => drop(write.unacknowledged(NOW)),
            _ => drop(write.orphan(Lost::ServerClosed)),
        }
    }
    capture.abandoned(u64::MAX);
}

proptest! {
    #[test]
    fn any_command_and_any_reply_are_taken(body in prop_oneof![command(), batch()], answer in document_of(value())) {
        play(&request(&body), &reply(&answer));
    }

    #[test]
    fn a_reply_that_fits_more_often_is_taken(body in batch(), answer in document_of(value()), n in 0..4, modified in 0..4) {
        play(&request(&body), &reply(&common::with(&rawdoc! {"ok": 1.0, "n": n, "nModified": modified}, &answer)));
    }

    #[test]
    fn damaged_frames_are_taken(
        body in prop_oneof![command(), batch()],
        answer in document_of(value()),
        on_request in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        on_reply in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let (mut frame, mut answer) = (request(&body), reply(&answer));
        damage(&mut frame, &on_request);
        damage(&mut answer, &on_reply);
        play(&frame, &answer);
    }

    #[test]
    fn any_bytes_are_taken(bytes in vec(any::<u8>(), 0..200), answer in vec(any::<u8>(), 0..200)) {
        play(&bytes, &answer);
        let mut frame = Vec::from((bytes.len() as i32 + 16).to_le_bytes());
        frame.extend([0, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(2013_i32.to_le_bytes());
        frame.extend(&bytes);
        play(&frame, &answer);
    }

    /// What is added is found again and taken out: the rest is the client's frame, byte for byte.
    #[test]
    fn an_added_id_is_all_that_changes(
        documents in vec(("[a-z]{1,3}", any::<i64>(), any::<bool>()), 1..6), in_sequence: bool,
    ) {
        let documents: Vec<RawDocumentBuf> = documents.into_iter().map(|(name, n, has_id)| {
            let mut doc = doc! {name: n};
            if has_id {
                doc.insert("_id", n);
            }
            RawDocumentBuf::try_from(&doc).unwrap()
        }).collect();
        let frame = if in_sequence {
            request_in_sequence(&rawdoc! {"insert": "items", "comment": "x"}, "documents", &documents)
        } else {
            request(&insert(&documents))
        };
        let lacking = documents.iter().filter(|doc| doc.get("_id").unwrap().is_none()).count();
        let capture = Capture::new(Config::default());
        let sent = session(&capture).request(&frame).unwrap().forward();
        prop_assert_eq!(sent.is_some(), lacking > 0);
        let sent = sent.unwrap_or_else(|| frame.clone());
        prop_assert_eq!(sent.len(), frame.len() + 17 * lacking);
        let (before, after) = (OpMsg::parse(&frame).unwrap(), OpMsg::parse(&sent).unwrap());
        prop_assert_eq!((before.header.request_id, before.flags), (after.header.request_id, after.flags));
        let list = |message: &OpMsg<'_>| -> Vec<RawDocumentBuf> {
            let sequence = message.sequences().flat_map(|sequence| sequence.documents().map(ToOwned::to_owned));
            let body = message.body().get_array("documents").ok().into_iter().flatten();
            sequence.chain(body.map(|value| value.unwrap().as_document().unwrap().to_owned())).collect()
        };
        let stripped: Vec<RawDocumentBuf> = list(&after).iter().zip(&documents).map(|(sent, own)| {
            let lacks = own.get("_id").unwrap().is_none();
            sent.iter().skip(usize::from(lacks)).map(Result::unwrap).collect()
        }).collect();
        prop_assert_eq!(stripped, documents);
        // Everything but the documents.
        let rest = |message: &OpMsg<'_>| -> RawDocumentBuf {
            message.body().iter().map(Result::unwrap).filter(|(name, _)| name.as_str() != "documents").collect()
        };
        prop_assert_eq!(rest(&before), rest(&after));
    }
}

/// Nested beyond what any server stores: the stack is not the limit.
#[test]
fn deep_documents_are_taken() {
    let deep = nested(100_000);
    for body in [
        insert(&[rawdoc! {"_id": deep.clone()}, deep.clone()]),
        update(&[rawdoc! {"q": {"_id": deep.clone()}, "u": deep.clone()}]),
        update(&[rawdoc! {"q": {"a": deep.clone()}, "u": [deep.clone()]}]),
        find_and_modify(&rawdoc! {"query": deep.clone(), "update": deep.clone(), "let": deep.clone()}),
        find_and_modify(&rawdoc! {"query": {}, "fields": {"a": deep.clone()}, "update": [deep.clone()]}),
        delete(&[rawdoc! {"q": {"$expr": deep.clone()}, "limit": 0, "collation": deep.clone()}]),
        rawdoc! {"aggregate": "items", "pipeline": [{"$merge": {"into": deep.clone()}}]},
        rawdoc! {"applyOps": [{"op": "c", "ns": "a.b", "o": deep.clone()}]},
        rawdoc! {"insert": "items", "documents": [], "lsid": deep.clone(), "writeConcern": deep.clone()},
    ] {
        play(
            &request(&body),
            &reply(&rawdoc! {"ok": 1.0, "n": 1, "upserted": [{"index": 0, "_id": deep.clone()}],
            "lastErrorObject": {"n": 1, "upserted": deep.clone()}, "value": {"_id": deep.clone()}}),
        );
    }
}

/// `{a: {a: … {}}}`, so many documents in each other.
fn nested(levels: usize) -> RawDocumentBuf {
    let mut bytes = Vec::new();
    for inner in (0..levels).rev() {
        bytes.extend_from_slice(&i32::try_from(5 + 8 * inner).unwrap().to_le_bytes());
        if inner > 0 {
            bytes.extend_from_slice(b"\x03a\0");
        }
    }
    bytes.resize(bytes.len() + levels, 0);
    RawDocumentBuf::from_bytes(bytes).unwrap()
}
