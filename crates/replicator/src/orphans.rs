//! Writes whose reply will never come: what becomes of them.
//!
//! Their operation may still run on mongod, so each stays in flight (its guard is held: whatever may touch the
//! same documents is in doubt meanwhile) until mongod has lost the connection that it came by. Then an entry in
//! doubt with the mark's touches goes into the log, and only then the guard is dropped.
//! One that the log took no mark of has no entry either: dropping its guard raises its namespaces as missed.
//! Where mongod shows its connections under other addresses (translated ones, or none on a Unix socket), all operations
//! that ran when the connection was gone are waited for, and then the namespace becomes dirty.
//! Where mongod does not show its connections, and where a transaction
//! outlives them, the namespace becomes dirty.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use record::{Doubt, Effect, Entry, Mark, RecordKind, Target, Touch};
use synclog::SyncLog;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::Pending;
use crate::error::{Class, ServerError};
use crate::shared::{Shared, now_ms};
use crate::source::{Connections, Source};

/// Between two looks at mongod's connections.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// A connection must be missing this many times in a row: one that is just being accepted is not listed yet.
const ABSENT_LOOKS: u32 = 2;
/// How long an operation may run on before its namespace is left to a full comparison.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// A mark without an end.
pub struct Orphan {
    /// Its position; `None` when the log took no mark.
    pub mark: Option<u64>,
    /// What it says.
    pub record: Mark,
    /// Keeps the write in flight for capture's contention table until dropped.
    pub guard: Box<dyn Send>,
}

/// Where the outcomes go.
pub(crate) struct Recorder {
    pub(crate) log: SyncLog,
    pub(crate) pending: Arc<Pending>,
    /// The log took no record last time: said once.
    pub(crate) refused: AtomicBool,
}

struct Waiting {
    orphan: Orphan,
    absent: u32,
    since: Instant,
    /// Where connections cannot be told apart: the operations that it may be.
    suspects: HashSet<i64>,
    looks: u32,
}

impl Waiting {
    fn new(orphan: Orphan) -> Waiting {
        Waiting { orphan, absent: 0, since: Instant::now(), suspects: HashSet::new(), looks: 0 }
    }

    /// Whether it may still run on a mongod that shows no addresses: one of the operations that ran when its connection
    /// was gone does.
    fn may_run(&mut self, running: &HashSet<i64>) -> bool {
        self.looks += 1;
        if self.looks <= ABSENT_LOOKS {
            self.suspects.extend(running);
        } else {
            self.suspects.retain(|operation| running.contains(operation));
        }
        self.looks <= ABSENT_LOOKS || !self.suspects.is_empty()
    }
}

/// Ends orphans until `shutdown`; those that are left keep their open marks and are found again at the next start.
pub(crate) async fn resolve(
    source: Source,
    log: Recorder,
    shared: Shared,
    mut inbox: UnboundedReceiver<Orphan>,
    shutdown: CancellationToken,
) {
    let mut waiting: Vec<Waiting> = Vec::new();
    loop {
        let arrived = tokio::select! {
            orphan = inbox.recv() => orphan,
            () = tokio::time::sleep(LOOK_INTERVAL), if !waiting.is_empty() => None,
            () = shutdown.cancelled() => return,
        };
        if let Some(orphan) = arrived {
            waiting.push(Waiting::new(orphan));
            continue;
        }
        if waiting.is_empty() {
            return; // the channel is closed
        }
        match source.connections().await {
            Ok(connections) => look(&mut waiting, &connections, &log),
            Err(error) if matches!(error.class, Class::Identity | Class::Refused) => {
                give_up(&mut waiting, &error, &log)
            }
            Err(_) => {} // the source is away; nothing runs on it that we could see
        }
        shared.status_mut().orphans = waiting.len() as u64 + inbox.len() as u64;
    }
}

fn look(waiting: &mut Vec<Waiting>, connections: &Connections, log: &Recorder) {
    waiting.retain_mut(|one| {
        let Some(there) = connections.has(&one.orphan.record.via) else {
            if one.may_run(&connections.running) && one.since.elapsed() < WAIT_MAX {
                return true;
            }
            warn!(mark = ?one.orphan.mark, "mongod does not see our connections under their addresses, so a write without a reply cannot be followed: its namespaces are dirty");
            return !end(&one.orphan, true, log);
        };
        one.absent = if there { 0 } else { one.absent + 1 };
        if one.orphan.record.in_transaction {
            // The transaction may be committed over another connection; which, nobody here will see.
            warn!(
                mark = ?one.orphan.mark,
                "a transaction was open when its connection or this program ended, its namespaces are dirty"
            );
            return !end(&one.orphan, true, log);
        }
        if one.absent >= ABSENT_LOOKS {
            info!(
                mark = ?one.orphan.mark,
                "a write without a reply has ended on the source, its documents are copied"
            );
            return !end(&one.orphan, false, log);
        }
        if one.since.elapsed() > WAIT_MAX {
            warn!(
                mark = ?one.orphan.mark,
                "a write without a reply still runs on the source, its namespaces are dirty"
            );
            return !end(&one.orphan, true, log);
        }
        true
    });
}

fn give_up(waiting: &mut Vec<Waiting>, error: &ServerError, log: &Recorder) {
    warn!(%error, orphans = waiting.len(), "the source does not show its connections (grant clusterMonitor to the user of local.uri), namespaces with writes without a reply are dirty");
    waiting.retain(|one| !end(&one.orphan, true, log));
}

/// Appends the orphan's entry; `false` when the log does not take it now.
fn end(orphan: &Orphan, whole_namespaces: bool, log: &Recorder) -> bool {
    let Some(mark) = orphan.mark else { return true };
    let touch = |target: &Target| match (&target.touch, whole_namespaces) {
        (Touch::Database, _) => target.clone(),
        (_, true) => Target::new(target.ns.clone(), Touch::Namespace),
        (_, false) => target.clone(),
    };
    let targets: HashSet<Target> = orphan.record.targets.iter().map(touch).collect();
    let effects = targets.into_iter().map(|target| Effect { target, op: None, n: 0, modified: 0 }).collect();
    let doubt = Some(if orphan.record.drops { Doubt::Dropped } else { Doubt::Orphan });
    let at_ms = now_ms();
    let entry = Entry { mark, doubt, atomic: false, effects, operation_time: None, at_ms };
    match log.log.append(RecordKind::Entry as u8, &[&entry.encode()]) {
        Ok(_) => {
            log.refused.store(false, Ordering::Relaxed);
            log.pending.add(1);
            true
        }
        Err(error) => {
            if !log.refused.swap(true, Ordering::Relaxed) {
                error!(%error, mark, "the outcomes of writes without a reply cannot be recorded yet");
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_addresses_everything_that_ran_is_waited_for() {
        let record = Mark {
            targets: Vec::new(),
            via: "unix".to_owned(),
            in_transaction: false,
            drops: false,
            at_ms: 0,
        };
        let mut one = Waiting::new(Orphan { mark: None, record, guard: Box::new(()) });
        let looks: [(&[i64], bool); 5] =
            [(&[1], true), (&[1, 2], true), (&[1, 2, 3], true), (&[2, 3], true), (&[3], false)];
        for (running, expected) in looks {
            assert_eq!(one.may_run(&running.iter().copied().collect()), expected, "{running:?}");
        }
    }
}
