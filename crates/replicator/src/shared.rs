//! The replicator as the rest of the program sees it: how it looks (`status.rs`), what it has done (`counting.rs`), what it
//! is told (`orders.rs`), what it remembers.

mod counting;
mod orders;
mod status;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::Registry;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::asks::{Answer, Ask, NotNow};
use crate::orphans::Orphan;
use crate::state::{Bypass, Cause, DeadLetter, Desired, Dirty, State};
use crate::tuning::Tuning;

pub(crate) use counting::Applied;
use counting::Metrics;
pub use counting::Way;
pub use orders::{ControlError, Order};
pub use status::{Activity, Counts, Link, Status};

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

    pub(crate) async fn ask<T>(&self, ask: impl FnOnce(Answer<T>) -> Ask) -> Result<T, NotNow> {
        let (answer, answered) = oneshot::channel();
        self.0.asks.send(ask(answer)).await.map_err(|_| NotNow::Away)?;
        self.0.changed.notify_one();
        answered.await.map_err(|_| NotNow::Away)?.map_err(NotNow::Forbidden)
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

    /// How much at once and how fast.
    pub fn tuning(&self) -> Tuning {
        self.state().retuned().over(self.0.tuning)
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
