//! Handshakes: what is rewritten still reads, and leads back to the proxy.
#![no_main]

use arbitrary::{Result, Unstructured};
use bson::raw::RawDocumentBuf;
use dualsync_fuzz::{Capped, document, frame};
use libfuzzer_sys::fuzz_target;
use wire::{
    Address, Flags, OpMsg, Section, encode_msg,
    hello::{self, Asked, Names},
};

#[global_allocator]
static ALLOCATOR: Capped = Capped;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    for opcode in [1, 2004, 2012, 2013] {
        check(&frame(opcode, bytes));
    }
    let _ = built(&mut Unstructured::new(bytes));
});

fn check(frame: &[u8]) {
    let _ = (hello::asked(frame), hello::facts(frame));
    let _ = hello::offer_readable_compressors(frame);
    let _ = hello::rewrite_reply(frame, &names(), Asked::LoadBalanced);
    let _ = std::str::from_utf8(frame).map(an_address);
}

/// What is shown of an address is that address again.
fn an_address(text: &str) {
    if let Some(address) = Address::parse(text) {
        assert_eq!(Address::parse(&address.to_string()), Some(address));
    }
}

fn names() -> Names {
    let other = Address::parse("db2.example").map(|address| (address, "proxy.example:27019".to_owned()));
    Names { here: "proxy.example:27018".to_owned(), others: other.into_iter().collect() }
}

fn built(input: &mut Unstructured<'_>) -> Result<()> {
    let mut body = RawDocumentBuf::new();
    body.append(bson::raw::cstr!("hello"), 1);
    for (name, value) in document(input, 2)?.iter().flatten() {
        body.append(name, value);
    }
    let flags = Flags(input.int_in_range(0..=3_u32)?);
    let Ok(frame) = encode_msg(7, 0, flags, &[Section::Body(&body)]) else { return Ok(()) };
    let Ok(rewritten) = hello::rewrite_reply(&frame, &names(), Asked::LoadBalanced) else { return Ok(()) };
    for rewritten in [hello::offer_readable_compressors(&frame), rewritten].into_iter().flatten() {
        let Ok(message) = OpMsg::parse(&rewritten) else { panic!("a rewritten handshake is a message") };
        assert_eq!(message.flags, flags);
        assert!(message.checksum_holds(&rewritten));
    }
    Ok(())
}
