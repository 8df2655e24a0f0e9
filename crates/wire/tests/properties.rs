//! Any split of a stream gives the same frames; garbage never panics; what is built parses; what is rewritten keeps
//! all other bytes.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed setup fails the test")]

use bson::{RawDocumentBuf, raw::CString, rawdoc};
use proptest::{collection::vec, prelude::*};
use wire::{
    DocumentWriter, FRAME_BYTES_MAX, FirstKey, Flags, FrameReader, Head, Header, OpMsg, OpQuery, OpReply,
    Section, Sequence, elements, encode_msg, first_key, hello, inflate, inflated_bytes, peek_flags,
};

fn a_document() -> impl Strategy<Value = RawDocumentBuf> {
    vec(("[n-z$]{0,8}", any::<i64>(), "\\PC{0,12}", 0..4_u8), 0..6).prop_map(|fields| {
        let mut document = RawDocumentBuf::new();
        for (name, number, text, kind) in fields {
            let name = CString::try_from(name).expect("no zero byte in the pattern");
            match kind {
                0 => document.append(name, number),
                1 => document.append(name, text.as_str()),
                2 => document.append(name, rawdoc! { "inner": text, "n": number }),
                _ => document.append(name, number % 2 == 0),
            }
        }
        document
    })
}

/// Flags as far as we know them.
fn known_flags() -> impl Strategy<Value = Flags> {
    any::<u32>().prop_map(|bits| Flags(bits & 0xffff_0003))
}

#[derive(Debug, Clone)]
struct Message {
    request_id: i32,
    response_to: i32,
    flags: Flags,
    body: RawDocumentBuf,
    sequences: Vec<(String, Vec<RawDocumentBuf>)>,
    body_at: usize,
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let documents: Vec<Vec<u8>> = self
            .sequences
            .iter()
            .map(|(_, documents)| {
                documents.iter().flat_map(|document| document.as_bytes().to_vec()).collect()
            })
            .collect();
        let mut sections: Vec<Section<'_>> = self
            .sequences
            .iter()
            .zip(&documents)
            .map(|((name, _), bytes)| Section::Sequence(Sequence::new(name, bytes).expect("whole documents")))
            .collect();
        sections.insert(self.body_at % (sections.len() + 1), Section::Body(&self.body));
        encode_msg(self.request_id, self.response_to, self.flags, &sections).expect("one body, small")
    }
}

fn a_message() -> impl Strategy<Value = Message> {
    let sequences = vec(("[a-zA-Z]{1,10}", vec(a_document(), 0..4)), 0..3);
    (any::<i32>(), any::<i32>(), known_flags(), a_document(), sequences, any::<usize>()).prop_map(
        |(request_id, response_to, flags, body, sequences, body_at)| Message {
            request_id,
            response_to,
            flags,
            body,
            sequences,
            body_at,
        },
    )
}

/// `bytes` cut at each of `cuts`.
fn split<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn a_hello_reply() -> impl Strategy<Value = RawDocumentBuf> {
    let address = "[a-cA-C]:[12]";
    (a_document(), vec(address, 0..4), vec(address, 0..3), address, address, any::<u8>()).prop_map(
        |(other, hosts, passives, primary, me, with)| {
            let mut document = RawDocumentBuf::new();
            let array = |members: Vec<String>| {
                members.into_iter().map(bson::RawBson::String).collect::<bson::raw::RawArrayBuf>()
            };
            document.append(bson::raw::cstr!("hosts"), array(hosts));
            for field in other.iter_elements() {
                let field = field.expect("built here");
                document.append(field.key(), field.value().expect("built here"));
            }
            if with & 1 > 0 {
                document.append(bson::raw::cstr!("passives"), array(passives));
            }
            if with & 2 > 0 {
                document.append(bson::raw::cstr!("primary"), primary);
            }
            if with & 4 > 0 {
                document.append(bson::raw::cstr!("compression"), array(vec!["zlib".into()]));
            }
            document.append(bson::raw::cstr!("me"), me);
            document
        },
    )
}

fn try_every_parser(bytes: &[u8]) {
    if let Ok(msg) = OpMsg::parse(bytes) {
        let documents = msg.sequences().flat_map(|sequence| sequence.documents());
        for document in documents.chain([msg.body()]) {
            for element in elements(document).flatten() {
                let _ = element.value();
            }
        }
        msg.checksum_holds(bytes);
    }
    let _ = OpQuery::parse(bytes);
    let _ = OpReply::parse(bytes);
    let _ = hello::offer_readable_compressors(bytes);
    let _ = hello::rewrite_reply(bytes, &hello::Names::only("a:1"), hello::Asked::LoadBalanced);
    let _ = (hello::asked(bytes), hello::facts(bytes));
    if let Ok(Some(header)) = Header::parse(bytes, FRAME_BYTES_MAX) {
        let head = Head { header, bytes: &bytes[..header.length.min(bytes.len())] };
        let _ = first_key(&head);
        let _ = peek_flags(&head);
        let bytes = inflated_bytes(&head);
        assert!(inflate(head.bytes).is_ok_and(|inner| inner.len() == bytes) || inflate(head.bytes).is_err());
    }
    let mut reader = FrameReader::default();
    reader.feed(bytes);
    while let Ok(Some(frame)) = reader.take_frame() {
        assert!(frame.len() >= 16);
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same_frames(messages in vec(a_message(), 1..6), cuts in vec(any::<usize>(), 0..20)) {
        let frames: Vec<Vec<u8>> = messages.iter().map(Message::encode).collect();
        let stream = frames.concat();
        let mut whole = FrameReader::default();
        let mut parts = FrameReader::default();
        let (mut by_frame, mut by_part) = (Vec::new(), vec![Vec::new()]);
        for piece in split(&stream, &cuts) {
            whole.feed(piece);
            parts.feed(piece);
            while let Some(frame) = whole.take_frame().unwrap() {
                by_frame.push(frame.to_vec());
            }
            while let Some(part) = parts.take_part().unwrap() {
                by_part.last_mut().unwrap().extend_from_slice(&part);
                if parts.remaining() == 0 {
                    by_part.push(Vec::new());
                }
            }
        }
        by_part.pop();
        prop_assert_eq!(&by_frame, &frames);
        prop_assert_eq!(&by_part, &frames);
    }

    #[test]
    fn what_is_built_parses(message in a_message()) {
        let frame = message.encode();
        let msg = OpMsg::parse(&frame).unwrap();
        prop_assert_eq!((msg.header.request_id, msg.header.response_to), (message.request_id, message.response_to));
        prop_assert_eq!(msg.flags, message.flags);
        prop_assert!(msg.checksum_holds(&frame));
        prop_assert_eq!(msg.body().to_owned(), message.body);
        prop_assert_eq!(&frame[msg.body_at()], msg.body().as_bytes());
        let sequences: Vec<(String, Vec<RawDocumentBuf>)> = msg
            .sequences()
            .map(|s| (s.identifier.to_owned(), s.documents().map(ToOwned::to_owned).collect()))
            .collect();
        prop_assert_eq!(sequences, message.sequences);
    }

    #[test]
    fn the_name_never_depends_on_how_much_is_here(message in a_message()) {
        let frame = message.encode();
        let header = Header::of(&frame).unwrap();
        let known = first_key(&Head { header, bytes: &frame });
        prop_assert_ne!(known, FirstKey::NeedMore);
        for here in 16..frame.len() {
            let now = first_key(&Head { header, bytes: &frame[..here] });
            prop_assert!(now == known || now == FirstKey::NeedMore);
        }
    }

    #[test]
    fn copied_elements_are_the_document(document in a_document()) {
        let mut writer = DocumentWriter::with_capacity(0);
        for element in elements(&document) {
            writer.copy(element.unwrap().bytes);
        }
        prop_assert_eq!(writer.finish(), document.as_bytes());
    }

    #[test]
    fn a_rewritten_reply_keeps_all_else(reply in a_hello_reply(), flags in known_flags(), id in any::<i32>()) {
        let frame = encode_msg(id, id ^ 5, flags, &[Section::Body(&reply)]).unwrap();
        let rewritten = hello::rewrite_reply(&frame, &hello::Names::only("here:9"), hello::Asked::Members).unwrap().expect("it tells me");
        let msg = OpMsg::parse(&rewritten).unwrap();
        prop_assert!(msg.checksum_holds(&rewritten));
        prop_assert_eq!(msg.flags, flags);
        prop_assert_eq!(msg.header, Header { length: rewritten.len(), ..Header::of(&frame).unwrap() });
        let me = reply.get_str("me").unwrap();
        prop_assert_eq!(msg.body().get_str("me").unwrap(), "here:9");
        for list in ["hosts", "passives"] {
            let members = |document: &bson::RawDocument| -> Vec<String> {
                let array = document.get_array(list).ok();
                array.iter().flat_map(|a| a.into_iter()).map(|m| m.unwrap().as_str().unwrap().to_owned()).collect()
            };
            let mine = members(&reply).iter().filter(|member| member.eq_ignore_ascii_case(me)).count();
            prop_assert_eq!(members(msg.body()), vec!["here:9"; mine]);
        }
        let changed = ["hosts", "passives", "primary", "me"];
        let rest = |document: &bson::RawDocument| -> Vec<Vec<u8>> {
            let kept = elements(document).map(Result::unwrap).filter(|e| !changed.contains(&e.name));
            kept.map(|e| e.bytes.to_vec()).collect()
        };
        prop_assert_eq!(rest(msg.body()), rest(&reply));
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..200)) {
        try_every_parser(&bytes);
    }

    #[test]
    fn garbage_with_a_true_header_never_panics(
        payload in vec(prop_oneof![any::<u8>(), 0..6_u8], 0..120),
        opcode in prop_oneof![Just(1), Just(2004), Just(2012), Just(2013)],
    ) {
        let length = i32::try_from(16 + payload.len()).unwrap();
        let header = [length, 1, 0, opcode].map(i32::to_le_bytes).concat();
        try_every_parser(&[header, payload].concat());
    }

    #[test]
    fn damaged_frames_never_panic(message in a_message(), at in any::<usize>(), value in any::<u8>()) {
        let mut frame = message.encode();
        let at = at % frame.len();
        frame[at] = value;
        try_every_parser(&frame);
        try_every_parser(&frame[..at]);
    }
}
