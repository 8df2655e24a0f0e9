//! Capture and log as the relays use them: a mark before, an entry after, and no error that could reach the traffic.
//!
//! - a record that cannot be appended makes its namespaces *missed*; the write goes on
//! - a write whose reply will never come is handed on as an orphan, for someone who can ask mongod about it
//! - waiting for the disk ends after a time: an entry that is appended but not durable is lost only with the host,
//!   and after that everything is compared

use std::{
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use capture::{Capture, Ended, Orphan, Write};
use record::RecordKind;
use synclog::{Durability, Lsn, SyncLog};
use tokio::{sync::mpsc, time::timeout};
use tracing::{info, warn};

use crate::held::Room;

/// A device that hangs must not stop the application.
const DURABLE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Where what is seen goes.
#[derive(Clone)]
pub struct Watch {
    /// Tells which requests are writes, and what they did.
    pub capture: Arc<Capture>,
    /// Takes marks and entries.
    pub log: SyncLog,
    /// Takes writes whose reply will never come. When it is full their namespaces are missed instead, and their
    /// marks stay open until the next start.
    pub orphans: mpsc::Sender<Orphan>,
    /// Counts the entries that are appended.
    pub entries: Arc<AtomicU64>,
}

/// [`Watch`] with what the sessions share about it.
pub(crate) struct Watcher {
    watch: Watch,
    durability: Durability,
    appending: Outage,
    syncing: Outage,
}

/// A captured write under way.
pub(crate) struct Captured {
    write: Write,
    /// Capture keeps the request's statements until the outcome.
    _room: Room,
}

impl Captured {
    pub(crate) fn expects_reply(&self) -> bool {
        self.write.expects_reply()
    }

    /// The frame to send instead of the client's.
    pub(crate) fn forward(&mut self) -> Option<Vec<u8>> {
        self.write.forward()
    }
}

impl Watcher {
    pub(crate) fn new(watch: Watch, durability: Durability) -> Watcher {
        Watcher { watch, durability, appending: Outage::default(), syncing: Outage::default() }
    }

    /// `via` is our end of the session's connection to mongod.
    pub(crate) fn session(&self, via: String) -> capture::Session {
        self.watch.capture.session(via)
    }

    /// A session died without a word: nobody knows what it had under way.
    pub(crate) fn missed_everything(&self) {
        self.watch.capture.missed_everything();
    }

    /// Appends the write's mark. From here on its last byte may leave.
    pub(crate) fn begin(&self, mut write: Write, room: Room) -> Captured {
        // Without a position the write knows that it is missed, and says so at its end.
        if let Some(mark) = write.mark(now_ms())
            && let Some(lsn) = self.append(RecordKind::Mark, &mark)
        {
            write.marked(lsn.0);
        }
        Captured { write, _room: room }
    }

    /// Records the outcome that `reply`, a whole frame, tells; returns when the reply may go to the client.
    pub(crate) async fn answered(&self, captured: Captured, reply: &[u8]) {
        let waits = match self.durability {
            Durability::Process => false,
            Durability::Journal => captured.write.waits_for_durable(),
            Durability::Strict => true,
        };
        let last = self.record(captured.write.outcome(reply, now_ms()));
        let Some(last) = last.filter(|_| waits) else { return };
        match timeout(DURABLE_WAIT_MAX, self.watch.log.wait_durable(last.next())).await {
            Ok(Ok(())) => self.syncing.ended("the log's disk answers again"),
            Ok(Err(error)) => self.syncing.began(&error, "acknowledging writes that are not on disk yet"),
            Err(late) => self.syncing.began(&late, "acknowledging writes that are not on disk yet"),
        }
    }

    /// Records a write that has ended, nobody knows how.
    pub(crate) fn ended_unseen(&self, captured: Captured) {
        self.record(captured.write.unacknowledged(now_ms()));
    }

    /// Hands on a write whose reply will never come.
    pub(crate) fn orphaned(&self, captured: Captured) {
        if let Some(orphan) = captured.write.orphan() {
            self.hand_on(orphan);
        }
    }

    /// Appends what ended; the position of the last record when all of them are in the log.
    fn record(&self, mut ended: Ended) -> Option<Lsn> {
        for orphan in std::mem::take(&mut ended.orphans) {
            self.hand_on(orphan);
        }
        let mut last = None;
        for (kind, payload) in &ended.appends {
            last = self.append(*kind, payload);
            if last.is_none() {
                ended.not_appended();
                return None;
            }
        }
        // Only now, with its entry in the log, does the write leave the contention table.
        drop(ended);
        last
    }

    fn append(&self, kind: RecordKind, payload: &[u8]) -> Option<Lsn> {
        match self.watch.log.append(kind as u8, &[payload]) {
            Ok(lsn) => {
                self.appending.ended("the log takes records again");
                if kind == RecordKind::Entry {
                    self.watch.entries.fetch_add(1, Ordering::Relaxed);
                }
                Some(lsn)
            }
            Err(error) => {
                self.appending.began(&error, "writes are not recorded: what they touch must be compared");
                None
            }
        }
    }

    fn hand_on(&self, orphan: Orphan) {
        use mpsc::error::TrySendError::{Closed, Full};
        if let Err(Full(orphan) | Closed(orphan)) = self.watch.orphans.try_send(orphan) {
            for target in &orphan.mark_record.targets {
                self.watch.capture.missed(&target.ns);
            }
        }
    }
}

/// Something that works or does not: one line in the log per change, not per failure.
#[derive(Debug, Default)]
pub(crate) struct Outage(AtomicBool);

impl Outage {
    pub(crate) fn began(&self, error: &dyn Display, what: &str) {
        if !self.0.swap(true, Ordering::Relaxed) {
            warn!(%error, "{what}");
        }
    }

    pub(crate) fn ended(&self, what: &str) {
        // The plain load keeps the usual case free of a write to shared memory.
        if self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed) {
            info!("{what}");
        }
    }
}

/// Wall clock in milliseconds since 1970: information in records, never order.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
