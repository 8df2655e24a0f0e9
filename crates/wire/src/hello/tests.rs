use bson::{RawDocumentBuf, rawdoc};

use super::*;
use crate::msg::{Flags, Section, encode_msg};

macro_rules! recorded {
    ($name:literal) => {
        include_bytes!(concat!("../../testdata/", $name, ".bin"))
    };
}

const HERE: &str = "proxy.example:27018";

fn document(frame: &[u8]) -> RawDocumentBuf {
    match Header::of(frame).unwrap().opcode {
        OpCode::Msg => OpMsg::parse(frame).unwrap().body().to_owned(),
        OpCode::Query => OpQuery::parse(frame).unwrap().query.to_owned(),
        _ => OpReply::parse(frame).unwrap().document.to_owned(),
    }
}

/// The bytes of each element under its name.
fn fields(document: &RawDocument) -> Vec<(String, Vec<u8>)> {
    elements(document).map(|e| e.map(|e| (e.name.to_owned(), e.bytes.to_vec())).unwrap()).collect()
}

#[test]
fn only_the_three_names_are_hellos() {
    for name in ["hello", "isMaster", "ismaster"] {
        assert!(is_hello(name));
    }
    for name in ["Hello", "ISMASTER", "hello ", "", "ping"] {
        assert!(!is_hello(name));
    }
}

#[test]
fn compression_leaves_recorded_requests_and_nothing_else_does() {
    for request in [
        &recorded!("sa_hello_msg_request")[..],
        recorded!("sa_hello_checksum_request"),
        recorded!("sa_ismaster_query_request"),
    ] {
        let stripped = strip_compression(request).expect("the client offered compressors");
        let mut expected = fields(&document(request));
        expected.retain(|(name, _)| name != "compression");
        assert_eq!(fields(&document(&stripped)), expected);
        let (before, after) = (Header::of(request).unwrap(), Header::of(&stripped).unwrap());
        assert_eq!(after, Header { length: stripped.len(), ..before });
        assert_eq!(request[16..20], stripped[16..20]);
        assert_eq!(strip_compression(&stripped), None);
        if let Ok(msg) = OpMsg::parse(&stripped) {
            assert!(msg.checksum_holds(&stripped));
        }
    }
}

#[test]
fn requests_that_offer_nothing_or_ask_something_else_stay() {
    assert_eq!(strip_compression(recorded!("rs_hello_stream_request")), None);
    assert_eq!(strip_compression(recorded!("sa_insert_request")), None);
    let ping = rawdoc! { "ping": 1, "compression": ["zlib"], "$db": "admin" };
    assert_eq!(
        strip_compression(&encode_msg(1, 0, Flags::default(), &[Section::Body(&ping)]).unwrap()),
        None
    );
    let mut damaged = recorded!("sa_hello_checksum_request").to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(strip_compression(&damaged), None, "a wrong checksum is not made good");
}

#[test]
fn recorded_replica_set_replies_lead_to_the_proxy() {
    for reply in [
        &recorded!("rs_hello_msg_reply")[..],
        recorded!("rs_hello_checksum_reply"),
        recorded!("rs_ismaster_query_reply"),
        recorded!("rs_hello_stream_reply_0"),
        recorded!("rs_hello_stream_reply_1"),
        recorded!("rs_hello_stream_reply_2"),
    ] {
        let rewritten = rewrite_reply(reply, HERE).expect("a replica set tells addresses");
        let new = document(&rewritten);
        assert_eq!(new.get_str("me").unwrap(), HERE);
        assert_eq!(new.get_str("primary").unwrap(), HERE);
        assert_eq!(new.get_array("hosts").unwrap(), rawdoc! { "x": [HERE] }.get_array("x").unwrap());
        assert!(new.get_array("passives").unwrap().is_empty());

        let changed = ["me", "primary", "hosts", "passives", "compression"];
        let rest = |frame: &[u8]| {
            let mut fields = fields(&document(frame));
            fields.retain(|(name, _)| !changed.contains(&name.as_str()));
            fields
        };
        assert_eq!(rest(&rewritten), rest(reply));
        let names =
            |frame: &[u8]| fields(&document(frame)).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let mut expected = names(reply);
        expected.retain(|name| name != "compression");
        assert_eq!(names(&rewritten), expected, "the order of fields stays");
        let (before, after) = (Header::of(reply).unwrap(), Header::of(&rewritten).unwrap());
        assert_eq!(after, Header { length: rewritten.len(), ..before });
        if let Ok(msg) = OpMsg::parse(&rewritten) {
            assert!(msg.checksum_holds(&rewritten));
        }
    }
}

#[test]
fn a_standalone_has_nothing_to_rewrite() {
    // These two were asked with compressors on offer: only that field goes.
    for reply in [&recorded!("sa_hello_msg_reply")[..], recorded!("sa_ismaster_query_reply")] {
        let rewritten = rewrite_reply(reply, HERE).unwrap();
        let mut expected = fields(&document(reply));
        expected.retain(|(name, _)| name != "compression");
        assert_eq!(fields(&document(&rewritten)), expected);
        assert_eq!(rewrite_reply(&rewritten, HERE), None);
    }
}

#[test]
fn members_are_mapped_or_dropped() {
    let check = |before: RawDocumentBuf, after: RawDocumentBuf| {
        let frame = encode_msg(1, 2, Flags::default(), &[Section::Body(&before)]).unwrap();
        let rewritten = rewrite_reply(&frame, HERE).unwrap();
        assert_eq!(document(&rewritten), after);
    };
    // A secondary: the primary has no listener here, and drivers compare addresses without case.
    check(
        rawdoc! { "hosts": ["a:1", "B:2"], "arbiters": ["c:3"], "primary": "a:1", "me": "b:2", "ok": 1.0 },
        rawdoc! { "hosts": [HERE], "arbiters": [], "me": HERE, "ok": 1.0 },
    );
    // A hidden member is not in its own list.
    check(
        rawdoc! { "hosts": ["a:1"], "hidden": true, "me": "b:2" },
        rawdoc! { "hosts": [], "hidden": true, "me": HERE },
    );
    // Names of other types are no addresses.
    check(
        rawdoc! { "me": "a:1", "primary": 5, "hosts": "x" },
        rawdoc! { "me": HERE, "primary": 5, "hosts": "x" },
    );
}
