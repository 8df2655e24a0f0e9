//! The files of the log, and how far it is applied.

use std::fs;
use std::io::Write;

use synclog::{LogView, SegmentView};

use super::{Found, Problem, line, text};

pub(super) fn ls(view: &LogView, out: &mut impl Write) -> Result<Found, Problem> {
    let id: String = view.id.iter().map(|byte| format!("{byte:02x}")).collect();
    let bytes = view.segments.iter().map(|segment| segment.bytes).sum();
    let (first, head) = (view.first().0, view.head().0);
    line(out, format_args!("folder   {}", view.dir.display()))?;
    line(out, format_args!("log id   {id}"))?;
    let range = match head.saturating_sub(first) {
        0 => "none".to_owned(),
        records => format!("{first} to {}, {records} at most", head - 1),
    };
    line(
        out,
        format_args!("records  {range}, in {} files with {}", view.segments.len(), text::bytes(bytes)),
    )?;
    match &view.cursor {
        Some(cursor) => line(out, format_args!("applied  everything below {}", cursor.applied))?,
        None => line(out, "applied  nothing yet")?,
    }
    let closed = if view.closed { "in order" } else { "no: it is in use, or was killed" };
    line(out, format_args!("closed   {closed}"))?;
    if view.noted_everything {
        line(out, "noted    everything: writes to any namespace may be in no log")?;
    }
    for note in &view.notes {
        let name = String::from_utf8_lossy(note);
        let name = if name.is_empty() { "everything".into() } else { name };
        line(out, format_args!("noted    {name}: writes to it may be in no log"))?;
    }
    if !view.segments.is_empty() {
        let [file, first, last, size, begun] = ["FILE", "FIRST", "LAST", "SIZE", "BEGUN"];
        line(out, format_args!("\n{file:20}  {first:>12}  {last:>12}  {size:>11}  {begun:24}  STATE"))?;
    }
    let mut found = Found::Whole;
    for segment in &view.segments {
        if segment.fault.is_some() {
            found = Found::Damaged;
        }
        line(out, row(view, segment))?;
    }
    for path in &view.set_aside {
        let bytes = fs::metadata(path).map_or(0, |meta| meta.len());
        line(out, format_args!("{}  {}, set aside by a recovery", name(path), text::bytes(bytes)))?;
    }
    Ok(found)
}

fn row(view: &LogView, segment: &SegmentView) -> String {
    let last = segment.end.map_or_else(
        || "?".to_owned(),
        |end| if end > segment.base { (end.0 - 1).to_string() } else { "-".to_owned() },
    );
    let applied = view.cursor.as_ref().map_or(0, |cursor| cursor.applied.0);
    let state = match (&segment.fault, segment.end) {
        (Some(fault), _) => fault.as_str(),
        (None, Some(end)) if end == segment.base => "empty",
        (None, Some(end)) if end.0 <= applied => "applied",
        (None, _) if segment.base.0 >= applied => "pending",
        (None, _) => "applied in part",
    };
    let gap = if segment.gap_before { ", records before it are lost" } else { "" };
    let (name, base, size) = (name(&segment.path), segment.base.0, text::bytes(segment.bytes));
    format!(
        "{name:20}  {base:>12}  {last:>12}  {size:>11}  {:24}  {state}{gap}",
        text::time(segment.created_ms)
    )
}

fn name(path: &std::path::Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
