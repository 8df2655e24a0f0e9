//! What is in the log, in numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;

use record::{Op, Record};
use synclog::LogView;

use super::read::{Range, at_ms};
use super::{Found, Problem, line, text};

/// Namespaces that are told apart; the rest is counted together.
const NAMESPACES_MAX: usize = 100_000;
/// Of them, those that are shown.
const NAMESPACES_SHOWN: usize = 20;

#[derive(Default)]
struct Counts {
    marks: u64,
    entries: u64,
    closed: u64,
    unreadable: u64,
    bytes: u64,
    certain: u64,
    in_doubt: BTreeMap<&'static str, u64>,
    namespaces: HashMap<String, PerNamespace>,
    open_marks: BTreeSet<u64>,
    times: Option<(u64, u64)>,
}

#[derive(Default)]
struct PerNamespace {
    entries: u64,
    bytes: u64,
    inserts: u64,
    updates: u64,
    deletes: u64,
    others: u64,
}

pub(super) fn stats(view: &LogView, range: &Range, out: &mut impl Write) -> Result<Found, Problem> {
    let mut counts = Counts::default();
    let found = range.read_to_end(view, |seen| {
        counts.bytes += seen.bytes as u64;
        match &seen.record {
            Ok(record) => counts.count(seen.lsn, seen.bytes as u64, record),
            Err(_) => counts.unreadable += 1,
        }
        Ok(())
    })?;
    counts.show(out)?;
    Ok(found)
}

impl Counts {
    fn count(&mut self, lsn: u64, bytes: u64, record: &Record) {
        if let Some(at) = at_ms(record) {
            let (first, last) = self.times.unwrap_or((at, at));
            self.times = Some((first.min(at), last.max(at)));
        }
        match record {
            Record::Mark(_) => {
                self.marks += 1;
                self.open_marks.insert(lsn);
            }
            Record::Closed { mark } => {
                self.closed += 1;
                self.open_marks.remove(mark);
            }
            Record::Entry(entry) => {
                self.entries += 1;
                self.open_marks.remove(&entry.mark);
                match entry.doubt {
                    Some(doubt) => *self.in_doubt.entry(doubt.code()).or_default() += 1,
                    None => self.certain += 1,
                }
                let mut counted = BTreeSet::new();
                for effect in &entry.effects {
                    let one = self.namespace(effect.target.ns.as_str());
                    match &effect.op {
                        Some(Op::Insert(_)) => one.inserts += 1,
                        Some(Op::Update(_)) => one.updates += 1,
                        Some(Op::Delete(_)) => one.deletes += 1,
                        Some(Op::Over(_)) | None => one.others += 1,
                    }
                    if counted.insert(&effect.target.ns) {
                        one.entries += 1;
                        one.bytes += bytes;
                    }
                }
            }
        }
    }

    fn namespace(&mut self, name: &str) -> &mut PerNamespace {
        let known = self.namespaces.contains_key(name) || self.namespaces.len() < NAMESPACES_MAX;
        self.namespaces.entry(if known { name } else { "(others)" }.to_owned()).or_default()
    }

    fn show(&self, out: &mut impl Write) -> Result<(), Problem> {
        let records = self.marks + self.entries + self.closed + self.unreadable;
        line(out, format_args!("records     {records}, {} without headers", text::bytes(self.bytes)))?;
        if let Some((first, last)) = self.times {
            line(out, format_args!("written     {} to {}", text::time(first), text::time(last)))?;
        }
        line(out, format_args!("marks       {}, {} of them open", self.marks, self.open_marks.len()))?;
        line(out, format_args!("closed      {}", self.closed))?;
        if self.unreadable > 0 {
            line(out, format_args!("unreadable  {}", self.unreadable))?;
        }
        line(out, format_args!("entries     {}, {} of them certain", self.entries, self.certain))?;
        for (doubt, count) in &self.in_doubt {
            line(out, format_args!("  in doubt  {count:>10}  {doubt}"))?;
        }
        if self.namespaces.is_empty() {
            return Ok(());
        }
        let mut largest: Vec<_> = self.namespaces.iter().collect();
        largest.sort_by(|a, b| b.1.bytes.cmp(&a.1.bytes).then(a.0.cmp(b.0)));
        let title = ["ENTRIES", "SIZE", "INSERTS", "UPDATES", "DELETES", "OTHERS"];
        let [entries, size, inserts, updates, deletes, others] = title;
        line(
            out,
            format_args!(
                "\n{entries:>10}  {size:>11}  {inserts:>10}  {updates:>10}  {deletes:>10}  {others:>10}  NAMESPACE"
            ),
        )?;
        for (name, one) in largest.iter().take(NAMESPACES_SHOWN) {
            let size = text::bytes(one.bytes);
            line(
                out,
                format_args!(
                    "{:>10}  {size:>11}  {:>10}  {:>10}  {:>10}  {:>10}  {name}",
                    one.entries, one.inserts, one.updates, one.deletes, one.others
                ),
            )?;
        }
        if largest.len() > NAMESPACES_SHOWN {
            line(out, format_args!("and {} smaller namespaces", largest.len() - NAMESPACES_SHOWN))?;
        }
        Ok(())
    }
}
