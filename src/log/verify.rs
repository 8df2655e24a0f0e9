//! Every checksum of the log, and every payload as this program reads it.

use std::io::Write;

use synclog::{Fault, LogView};

use super::read::Range;
use super::{Found, Problem, line, text};

pub(super) fn verify(view: &LogView, out: &mut impl Write) -> Result<Found, Problem> {
    let mut told = Ok(());
    let verified = view.verify(|fault| {
        if told.is_ok() {
            told = line(out, bad(&fault));
        }
    });
    told?;
    // Checksums say that a payload is as it was written; reading it says that this program knows what it means.
    let mut unreadable = 0_u64;
    if verified.faults == 0 {
        Range::default().read_to_end(view, |seen| {
            let Err(error) = &seen.record else { return Ok(()) };
            unreadable += 1;
            line(out, format_args!("record {}: {error}", seen.lsn))
        })?;
    }
    line(
        out,
        format_args!(
            "{} records, {}: {} damaged places, {unreadable} unreadable records",
            verified.records,
            text::bytes(verified.bytes),
            verified.faults
        ),
    )?;
    if verified.torn_bytes > 0 {
        line(
            out,
            format_args!(
                "{} at the end are not whole: being written, or torn by a crash; the next start cuts them off",
                text::bytes(verified.torn_bytes)
            ),
        )?;
    }
    if verified.trimmed > 0 {
        line(out, format_args!("{} files were applied and deleted meanwhile", verified.trimmed))?;
    }
    let damaged = verified.faults > 0 || unreadable > 0;
    Ok(if damaged { Found::Damaged } else { Found::Whole })
}

/// A fault in one line.
pub(super) fn bad(fault: &Fault) -> String {
    let resume = fault.resume_at.map_or_else(
        || "nothing behind it can be read".to_owned(),
        |lsn| format!("readable again from record {lsn} on"),
    );
    format!(
        "{} at byte {}, record {}: {}; {resume}",
        fault.path.display(),
        fault.offset,
        fault.lsn,
        fault.what
    )
}
