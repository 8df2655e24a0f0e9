//! The records of a range, decoded; what cannot be read is told on the way.

use std::collections::HashSet;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use capture::Pattern;
use clap::Args;
use record::{Record, Target};
use synclog::{LogView, Lsn, ReadError};

use super::{Found, Problem, text};

/// Which records.
#[derive(Debug, Args, Default)]
pub(crate) struct Range {
    /// The first position [default: the first that is kept]
    #[arg(long, value_name = "LSN")]
    pub(crate) from: Option<u64>,
    /// The last position [default: the last that is written]
    #[arg(long, value_name = "LSN")]
    pub(crate) to: Option<u64>,
    /// Only what touches these namespaces: `db`, `db.coll`, or either with `*`
    #[arg(long, value_name = "NAMESPACE")]
    ns: Vec<Pattern>,
}

/// What to do at the end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It is the end.
    Stop,
    /// Wait for more.
    Follow,
}

/// Between two looks for more.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// One record of the log.
pub(crate) struct Seen {
    pub(crate) lsn: u64,
    /// Of its payload.
    pub(crate) bytes: usize,
    /// `Err`: why its payload says nothing to this program.
    pub(crate) record: Result<Record, record::DecodeError>,
}

impl Range {
    /// Goes through the records in order, up to the end as it is now.
    pub(crate) fn read_to_end(
        &self,
        view: &LogView,
        mut each: impl FnMut(Seen) -> Result<(), Problem>,
    ) -> Result<Found, Problem> {
        self.read(view, End::Stop, |seen| seen.map_or(Ok(()), &mut each))
    }

    /// Goes through the records in order; `None`: the end, for now. Damage is said on standard error, and passed.
    pub(crate) fn read(
        &self,
        view: &LogView,
        end: End,
        mut each: impl FnMut(Option<Seen>) -> Result<(), Problem>,
    ) -> Result<Found, Problem> {
        let mut found = Found::Whole;
        let mut wanted_marks = HashSet::new();
        let mut progress = Progress::new(view);
        let mut reader = view.records(Lsn(self.from.unwrap_or(0)));
        loop {
            let raw = match reader.next() {
                Ok(Some(raw)) => raw,
                Ok(None) => {
                    progress.clear();
                    each(None)?;
                    match end {
                        End::Stop => return Ok(found),
                        End::Follow => std::thread::sleep(FOLLOW_INTERVAL),
                    }
                    continue;
                }
                Err(problem) => {
                    progress.clear();
                    eprintln!("dualsync: {problem}");
                    // The log has deleted what is applied: that is no damage.
                    if !matches!(problem, ReadError::Trimmed { .. }) {
                        found = Found::Damaged;
                    }
                    if matches!(problem, ReadError::Disk { .. }) && !reader.skip_segment() {
                        return Ok(found);
                    }
                    continue;
                }
            };
            if self.to.is_some_and(|to| raw.lsn.0 > to) {
                progress.clear();
                return Ok(found);
            }
            progress.at(raw.lsn);
            let record = Record::decode(raw.kind, &raw.payload);
            if self.wants(raw.lsn.0, &record, &mut wanted_marks) {
                each(Some(Seen { lsn: raw.lsn.0, bytes: raw.payload.len(), record }))?;
            }
        }
    }

    /// A closing record names no namespace: it goes with its mark.
    fn wants(
        &self,
        lsn: u64,
        record: &Result<Record, record::DecodeError>,
        wanted_marks: &mut HashSet<u64>,
    ) -> bool {
        if self.ns.is_empty() {
            return true;
        }
        let is_wanted = |target: &Target| self.ns.iter().any(|pattern| pattern.may_match(&target.ns));
        match record {
            Ok(Record::Mark(mark)) => {
                let wanted = mark.targets.iter().any(is_wanted);
                if wanted && wanted_marks.len() < OPEN_MARKS_MAX {
                    wanted_marks.insert(lsn);
                }
                wanted
            }
            Ok(Record::Entry(entry)) => {
                wanted_marks.remove(&entry.mark);
                entry.effects.iter().any(|effect| is_wanted(&effect.target))
            }
            Ok(Record::Closed { mark }) => wanted_marks.remove(mark),
            Err(_) => true, // it may be about anything
        }
    }
}

/// Marks that wait for their end, to show it: far more than there are writes in flight.
const OPEN_MARKS_MAX: usize = 1_000_000;

/// How far a long look has come, for a person who waits: on a terminal, and only when it takes a while.
struct Progress {
    first: u64,
    head: u64,
    next: Option<Instant>,
    shown: bool,
}

impl Progress {
    const INTERVAL: Duration = Duration::from_millis(500);

    fn new(view: &LogView) -> Progress {
        let (first, head) = (view.first().0, view.head().0);
        // What is printed shows by itself how far it is.
        let shows = std::io::stderr().is_terminal() && !std::io::stdout().is_terminal();
        Progress { first, head, next: shows.then(|| Instant::now() + Self::INTERVAL), shown: false }
    }

    fn at(&mut self, lsn: Lsn) {
        // The clock is asked for a few records only.
        if !lsn.0.is_multiple_of(1024) || self.next.is_none_or(|next| Instant::now() < next) {
            return;
        }
        self.next = Some(Instant::now() + Self::INTERVAL);
        self.shown = true;
        let done = lsn.0.saturating_sub(self.first) * 100 / (self.head - self.first).max(1);
        eprint!("\r{} of {}, {} %  ", lsn.0, self.head.saturating_sub(1), done.min(100));
        let _ = std::io::stderr().flush();
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r{:60}\r", "");
        }
    }
}

/// Says when a record was written, if it says so itself.
pub(super) fn at_ms(record: &Record) -> Option<u64> {
    match record {
        Record::Mark(mark) => Some(mark.at_ms),
        Record::Entry(entry) => Some(entry.at_ms),
        Record::Closed { .. } => None,
    }
}

/// The same for a person; as wide as a time where there is none.
pub(super) fn time_of(record: &Record) -> String {
    at_ms(record).map_or_else(|| format!("{:24}", ""), text::time)
}
