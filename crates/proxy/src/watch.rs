//! Capture and log as the relays use them: a mark before, an entry after, and no error that could reach the traffic.
//!
//! - a record that cannot be appended makes its namespaces *missed*; the write goes on
//! - from 90 % of the log's bounds, entries are kept without their statements; at 100 % new writes go without a mark.
//!   One that has its mark gets its entry all the same: it lets the log shrink, and there are only as many as are under way
//! - a mark whose entry could not be appended would hold the log's front for ever: its end is appended once that works
//! - a write whose reply will never come is handed on as an orphan, for someone who can ask mongod about it
//! - waiting for the disk ends after a time: an entry that is appended but not durable is lost only with the host,
//!   and after that everything is compared

use std::{
    fmt::Display,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use capture::{Capture, Detail, Ended, Lost, Orphan, Unended, Write};
use record::RecordKind;
use synclog::{Durability, Level, Lsn, SyncLog};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::mpsc,
    task::block_in_place,
    time::timeout,
};
use tracing::{info, warn};

use crate::{
    bypass::{Bypass, Passing},
    held::Room,
};

/// A device that hangs must not stop the application.
const DURABLE_WAIT_MAX: Duration = Duration::from_secs(5);
/// The same while it hangs: a sync of a disk that answers again.
const HUNG_WAIT_MAX: Duration = Duration::from_millis(100);

/// How long nothing must have failed before an outage is over.
const CALM: Duration = Duration::from_secs(5);

/// Marks whose end is to be appended later: those of the writes that were under way when the log failed, one for each
/// connection. Some 200 bytes each.
const UNENDED_MAX: usize = 20_000;

/// Below this, going elsewhere would cost more than it saves: a thread's wake-up, some 50 us.
const APART_BYTES: usize = 256 * 1024;
/// A room covers what was made of its bytes as well.
const ROOM_COPIES: usize = 2;

/// Where what is seen goes.
#[derive(Clone)]
pub struct Watch {
    /// Tells which requests are writes, and what they did.
    pub capture: Arc<Capture>,
    /// Takes marks and entries.
    pub log: SyncLog,
    /// Takes writes whose reply will never come. When it is full their namespaces are missed instead, and their
    /// marks stay open until the next start; when nobody receives any more, the next start finds them.
    pub orphans: mpsc::Sender<Orphan>,
    /// Counts the entries that are appended.
    pub entries: Arc<AtomicU64>,
    /// How full the log is, by all of its bounds. Asked twice for each write.
    pub level: Arc<dyn Fn() -> Level + Send + Sync>,
    /// Takes capture out of the way.
    pub bypass: Arc<Bypass>,
}

/// [`Watch`] with what the sessions share about it.
pub(crate) struct Watcher {
    watch: Watch,
    durability: Durability,
    appending: Outage,
    syncing: Outage,
    /// Marks whose end could not be appended.
    unended: Mutex<Vec<Unended>>,
}

/// A captured write under way.
pub(crate) struct Captured {
    write: Write,
    /// Capture keeps the request's statements until the outcome.
    room: Room,
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
        let (appending, syncing, unended) = Default::default();
        Watcher { watch, durability, appending, syncing, unended }
    }

    /// `via` is our end of the session's connection to mongod.
    pub(crate) fn session(&self, via: String) -> capture::Session {
        self.watch.capture.session(via)
    }

    /// A request that would be captured, when capture is out of the way.
    pub(crate) fn pass(&self) -> Option<Passing> {
        self.watch.bypass.enter()
    }

    /// A session died without a word: nobody knows what it had under way.
    pub(crate) fn missed_everything(&self) {
        self.watch.capture.missed_everything();
    }

    /// Appends the write's mark, or, when the log is full or fails, notes its namespaces. From here on its last byte
    /// may leave.
    pub(crate) fn begin(&self, mut write: Write, room: Room) -> Captured {
        if let Some(mark) = write.mark(now_ms()) {
            let taken = if self.level() < Level::Full { self.append(RecordKind::Mark, &mark) } else { None };
            match taken {
                Some(lsn) => write.marked(lsn.0),
                None => write.goes_unmarked(),
            }
        }
        Captured { write, room }
    }

    /// Appends the ends of marks that could not be appended before. To be called every second or so; blocks.
    pub(crate) fn mend(&self) {
        let mut unended = std::mem::take(&mut *self.unended()).into_iter();
        for end in unended.by_ref() {
            let (kind, payload) = end.record(now_ms());
            if self.append(kind, &payload).is_none() {
                self.keep_unended(std::iter::once(end).chain(unended));
                return;
            }
        }
    }

    /// Whether [`mend`](Self::mend) has something to do.
    pub(crate) fn has_unended(&self) -> bool {
        !self.unended().is_empty()
    }

    /// With too many, the rest stays open until the next start, which finds them.
    fn keep_unended(&self, more: impl IntoIterator<Item = Unended>) {
        let mut unended = self.unended();
        let room = UNENDED_MAX.saturating_sub(unended.len());
        unended.extend(more.into_iter().take(room));
    }

    fn unended(&self) -> MutexGuard<'_, Vec<Unended>> {
        self.unended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn level(&self) -> Level {
        (self.watch.level)()
    }

    /// What an entry that is made now keeps.
    fn detail(&self) -> Detail {
        if self.level() < Level::Tight { Detail::Statements } else { Detail::Touches }
    }

    /// Records the outcome that `reply`, a whole frame, tells; returns when the reply may go to the client.
    pub(crate) async fn answered(&self, mut captured: Captured, reply: &[u8]) {
        captured.write.keep(self.detail());
        let waits = match self.durability {
            Durability::Process => false,
            Durability::Journal => captured.write.waits_for_durable(),
            Durability::Strict => true,
        };
        let bytes = reply.len() + captured.room.bytes() / ROOM_COPIES;
        let last = apart(bytes, || self.record(captured.write.outcome(reply, now_ms())));
        let Some(last) = last.filter(|_| waits) else { return };
        // Once it hangs, not every write pays for that again.
        let patience = if self.syncing.is_on() { HUNG_WAIT_MAX } else { DURABLE_WAIT_MAX };
        match timeout(patience, self.watch.log.wait_durable(last.next())).await {
            Ok(Ok(())) => self.syncing.ended("the log's disk answers again"),
            Ok(Err(error)) => self.syncing.began(&error, "acknowledging writes that are not on disk yet"),
            Err(late) => self.syncing.began(&late, "acknowledging writes that are not on disk yet"),
        }
    }

    /// Records a write that has ended, nobody knows how.
    pub(crate) fn ended_unseen(&self, mut captured: Captured) {
        captured.write.keep(self.detail());
        apart(captured.room.bytes() / ROOM_COPIES, || self.record(captured.write.unacknowledged(now_ms())));
    }

    /// Records that mongod runs nothing of a write: its last byte never left, or mongod has dropped it.
    pub(crate) fn did_nothing(&self, captured: Captured) {
        self.record(captured.write.never_sent(now_ms()));
    }

    /// Hands on a write whose reply will never come.
    pub(crate) fn orphaned(&self, captured: Captured, lost: Lost) {
        if let Some(orphan) = captured.write.orphan(lost) {
            self.hand_on(orphan);
        }
    }

    /// Appends what ended; the position of the last record when all of them are in the log.
    fn record(&self, mut ended: Ended) -> Option<Lsn> {
        for orphan in std::mem::take(&mut ended.orphans) {
            self.hand_on(orphan);
        }
        let mut last = None;
        for (nth, (kind, payload)) in ended.appends.iter().enumerate() {
            last = self.append(*kind, payload);
            if last.is_none() {
                self.keep_unended(ended.not_appended(nth));
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
        match self.watch.orphans.try_send(orphan) {
            Ok(()) => {}
            Err(Full(orphan)) => {
                for target in &orphan.mark_record.targets {
                    self.watch.capture.missed(&target.ns);
                }
            }
            // The program ends: its open mark tells the next start. Till then it stays in flight.
            Err(Closed(orphan)) => std::mem::forget(orphan.ticket),
        }
    }
}

/// Does `work` over so many bytes. When they are many, the runtime's other tasks on this thread go elsewhere first:
/// to scan, encode and append 48 MB takes some 100 ms, in which they would stand still.
pub(crate) fn apart<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let elsewhere = || Handle::try_current().is_ok_and(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes >= APART_BYTES && elsewhere() { block_in_place(work) } else { work() }
}

/// Something that works or does not: one line in the log per change, not per failure. It works again after some
/// seconds without a failure: near its end a full disk takes small records and no large ones.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    on: AtomicBool,
    failed: Mutex<Option<Instant>>,
}

impl Outage {
    pub(crate) fn began(&self, error: &dyn Display, what: &str) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if !self.on.swap(true, Ordering::Relaxed) {
            warn!(%error, "{what}");
        }
    }

    pub(crate) fn ended(&self, what: &str) {
        // The plain load keeps the usual case free of a lock.
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let calm = failed.is_none_or(|at| at.elapsed() >= CALM);
        if calm && self.on.swap(false, Ordering::Relaxed) {
            info!("{what}");
        }
    }

    fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }
}

/// Wall clock in milliseconds since 1970: information in records, never order.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_over_when_nothing_fails_for_a_while() {
        let outage = Outage::default();
        outage.ended("it never began");
        outage.began(&"full", "x");
        outage.ended("too early");
        assert!(outage.is_on());
        *outage.failed.lock().unwrap() = Instant::now().checked_sub(CALM);
        outage.ended("x");
        assert!(!outage.is_on());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn long_work_goes_on_while_others_do() {
        let (sender, receiver) = std::sync::mpsc::channel();
        // One thread only: the second task could not run beside the first.
        let first = tokio::spawn(async move { apart(APART_BYTES, || receiver.recv().unwrap()) });
        let second = tokio::spawn(async move { sender.send(7).unwrap() });
        second.await.unwrap();
        assert_eq!(first.await.unwrap(), 7);
    }

    #[test]
    fn work_needs_no_runtime() {
        assert_eq!(apart(APART_BYTES, || 7), 7);
    }
}
