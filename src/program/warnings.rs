//! What somebody should look at: each with a code for scripts, a sentence, and what to do.

use std::collections::BTreeMap;

use replicator::{Bypass, Cause, Desired, Link};
use synclog::Level;

use super::Sync;
use super::show::{failure_rate, lag_ms, millis};
use crate::bounds::FilledBy;
use crate::config::Config;

/// A condition that somebody should look at.
pub(super) struct Warning {
    pub(super) code: &'static str,
    pub(super) text: String,
    pub(super) action: &'static str,
}

/// It did not answer last; a server that was never reached is not away yet.
fn away(link: &Link) -> bool {
    !link.connected && link.last_error.is_some()
}

/// All that holds now.
pub(super) fn warnings(config: &Config, sync: &Sync) -> Vec<Warning> {
    let mut list = Vec::new();
    let mut warn = |when: bool, code, text: String, action| {
        if when {
            list.push(Warning { code, text, action });
        }
    };
    let status = sync.shared.status();
    let (dirty, everything) = sync.shared.dirty();
    let (size, lag) = (sync.pending.entries(), lag_ms(sync));
    let settings = &config.sync;
    let lag_max = millis(settings.lag_warning);
    let failures = failure_rate(&status.counts);
    let copied_later = dirty.iter().filter(|(_, it)| it.not_copied_yet).count();
    let misshapen = dirty.iter().filter(|(_, it)| it.cause == Cause::Shape).count();
    let letters = sync.shared.dead_letters().len();
    warn(
        size > settings.queue_warning,
        "QUEUE_LARGE",
        format!("Sync queue size is large: {size}/{}", config.log.max_entries),
        "see that Atlas is reachable and keeps up: GET /api/sync/connections",
    );
    warn(
        lag > lag_max,
        "LAG_HIGH",
        format!("Sync lag is {} s, above {} s", lag / 1000, lag_max / 1000),
        "see that Atlas is reachable and keeps up: GET /api/sync/connections",
    );
    warn(
        failures > settings.failure_rate_warning,
        "FAILURES_HIGH",
        format!("High sync failure rate: {:.1}%", failures * 100.0),
        "look at what Atlas refuses: GET /api/sync/dead-letters",
    );
    warn(
        status.refused.is_some(),
        "TARGET_TAKEN",
        format!("nothing is sent: {}", status.refused.as_deref().unwrap_or_default()),
        "one target, one log: see \"The target is fed by another log\" in docs/troubleshooting.md",
    );
    warn(
        away(&status.target) && status.refused.is_none(),
        "ATLAS_AWAY",
        format!("Atlas unavailable, {size} operations queued"),
        "see lastError in GET /api/sync/connections; nothing is lost meanwhile",
    );
    warn(
        away(&status.source),
        "LOCAL_AWAY",
        "local mongod unavailable".to_owned(),
        "check that mongod runs and that local.uri is right",
    );
    warn(
        copied_later > 0,
        "NOT_COPIED_YET",
        format!("{copied_later} collections are not copied yet: they were there before dualsync came"),
        "none: they are being copied, one after the other; see namespaces.notCopiedYet in GET /api/sync/report",
    );
    warn(
        dirty.len() > copied_later + misshapen || everything.is_some(),
        "DIRTY",
        match &everything {
            Some(why) => format!("everything needs a full comparison: {}", why.reason),
            None => {
                format!("{} namespaces need a full comparison", dirty.len() - copied_later - misshapen)
            }
        },
        "none: they are being compared, one after the other; see namespaces.dirty in GET /api/sync/report",
    );
    warn(
        misshapen > 0,
        "SHAPES",
        format!("{misshapen} collections get the options and indexes of the local ones"),
        "none: documents are followed meanwhile; an index over a large collection takes its time",
    );
    let past = &status.counts.past;
    warn(
        !past.is_empty(),
        "WRITES_PAST",
        format!("written to past dualsync: {}", past.keys().cloned().collect::<Vec<_>>().join(", ")),
        "let all clients connect through the proxy; POST /api/sync/stats/reset once that is so",
    );
    let held = sync.comparing.held();
    warn(
        !held.is_empty(),
        "HELD",
        match held.first() {
            Some((ns, why)) if held.len() == 1 => format!("{ns} is held: {why}"),
            Some((ns, why)) => format!("{} namespaces are held, the first is {ns}: {why}", held.len()),
            None => String::new(),
        },
        "see held in GET /api/sync/report: decide, or mend what it says",
    );
    warn(
        config.sync.compare_rate_max == 0 && !(dirty.is_empty() && everything.is_none()),
        "COMPARING_OFF",
        "nothing that is dirty is compared: sync.compare_rate_max is 0".to_owned(),
        "set sync.compare_rate_max and restart",
    );
    warn(
        letters > 0,
        "DEAD_LETTERS",
        format!("{letters} documents are refused by Atlas"),
        "mend the reason, then POST /api/sync/dead-letters/retry",
    );
    warn(
        status.orphans > 0,
        "ORPHANS",
        format!("{} writes have no outcome yet", status.orphans),
        "none: they are copied once mongod has ended them",
    );
    warn(
        sync.shared.bypass() != Bypass::Off,
        "BYPASSED",
        match sync.bypass.switch.is_on() {
            true => "capture is bypassed: writes pass unseen".to_owned(),
            false => format!(
                "capture is back; {} writes that passed unseen before may still be at work",
                sync.bypass.switch.passing()
            ),
        },
        "POST /api/sync/capture/control with resume; what passed is compared after that",
    );
    warn(
        sync.shared.desired() != Desired::Running,
        "WORKER_NOT_RUNNING",
        format!(
            "the worker is {}",
            if sync.shared.desired() == Desired::Paused { "paused" } else { "stopped" }
        ),
        "POST /api/sync/worker/control with resume or start",
    );
    let not_replicated: BTreeMap<String, u64> = sync.capture.counters().not_replicated;
    warn(
        !not_replicated.is_empty(),
        "NOT_REPLICATED",
        format!("not replicated: {}", not_replicated.keys().cloned().collect::<Vec<_>>().join(", ")),
        "run these commands on Atlas as well",
    );
    list.extend(log_level(config, sync));
    if let Some(reason) = sync.log.stats().poisoned {
        list.push(Warning {
            code: "LOG_POISONED",
            text: format!("the sync log takes no more records: {reason}"),
            action: "mend the disk and restart dualsync; what was missed is compared then",
        });
    }
    list
}

/// The codes of a log that fills.
pub(super) const LOG_LEVELS: [&str; 3] = ["LOG_FILLING", "LOG_KEYS_ONLY", "LOG_FULL"];

fn log_level(config: &Config, sync: &Sync) -> Option<Warning> {
    let fill = sync.bounds.fill();
    let (code, means) = match fill.level {
        Level::Normal => return None,
        Level::Warning => (LOG_LEVELS[0], "from 90 % on it keeps no statements"),
        Level::Tight => (LOG_LEVELS[1], "writes are recorded without their statements"),
        Level::Full => (LOG_LEVELS[2], "writes are not recorded, their collections become dirty"),
    };
    let limits = &config.log;
    let bound = match fill.by {
        FilledBy::Bytes => format!("log.max_bytes = {}", limits.max_bytes),
        FilledBy::Disk => format!("its disk, less log.min_free_bytes = {}", limits.min_free_bytes),
        FilledBy::Entries => format!("log.max_entries = {}", limits.max_entries),
    };
    let text = format!("the sync log is {:.0} % full ({bound}): {means}", fill.share * 100.0);
    let action = "see that Atlas is reachable and keeps up, give the log's disk room, or raise the limit; docs/sync-log.md";
    Some(Warning { code, text, action })
}
