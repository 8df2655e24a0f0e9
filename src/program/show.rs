//! Positions, lag, counts and namespaces, as the admin port shows them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use admin::{
    At, CheckStatus, CompareProgress, CompareState, Compared, Counts, FillBound, FillLevel, Full, FullState,
    Lag, LogFill, Measured, NamespaceState, Namespaces, Noted, Positions,
};
use reconciler::Phase;
use replicator::{Cause, Dirty, now_ms};
use synclog::Level;

use super::Sync;
use crate::bounds::FilledBy;

pub(super) const NOWHERE: Positions = Positions { appended: 0, durable: 0, applied: 0, trimmed: 0 };

/// Each as the number of records behind it.
pub(super) fn positions(sync: &Sync) -> Positions {
    let records = |next: u64| next.saturating_sub(1);
    // Read from the slowest to the fastest, so that they are in order whatever happens meanwhile.
    let trimmed = records(sync.log.trimmed().0);
    let applied = records(sync.shared.status().applied).max(trimmed);
    let durable = records(sync.log.durable().0).max(applied);
    Positions { appended: records(sync.log.head().0).max(durable), durable, applied, trimmed }
}

pub(super) fn lag(sync: &Sync) -> Lag {
    let entries = sync.pending.entries();
    let bytes = if entries == 0 { 0 } else { sync.shared.pending_bytes(&sync.log) };
    Lag { entries, bytes, seconds: lag_ms(sync) as f64 / 1000.0 }
}

/// Entries that wait: too many for the operator's taste, or for the log.
pub(super) fn queue_size(sync: &Sync, warning: u64) -> Measured<u64> {
    let measured = Measured::up_to(sync.pending.entries(), warning);
    let by_level = match sync.bounds.shown().0 {
        Level::Normal => CheckStatus::Pass,
        Level::Warning | Level::Tight => CheckStatus::Warn,
        Level::Full => CheckStatus::Fail,
    };
    Measured { status: measured.status.max(by_level), ..measured }
}

pub(super) fn lag_ms(sync: &Sync) -> u64 {
    sync.shared.status().oldest_pending_ms.map_or(0, |oldest| now_ms().saturating_sub(oldest))
}

pub(super) fn counts(sync: &Sync, counters: &capture::Counters) -> Counts {
    let counts = sync.shared.status().counts;
    Counts {
        captured: counters.entries.values().sum(),
        replayed: counts.replayed,
        converged: counts.converged,
        dirty: counts.dirty,
        failed: counts.failed,
        dead_letters: sync.shared.dead_letters().len() as u64,
        in_doubt: counters.in_doubt.iter().map(|(doubt, n)| (doubt.code().to_owned(), *n)).collect(),
    }
}

pub(super) fn nothing_counted() -> Counts {
    let in_doubt = BTreeMap::new();
    Counts { captured: 0, replayed: 0, converged: 0, dirty: 0, failed: 0, dead_letters: 0, in_doubt }
}

/// The comparison that was asked for, which is under way as long as something is dirty for that reason alone.
pub(super) fn show_full(sync: &Sync) -> Full {
    let (dirty, everything) = sync.shared.dirty();
    let asked = |it: &&Dirty| it.cause == Cause::Asked;
    let since = dirty.iter().map(|(_, it)| it).chain(&everything).filter(asked).map(|it| it.since_ms).min();
    let held = sync.comparing.held().len();
    let scanning = |(name, _): &&(String, Dirty)| sync.comparing.of(name).phase == Phase::Scanning;
    let verdicts = sync.shared.verdicts();
    let compared = since
        .map_or(0, |since| verdicts.iter().filter(|(_, verdict)| verdict.equal_as_of_ms >= since).count());
    Full {
        state: if since.is_some() { FullState::Running } else { FullState::Idle },
        since: since.map(at),
        left: everything.is_none().then(|| dirty.len().saturating_sub(held) as u64),
        held: held as u64,
        compared: compared as u64,
        now: dirty.iter().find(scanning).map(|(name, it)| show_dirty(sync, name, it)),
    }
}

pub(super) const NOTHING_COMPARED: Full =
    Full { state: FullState::Idle, since: None, left: Some(0), held: 0, compared: 0, now: None };

fn show_dirty(sync: &Sync, name: &str, it: &Dirty) -> NamespaceState {
    let view = sync.comparing.of(name);
    let progress = CompareProgress {
        compared: view.compared,
        documents: view.documents,
        differences: view.differences,
        rate: view.rate,
        eta_seconds: view.eta_seconds,
    };
    let (state, held, progress) = match view.phase {
        Phase::Waiting => (CompareState::Waiting, None, None),
        Phase::Scanning => (CompareState::Scanning, None, Some(progress)),
        Phase::Held(why) => (CompareState::Held, Some(why), None),
    };
    NamespaceState {
        namespace: name.to_owned(),
        reason: it.reason.clone(),
        since: at(it.since_ms),
        state,
        held,
        progress,
    }
}

pub(super) fn namespaces(sync: &Sync) -> Namespaces {
    let (dirty, everything) = sync.shared.dirty();
    let show = |name: &str, it: &Dirty| show_dirty(sync, name, it);
    let compared = sync.shared.verdicts().into_iter().map(|(namespace, verdict)| Compared {
        namespace,
        documents: verdict.documents,
        repaired: verdict.repaired,
        equal_as_of: at(verdict.equal_as_of_ms),
        took_ms: verdict.took_ms,
    });
    let everything = everything.iter().map(|it| show("*", it));
    let (later, now): (Vec<_>, Vec<_>) = dirty.iter().partition(|(_, it)| it.not_copied_yet);
    Namespaces {
        not_copied_yet: later.into_iter().map(|(name, it)| show(name, it)).collect(),
        dirty: everything.chain(now.into_iter().map(|(name, it)| show(name, it))).collect(),
        compared: compared.collect(),
    }
}

pub(super) fn failure_rate(counts: &replicator::Counts) -> f64 {
    let all = counts.replayed + counts.converged + counts.failed;
    if all == 0 { 0.0 } else { counts.failed as f64 / all as f64 }
}

pub(super) fn log_fill(sync: &Sync) -> LogFill {
    let (fill, (_, since)) = (sync.bounds.fill(), sync.bounds.shown());
    LogFill {
        level: fill_level(fill.level),
        since: At(since),
        fill: fill.share,
        bound: match fill.by {
            FilledBy::Bytes => FillBound::Bytes,
            FilledBy::Disk => FillBound::Disk,
            FilledBy::Entries => FillBound::Entries,
        },
        entries_without_statements: sync.capture.counters().touches_only,
        unrecorded_writes: sync.capture.unrecorded().writes,
        noted: noted(sync),
    }
}

pub(super) fn noted(sync: &Sync) -> Noted {
    let noted = replicator::noted(&sync.log);
    Noted {
        everything: noted.everything,
        namespaces: noted.namespaces.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn fill_level(level: Level) -> FillLevel {
    match level {
        Level::Normal => FillLevel::Normal,
        Level::Warning => FillLevel::Warning,
        Level::Tight => FillLevel::KeysOnly,
        Level::Full => FillLevel::Full,
    }
}

pub(super) fn at(ms: u64) -> At {
    At(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
