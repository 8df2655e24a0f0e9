//! Writes that went past dualsync (a shell on mongod's own port, cron, `mongorestore`) are noticed by mongod's own counters.
//!
//! - `top` counts writes per collection (seen on 6.0.5: `findAndModify` and the commands over indexes included, expiry not);
//!   one that drops or renames a collection takes its counters away
//! - between two samples a collection is *quiet* when no record of the log that names it is of that time, and no mark of it
//!   is open: the mark of whatever the proxy forwards is in the log before it leaves, and its end after its reply
//! - a quiet collection whose count has changed was written to past us: it becomes dirty, and is compared
//!
//! Not here: what is written to a collection while clients write to it as well, and what happens while dualsync is away.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::PoisonError;
use std::time::Instant;

use record::{Entry, Mark, Namespace};
use tracing::{debug, warn};

use super::Pump;
use crate::error::Class;
use crate::execute::Stall;
use crate::shared::now_ms;
use crate::state::{Bypass, Cause};

/// Collections that are remembered as touched; beyond that two samples are not compared.
const TOUCHED_MAX: usize = 100_000;

/// The samples.
#[derive(Debug, Default)]
pub(super) struct Past {
    last: Option<Sample>,
    next: Option<Sample>,
    looked: Option<Instant>,
    /// The source does not tell: said once.
    blind: bool,
}

#[derive(Debug)]
pub(super) struct Sample {
    /// The log's head before mongod was asked, and after.
    from: u64,
    to: u64,
    counts: HashMap<Namespace, u64>,
    process: Option<String>,
}

/// What the log names, as far as it was read.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// The position of the last record that names a collection, or a whole database.
    at: HashMap<Namespace, u64>,
    /// What marks without an end name.
    open: BTreeMap<u64, Vec<Namespace>>,
    /// The position of the last mark that was not read: nothing is known of the time before.
    skipped: u64,
}

impl Touched {
    pub(super) fn mark(&mut self, lsn: u64, mark: &Mark) {
        let names: Vec<Namespace> = mark.targets.iter().map(|target| target.ns.clone()).collect();
        self.touch(&names, lsn);
        self.open.insert(lsn, names);
    }

    pub(super) fn entry(&mut self, lsn: u64, entry: &Entry) {
        self.open.remove(&entry.mark);
        for effect in &entry.effects {
            self.touch(std::slice::from_ref(&effect.target.ns), lsn);
        }
    }

    pub(super) fn closed(&mut self, lsn: u64, mark: u64) {
        match self.open.remove(&mark) {
            Some(names) => self.touch(&names, lsn),
            None => self.skipped(lsn),
        }
    }

    /// Of so many marks without an end, what each names is known.
    pub(super) fn knows(&self, open_marks: usize) -> bool {
        self.open.len() == open_marks
    }

    pub(super) fn skipped(&mut self, lsn: u64) {
        self.skipped = lsn;
    }

    fn touch(&mut self, names: &[Namespace], lsn: u64) {
        if self.at.len() > TOUCHED_MAX {
            self.at.clear();
            self.skipped = lsn;
        }
        for ns in names {
            match self.at.get_mut(ns) {
                Some(at) => *at = lsn,
                None => drop(self.at.insert(ns.clone(), lsn)),
            }
        }
    }

    /// Whether nothing that passed the proxy can have written to `ns` since `from`.
    fn is_quiet(&self, ns: &Namespace, from: u64, open: &BTreeSet<&Namespace>) -> bool {
        let database = Namespace::new(ns.db(), "");
        let untouched = |ns: &Namespace| self.at.get(ns).is_none_or(|at| *at < from) && !open.contains(ns);
        untouched(ns) && untouched(&database)
    }

    /// Collections whose count has changed between the samples although they were quiet.
    pub(super) fn compare(&self, last: &Sample, next: &Sample) -> Vec<Namespace> {
        if self.skipped >= last.from {
            return Vec::new();
        }
        let open: BTreeSet<&Namespace> = self.open.values().flatten().collect();
        let names: BTreeSet<&Namespace> = last.counts.keys().chain(next.counts.keys()).collect();
        let changed = |ns: &&Namespace| last.counts.get(ns) != next.counts.get(ns);
        let quiet = |ns: &&Namespace| self.is_quiet(ns, last.from, &open);
        names.into_iter().filter(changed).filter(quiet).cloned().collect()
    }
}

impl Pump {
    /// Takes a sample when that is due, and compares it with the last one when the log has been read up to it.
    pub(super) async fn look_past(&mut self) -> Result<(), Stall> {
        // What other logs record is past this one.
        if self.config.feeding.join {
            return Ok(());
        }
        if self.past.next.is_none()
            && self.past.looked.is_none_or(|at| at.elapsed() >= self.config.past_interval)
        {
            self.past.looked = Some(Instant::now());
            self.past.next = self.sample().await?;
        }
        if self.past.next.as_ref().is_none_or(|next| self.feed().position().0 < next.to) {
            return Ok(());
        }
        let (last, next) = (self.past.last.take(), self.past.next.take());
        // While writes pass that are in no log, what was written to is dirty anyway.
        let seen = self.shared.bypass() == Bypass::Off && (self.config.unrecorded)() == 0;
        if let (Some(last), Some(next), true) = (&last, &next, seen)
            && last.process == next.process
        {
            let found = self.feed().written_past(last, next);
            for ns in found {
                self.found_past(&ns);
            }
            self.save_state();
        }
        let horizon = next.as_ref().map_or(0, |next| next.from);
        self.feed().touched.at.retain(|_, at| *at >= horizon);
        self.past.last = next.filter(|_| seen);
        Ok(())
    }

    async fn sample(&mut self) -> Result<Option<Sample>, Stall> {
        let from = self.log.head().0;
        let counts = match self.executor.source.writes_counted().await {
            Ok(counts) => counts,
            Err(error) if matches!(error.class, Class::Refused | Class::Identity) => {
                if !std::mem::replace(&mut self.past.blind, true) {
                    warn!(%error, "writes that go past dualsync cannot be noticed (grant clusterMonitor to the user of local.uri)");
                }
                return Ok(None);
            }
            Err(error) => return Err(Stall::Source(error)),
        };
        // Counts of another process than the one that is known are no measure.
        self.executor.same_source().await?;
        let captured = |ns: &Namespace| (self.config.captures)(&self.config.filter, ns);
        let counts = counts.into_iter().filter(|(ns, _)| is_ours(ns.coll()) && captured(ns)).collect();
        let process = self.executor.source_process.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Some(Sample { from, to: self.log.head().0, counts, process }))
    }

    fn found_past(&mut self, ns: &Namespace) {
        if self.shared.state().is_dirty(ns) {
            debug!(%ns, "written to past dualsync, and dirty already");
        } else {
            warn!(%ns, "written to past dualsync: let all clients connect through the proxy");
        }
        self.executor.make_dirty_by(ns, "written to past dualsync", Cause::Unknown);
        self.shared.status_mut().counts.past.insert(ns.to_string(), now_ms());
    }
}

/// Whether it is no collection that the server makes for itself, for good or while it makes another.
fn is_ours(coll: &str) -> bool {
    let temporary = coll.starts_with("tmp")
        && [".convertToCapped", ".renameCollection"].iter().any(|it| coll.contains(it));
    !(coll.is_empty()
        || temporary
        || ["tmp.", "system.", "$cmd"].iter().any(|prefix| coll.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::{Target, Touch};

    fn sample(from: u64, counts: &[(&str, u64)]) -> Sample {
        let counts = counts.iter().map(|(name, count)| (Namespace::parse(name), *count)).collect();
        Sample { from, to: from, counts, process: None }
    }

    fn mark(names: &[&str]) -> Mark {
        let target = |name: &&str| Target::new(Namespace::parse(name), Touch::Namespace);
        let targets = names.iter().map(target).collect();
        Mark { targets, via: String::new(), in_transaction: false, drops: false, at_ms: 0 }
    }

    #[test]
    fn only_what_nobody_forwarded_went_past() {
        let mut past = Touched::default();
        past.mark(1, &mark(&["d.long"])); // open all the time
        past.mark(2, &mark(&["d.ended"]));
        past.mark(5, &mark(&["d.before"]));
        past.closed(6, 5);
        past.closed(11, 2);
        past.mark(12, &mark(&["d.now"]));
        past.mark(13, &mark(&["whole"]));
        let names = ["d.before", "d.ended", "d.long", "d.now", "d.same", "whole.a"];
        let last: Vec<_> = names.iter().map(|name| (*name, 1)).collect();
        let mut next: Vec<_> = names.iter().map(|name| (*name, 2 - u64::from(*name == "d.same"))).collect();
        next.push(("d.new", 1));
        let found = past.compare(&sample(10, &last), &sample(20, &next));
        assert_eq!(found, [Namespace::parse("d.before"), Namespace::parse("d.new")]);
        past.skipped(10);
        assert_eq!(past.compare(&sample(10, &last), &sample(20, &next)), []);
        let past = Touched::default();
        // One that is gone, or counts anew.
        let found = past.compare(&sample(10, &[("d.a", 5), ("d.b", 5)]), &sample(20, &[("d.b", 1)]));
        assert_eq!(found, [Namespace::parse("d.a"), Namespace::parse("d.b")]);
    }
}
