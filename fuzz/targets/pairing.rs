//! Capture: any request with any reply, ended in any way, gives records that read, and never a panic.
#![no_main]

use arbitrary::{Result, Unstructured};
use capture::{Capture, Config, Lost};
use dualsync_fuzz::{Capped, command, damage, document, frame};
use libfuzzer_sys::fuzz_target;
use wire::{Flags, OpMsg, Section, encode_msg};

#[global_allocator]
static ALLOCATOR: Capped = Capped;

const NOW: u64 = 1_700_000_000_000;

fuzz_target!(|bytes: &[u8]| {
    let (request, reply) = bytes.split_at(bytes.len() / 2);
    play(&frame(2013, request), &frame(2013, reply));
    let _ = built(&mut Unstructured::new(bytes));
});

fn built(input: &mut Unstructured<'_>) -> Result<()> {
    let flags = Flags(input.int_in_range(0..=3_u32)?);
    let Ok(mut request) = encode_msg(7, 0, flags, &[Section::Body(&command(input)?)]) else { return Ok(()) };
    let Ok(mut reply) = encode_msg(8, 7, Flags::default(), &[Section::Body(&document(input, 3)?)]) else {
        return Ok(());
    };
    damage(input, &mut request)?;
    damage(input, &mut reply)?;
    play(&request, &reply);
    Ok(())
}

/// From request to end, in every way that a write can end.
fn play(request: &[u8], reply: &[u8]) {
    let capture = Capture::new(Config::default());
    let session = capture.session("10.0.0.1:5".to_owned());
    let _ = session.unscanned(&request[..request.len().min(60)]);
    for way in 0..4 {
        let Some(mut write) = session.request(request) else { continue };
        if let Some(mark) = write.mark(NOW) {
            assert!(record::Record::decode(record::RecordKind::Mark as u8, &mark).is_ok());
            write.marked(1);
        }
        if let Some(changed) = write.forward() {
            assert!(OpMsg::parse(&changed).is_ok_and(|message| message.checksum_holds(&changed)));
        }
        let ended = match way {
            0 => write.outcome(reply, NOW),
            1 => write.unacknowledged(NOW),
            2 => write.never_sent(NOW),
            _ => {
                drop(write.orphan(Lost::ServerClosed));
                continue;
            }
        };
        for (kind, payload) in &ended.appends {
            assert!(record::Record::decode(*kind as u8, payload).is_ok());
        }
    }
    capture.abandoned(u64::MAX);
}
