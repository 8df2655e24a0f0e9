use bson::raw::RawDocumentBuf;
use bson::rawdoc;
use wire::Flags;

use super::*;

fn parse(frame: &[u8]) -> OpMsg<'_> {
    OpMsg::parse(frame).unwrap()
}

fn changed(flags: Flags, sections: &[Section<'_>]) -> Option<Vec<u8>> {
    let frame = encode_msg(7, 3, flags, sections).unwrap();
    with_ids(&parse(&frame), crate::DOCUMENT_BYTES_MAX)
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
fn what_is_full_stays_as_it_is() {
    let padded = |bytes: usize| rawdoc! {"pad": "x".repeat(bytes - 15)};
    let body = rawdoc! {"insert": "c", "$db": "d"};
    let in_sequence = |documents: &[u8]| {
        let documents = Section::Sequence(Sequence::new("documents", documents).unwrap());
        changed(Flags::default(), &[Section::Body(&body), documents])
    };
    // A document: the server would take it, and add the `_id` on top.
    for (bytes, fits) in [((16 << 20) - 17, true), ((16 << 20) - 16, false), (16 << 20, false)] {
        assert_eq!(in_sequence(padded(bytes).as_bytes()).is_some(), fits, "{bytes}");
    }
    // The server's own limit counts.
    let frame = encode_msg(
        1,
        0,
        Flags::default(),
        &[Section::Body(&rawdoc! {"insert": "c", "documents": [{"a": 1}]})],
    );
    let frame = frame.unwrap();
    assert!(with_ids(&parse(&frame), 29).is_some() && with_ids(&parse(&frame), 28).is_none());
    // A body, of many documents.
    let with_documents = |pad: usize| {
        let mut documents = bson::raw::RawArrayBuf::new();
        (0..1_000).for_each(|_| documents.push(rawdoc! {}));
        documents.push(padded(pad));
        let body = rawdoc! {"insert": "c", "documents": documents, "$db": "d"};
        changed(Flags::default(), &[Section::Body(&body)])
    };
    assert!(with_documents(16_700_000).is_some());
    assert!(with_documents(16_770_000).is_none());
    // The frame.
    let third = padded(wire::FRAME_BYTES_MAX / 3 - 100);
    let room = wire::FRAME_BYTES_MAX - 3 * third.as_bytes().len() - body.as_bytes().len() - 100;
    let documents = [third.as_bytes(), third.as_bytes(), third.as_bytes(), padded(room).as_bytes()].concat();
    assert_eq!(in_sequence(&documents), None);
}
