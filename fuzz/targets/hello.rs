//! Handshakes: what is rewritten still reads, and leads back to the proxy.
#![no_main]

use arbitrary::{Result, Unstructured};
use bson::raw::RawDocumentBuf;
use dualsync_fuzz::{Capped, document, frame};
use libfuzzer_sys::fuzz_target;
use wire::{Flags, OpMsg, Section, encode_msg, hello};

#[global_allocator]
static ALLOCATOR: Capped = Capped;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    for opcode in [1, 2004, 2013] {
        check(&frame(opcode, bytes));
    }
    let _ = built(&mut Unstructured::new(bytes));
});

fn check(frame: &[u8]) {
    let _ = hello::strip_compression(frame);
    let _ = hello::rewrite_reply(frame, "proxy.example:27018");
}

fn built(input: &mut Unstructured<'_>) -> Result<()> {
    let mut body = RawDocumentBuf::new();
    body.append(bson::raw::cstr!("hello"), 1);
    for (name, value) in document(input, 2)?.iter().flatten() {
        body.append(name, value);
    }
    let flags = Flags(input.int_in_range(0..=3_u32)?);
    let Ok(frame) = encode_msg(7, 0, flags, &[Section::Body(&body)]) else { return Ok(()) };
    for rewritten in [hello::strip_compression(&frame), hello::rewrite_reply(&frame, "proxy.example:27018")]
        .into_iter()
        .flatten()
    {
        let Ok(message) = OpMsg::parse(&rewritten) else { panic!("a rewritten handshake is a message") };
        assert_eq!(message.flags, flags);
        assert!(message.checksum_holds(&rewritten));
    }
    Ok(())
}
