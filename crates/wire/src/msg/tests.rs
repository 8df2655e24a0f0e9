use bson::rawdoc;

use super::*;
use crate::frame::FRAME_BYTES_MAX;

const INSERT: &[u8] = include_bytes!("../../testdata/sa_insert_request.bin");
const CHECKSUMMED: &[u8] = include_bytes!("../../testdata/rs_hello_checksum_request.bin");
const CHECKSUMMED_REPLY: &[u8] = include_bytes!("../../testdata/rs_hello_checksum_reply.bin");
const STREAMED: &[u8] = include_bytes!("../../testdata/rs_hello_stream_reply_1.bin");
const STREAM_REQUEST: &[u8] = include_bytes!("../../testdata/rs_hello_stream_request.bin");
const ISMASTER: &[u8] = include_bytes!("../../testdata/sa_ismaster_query_request.bin");

/// A frame of the given opcode around `payload`.
fn frame(opcode: i32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Header { length: 16 + payload.len(), request_id: 1, response_to: 0, opcode: opcode.into() }
        .write(&mut out);
    out.extend_from_slice(payload);
    out
}

fn sequence(identifier: &str, documents: &[u8]) -> Vec<u8> {
    let size = i32::try_from(4 + identifier.len() + 1 + documents.len()).unwrap();
    [&[1], &size.to_le_bytes()[..], identifier.as_bytes(), &[0], documents].concat()
}

fn body(document: &RawDocument) -> Vec<u8> {
    [&[0], document.as_bytes()].concat()
}

#[test]
fn a_recorded_insert_reads_as_the_protocol_says() {
    let msg = OpMsg::parse(INSERT).unwrap();
    assert_eq!(msg.body().get_str("insert").unwrap(), "c");
    assert_eq!(&INSERT[msg.body_at()], msg.body().as_bytes());
    let sequences: Vec<_> = msg.sequences().collect();
    assert_eq!((sequences.len(), sequences[0].identifier), (1, "documents"));
    let ids: Vec<_> = sequences[0].documents().map(|document| document.get_i32("_id").unwrap()).collect();
    assert_eq!(ids, [0, 1, 2]);
    let built = encode_msg(msg.header.request_id, msg.header.response_to, msg.flags, &msg.sections);
    assert_eq!(built.unwrap(), INSERT);
}

#[test]
fn recorded_checksums_are_ours() {
    for recorded in [CHECKSUMMED, CHECKSUMMED_REPLY] {
        let msg = OpMsg::parse(recorded).unwrap();
        assert!(msg.flags.checksum_present() && msg.checksum_holds(recorded));
        let built = encode_msg(msg.header.request_id, msg.header.response_to, msg.flags, &msg.sections);
        assert_eq!(built.unwrap(), recorded);
        let mut damaged = recorded.to_vec();
        damaged[30] ^= 1;
        assert!(!msg.checksum_holds(&damaged));
    }
}

#[test]
fn a_stream_shows_in_the_flags() {
    assert!(OpMsg::parse(STREAM_REQUEST).unwrap().flags.exhaust_allowed());
    assert!(OpMsg::parse(STREAMED).unwrap().flags.more_to_come());
}

#[test]
fn sections_come_in_any_order() {
    let command = rawdoc! { "insert": "c" };
    let documents = [rawdoc! { "a": 1 }.as_bytes(), rawdoc! { "b": 2 }.as_bytes()].concat();
    let sequence = sequence("documents", &documents);
    for order in [[body(&command), sequence.clone()], [sequence, body(&command)]] {
        let bytes = frame(2013, &[&[0; 4], &order[0][..], &order[1]].concat());
        let msg = OpMsg::parse(&bytes).unwrap();
        assert_eq!(msg.body(), &*command);
        assert_eq!(&bytes[msg.body_at()], command.as_bytes());
        assert_eq!(msg.sequences().next().unwrap().documents().count(), 2);
        let built = encode_msg(1, 0, msg.flags, &msg.sections).unwrap();
        assert_eq!(built, bytes);
    }
}

#[test]
fn what_is_not_understood_is_named() {
    let command = body(&rawdoc! { "ping": 1 });
    let check = |payload: &[u8], expected| {
        assert_eq!(OpMsg::parse(&frame(2013, payload)).err(), Some(expected), "{payload:?}");
    };
    let flags = |bits: u32, sections: &[u8]| [&bits.to_le_bytes()[..], sections].concat();
    check(&[], WireError::Truncated);
    check(&flags(0, &[]), WireError::BodyCount);
    //= no kind 0 / two kind 0: ok:0 40587 / 40430 (wire-facts.md 1.2)
    check(&flags(0, &[&command[..], &command].concat()), WireError::BodyCount);
    check(&flags(0, &sequence("documents", &[])), WireError::BodyCount);
    check(&flags(4, &command), WireError::Flags(4));
    check(&flags(0x8000, &command), WireError::Flags(0x8000));
    check(&flags(0, &[&[2], &command[1..]].concat()), WireError::SectionKind(2));
    check(&flags(0, &command[..command.len() - 1]), WireError::Truncated);
    check(&flags(0, &[&command[..], &[1, 255, 255, 255, 255]].concat()), WireError::Truncated);
    check(&flags(0, &[&command[..], &[1, 3, 0, 0, 0]].concat()), WireError::Truncated);
    check(
        &flags(0, &[&command[..], &sequence("documents", b"\x05\0\0\0\x01")].concat()),
        WireError::Document,
    );
    check(&flags(1, &[]), WireError::Truncated);
    assert_eq!(OpMsg::parse(&frame(2012, &[0; 4])).err(), Some(WireError::OpCode(2012)));
    // Bits 16-31 may be ignored.
    assert!(OpMsg::parse(&frame(2013, &flags(0xffff_0000, &command))).is_ok());
}

#[test]
fn a_name_is_known_as_soon_as_its_bytes_are_here() {
    fn at<'a>(bytes: &'a [u8], here: usize) -> FirstKey<'a> {
        let header = Header::parse(bytes, FRAME_BYTES_MAX).unwrap().unwrap();
        first_key(&Head { header, bytes: &bytes[..here] })
    }
    fn check(bytes: &[u8], expected: FirstKey<'_>, needs: usize) {
        assert_eq!(at(bytes, bytes.len()), expected);
        assert_eq!(at(bytes, needs), expected);
        for here in 16..needs {
            assert_eq!(at(bytes, here), FirstKey::NeedMore, "{here}");
        }
    }
    let msg = |sections: &[u8]| frame(2013, &[&[0; 4], sections].concat());
    check(INSERT, FirstKey::Name("insert"), 16 + 4 + 1 + 4 + 1 + 7);
    check(ISMASTER, FirstKey::Name("ismaster"), 16 + 4 + 11 + 8 + 4 + 1 + 9);
    check(&msg(&sequence("documents", &[])), FirstKey::Sequence, 21);
    check(&msg(&body(&rawdoc! {})), FirstKey::None, 26);
    let command_name = |length: usize| {
        let mut document = bson::RawDocumentBuf::new();
        document.append(bson::raw::CString::try_from("x".repeat(length)).unwrap(), 1);
        msg(&body(&document))
    };
    check(&command_name(64), FirstKey::Name(&"x".repeat(64)), 16 + 4 + 1 + 4 + 1 + 65);
    check(&command_name(65), FirstKey::None, 16 + 4 + 1 + 4 + 1 + 65);
    check(&msg(&[2, 0]), FirstKey::None, 21);
    check(&frame(2012, &[0; 9]), FirstKey::None, 16);
    // Frames that end before their name are no riddle: nothing more will come.
    check(&frame(2013, &[]), FirstKey::None, 16);
    check(&frame(2004, &[0; 4]), FirstKey::None, 20);
}

#[test]
fn a_wrapped_query_shows_the_command_in_it() {
    let wrapped = |wrapper: &bson::raw::CStr, inner: bson::RawDocumentBuf| {
        let mut query = bson::RawDocumentBuf::new();
        query.append(wrapper, inner);
        frame(2004, &[&[0; 4], &b"admin.$cmd\0"[..], &[0; 8], query.as_bytes()].concat())
    };
    let check = |bytes: &[u8], expected| {
        let header = Header::of(bytes).unwrap();
        assert_eq!(first_key(&Head { header, bytes }), expected);
    };
    check(&wrapped(bson::raw::cstr!("$query"), rawdoc! { "ismaster": 1 }), FirstKey::Name("ismaster"));
    check(&wrapped(bson::raw::cstr!("query"), rawdoc! { "isMaster": 1 }), FirstKey::Name("isMaster"));
    check(&wrapped(bson::raw::cstr!("other"), rawdoc! { "isMaster": 1 }), FirstKey::Name("other"));
}

#[test]
fn a_builder_wants_one_body_and_no_zero_in_a_name() {
    let ping = rawdoc! { "ping": 1 };
    let two = [Section::Body(&ping), Section::Body(&ping)];
    assert_eq!(encode_msg(1, 0, Flags::default(), &two), Err(WireError::BodyCount));
    assert_eq!(encode_msg(1, 0, Flags::default(), &[]), Err(WireError::BodyCount));
    assert_eq!(Sequence::new("a\0b", &[]), Err(WireError::Name));
    assert_eq!(Sequence::new("a", &[1, 2]), Err(WireError::Truncated));
}
