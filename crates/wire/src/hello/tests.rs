use bson::{RawDocumentBuf, rawdoc};

use super::*;
use crate::msg::{Flags, Section, encode_msg};

macro_rules! recorded {
    ($name:literal) => {
        include_bytes!(concat!("../../testdata/", $name, ".bin"))
    };
}

const HERE: &str = "proxy.example:27018";

fn here() -> Names {
    Names::only(HERE)
}

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

/// `request`, a recorded hello, with these compressors on offer.
fn offering(request: &[u8], names: &[&str]) -> Vec<u8> {
    edit(request, |body| {
        rewrite(body, |writer, name, _| match name {
            "compression" => {
                writer.strings(name, names.iter().copied());
                Edit::Replaced
            }
            _ => Edit::Keep,
        })
    })
    .unwrap()
    .expect("it offers some")
}

#[test]
fn compressors_that_we_cannot_read_leave_recorded_requests_and_nothing_else_does() {
    for request in [
        &recorded!("sa_hello_msg_request")[..],
        recorded!("sa_hello_checksum_request"),
        recorded!("sa_ismaster_query_request"),
    ] {
        for names in [&["snappy", "zlib", "zstd"][..], &["zstd"], &["none"], &[]] {
            assert_eq!(offer_readable_compressors(&offering(request, names)), None, "{names:?}");
        }
        let theirs = offering(request, &["brotli", "zstd", "noop", "zlib"]);
        let forwarded = offer_readable_compressors(&theirs).expect("there are some");
        assert_eq!(forwarded, offering(request, &["zstd", "zlib"]));
        assert_eq!(request[16..20], forwarded[16..20]);
        if let Ok(msg) = OpMsg::parse(&forwarded) {
            assert!(msg.checksum_holds(&forwarded));
        }
    }
}

#[test]
fn requests_that_offer_nothing_or_ask_something_else_stay() {
    assert_eq!(offer_readable_compressors(recorded!("rs_hello_stream_request")), None);
    assert_eq!(offer_readable_compressors(recorded!("sa_insert_request")), None);
    let ping = rawdoc! { "ping": 1, "compression": ["brotli"], "$db": "admin" };
    assert_eq!(
        offer_readable_compressors(&encode_msg(1, 0, Flags::default(), &[Section::Body(&ping)]).unwrap()),
        None
    );
    let mut damaged = offering(recorded!("sa_hello_checksum_request"), &["brotli"]);
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(offer_readable_compressors(&damaged), None, "a wrong checksum is not made good");
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
        let rewritten =
            rewrite_reply(reply, &here(), Asked::Members).unwrap().expect("a replica set tells addresses");
        let new = document(&rewritten);
        assert_eq!(new.get_str("me").unwrap(), HERE);
        assert_eq!(new.get_str("primary").unwrap(), HERE);
        assert_eq!(new.get_array("hosts").unwrap(), rawdoc! { "x": [HERE] }.get_array("x").unwrap());
        assert!(new.get_array("passives").unwrap().is_empty());

        let changed = ["me", "primary", "hosts", "passives"];
        let rest = |frame: &[u8]| {
            let mut fields = fields(&document(frame));
            fields.retain(|(name, _)| !changed.contains(&name.as_str()));
            fields
        };
        assert_eq!(rest(&rewritten), rest(reply));
        let names =
            |frame: &[u8]| fields(&document(frame)).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&rewritten), names(reply), "the order of fields stays");
        let (before, after) = (Header::of(reply).unwrap(), Header::of(&rewritten).unwrap());
        assert_eq!(after, Header { length: rewritten.len(), ..before });
        if let Ok(msg) = OpMsg::parse(&rewritten) {
            assert!(msg.checksum_holds(&rewritten));
        }
    }
}

/// What cannot be read cannot be rewritten, and would lead clients past the proxy.
#[test]
fn a_reply_that_cannot_be_read_is_told_from_one_that_needs_nothing() {
    let reply = recorded!("rs_hello_checksum_reply");
    let check = |reply: &[u8], expected| {
        assert_eq!(rewrite_reply(reply, &here(), Asked::Members), Err(expected));
    };
    let (mut checksum, mut body, mut flags) = (reply.to_vec(), reply.to_vec(), reply.to_vec());
    *checksum.last_mut().unwrap() ^= 1;
    body[21] ^= 1;
    flags[17] = 0x80;
    check(&checksum, WireError::Checksum);
    check(&body, WireError::Document);
    check(&flags, WireError::Flags(0x8000));
    check(&reply[..40], WireError::Truncated);
    let mut packed = compressed(reply);
    packed[20] ^= 1;
    check(&packed, WireError::Compressed);
    check(&compressed(&compressed(reply)), WireError::Compressed);
}

/// mongod quotes what it does not understand (seen on 6.0.5).
#[test]
fn an_error_that_quotes_noise_goes_on() {
    let quoting = |name: &str| {
        let mut fields = RawDocumentBuf::new();
        fields.append(bson::raw::CString::try_from(name).unwrap(), "NOISE");
        let mut frame = encode_msg(1, 2, Flags::default(), &[Section::Body(&fields)]).unwrap();
        let at = frame.windows(5).position(|window| window == b"NOISE").unwrap();
        frame[at] = 0xff;
        rewrite_reply(&frame, &here(), Asked::Members)
    };
    assert_eq!(quoting("errmsg"), Ok(None));
    for name in ["me", "primary", "hosts"] {
        assert!(quoting(name).is_err(), "{name}");
    }
}

#[test]
fn a_standalone_has_nothing_to_rewrite() {
    for reply in [&recorded!("sa_hello_msg_reply")[..], recorded!("sa_ismaster_query_reply")] {
        for asked in [Asked::Members, Asked::LoadBalanced] {
            assert_eq!(rewrite_reply(reply, &here(), asked), Ok(None));
        }
    }
}

/// A request that was too large to be looked at may have offered anything.
#[test]
fn compressors_that_we_cannot_read_leave_the_reply() {
    for (theirs, ours) in [
        (&["zstd", "brotli"][..], Some(&["zstd"][..])),
        (&["brotli"], None),
        (&["snappy"], Some(&["snappy"])),
    ] {
        let reply = offering(recorded!("sa_hello_msg_reply"), theirs);
        let rewritten = rewrite_reply(&reply, &here(), Asked::Members).unwrap().unwrap_or(reply);
        let names: Option<Vec<String>> = document(&rewritten)
            .get_array("compression")
            .ok()
            .map(|names| names.into_iter().map(|name| name.unwrap().as_str().unwrap().to_owned()).collect());
        let ours = ours.map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(names, ours);
    }
}

/// wire-facts 2.3: `loadBalanced=true` without `serviceId` is an error in the driver.
#[test]
fn a_replica_set_is_a_service_to_a_client_that_asks_for_one() {
    for reply in [&recorded!("rs_hello_msg_reply")[..], recorded!("rs_ismaster_query_reply")] {
        let members = document(&rewrite_reply(reply, &here(), Asked::Members).unwrap().unwrap());
        let service = document(&rewrite_reply(reply, &here(), Asked::LoadBalanced).unwrap().unwrap());
        let process = members.get_document("topologyVersion").unwrap().get_object_id("processId").unwrap();
        assert_eq!(service.get_object_id("serviceId").unwrap(), process);
        let mut rest = fields(&service);
        rest.retain(|(name, _)| name != "serviceId");
        assert_eq!(rest, fields(&members));
    }
    let own = rawdoc! { "setName": "rs", "serviceId": 7, "topologyVersion": { "processId": bson::oid::ObjectId::new() }, "ok": 1 };
    let frame = encode_msg(1, 2, Flags::default(), &[Section::Body(&own)]).unwrap();
    assert_eq!(rewrite_reply(&frame, &here(), Asked::LoadBalanced), Ok(None));
}

#[test]
fn what_a_hello_asks_for() {
    let hello =
        |body: RawDocumentBuf| asked(&encode_msg(1, 0, Flags::default(), &[Section::Body(&body)]).unwrap());
    assert_eq!(hello(rawdoc! { "hello": 1, "loadBalanced": true }), Some(Asked::LoadBalanced));
    assert_eq!(hello(rawdoc! { "hello": 1, "loadBalanced": false }), Some(Asked::Members));
    assert_eq!(asked(recorded!("sa_ismaster_query_request")), Some(Asked::Members));
    assert_eq!(asked(b"nothing"), None);
}

#[test]
fn what_a_reply_tells() {
    let facts_of = |reply: &[u8]| {
        let Facts { frame_bytes_max, document_bytes_max, wire_version, me, process, more_to_come } =
            facts(reply);
        //= topologyVersion{processId} in every hello reply (wire-facts.md 2.1)
        assert_eq!(process.is_some(), wire_version.is_some());
        ((frame_bytes_max, document_bytes_max, wire_version), me.is_some(), more_to_come)
    };
    //= maxMessageSizeBytes, maxBsonObjectSize, maxWireVersion of 6.0.5 (wire-facts.md 1.3)
    let limits = (Some(48_000_000), Some(16_777_216), Some(17));
    assert_eq!(facts_of(recorded!("sa_hello_msg_reply")), (limits, false, false));
    assert_eq!(facts_of(recorded!("rs_ismaster_query_reply")), (limits, true, false));
    assert_eq!(facts_of(recorded!("rs_hello_stream_reply_0")), (limits, true, true));
    assert_eq!(facts_of(recorded!("sa_insert_reply")), ((None, None, None), false, false));
    assert_eq!(facts(b"nothing"), Facts::default());
}

fn compressed(plain: &[u8]) -> Vec<u8> {
    let payload = zstd::bulk::compress(&plain[16..], 3).unwrap();
    let number = |n: usize| i32::try_from(n).unwrap().to_le_bytes();
    let head = [&number(25 + payload.len()), &plain[4..12], &number(2012), &plain[12..16]].concat();
    [head, number(plain.len() - 16).to_vec(), vec![3], payload].concat()
}

/// No driver compresses a hello; mongod answers one that is (`wire-facts.md` 1.4).
#[test]
fn a_compressed_reply_is_rewritten_too() {
    let plain = recorded!("rs_hello_checksum_reply");
    let packed = compressed(plain);
    assert_eq!(
        rewrite_reply(&packed, &here(), Asked::Members),
        rewrite_reply(plain, &here(), Asked::Members)
    );
    assert_eq!(facts(&packed), facts(plain));
}

#[test]
fn members_are_mapped_or_dropped() {
    let check = |before: RawDocumentBuf, after: RawDocumentBuf| {
        let frame = encode_msg(1, 2, Flags::default(), &[Section::Body(&before)]).unwrap();
        let rewritten = rewrite_reply(&frame, &here(), Asked::Members).unwrap().unwrap();
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
    // One address has many spellings.
    check(
        rawdoc! { "hosts": ["[0:0::1]", "[::1]:27018"], "me": "[::1]:27017" },
        rawdoc! { "hosts": [HERE], "me": HERE },
    );
    // Names of other types are no addresses.
    check(
        rawdoc! { "me": "a:1", "primary": 5, "hosts": "x" },
        rawdoc! { "me": HERE, "primary": 5, "hosts": "x" },
    );
}

#[test]
fn every_member_with_a_listener_keeps_its_place() {
    let other = |member: &str, name: &str| (Address::parse(member).unwrap(), name.to_owned());
    let names = Names { here: HERE.to_owned(), others: vec![other("Db1", "p:1"), other("db2:2", "p:2")] };
    let before = rawdoc! {
        "hosts": ["db1:27017", "DB2:2", "db3:3", "db9:9"], "passives": ["db9:9"], "arbiters": ["db2:2"],
        "primary": "DB1:27017", "me": "db3:3",
    };
    let frame = encode_msg(1, 2, Flags::default(), &[Section::Body(&before)]).unwrap();
    let after = document(&rewrite_reply(&frame, &names, Asked::Members).unwrap().unwrap());
    let expected = rawdoc! {
        "hosts": ["p:1", "p:2", HERE], "passives": [], "arbiters": ["p:2"], "primary": "p:1", "me": HERE,
    };
    assert_eq!(after, expected);
}
