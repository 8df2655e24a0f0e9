//! The running program as the admin port sees it: plain data out, a few orders in.

use std::future::Future;

use crate::shapes::{
    Affected, CaptureState, Cleared, Connections, DeadLetters, Filters, Full, Health, Queue, Report, Stats,
    Worker,
};

/// The running program. Implemented once, by the wiring; `async fn` fits every method that returns a future.
///
/// Reads may be dropped half-way (the client hung up, the request timed out). Orders are run to their end in
/// any case; an order that takes longer than the request's time answers 503 and goes on.
pub trait System: Send + Sync + 'static {
    /// Names of the parts that have not released their latch yet ("proxy", "log"). The target is none of them.
    fn not_ready(&self) -> Vec<&'static str>;

    /// Called before each scrape, to bring gauges up to date. Must not block.
    fn before_scrape(&self);

    /// The effective configuration, secrets masked.
    fn config(&self) -> serde_json::Value;

    /// Is everything well: `/api/sync/health`.
    fn health(&self) -> impl Future<Output = Health> + Send;

    /// Everything an operator wants to know at once: `/api/sync/report`.
    fn report(&self) -> impl Future<Output = Report> + Send;

    /// Figures since the start or the last reset: `/api/sync/metrics`.
    fn stats(&self) -> impl Future<Output = Stats> + Send;

    /// The log as a queue: `/api/sync/queue`.
    fn queue(&self) -> impl Future<Output = Queue> + Send;

    /// The replicator: `/api/sync/worker`.
    fn worker(&self) -> impl Future<Output = Worker> + Send;

    /// Both databases: `/api/sync/connections`.
    fn connections(&self) -> impl Future<Output = Connections> + Send;

    /// The oldest dead letters, at most `limit` of them.
    fn dead_letters(&self, limit: usize) -> impl Future<Output = DeadLetters> + Send;

    /// Starts, stops, pauses or resumes the replicator; answers with its new state.
    fn control(&self, action: Action) -> impl Future<Output = Result<Worker, Refusal>> + Send;

    /// How much of the target the replicator may take; what is not named is as configured. Answers with its new state.
    fn set_pace(&self, pace: Pace) -> impl Future<Output = Result<Worker, Refusal>> + Send;

    /// Whether writes are captured: `/api/sync/capture`.
    fn capture(&self) -> impl Future<Output = CaptureState> + Send;

    /// Takes capture out of the way, or back; answers with its new state.
    fn control_capture(
        &self,
        action: CaptureAction,
    ) -> impl Future<Output = Result<CaptureState, Refusal>> + Send;

    /// What is captured: `/api/sync/filters`.
    fn filters(&self) -> impl Future<Output = Filters> + Send;

    /// Captures other namespaces from now on; what is not named is as configured.
    fn set_filters(&self, to: SetFilters) -> impl Future<Output = Result<Filters, Refusal>> + Send;

    /// Gives up everything that waits in the log; what it touched becomes dirty.
    fn clear_queue(&self) -> impl Future<Output = Result<Cleared, Refusal>> + Send;

    /// Starts the figures of [`System::stats`] anew. Prometheus counters go on.
    fn reset_stats(&self) -> impl Future<Output = Stats> + Send;

    /// Converges dead letters again.
    fn retry(&self, letters: Letters) -> impl Future<Output = Result<Affected, Refusal>> + Send;

    /// The comparison of everything: `/api/sync/full`.
    fn full(&self) -> impl Future<Output = Full> + Send;

    /// Compares everything and makes it equal.
    fn start_full(&self) -> impl Future<Output = Result<Full, Refusal>> + Send;

    /// Gives up what is left of that.
    fn stop_full(&self) -> impl Future<Output = Result<Full, Refusal>> + Send;

    /// Documents that only the target has may be deleted in these dirty namespaces.
    fn confirm_deletes(
        &self,
        namespaces: Vec<String>,
    ) -> impl Future<Output = Result<Affected, Refusal>> + Send;

    /// Gives dead letters up; their namespaces become dirty.
    fn discard(&self, letters: Letters) -> impl Future<Output = Result<Affected, Refusal>> + Send;
}

/// An order to the replicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Opens the target and goes on after a stop.
    Start,
    /// Finishes the batch and closes the target.
    Stop,
    /// Finishes the batch and keeps the connections.
    Pause,
    /// Goes on after a pause.
    Resume,
}

/// How much of the target the replicator may take: each instead of the setting of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pace {
    /// `sync.lanes`
    pub lanes: Option<usize>,
    /// `sync.batch_entries_max`
    pub batch_entries_max: Option<usize>,
    /// `sync.rate_max`
    pub rate_max: Option<u64>,
}

/// What to capture: each instead of the setting of its name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetFilters {
    /// `sync.include`
    pub include: Option<Vec<String>>,
    /// `sync.exclude`
    pub exclude: Option<Vec<String>>,
}

/// An order to capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptureAction {
    /// Writes pass unseen from now on; everything becomes dirty.
    Bypass,
    /// Writes are captured again.
    Resume,
}

/// Which dead letters an order means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Letters {
    /// All that there are now.
    All,
    /// Those with these ids.
    Ids(Vec<String>),
}

/// Why an order was not carried out. Shown to the operator as it is: no secrets in here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The order does not fit the present state: 409.
    #[error("{message}")]
    WrongState {
        /// The state, as a sentence: "the worker is not paused".
        message: String,
        /// What to do instead.
        action: String,
    },
    /// The order cannot be read: 400.
    #[error("{message}")]
    Invalid {
        /// What is wrong with it.
        message: String,
        /// What would be right.
        action: String,
    },
    /// What the order names does not exist: 404.
    #[error("{message}")]
    Unknown {
        /// What is missing: "no dead letter 17".
        message: String,
        /// Where to look.
        action: String,
    },
    /// It was tried and failed: 500.
    #[error("{message}")]
    Failed {
        /// What failed and why.
        message: String,
        /// How to mend it.
        action: String,
    },
}
