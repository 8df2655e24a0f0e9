//! OP_MSG, OP_QUERY and OP_REPLY: any bytes are read without harm; what is read and built again reads the same.
#![no_main]

use arbitrary::{Result, Unstructured};
use dualsync_fuzz::{Capped, document, frame};
use libfuzzer_sys::fuzz_target;
use wire::{OpMsg, OpQuery, OpReply, Section, Sequence, elements, encode_msg};

#[global_allocator]
static ALLOCATOR: Capped = Capped;

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    for opcode in [1, 2004, 2013] {
        read(&frame(opcode, bytes));
    }
    let _ = built(&mut Unstructured::new(bytes));
});

fn read(bytes: &[u8]) {
    if let Ok(message) = OpMsg::parse(bytes) {
        let documents = message.sequences().flat_map(|sequence| sequence.documents());
        for document in documents.chain([message.body()]) {
            for element in elements(document).flatten() {
                let _ = element.value();
            }
        }
        assert!(message.body_at().end <= bytes.len());
        let _ = message.checksum_holds(bytes);
    }
    let _ = OpQuery::parse(bytes);
    let _ = OpReply::parse(bytes);
}

fn built(input: &mut Unstructured<'_>) -> Result<()> {
    let body = document(input, 2)?;
    let documents = [document(input, 2)?, document(input, 1)?];
    let bytes: Vec<u8> = documents.iter().flat_map(|document| document.as_bytes().to_vec()).collect();
    let Ok(sequence) = Sequence::new("documents", &bytes) else { panic!("whole documents are a sequence") };
    let mut sections = vec![Section::Body(&body)];
    sections.insert(input.int_in_range(0..=1)?, Section::Sequence(sequence));
    let flags = wire::Flags(input.arbitrary::<u32>()? & 0xffff_0003);
    let Ok(frame) = encode_msg(input.arbitrary()?, input.arbitrary()?, flags, &sections) else {
        return Ok(());
    };
    let Ok(message) = OpMsg::parse(&frame) else { panic!("what is built is read") };
    assert_eq!(message.body().as_bytes(), body.as_bytes());
    assert_eq!(message.flags, flags);
    assert!(message.checksum_holds(&frame));
    let read: Vec<&[u8]> = message
        .sequences()
        .flat_map(|sequence| sequence.documents())
        .map(|document| document.as_bytes())
        .collect();
    assert_eq!(read, documents.each_ref().map(|document| document.as_bytes()));
    Ok(())
}
