//! The answers of `/api/sync` as plain data; field names become camelCase. One place to see the whole API.
//!
//! Units stand in the names: `…_ms`, `bytes`, `seconds`; rates are shares from 0 to 1; times are RFC 3339, UTC.

mod capture;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use capture::{CaptureMode, CaptureState};
pub use worker::{Worker, WorkerState};

/// A moment, written as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct At(pub SystemTime);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from(self.0).truncate_to_millisecond().format(&Rfc3339);
        f.write_str(&text.map_err(|_| fmt::Error)?)
    }
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `/api/sync/health`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    /// The verdict; decides the HTTP status (503 for unhealthy).
    pub status: HealthStatus,
    /// What was looked at.
    pub checks: Checks,
    /// What should be looked at soon, one sentence each.
    pub warnings: Vec<String>,
    /// What needs somebody now, one sentence each.
    pub errors: Vec<String>,
}

impl Health {
    /// Judges: an error or a failed check is unhealthy, a warning of either kind is degraded.
    #[must_use]
    pub fn judge(checks: Checks, warnings: Vec<String>, errors: Vec<String>) -> Health {
        let worst = match checks.worst() {
            CheckStatus::Fail => HealthStatus::Unhealthy,
            CheckStatus::Warn => HealthStatus::Degraded,
            CheckStatus::Pass => HealthStatus::Healthy,
        };
        let status = match () {
            () if !errors.is_empty() => HealthStatus::Unhealthy,
            () if !warnings.is_empty() => worst.max(HealthStatus::Degraded),
            () => worst,
        };
        Health { status, checks, warnings, errors }
    }
}

/// `GET` and `POST /api/sync/filters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Filters {
    /// Namespaces that are captured; empty: all.
    pub include: Vec<String>,
    /// Namespaces that are not, also when they are included.
    pub exclude: Vec<String>,
    /// Whether an order counts instead of the configuration.
    pub ordered: bool,
}

/// The verdict of a health check, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Nothing to do.
    Healthy,
    /// The application is served, the copy is behind or incomplete.
    Degraded,
    /// The application is not served, or writes are not recorded.
    Unhealthy,
}

/// What health looks at.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checks {
    /// Is anything captured at all.
    pub sync_enabled: Check,
    /// Does the local mongod answer.
    pub local_database: Check,
    /// Does the target answer.
    pub atlas_database: Check,
    /// Does the replicator run.
    pub worker: Check,
    /// Entries that wait.
    pub queue_size: Measured<u64>,
    /// Age of the oldest entry that waits, in milliseconds.
    pub sync_lag: Measured<u64>,
    /// Share of entries that failed.
    pub failure_rate: Measured<f64>,
}

impl Checks {
    fn worst(&self) -> CheckStatus {
        let plain = [&self.sync_enabled, &self.local_database, &self.atlas_database, &self.worker];
        let measured = [self.queue_size.status, self.sync_lag.status, self.failure_rate.status];
        plain.into_iter().map(|check| check.status).chain(measured).max().unwrap_or(CheckStatus::Pass)
    }
}

/// How one check went, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// As it should be.
    Pass,
    /// Worth a look; the application is not hurt.
    Warn,
    /// Broken.
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// How it went.
    pub status: CheckStatus,
    /// What was seen, when that is worth a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Check {
    /// A check that passed.
    pub const PASS: Check = Check { status: CheckStatus::Pass, message: None };

    /// A check that warns.
    #[must_use]
    pub fn warn(message: impl Into<String>) -> Check {
        Check { status: CheckStatus::Warn, message: Some(message.into()) }
    }

    /// A check that failed.
    #[must_use]
    pub fn fail(message: impl Into<String>) -> Check {
        Check { status: CheckStatus::Fail, message: Some(message.into()) }
    }
}

/// One check of a figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured<T> {
    /// How it went.
    pub status: CheckStatus,
    /// The figure.
    pub value: T,
}

impl<T: PartialOrd> Measured<T> {
    /// Warns when the value is above the threshold.
    #[must_use]
    pub fn up_to(value: T, threshold: T) -> Measured<T> {
        let status = if value > threshold { CheckStatus::Warn } else { CheckStatus::Pass };
        Measured { status, value }
    }
}

/// `/api/sync/report`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How far everything has come.
    pub positions: Positions,
    /// What the target has yet to get.
    pub lag: Lag,
    /// How full the log is; nothing while syncing is off.
    pub log: Option<LogFill>,
    /// What was done since the log began.
    pub counts: Counts,
    /// Whether writes are captured.
    pub capture: CaptureState,
    /// Namespaces that are not known to be equal.
    pub namespaces: Namespaces,
    /// Commands that are not replicated, by name.
    pub not_replicated: BTreeMap<String, u64>,
    /// The replicator.
    pub worker: Worker,
    /// When the target last confirmed something.
    pub last_sync: Option<At>,
    /// Mean time from an entry's append to the target's confirmation, in milliseconds.
    pub average_sync_ms: Option<f64>,
    /// Share of entries that were applied at the first try.
    pub success_rate: Option<f64>,
    /// The target's last complaint.
    pub last_target_error: Option<TargetError>,
    /// One sentence each.
    pub warnings: Vec<String>,
    /// What an operator might do.
    pub recommendations: Vec<Recommendation>,
}

/// The four positions in the log: `trimmed <= applied <= durable <= appended`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Positions {
    /// In the log.
    pub appended: u64,
    /// Synced to disk.
    pub durable: u64,
    /// Confirmed by the target.
    pub applied: u64,
    /// Deleted from the log.
    pub trimmed: u64,
}

/// The distance between source and target. Marks are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lag {
    /// Entries that wait.
    pub entries: u64,
    /// Their bytes in the log.
    pub bytes: u64,
    /// Age of the oldest.
    pub seconds: f64,
}

/// What was done, in entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Written to the log.
    pub captured: u64,
    /// Replayed on the target.
    pub replayed: u64,
    /// Made equal by reading the source again.
    pub converged: u64,
    /// Left to a full comparison.
    pub dirty: u64,
    /// Refused by the target, tries that succeeded later included.
    pub failed: u64,
    /// Given up for now; see `/api/sync/dead-letters`.
    pub dead_letters: u64,
    /// Not certain, by reason.
    pub in_doubt: BTreeMap<String, u64>,
}

/// Namespaces that are not known to be equal.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespaces {
    /// Had documents before dualsync came.
    pub not_copied_yet: Vec<NamespaceState>,
    /// May differ until they are compared as a whole.
    pub dirty: Vec<NamespaceState>,
    /// The last comparison of each that came out equal, since the start.
    pub compared: Vec<Compared>,
}

/// `/api/sync/full`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Full {
    /// Whether a comparison that was asked for is under way.
    pub state: FullState,
    /// Since when.
    pub since: Option<At>,
    /// Namespaces that are still to be compared, for whatever reason; `None` before they are listed.
    pub left: Option<u64>,
    /// Namespaces that somebody has to look at.
    pub held: u64,
    /// Namespaces that came out equal since it began.
    pub compared: u64,
    /// What is being compared now, and how far that is.
    pub now: Option<NamespaceState>,
}

/// Whether a full comparison is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FullState {
    /// None is.
    Idle,
    /// One is.
    Running,
}

/// A namespace that was compared as a whole, and repaired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    /// `database.collection`.
    pub namespace: String,
    /// Documents of the source.
    pub documents: u64,
    /// Documents that were copied or deleted; those that were just being replicated count too.
    pub repaired: u64,
    /// Equal as of then, but for what waits in the log.
    pub equal_as_of: At,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// One namespace and what is the matter with it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NamespaceState {
    /// `database.collection`.
    pub namespace: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: At,
    /// What is being done about it.
    pub state: CompareState,
    /// Why it is held.
    pub held: Option<String>,
    /// How far its comparison is.
    pub progress: Option<CompareProgress>,
}

/// What is being done about a namespace that is not known to be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CompareState {
    /// Its turn will come.
    Waiting,
    /// It is being compared and repaired.
    Scanning,
    /// Somebody has to decide, or to mend something.
    Held,
}

/// How far a comparison is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CompareProgress {
    /// Documents of the source compared so far.
    pub compared: u64,
    /// About how many there are.
    pub documents: u64,
    /// Differences found; documents that were just being replicated count too.
    pub differences: u64,
    /// Documents per second.
    pub rate: f64,
    /// Seconds left at that rate.
    pub eta_seconds: Option<f64>,
}

/// An error of the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetError {
    /// When it came.
    pub at: At,
    /// The server's code, if it was the server who complained.
    pub code: Option<i32>,
    /// What it said, without secrets.
    pub message: String,
    /// The namespace, if it was about one.
    pub namespace: Option<String>,
}

/// A piece of advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recommendation {
    /// A stable name for scripts: `COPY_NAMESPACES`.
    pub code: String,
    /// What was seen.
    pub text: String,
    /// What to do.
    pub action: String,
}

/// `/api/sync/metrics`: figures since the start or the last reset.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Since when they count.
    pub since: At,
    /// Entries applied.
    pub succeeded: u64,
    /// Entries that the target refused.
    pub failed: u64,
    /// Tries that were repeated.
    pub retried: u64,
    /// Mean time from an entry's append to the target's confirmation, in milliseconds.
    pub average_sync_ms: Option<f64>,
    /// Share of entries that were applied at the first try.
    pub success_rate: Option<f64>,
    /// When the target last confirmed something.
    pub last_sync: Option<At>,
}

/// `/api/sync/queue`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// How far everything has come.
    pub positions: Positions,
    /// Entries that wait.
    pub size: u64,
    /// Bytes of the log on disk.
    pub bytes: u64,
    /// Age of the oldest entry that waits, in milliseconds.
    pub oldest_age_ms: Option<u64>,
    /// How full the log is.
    pub level: FillLevel,
    /// The same exactly, and what it has cost; nothing while syncing is off.
    pub log: Option<LogFill>,
    /// Where it ends.
    pub limits: QueueLimits,
}

/// How full the log is, and what that has cost so far.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogFill {
    /// In steps.
    pub level: FillLevel,
    /// Since when it is on that level.
    pub since: At,
    /// The share of the nearest bound; 1 is full, and more is possible.
    pub fill: f64,
    /// That bound.
    pub bound: FillBound,
    /// Entries that keep what was touched and not the statements, since the start.
    pub entries_without_statements: u64,
    /// Writes that went on without a mark in the log, since the start: their namespaces became dirty.
    pub unrecorded_writes: u64,
    /// What is noted in the log's reserve until it is dirty for good.
    pub noted: Noted,
}

/// What bounds the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FillBound {
    /// `log.max_bytes`.
    Bytes,
    /// The disk, less `log.min_free_bytes`.
    Disk,
    /// `log.max_entries`.
    Entries,
}

/// What writes may have changed that are in no log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Noted {
    /// Anything.
    pub everything: bool,
    /// These; one without a collection is a whole database.
    pub namespaces: Vec<String>,
}

/// How full the log is, and what that means for what is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FillLevel {
    /// Below 80 %.
    Normal,
    /// From 80 %.
    Warning,
    /// From 90 %: what is touched is recorded, statements are not.
    KeysOnly,
    /// From 100 %: namespaces that are written to become dirty. The application goes on.
    Full,
}

/// The bounds of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueLimits {
    /// Bytes on disk at most.
    pub max_bytes: u64,
    /// Entries at most.
    pub max_entries: u64,
    /// Bytes that the disk keeps free.
    pub min_free_bytes: u64,
    /// Entries from which health warns.
    pub warning: u64,
}

/// `/api/sync/connections`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// The server that the proxy forwards to.
    pub local: Connection,
    /// The target.
    pub atlas: Connection,
}

/// One database as dualsync sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Its address, credentials masked.
    pub uri: String,
    /// Whether it answers.
    pub state: ConnectionState,
    /// Since when.
    pub since: At,
    /// The last failure, also when it answers again.
    pub last_error: Option<LastError>,
    /// As the server says: `6.0.5`.
    pub server_version: Option<String>,
    /// `standalone`, `replicaSet`, `sharded`, …
    pub topology: Option<String>,
}

/// Whether a database answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectionState {
    /// Not tried yet, or trying for the first time.
    Connecting,
    /// It answers.
    Connected,
    /// It does not.
    Disconnected,
    /// Not configured, or stopped by an operator.
    Off,
}

/// A failure and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// When.
    pub at: At,
    /// What, without secrets.
    pub message: String,
}

/// `/api/sync/dead-letters`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeadLetters {
    /// How many there are.
    pub total: u64,
    /// The oldest of them.
    pub letters: Vec<DeadLetter>,
}

/// A document that is not equal yet, because the target refused it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeadLetter {
    /// What retry and discard take.
    pub id: String,
    /// `database.collection`.
    pub namespace: String,
    /// The document's `_id` as Extended JSON.
    pub key: serde_json::Value,
    /// What the target said.
    pub reason: String,
    /// Tries so far.
    pub attempts: u32,
    /// Since when.
    pub since: At,
}

/// What an order on dead letters did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Affected {
    /// Letters.
    pub affected: u64,
}

/// What clearing the queue did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cleared {
    /// Entries given up.
    pub cleared: u64,
    /// Namespaces that are dirty now because of it.
    pub dirty: Vec<String>,
}
