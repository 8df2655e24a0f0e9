use bson::raw::RawDocumentBuf;
use bson::rawdoc;
use wire::Flags;

use super::*;

fn parse(frame: &[u8]) -> OpMsg<'_> {
    OpMsg::parse(frame).unwrap()
}

fn changed(flags: Flags, sections: &[Section<'_>]) -> Option<Vec<u8>> {
    let frame = encode_msg(7, 3, flags, sections).unwrap();
    with_ids(&frame, &parse(&frame))
}

/// The document without its first field, which must be an ObjectId named `_id`.
fn without_id(document: &RawDocument) -> RawDocumentBuf {
    let mut fields = document.iter();
    let (name, id) = fields.next().unwrap().unwrap();
    assert_eq!(name.as_str(), "_id");
    assert!(id.as_object_id().is_some());
    fields.map(Result::unwrap).collect()
}

#[test]
fn documents_in_the_body() {
    let (one, two, three) = (rawdoc! {"a": 1}, rawdoc! {"b": {"_id": 5}, "_id": 2}, rawdoc! {});
    let body = rawdoc! {"insert": "c", "documents": [one.clone(), two.clone(), three.clone()], "ordered": true, "$db": "d"};
    let frame = changed(Flags::default(), &[Section::Body(&body)]).unwrap();
    let message = parse(&frame);
    assert_eq!((message.header.request_id, message.header.response_to), (7, 3));
    let documents: Vec<&RawDocument> = in_body(message.body()).collect();
    assert_eq!(without_id(documents[0]), one);
    assert_eq!(documents[1], &*two);
    assert_eq!(without_id(documents[2]), three);
    let others: Vec<&str> = message.body().iter_elements().map(|e| e.unwrap().key().as_str()).collect();
    assert_eq!(others, ["insert", "documents", "ordered", "$db"]);
}

#[test]
fn documents_in_a_sequence() {
    let (one, two) = (rawdoc! {"_id": 1}, rawdoc! {"a": 1});
    let documents = [one.as_bytes(), two.as_bytes()].concat();
    let body = rawdoc! {"insert": "c", "$db": "d"};
    let other = rawdoc! {"x": 1};
    let sections = [
        Section::Sequence(Sequence::new("other", other.as_bytes()).unwrap()),
        Section::Sequence(Sequence::new("documents", &documents).unwrap()),
        Section::Body(&body),
    ];
    let frame = changed(Flags::CHECKSUM_PRESENT, &sections).unwrap();
    let message = parse(&frame);
    assert!(message.flags.checksum_present() && message.checksum_holds(&frame));
    let sequences: Vec<_> = message.sequences().collect();
    assert_eq!((sequences[0].identifier, sequences[0].as_bytes()), ("other", other.as_bytes()));
    let documents: Vec<&RawDocument> = sequences[1].documents().collect();
    assert_eq!(documents[0], &*one);
    assert_eq!(without_id(documents[1]), two);
    assert_eq!(message.body(), &*body);
}

#[test]
fn nothing_to_add_changes_nothing() {
    let body = rawdoc! {"insert": "c", "documents": [{"_id": 1}, {"a": 1, "_id": null}], "$db": "d"};
    assert_eq!(changed(Flags::default(), &[Section::Body(&body)]), None);
}

#[test]
fn a_damaged_frame_stays_damaged() {
    let body = rawdoc! {"insert": "c", "documents": [{"a": 1}], "$db": "d"};
    let mut frame = encode_msg(7, 0, Flags::CHECKSUM_PRESENT, &[Section::Body(&body)]).unwrap();
    *frame.last_mut().unwrap() ^= 1;
    assert_eq!(with_ids(&frame, &parse(&frame)), None);
}

#[test]
fn a_full_frame_stays_as_it_is() {
    let pad = "x".repeat(wire::FRAME_BYTES_MAX / 3 - 100);
    let documents: Vec<u8> = (0..3).flat_map(|_| rawdoc! {"pad": pad.as_str()}.into_bytes()).collect();
    let body = rawdoc! {"insert": "c", "$db": "d"};
    let room = wire::FRAME_BYTES_MAX - documents.len() - body.as_bytes().len() - 100;
    let last = rawdoc! {"pad": "x".repeat(room)};
    let documents = [documents, last.into_bytes()].concat();
    let sections = [Section::Body(&body), Section::Sequence(Sequence::new("documents", &documents).unwrap())];
    assert_eq!(changed(Flags::default(), &sections), None);
}
