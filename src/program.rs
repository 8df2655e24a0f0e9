//! The running program as the admin port sees it: what it shows, what it warns of, what it can be told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use admin::{
    Action, Affected, At, Check, CheckStatus, Checks, Cleared, Connection, ConnectionState, Connections,
    Counts, DeadLetter, DeadLetters, FillLevel, Health, Lag, LastError, Letters, Measured, NamespaceState,
    Namespaces, Positions, Queue, QueueLimits, Recommendation, Refusal, Report, Stats, System, TargetError,
    Worker, WorkerState,
};
use capture::Capture;
use prometheus::{Gauge, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use replicator::{Activity, ControlError, Desired, Dirty, Link, Orphan, Pending, Shared, now_ms};
use synclog::SyncLog;
use tracing::warn;

use crate::config::Config;

/// What there is when syncing is on.
pub(crate) struct Sync {
    pub(crate) log: SyncLog,
    pub(crate) capture: Arc<Capture>,
    pub(crate) shared: Shared,
    pub(crate) pending: Arc<Pending>,
}

/// Everything that can be seen and told.
pub(crate) struct Program {
    config: Config,
    pub(crate) sync: Option<Sync>,
    /// The proxy takes clients, and the log is open.
    pub(crate) ready: AtomicBool,
    pub(crate) replicator_died: AtomicBool,
    counts_since: Mutex<SystemTime>,
    started_ms: u64,
    /// Codes of the warnings that were said last.
    said: Mutex<BTreeSet<&'static str>>,
    gauges: Gauges,
}

/// A condition that somebody should look at.
struct Warning {
    code: &'static str,
    text: String,
    action: &'static str,
}

impl Program {
    pub(crate) fn new(config: Config, sync: Option<Sync>, registry: &Registry) -> anyhow::Result<Program> {
        Ok(Program {
            config,
            sync,
            ready: AtomicBool::new(false),
            replicator_died: AtomicBool::new(false),
            counts_since: Mutex::new(SystemTime::now()),
            started_ms: now_ms(),
            said: Mutex::default(),
            gauges: Gauges::register(registry)?,
        })
    }

    pub(crate) fn admin_config(&self) -> admin::Config {
        let token = |secret: &crate::config::Secret| admin::Token::new(secret.expose().to_owned());
        let mut config = admin::Config::new(self.config.admin.listen);
        config.token = self.config.admin.token.as_ref().map(token);
        config.read_token = self.config.admin.read_token.as_ref().map(token);
        config
    }

    /// Hands a write without a reply on to who can ask mongod about it.
    pub(crate) fn hand_on(&self, orphan: capture::Orphan) {
        if let Some(sync) = &self.sync {
            let guard = Box::new(orphan.ticket);
            sync.shared.orphan(Orphan { mark: orphan.mark, record: orphan.mark_record, guard });
        }
    }

    /// Once a second: gives up transactions that nobody ends, and says what is worth a look, once each time it begins.
    pub(crate) fn tick(&self) {
        let Some(sync) = &self.sync else { return };
        sync.capture.abandoned(now_ms()).into_iter().for_each(|orphan| self.hand_on(orphan));
        let warnings = self.warnings(sync);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        // What the replicator has said itself, with more detail, is not repeated.
        let own = ["QUEUE_LARGE", "LAG_HIGH", "FAILURES_HIGH", "LOG_POISONED"];
        for warning in warnings.iter().filter(|it| own.contains(&it.code) && !said.contains(it.code)) {
            warn!("{}", warning.text);
        }
        *said = warnings.iter().map(|it| it.code).collect();
    }

    fn warnings(&self, sync: &Sync) -> Vec<Warning> {
        let mut list = Vec::new();
        let mut warn = |when: bool, code, text: String, action| {
            if when {
                list.push(Warning { code, text, action });
            }
        };
        let status = sync.shared.status();
        let (dirty, everything) = sync.shared.dirty();
        let (size, lag) = (sync.pending.entries(), lag_ms(sync));
        let settings = &self.config.sync;
        let lag_max = millis(settings.lag_warning);
        let failures = failure_rate(&status.counts);
        let copied_later = dirty.iter().filter(|(_, it)| it.not_copied_yet).count();
        let letters = sync.shared.dead_letters().len();
        warn(
            size > settings.queue_warning,
            "QUEUE_LARGE",
            format!("Sync queue size is large: {size}/{}", self.config.log.max_entries),
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
            status.activity == Activity::WaitingForTarget,
            "ATLAS_AWAY",
            format!("Atlas unavailable, {size} operations queued"),
            "see lastError in GET /api/sync/connections; nothing is lost meanwhile",
        );
        warn(
            status.activity == Activity::WaitingForSource,
            "LOCAL_AWAY",
            "local mongod unavailable".to_owned(),
            "check that mongod runs and that local.uri is right",
        );
        warn(
            copied_later > 0,
            "NOT_COPIED_YET",
            format!("{copied_later} collections are not copied yet: they had documents before dualsync came"),
            "copy them once with mongodump and mongorestore; what is written to them is followed meanwhile",
        );
        warn(
            dirty.len() > copied_later || everything.is_some(),
            "DIRTY",
            match &everything {
                Some(why) => format!("everything needs a full comparison: {}", why.reason),
                None => format!("{} namespaces need a full comparison", dirty.len() - copied_later),
            },
            "see namespaces.dirty in GET /api/sync/report for the reasons",
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
        if let Some(reason) = sync.log.stats().poisoned {
            warn(
                true,
                "LOG_POISONED",
                format!("the sync log takes no more records: {reason}"),
                "mend the disk and restart dualsync; what was missed is compared then",
            );
        }
        list
    }

    fn checks(&self) -> Checks {
        let Some(sync) = &self.sync else {
            let off = Check::warn("syncing is off: nothing is captured");
            return Checks {
                sync_enabled: off,
                local_database: Check::PASS,
                atlas_database: Check::PASS,
                worker: Check::PASS,
                queue_size: Measured { status: CheckStatus::Pass, value: 0 },
                sync_lag: Measured { status: CheckStatus::Pass, value: 0 },
                failure_rate: Measured { status: CheckStatus::Pass, value: 0.0 },
            };
        };
        let status = sync.shared.status();
        let settings = &self.config.sync;
        let local = match &status.source {
            link if link.connected => Check::PASS,
            link => match &link.last_error {
                Some((message, _)) => Check::fail(message.clone()),
                None => Check::warn("not reached yet"),
            },
        };
        let atlas = match &status.target {
            link if link.connected => Check::PASS,
            link => Check::warn(link.last_error.as_ref().map_or("not reached yet", |(message, _)| message)),
        };
        let worker = match self.worker_state(sync, status.activity) {
            WorkerState::Dead => Check::fail("the replicator has died: restart dualsync"),
            WorkerState::Running | WorkerState::BackingOff => Check::PASS,
            _ => Check::warn("told not to run"),
        };
        Checks {
            sync_enabled: Check::PASS,
            local_database: local,
            atlas_database: atlas,
            worker,
            queue_size: Measured::up_to(sync.pending.entries(), settings.queue_warning),
            sync_lag: Measured::up_to(lag_ms(sync), millis(settings.lag_warning)),
            failure_rate: Measured::up_to(failure_rate(&status.counts), settings.failure_rate_warning),
        }
    }

    fn worker_state(&self, sync: &Sync, activity: Activity) -> WorkerState {
        if self.replicator_died.load(Ordering::Acquire) {
            return WorkerState::Dead;
        }
        match (sync.shared.desired(), activity) {
            (Desired::Paused, _) => WorkerState::Paused,
            (Desired::Stopped, _) => WorkerState::Stopped,
            (_, Activity::WaitingForSource | Activity::WaitingForTarget) => WorkerState::BackingOff,
            _ => WorkerState::Running,
        }
    }

    fn show_worker(&self) -> Worker {
        let batch_entries_max = self.config.sync.batch_entries_max as u64;
        let Some(sync) = &self.sync else {
            let since = at(self.started_ms);
            return Worker {
                state: WorkerState::Off,
                since,
                attempt: 0,
                next_try_ms: None,
                batch_entries_max,
            };
        };
        let status = sync.shared.status();
        Worker {
            state: self.worker_state(sync, status.activity),
            since: at(if status.since_ms == 0 { self.started_ms } else { status.since_ms }),
            attempt: status.attempt,
            next_try_ms: status.next_try_ms.map(|due| due.saturating_sub(now_ms())),
            batch_entries_max,
        }
    }

    fn show_stats(&self) -> Stats {
        let since = At(*self.counts_since.lock().unwrap_or_else(PoisonError::into_inner));
        let status = self.sync.as_ref().map(|sync| sync.shared.status()).unwrap_or_default();
        let counts = &status.counts;
        let succeeded = counts.replayed + counts.converged;
        Stats {
            since,
            succeeded,
            failed: counts.failed,
            retried: counts.stalls,
            average_sync_ms: (succeeded > 0).then(|| counts.delay_ms as f64 / succeeded as f64),
            success_rate: (succeeded + counts.failed > 0).then(|| 1.0 - failure_rate(counts)),
            last_sync: status.last_sync_ms.map(at),
        }
    }

    fn show_connection(&self, uri: String, link: Option<&Link>) -> Connection {
        let state = match link {
            None => ConnectionState::Off,
            Some(link) if link.connected => ConnectionState::Connected,
            Some(link) if link.last_error.is_some() => ConnectionState::Disconnected,
            Some(_) => ConnectionState::Connecting,
        };
        let since = link.map(|link| link.since_ms).filter(|since| *since > 0).unwrap_or(self.started_ms);
        let known = |text: &String| (!text.is_empty()).then(|| text.clone());
        Connection {
            uri,
            state,
            since: at(since),
            last_error: link
                .and_then(|link| link.last_error.clone())
                .map(|(message, ms)| LastError { at: at(ms), message }),
            server_version: link.and_then(|link| known(&link.version)),
            topology: link.and_then(|link| known(&link.topology)),
        }
    }

    fn sync_or_refuse(&self) -> Result<&Sync, Refusal> {
        self.sync.as_ref().ok_or_else(|| Refusal::WrongState {
            message: "syncing is off".to_owned(),
            action: "set atlas.uri (MONGODB_ATLAS_URI) and restart".to_owned(),
        })
    }
}

impl System for Program {
    fn not_ready(&self) -> Vec<&'static str> {
        if self.ready.load(Ordering::Acquire) { Vec::new() } else { vec!["proxy"] }
    }

    fn before_scrape(&self) {
        if let Some(sync) = &self.sync {
            self.gauges.set(sync);
        }
    }

    fn config(&self) -> serde_json::Value {
        self.config.to_json()
    }

    async fn health(&self) -> Health {
        let warnings = self.sync.as_ref().map(|sync| self.warnings(sync)).unwrap_or_default();
        let (errors, warnings): (Vec<_>, Vec<_>) =
            warnings.into_iter().partition(|it| matches!(it.code, "LOG_POISONED" | "LOCAL_AWAY"));
        let texts = |list: Vec<Warning>| list.into_iter().map(|it| it.text).collect();
        Health::judge(self.checks(), texts(warnings), texts(errors))
    }

    async fn report(&self) -> Report {
        let warnings = self.sync.as_ref().map(|sync| self.warnings(sync)).unwrap_or_default();
        let recommend = |it: &Warning| Recommendation {
            code: it.code.to_owned(),
            text: it.text.clone(),
            action: it.action.to_owned(),
        };
        let stats = self.show_stats();
        let status = self.sync.as_ref().map(|sync| sync.shared.status());
        let counters = self.sync.as_ref().map(|sync| sync.capture.counters()).unwrap_or_default();
        Report {
            positions: self.sync.as_ref().map_or(NOWHERE, positions),
            lag: self.sync.as_ref().map_or(Lag { entries: 0, bytes: 0, seconds: 0.0 }, lag),
            counts: self.sync.as_ref().map_or(nothing_counted(), |sync| counts(sync, &counters)),
            namespaces: self
                .sync
                .as_ref()
                .map_or(Namespaces { not_copied_yet: Vec::new(), dirty: Vec::new() }, namespaces),
            not_replicated: counters.not_replicated.into_iter().chain(counters.unknown).collect(),
            worker: self.show_worker(),
            last_sync: stats.last_sync,
            average_sync_ms: stats.average_sync_ms,
            success_rate: stats.success_rate,
            last_target_error: status
                .and_then(|status| status.target.last_error)
                .map(|(message, ms)| TargetError { at: at(ms), code: None, message, namespace: None }),
            warnings: warnings.iter().map(|it| it.text.clone()).collect(),
            recommendations: warnings.iter().map(recommend).collect(),
        }
    }

    async fn stats(&self) -> Stats {
        self.show_stats()
    }

    async fn queue(&self) -> Queue {
        let log = &self.config.log;
        let sync = self.sync.as_ref();
        let bytes = sync.map_or(0, |sync| sync.log.stats().bytes);
        let size = sync.map_or(0, |sync| sync.pending.entries());
        Queue {
            positions: sync.map_or(NOWHERE, positions),
            size,
            bytes,
            oldest_age_ms: sync
                .and_then(|sync| sync.shared.status().oldest_pending_ms)
                .map(|oldest| now_ms().saturating_sub(oldest)),
            level: fill_level(bytes, log.max_bytes).max(fill_level(size, log.max_entries)),
            limits: QueueLimits {
                max_bytes: log.max_bytes,
                max_entries: log.max_entries,
                min_free_bytes: log.min_free_bytes,
                warning: self.config.sync.queue_warning,
            },
        }
    }

    async fn worker(&self) -> Worker {
        self.show_worker()
    }

    async fn connections(&self) -> Connections {
        let status = self.sync.as_ref().map(|sync| sync.shared.status());
        let local = self.config.local.uri.to_string();
        let atlas = self.config.atlas.uri.as_ref().map(ToString::to_string).unwrap_or_default();
        Connections {
            local: self.show_connection(local, status.as_ref().map(|status| &status.source)),
            atlas: self.show_connection(atlas, status.as_ref().map(|status| &status.target)),
        }
    }

    async fn dead_letters(&self, limit: usize) -> DeadLetters {
        let letters = self.sync.as_ref().map(|sync| sync.shared.dead_letters()).unwrap_or_default();
        let show = |letter: &replicator::DeadLetter| DeadLetter {
            id: letter.id.to_string(),
            namespace: letter.namespace.clone(),
            key: serde_json::from_str(&letter.key).unwrap_or_else(|_| letter.key.clone().into()),
            reason: letter.reason.clone(),
            attempts: self.config.sync.max_retries,
            since: at(letter.since_ms),
        };
        DeadLetters { total: letters.len() as u64, letters: letters.iter().take(limit).map(show).collect() }
    }

    async fn control(&self, action: Action) -> Result<Worker, Refusal> {
        let shared = &self.sync_or_refuse()?.shared;
        let done = match action {
            Action::Start => shared.start(),
            Action::Stop => shared.stop(),
            Action::Pause => shared.pause(),
            Action::Resume => shared.resume(),
        };
        done.map_err(refused)?;
        Ok(self.show_worker())
    }

    async fn clear_queue(&self) -> Result<Cleared, Refusal> {
        let shared = &self.sync_or_refuse()?.shared;
        let cleared = shared.clear().await.map_err(refused)?;
        Ok(Cleared { cleared, dirty: shared.dirty().0.into_iter().map(|(name, _)| name).collect() })
    }

    async fn reset_stats(&self) -> Stats {
        if let Some(sync) = &self.sync {
            sync.shared.reset_counts();
        }
        *self.counts_since.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
        self.show_stats()
    }

    async fn retry(&self, letters: Letters) -> Result<Affected, Refusal> {
        let shared = &self.sync_or_refuse()?.shared;
        let ids = known_ids(shared, letters)?;
        Ok(Affected { affected: shared.retry(ids).await.map_err(refused)? })
    }

    async fn discard(&self, letters: Letters) -> Result<Affected, Refusal> {
        let shared = &self.sync_or_refuse()?.shared;
        let ids = known_ids(shared, letters)?;
        Ok(Affected { affected: shared.discard(ids).await.map_err(refused)? })
    }
}

fn known_ids(shared: &Shared, letters: Letters) -> Result<Vec<u64>, Refusal> {
    let Letters::Ids(wanted) = letters else { return Ok(Vec::new()) };
    let there: BTreeMap<String, u64> =
        shared.dead_letters().iter().map(|it| (it.id.to_string(), it.id)).collect();
    let id = |name: &String| {
        there.get(name).copied().ok_or_else(|| Refusal::Unknown {
            message: format!("no dead letter {name}"),
            action: "GET /api/sync/dead-letters lists them".to_owned(),
        })
    };
    wanted.iter().map(id).collect()
}

fn refused(error: ControlError) -> Refusal {
    let message = error.to_string();
    match error {
        ControlError::WrongState(_) => {
            Refusal::WrongState { message, action: "GET /api/sync/worker shows its state".to_owned() }
        }
        ControlError::NotSaved => {
            Refusal::Failed { message, action: "check the disk and the rights of log.dir".to_owned() }
        }
        ControlError::NoAnswer => {
            Refusal::Failed { message, action: "see the log; restart dualsync".to_owned() }
        }
    }
}

const NOWHERE: Positions = Positions { appended: 0, durable: 0, applied: 0, trimmed: 0 };

/// Each as the number of records behind it.
fn positions(sync: &Sync) -> Positions {
    let records = |next: u64| next.saturating_sub(1);
    // Read from the slowest to the fastest, so that they are in order whatever happens meanwhile.
    let trimmed = records(sync.log.trimmed().0);
    let applied = records(sync.shared.status().applied).max(trimmed);
    let durable = records(sync.log.durable().0).max(applied);
    Positions { appended: records(sync.log.head().0).max(durable), durable, applied, trimmed }
}

fn lag(sync: &Sync) -> Lag {
    let entries = sync.pending.entries();
    let bytes = if entries == 0 { 0 } else { sync.shared.pending_bytes(&sync.log) };
    Lag { entries, bytes, seconds: lag_ms(sync) as f64 / 1000.0 }
}

fn lag_ms(sync: &Sync) -> u64 {
    sync.shared.status().oldest_pending_ms.map_or(0, |oldest| now_ms().saturating_sub(oldest))
}

fn counts(sync: &Sync, counters: &capture::Counters) -> Counts {
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

fn nothing_counted() -> Counts {
    let in_doubt = BTreeMap::new();
    Counts { captured: 0, replayed: 0, converged: 0, dirty: 0, failed: 0, dead_letters: 0, in_doubt }
}

fn namespaces(sync: &Sync) -> Namespaces {
    let (dirty, everything) = sync.shared.dirty();
    let show = |name: &str, it: &Dirty| NamespaceState {
        namespace: name.to_owned(),
        reason: it.reason.clone(),
        since: at(it.since_ms),
    };
    let everything = everything.iter().map(|it| show("*", it));
    let (later, now): (Vec<_>, Vec<_>) = dirty.iter().partition(|(_, it)| it.not_copied_yet);
    Namespaces {
        not_copied_yet: later.into_iter().map(|(name, it)| show(name, it)).collect(),
        dirty: everything.chain(now.into_iter().map(|(name, it)| show(name, it))).collect(),
    }
}

fn failure_rate(counts: &replicator::Counts) -> f64 {
    let all = counts.replayed + counts.converged + counts.failed;
    if all == 0 { 0.0 } else { counts.failed as f64 / all as f64 }
}

fn fill_level(used: u64, max: u64) -> FillLevel {
    match used as f64 / max.max(1) as f64 {
        share if share >= 1.0 => FillLevel::Full,
        share if share >= 0.9 => FillLevel::KeysOnly,
        share if share >= 0.8 => FillLevel::Warning,
        _ => FillLevel::Normal,
    }
}

fn at(ms: u64) -> At {
    At(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Figures that are read when somebody scrapes.
struct Gauges {
    positions: IntGaugeVec,
    log_bytes: IntGauge,
    lag_entries: IntGauge,
    lag_seconds: Gauge,
    dirty: IntGauge,
    dead_letters: IntGauge,
    connected: IntGaugeVec,
    captured: IntCounterVec,
    in_doubt: IntCounterVec,
    not_replicated: IntCounterVec,
}

impl Gauges {
    fn register(registry: &Registry) -> Result<Gauges, prometheus::Error> {
        let counter = |name, help, label| IntCounterVec::new(Opts::new(name, help), &[label]);
        let gauges = Gauges {
            positions: IntGaugeVec::new(
                Opts::new("dualsync_log_position", "Records appended, durable, applied and trimmed."),
                &["position"],
            )?,
            log_bytes: IntGauge::new("dualsync_log_bytes", "Bytes of the sync log on disk.")?,
            lag_entries: IntGauge::new("dualsync_lag_entries", "Entries that wait.")?,
            lag_seconds: Gauge::new("dualsync_lag_seconds", "Age of the oldest entry that waits.")?,
            dirty: IntGauge::new("dualsync_dirty_namespaces", "Namespaces that need a full comparison.")?,
            dead_letters: IntGauge::new("dualsync_dead_letters", "Documents that the target refuses.")?,
            connected: IntGaugeVec::new(
                Opts::new("dualsync_connected", "Whether a server answers (1) or not (0)."),
                &["server"],
            )?,
            captured: counter("dualsync_captured_entries_total", "Entries by kind of write.", "kind")?,
            in_doubt: counter("dualsync_in_doubt_entries_total", "Entries in doubt by reason.", "reason")?,
            not_replicated: counter("dualsync_not_replicated_total", "Commands not replicated.", "command")?,
        };
        registry.register(Box::new(gauges.positions.clone()))?;
        registry.register(Box::new(gauges.log_bytes.clone()))?;
        registry.register(Box::new(gauges.lag_entries.clone()))?;
        registry.register(Box::new(gauges.lag_seconds.clone()))?;
        registry.register(Box::new(gauges.dirty.clone()))?;
        registry.register(Box::new(gauges.dead_letters.clone()))?;
        registry.register(Box::new(gauges.connected.clone()))?;
        registry.register(Box::new(gauges.captured.clone()))?;
        registry.register(Box::new(gauges.in_doubt.clone()))?;
        registry.register(Box::new(gauges.not_replicated.clone()))?;
        Ok(gauges)
    }

    fn set(&self, sync: &Sync) {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let set_total = |vec: &IntCounterVec, label: &str, total: u64| {
            let counter = vec.with_label_values(&[label]);
            counter.inc_by(total.saturating_sub(counter.get()));
        };
        let at = positions(sync);
        for (name, value) in [
            ("appended", at.appended),
            ("durable", at.durable),
            ("applied", at.applied),
            ("trimmed", at.trimmed),
        ] {
            self.positions.with_label_values(&[name]).set(signed(value));
        }
        let status = sync.shared.status();
        let (dirty, everything) = sync.shared.dirty();
        self.log_bytes.set(signed(sync.log.stats().bytes));
        self.lag_entries.set(signed(sync.pending.entries()));
        self.lag_seconds.set(lag_ms(sync) as f64 / 1000.0);
        self.dirty.set(signed(dirty.len() as u64 + u64::from(everything.is_some())));
        self.dead_letters.set(signed(sync.shared.dead_letters().len() as u64));
        self.connected.with_label_values(&["local"]).set(i64::from(status.source.connected));
        self.connected.with_label_values(&["atlas"]).set(i64::from(status.target.connected));
        let counters = sync.capture.counters();
        for (kind, total) in &counters.entries {
            set_total(&self.captured, kind.code(), *total);
        }
        for (doubt, total) in &counters.in_doubt {
            set_total(&self.in_doubt, doubt.code(), *total);
        }
        for (name, total) in counters.not_replicated.iter().chain(&counters.unknown) {
            set_total(&self.not_replicated, name, *total);
        }
    }
}
