//! What the replicator shows to the rest of the program, and the orders that it takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};
use record::Namespace;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::asks::{Answer, Ask, NotNow};
use crate::orphans::Orphan;
use crate::state::{Bypass, Cause, DeadLetter, Desired, Dirty, State};
use crate::tuning::{Retuned, Tuning};

/// How an entry reached the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Its statements were sent again.
    Replayed,
    /// Its documents were copied.
    Converged,
    /// It made its namespace dirty.
    Dirty,
}

impl Way {
    fn label(self) -> &'static str {
        match self {
            Way::Replayed => "replayed",
            Way::Converged => "converged",
            Way::Dirty => "dirty",
        }
    }
}

/// Entries of a batch, by the way they went.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    ways: [(u64, u64); 3],
    delay_ms: u64,
}

impl Applied {
    /// One more; `names_id`: each of its statements names `_id`.
    pub(crate) fn add(&mut self, way: Way, names_id: bool, delay_ms: u64) {
        let (entries, keyed) = &mut self.ways[way as usize];
        *entries += 1;
        *keyed += u64::from(names_id);
        self.delay_ms += delay_ms;
    }

    fn ways(&self) -> impl Iterator<Item = (Way, (u64, u64))> {
        [Way::Replayed, Way::Converged, Way::Dirty].into_iter().zip(self.ways)
    }
}

/// What the worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activity {
    /// Told to stop, or not started yet.
    #[default]
    Stopped,
    /// Told to pause.
    Paused,
    /// Finding the servers, waiting for late commands of an earlier run.
    Connecting,
    /// Nothing to do.
    Idle,
    /// Writing.
    Applying,
    /// The source does not answer.
    WaitingForSource,
    /// The target does not answer, or refuses us.
    WaitingForTarget,
}

/// The connection to one server.
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// Whether it answered last.
    pub connected: bool,
    /// Milliseconds since 1970 of the last change.
    pub since_ms: u64,
    /// The last error and when it was.
    pub last_error: Option<(String, u64)>,
    /// `standalone`, the replica set's name, or empty when never seen.
    pub topology: String,
    /// As the server says; empty when never seen.
    pub version: String,
}

/// Numbers since the start, or the last reset.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Entries by way.
    pub replayed: u64,
    /// Entries whose documents were copied.
    pub converged: u64,
    /// Entries that made a namespace dirty.
    pub dirty: u64,
    /// Documents that the target refused.
    pub failed: u64,
    /// Batches that could not go on at once because a server was away.
    pub stalls: u64,
    /// Milliseconds from capture to the target's confirmation, over all entries.
    pub delay_ms: u64,
    /// Collections that were written to past dualsync, and when that was noticed last, in milliseconds since 1970.
    pub past: BTreeMap<String, u64>,
}

/// What the replicator looks like now.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// What it does.
    pub activity: Activity,
    /// Milliseconds since 1970 when it began to do that.
    pub since_ms: u64,
    /// Tries in a row that failed, and when the next one is due.
    pub attempt: u32,
    /// See `attempt`.
    pub next_try_ms: Option<u64>,
    /// The local mongod.
    pub source: Link,
    /// Atlas.
    pub target: Link,
    /// Why this log must not feed the target, where that is so.
    pub refused: Option<String>,
    /// Everything below is applied.
    pub applied: u64,
    /// Entries applied since the start of the process; never reset.
    pub entries_applied: u64,
    /// When the oldest entry that is not applied was captured, in milliseconds since 1970.
    pub oldest_pending_ms: Option<u64>,
    /// Since the start or the last reset.
    pub counts: Counts,
    /// Milliseconds since 1970 of the last batch.
    pub last_sync_ms: Option<u64>,
    /// Marks whose outcome is still being looked for.
    pub orphans: u64,
}

impl Status {
    pub(crate) fn set_activity(&mut self, activity: Activity) {
        if self.activity != activity || self.since_ms == 0 {
            self.activity = activity;
            self.since_ms = now_ms();
        }
    }
}

/// A change of the worker that does not fit its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// As it says.
    #[error("the worker is {0}")]
    WrongState(&'static str),
    /// The state could not be written to disk, so the change would not survive a restart.
    #[error("the change cannot be written to the log's folder")]
    NotSaved,
    /// The worker has ended, or did not answer.
    #[error("the worker does not answer")]
    NoAnswer,
}

/// An order that the worker carries out between two batches.
pub enum Order {
    /// Everything pending is given up; its namespaces become dirty. Answers how many entries.
    Clear(oneshot::Sender<u64>),
    /// Converge the keys of these dead letters (all when empty). Answers how many.
    Retry(Vec<u64>, oneshot::Sender<u64>),
    /// Forget these dead letters (all when empty); their namespaces become dirty. Answers how many.
    Discard(Vec<u64>, oneshot::Sender<u64>),
    /// Compare everything. Answers 1, or 0 when that is under way.
    Full(oneshot::Sender<u64>),
    /// Do not compare what is dirty only because it was asked for. Answers how many namespaces.
    StopFull(oneshot::Sender<u64>),
    /// What is missing on the source of these dirty namespaces is meant to be. Answers how many are dirty.
    Confirm(Vec<Namespace>, oneshot::Sender<u64>),
}

struct Inner {
    status: Mutex<Status>,
    state: Mutex<State>,
    /// Held while the state is written, so that an older one never replaces a newer one.
    saving: Mutex<()>,
    orders: mpsc::Sender<Order>,
    orphans: mpsc::UnboundedSender<Orphan>,
    asks: mpsc::Sender<Ask>,
    changed: Notify,
    metrics: Metrics,
    /// As configured.
    tuning: Tuning,
}

struct Metrics {
    entries: IntCounterVec,
    keyed: IntCounterVec,
    batch_seconds: Histogram,
    failures: IntCounterVec,
}

/// The replicator as the rest of the program sees it. Cheap to clone.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

/// The ends of the channels that the replicator's tasks read.
pub(crate) struct Inbox {
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) orphans: mpsc::UnboundedReceiver<Orphan>,
}

impl Shared {
    pub(crate) fn new(
        state: State,
        tuning: Tuning,
        registry: &Registry,
    ) -> Result<(Shared, Inbox, mpsc::Receiver<Ask>), prometheus::Error> {
        // Orders come from people; a full queue answers "does not answer".
        let (orders, order_inbox) = mpsc::channel(16);
        // Bounded by the writes in flight: one for each connection that broke.
        let (orphans, orphan_inbox) = mpsc::unbounded_channel();
        // The reconciler waits for each answer, so there is one at a time.
        let (asks, ask_inbox) = mpsc::channel(1);
        let metrics = Metrics::new(registry)?;
        let changed = Notify::new();
        let inner = Inner {
            status: Mutex::default(),
            state: Mutex::new(state),
            saving: Mutex::new(()),
            orders,
            orphans,
            asks,
            changed,
            metrics,
            tuning,
        };
        Ok((Shared(Arc::new(inner)), Inbox { orders: order_inbox, orphans: orphan_inbox }, ask_inbox))
    }

    /// What it looks like now.
    pub fn status(&self) -> Status {
        self.status_mut().clone()
    }

    /// What it was told.
    pub fn desired(&self) -> Desired {
        self.state().desired()
    }

    /// The dirty namespaces by name, and the reason when everything is.
    pub fn dirty(&self) -> (Vec<(String, Dirty)>, Option<Dirty>) {
        let state = self.state();
        let list = state.dirty().map(|(ns, dirty)| (ns.to_string(), dirty.clone())).collect();
        (list, state.everything_dirty().cloned())
    }

    /// The dead letters, oldest first.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.state().dead_letters().to_vec()
    }

    /// Starts a stopped worker.
    pub fn start(&self) -> Result<(), ControlError> {
        self.change(Desired::Running, |now| now == Desired::Stopped)
    }

    /// Stops the worker: the target's connections are closed after the batch.
    pub fn stop(&self) -> Result<(), ControlError> {
        self.change(Desired::Stopped, |now| now != Desired::Stopped)
    }

    /// Pauses the worker after the batch; connections stay.
    pub fn pause(&self) -> Result<(), ControlError> {
        self.change(Desired::Paused, |now| now == Desired::Running)
    }

    /// Resumes a paused worker.
    pub fn resume(&self) -> Result<(), ControlError> {
        self.change(Desired::Running, |now| now == Desired::Paused)
    }

    fn change(&self, to: Desired, allowed: impl Fn(Desired) -> bool) -> Result<(), ControlError> {
        let mut state = self.state();
        let now = state.desired();
        if !allowed(now) {
            let name = match now {
                Desired::Running => "running",
                Desired::Paused => "paused",
                Desired::Stopped => "stopped",
            };
            return Err(ControlError::WrongState(name));
        }
        state.set_desired(to);
        drop(state);
        if self.save_state().is_err() {
            self.state().set_desired(now);
            return Err(ControlError::NotSaved);
        }
        self.0.changed.notify_one();
        Ok(())
    }

    /// Whether capture is out of the way.
    pub fn bypass(&self) -> Bypass {
        self.state().bypass()
    }

    /// Remembers whether capture is out of the way, and that everything is dirty because of it: on disk when this
    /// returns. The worker has to be told as well, as of everything that is missed.
    pub fn set_bypass(&self, to: Bypass, reason: &str) -> Result<(), ControlError> {
        let mut state = self.state();
        let now = state.bypass();
        state.set_bypass(to);
        state.set_everything_dirty(Dirty::new(reason, Cause::Unknown, now_ms()));
        drop(state);
        if self.save_state().is_err() {
            self.state().set_bypass(now);
            return Err(ControlError::NotSaved);
        }
        Ok(())
    }

    /// Gives up everything pending; its namespaces become dirty. Says how many entries.
    pub async fn clear(&self) -> Result<u64, ControlError> {
        self.order(Order::Clear).await
    }

    /// Copies the documents of these dead letters (all when empty). Says how many are tried.
    pub async fn retry(&self, ids: Vec<u64>) -> Result<u64, ControlError> {
        self.order(|answer| Order::Retry(ids, answer)).await
    }

    /// Forgets these dead letters (all when empty); their namespaces become dirty. Says how many.
    pub async fn discard(&self, ids: Vec<u64>) -> Result<u64, ControlError> {
        self.order(|answer| Order::Discard(ids, answer)).await
    }

    /// Everything is compared as a whole, on disk when this returns; says whether that was not under way.
    pub async fn start_full(&self) -> Result<bool, ControlError> {
        Ok(self.order(Order::Full).await? > 0)
    }

    /// Gives up what is left of a comparison that was asked for. Says how many namespaces, everything counting as one.
    pub async fn stop_full(&self) -> Result<u64, ControlError> {
        self.order(Order::StopFull).await
    }

    /// Documents that only the target has in these dirty namespaces may be deleted. Says how many of them are dirty.
    pub async fn confirm_deletes(&self, namespaces: Vec<Namespace>) -> Result<u64, ControlError> {
        self.order(|answer| Order::Confirm(namespaces, answer)).await
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<u64>) -> Order) -> Result<u64, ControlError> {
        let (answer, answered) = oneshot::channel();
        self.0.orders.try_send(order(answer)).map_err(|_| ControlError::NoAnswer)?;
        self.0.changed.notify_one();
        answered.await.map_err(|_| ControlError::NoAnswer)
    }

    pub(crate) async fn ask<T>(&self, ask: impl FnOnce(Answer<T>) -> Ask) -> Result<T, NotNow> {
        let (answer, answered) = oneshot::channel();
        self.0.asks.send(ask(answer)).await.map_err(|_| NotNow::Away)?;
        self.0.changed.notify_one();
        answered.await.map_err(|_| NotNow::Away)?.map_err(NotNow::Forbidden)
    }

    /// Counts start from zero again; positions and metrics do not.
    pub fn reset_counts(&self) {
        self.status_mut().counts = Counts::default();
    }

    /// A write whose reply will never come: it is in flight until the source has lost its connection.
    pub fn orphan(&self, orphan: Orphan) {
        self.status_mut().orphans += 1;
        // Fails only when the replicator has ended; the mark in the log speaks for itself then.
        let _ = self.0.orphans.send(orphan);
    }

    /// Writes the state, if it has changed. Others may use it meanwhile, however long the disk takes.
    pub(crate) fn save_state(&self) -> std::io::Result<()> {
        let _one_at_a_time = self.0.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let unsaved = self.state().take_unsaved();
        let saved = unsaved.map_or(Ok(()), |unsaved| unsaved.write());
        if saved.is_err() {
            self.state().not_saved();
        }
        saved
    }

    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    pub(crate) fn status_mut(&self) -> MutexGuard<'_, Status> {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the log that are not applied, records without effect included.
    pub fn pending_bytes(&self, log: &synclog::SyncLog) -> u64 {
        let stats = log.stats();
        let pending = stats.head.0.saturating_sub(self.status_mut().applied);
        // The log does not know where in a segment a record lies; records are alike in size over time.
        stats.bytes * pending / stats.records.max(1)
    }

    pub(crate) fn count_applied(&self, applied: &Applied) {
        let mut status = self.status_mut();
        for (way, (entries, keyed)) in applied.ways() {
            self.0.metrics.entries.with_label_values(&[way.label()]).inc_by(entries);
            self.0.metrics.keyed.with_label_values(&[way.label()]).inc_by(keyed);
            status.entries_applied += entries;
            match way {
                Way::Replayed => status.counts.replayed += entries,
                Way::Converged => status.counts.converged += entries,
                Way::Dirty => status.counts.dirty += entries,
            }
        }
        status.counts.delay_ms += applied.delay_ms;
    }

    /// How much at once and how fast.
    pub fn tuning(&self) -> Tuning {
        self.state().retuned().over(self.0.tuning)
    }

    /// Changes that, over restarts too. What is not named is as configured.
    pub fn retune(&self, to: Retuned) -> Result<(), ControlError> {
        let mut state = self.state();
        let before = state.retuned();
        state.set_retuned(to);
        drop(state);
        if self.save_state().is_err() {
            self.state().set_retuned(before);
            return Err(ControlError::NotSaved);
        }
        self.0.changed.notify_one();
        Ok(())
    }

    pub(crate) fn count_failed(&self) {
        self.0.metrics.failures.with_label_values(&["refused"]).inc();
        self.status_mut().counts.failed += 1;
    }

    pub(crate) fn count_stall(&self, server: &'static str) {
        self.0.metrics.failures.with_label_values(&[server]).inc();
        self.status_mut().counts.stalls += 1;
    }

    pub(crate) fn count_batch(&self, took: std::time::Duration) {
        self.0.metrics.batch_seconds.observe(took.as_secs_f64());
        let mut status = self.status_mut();
        status.last_sync_ms = Some(now_ms());
    }
}

impl Metrics {
    fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let entries = IntCounterVec::new(
            Opts::new("dualsync_entries_total", "Entries applied to the target, by the way they went."),
            &["way"],
        )?;
        let keyed = IntCounterVec::new(
            Opts::new("dualsync_keyed_entries_total", "Of these, entries whose every statement names _id."),
            &["way"],
        )?;
        let batch_seconds = Histogram::with_opts(HistogramOpts::new(
            "dualsync_replicator_batch_seconds",
            "Time from reading a batch to its last acknowledgement by the target.",
        ))?;
        let failures = IntCounterVec::new(
            Opts::new(
                "dualsync_replicator_failures_total",
                "Documents refused, and batches stalled by a server.",
            ),
            &["kind"],
        )?;
        for way in [Way::Replayed, Way::Converged, Way::Dirty] {
            entries.with_label_values(&[way.label()]);
            keyed.with_label_values(&[way.label()]);
        }
        for kind in ["refused", "source", "target"] {
            failures.with_label_values(&[kind]);
        }
        registry.register(Box::new(entries.clone()))?;
        registry.register(Box::new(keyed.clone()))?;
        registry.register(Box::new(batch_seconds.clone()))?;
        registry.register(Box::new(failures.clone()))?;
        Ok(Metrics { entries, keyed, batch_seconds, failures })
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
