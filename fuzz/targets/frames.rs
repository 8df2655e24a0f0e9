//! The splitter: however a stream is cut, it gives the same frames, or fails at the same place.
#![no_main]

use dualsync_fuzz::Capped;
use libfuzzer_sys::fuzz_target;
use wire::{FrameReader, first_key, peek_flags};

#[global_allocator]
static ALLOCATOR: Capped = Capped;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (stream, cuts) = input;
    let whole = frames(&[&stream]);
    let mut parts = Vec::new();
    let mut rest = stream.as_slice();
    for cut in cuts {
        let (part, behind) = rest.split_at(usize::from(cut).min(rest.len()));
        parts.push(part);
        rest = behind;
    }
    parts.push(rest);
    assert_eq!(frames(&parts), whole);
});

/// All frames, and whether the stream broke off in an error.
fn frames(parts: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
    let mut reader = FrameReader::default();
    let mut frames = Vec::new();
    for part in parts {
        reader.feed(part);
        loop {
            if let Ok(Some(head)) = reader.head() {
                let _ = (first_key(&head), peek_flags(&head));
            }
            match reader.take_frame() {
                Ok(Some(frame)) => frames.push(frame.to_vec()),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}
