//! OP_COMPRESSED: nothing but the announced size is ever given out, whatever the compressed bytes say.
#![no_main]

use dualsync_fuzz::{Capped, frame};
use libfuzzer_sys::fuzz_target;
use wire::{FRAME_BYTES_MAX, Head, Header, inflate, inflated_bytes};

#[global_allocator]
static ALLOCATOR: Capped = Capped;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&frame(2012, bytes));
    // Sizes near the truth are what the decoders stumble over.
    for announced in [0_i32, 1, 16, 5_000, 47_999_984, i32::MAX, -1] {
        for compressor in 0..4_u8 {
            let mut payload = 2013_i32.to_le_bytes().to_vec();
            payload.extend_from_slice(&announced.to_le_bytes());
            payload.push(compressor);
            payload.extend_from_slice(bytes);
            check(&frame(2012, &payload));
        }
    }
});

fn check(frame: &[u8]) {
    let Ok(Some(header)) = Header::parse(frame, FRAME_BYTES_MAX) else { return };
    if header.length != frame.len() {
        return;
    }
    let announced = inflated_bytes(&Head { header, bytes: frame });
    assert!(announced <= FRAME_BYTES_MAX);
    if let Ok(inner) = inflate(frame) {
        assert_eq!(inner.len(), announced);
        assert!(Header::of(&inner).is_ok_and(|header| header.length == inner.len()));
    }
}
