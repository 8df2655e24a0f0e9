//! The running program as the admin port sees it: what it shows, what it warns of, what it can be told.

pub(crate) mod bypass;
pub(crate) mod filters;
mod gauges;
mod show;
mod warnings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use admin::{
    Action, Affected, At, CaptureAction, CaptureState, Check, CheckStatus, Checks, Cleared, Connection,
    ConnectionState, Connections, DeadLetter, DeadLetters, Filters, Full, Health, Lag, LastError, Letters,
    Measured, Namespaces, Pace, Queue, QueueLimits, Recommendation, Refusal, Report, SetFilters, Stats,
    System, TargetError, Worker, WorkerState,
};
use capture::Capture;
use prometheus::Registry;
use proxy::{Entry, Gate};
use record::Namespace;
use replicator::{Activity, ControlError, Desired, Link, Orphan, Pending, Retuned, Shared, now_ms};
use synclog::SyncLog;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bounds::Bounds;
use crate::config::Config;
use crate::rights::Rights;
use gauges::Gauges;
use show::{
    NOTHING_COMPARED, NOWHERE, at, counts, failure_rate, fill_level, lag, lag_ms, log_fill, millis,
    namespaces, nothing_counted, positions, queue_size, show_full,
};
use warnings::{LOG_LEVELS, Warning, warnings};

/// What there is when syncing is on.
pub(crate) struct Sync {
    pub(crate) log: SyncLog,
    pub(crate) capture: Arc<Capture>,
    pub(crate) shared: Shared,
    pub(crate) pending: Arc<Pending>,
    pub(crate) bounds: Arc<Bounds>,
    /// Takes capture out of the way.
    pub(crate) bypass: bypass::Switch,
    /// What is being done about dirty namespaces.
    pub(crate) comparing: reconciler::Progress,
}

/// Everything that can be seen and told.
pub(crate) struct Program {
    config: Config,
    pub(crate) sync: Option<Sync>,
    /// The proxy takes clients, and the log is open.
    pub(crate) ready: AtomicBool,
    pub(crate) replicator_died: AtomicBool,
    /// Of the listeners that serve clients only while mongod wants authentication.
    gates: Vec<Gate>,
    counts_since: Mutex<SystemTime>,
    started_ms: u64,
    /// What dualsync's users may not do.
    rights: Rights,
    /// Codes of the warnings that were said last.
    said: Mutex<BTreeSet<&'static str>>,
    gauges: Gauges,
}

impl Program {
    pub(crate) fn new(
        config: Config,
        sync: Option<Sync>,
        gates: Vec<Gate>,
        registry: &Registry,
    ) -> anyhow::Result<Program> {
        Ok(Program {
            config,
            sync,
            ready: AtomicBool::new(false),
            replicator_died: AtomicBool::new(false),
            gates,
            counts_since: Mutex::new(SystemTime::now()),
            started_ms: now_ms(),
            rights: Rights::default(),
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
            let guard = Box::new((orphan.unmarked, orphan.ticket));
            sync.shared.orphan(Orphan { mark: orphan.mark, record: orphan.mark_record, guard });
        }
    }

    /// Once a second: gives up transactions that nobody ends, and says what is worth a look, once each time it begins.
    pub(crate) fn tick(&self) {
        let Some(sync) = &self.sync else { return };
        bypass::settle(sync);
        sync.capture.abandoned(now_ms()).into_iter().for_each(|orphan| self.hand_on(orphan));
        let warnings = warnings(&self.config, sync);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        // What the replicator has said itself, with more detail, is not repeated.
        let own = ["QUEUE_LARGE", "LAG_HIGH", "FAILURES_HIGH", "LOG_POISONED"];
        let own = |code| own.contains(&code) || LOG_LEVELS.contains(&code);
        for warning in warnings.iter().filter(|it| own(it.code) && !said.contains(it.code)) {
            warn!("{}", warning.text);
        }
        let is_filled = warnings.iter().any(|it| LOG_LEVELS.contains(&it.code));
        if !is_filled && LOG_LEVELS.iter().any(|code| said.contains(code)) {
            info!("the sync log has room again");
        }
        *said = warnings.iter().map(|it| it.code).collect();
    }

    /// All that somebody should look at.
    fn warnings(&self) -> Vec<Warning> {
        let sync = self.sync.as_ref().map(|sync| warnings(&self.config, sync));
        let open = self.gates.iter().any(|gate| gate.entry() == Entry::Shut).then_some(Warning {
            code: "MONGOD_OPEN",
            text: "clients are turned away: the local mongod takes commands without authentication, and other hosts reach the proxy"
                .to_owned(),
            action: "switch authentication on in mongod and create a user; docs/security.md names other ways",
        });
        let missing = self.rights.missing();
        let lacks = (!missing.is_empty()).then(|| Warning {
            code: "RIGHTS_MISSING",
            text: missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            action: "grant these roles; dualsync check-config says whether that is enough",
        });
        open.into_iter().chain(sync.into_iter().flatten()).chain(lacks).collect()
    }

    /// Looks from time to time what dualsync's users may do.
    pub(crate) async fn watch_rights(&self, stop: CancellationToken) {
        if let Some(sync) = &self.sync {
            self.rights.watch(&self.config, &sync.shared, stop).await;
        }
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
            link => {
                let error = link.last_error.as_ref().map(|(message, _)| message);
                Check::warn(status.refused.as_ref().or(error).map_or("not reached yet", String::as_str))
            }
        };
        let worker = match self.worker_state(sync, status.activity) {
            WorkerState::Dead => Check::fail("the replicator has died: restart dualsync"),
            WorkerState::Running | WorkerState::BackingOff => Check::PASS,
            _ => Check::warn("told not to run"),
        };
        Checks {
            sync_enabled: match sync.bypass.switch.is_on() {
                true => Check::warn("capture is bypassed: writes pass unseen"),
                false => Check::PASS,
            },
            local_database: local,
            atlas_database: atlas,
            worker,
            queue_size: queue_size(sync, settings.queue_warning),
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
            // The next try is under way.
            (_, Activity::Connecting) if sync.shared.status().attempt > 0 => WorkerState::BackingOff,
            _ => WorkerState::Running,
        }
    }

    fn show_worker(&self) -> Worker {
        let configured = &self.config.sync;
        let Some(sync) = &self.sync else {
            let since = at(self.started_ms);
            return Worker {
                state: WorkerState::Off,
                since,
                attempt: 0,
                next_try_ms: None,
                lanes: configured.lanes as u64,
                batch_entries_max: configured.batch_entries_max as u64,
                rate_max: configured.rate_max,
            };
        };
        let (status, tuning) = (sync.shared.status(), sync.shared.tuning());
        Worker {
            state: self.worker_state(sync, status.activity),
            since: at(if status.since_ms == 0 { self.started_ms } else { status.since_ms }),
            attempt: status.attempt,
            next_try_ms: status.next_try_ms.map(|due| due.saturating_sub(now_ms())),
            lanes: tuning.lanes as u64,
            batch_entries_max: tuning.batch_entries_max as u64,
            rate_max: tuning.rate_max,
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
            // A stopped worker has closed it.
            Some(link) if !link.connected && self.is_stopped() => ConnectionState::Off,
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

    fn is_stopped(&self) -> bool {
        self.sync.as_ref().is_some_and(|sync| sync.shared.desired() == Desired::Stopped)
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
        let mut parts = Vec::new();
        if !self.ready.load(Ordering::Acquire) {
            parts.push("proxy");
        }
        if self.gates.iter().any(|gate| gate.entry() != Entry::Open) {
            parts.push("authentication");
        }
        parts
    }

    fn before_scrape(&self) {
        if let Some(sync) = &self.sync {
            self.gauges.set(sync);
        }
    }

    fn config(&self) -> serde_json::Value {
        let mut config = self.config.to_json();
        // What was ordered beside it is what counts.
        if let Some(sync) = &self.sync {
            let tuning = sync.shared.tuning();
            let filter = sync.shared.filter().0;
            config["sync"]["include"] = filter.include.into();
            config["sync"]["exclude"] = filter.exclude.into();
            config["sync"]["lanes"] = tuning.lanes.into();
            config["sync"]["batch_entries_max"] = tuning.batch_entries_max.into();
            config["sync"]["rate_max"] = tuning.rate_max.into();
        }
        config
    }

    async fn health(&self) -> Health {
        let (errors, warnings): (Vec<_>, Vec<_>) = self
            .warnings()
            .into_iter()
            .partition(|it| matches!(it.code, "LOG_POISONED" | "LOG_FULL" | "LOCAL_AWAY" | "MONGOD_OPEN"));
        let texts = |list: Vec<Warning>| list.into_iter().map(|it| it.text).collect();
        Health::judge(self.checks(), texts(warnings), texts(errors))
    }

    async fn report(&self) -> Report {
        let warnings = self.warnings();
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
            log: self.sync.as_ref().map(log_fill),
            counts: self.sync.as_ref().map_or(nothing_counted(), |sync| counts(sync, &counters)),
            namespaces: self.sync.as_ref().map_or(
                Namespaces { not_copied_yet: Vec::new(), dirty: Vec::new(), compared: Vec::new() },
                namespaces,
            ),
            not_replicated: counters.not_replicated.into_iter().chain(counters.unknown).collect(),
            capture: self.sync.as_ref().map_or(bypass::OFF, bypass::state),
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
            level: sync.map_or(admin::FillLevel::Normal, |sync| fill_level(sync.bounds.shown().0)),
            log: sync.map(log_fill),
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

    async fn set_pace(&self, pace: Pace) -> Result<Worker, Refusal> {
        let Pace { lanes, batch_entries_max, rate_max } = pace;
        let retuned = Retuned { lanes, batch_entries_max, rate_max };
        self.sync_or_refuse()?.shared.retune(retuned).map_err(refused)?;
        Ok(self.show_worker())
    }

    async fn filters(&self) -> Filters {
        filters::show(self)
    }

    async fn set_filters(&self, to: SetFilters) -> Result<Filters, Refusal> {
        filters::set(self, self.sync_or_refuse()?, to.include, to.exclude).await
    }

    async fn capture(&self) -> CaptureState {
        self.sync.as_ref().map_or(bypass::OFF, bypass::state)
    }

    async fn control_capture(&self, action: CaptureAction) -> Result<CaptureState, Refusal> {
        let sync = self.sync_or_refuse()?;
        match action {
            CaptureAction::Bypass => bypass::begin(sync)?,
            CaptureAction::Resume => bypass::end(sync)?,
        }
        Ok(bypass::state(sync))
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

    async fn full(&self) -> Full {
        self.sync.as_ref().map_or(NOTHING_COMPARED, show_full)
    }

    async fn start_full(&self) -> Result<Full, Refusal> {
        let sync = self.sync_or_refuse()?;
        if self.config.sync.compare_rate_max == 0 {
            let message = "comparing is off: sync.compare_rate_max is 0".to_owned();
            return Err(Refusal::WrongState { message, action: "set it and restart".to_owned() });
        }
        match sync.shared.start_full().await.map_err(refused)? {
            true => Ok(show_full(sync)),
            false => Err(Refusal::WrongState {
                message: "everything is being compared already".to_owned(),
                action: "GET /api/sync/full shows how far it is; DELETE stops what was asked for".to_owned(),
            }),
        }
    }

    async fn stop_full(&self) -> Result<Full, Refusal> {
        let sync = self.sync_or_refuse()?;
        match sync.shared.stop_full().await.map_err(refused)? {
            0 => Err(Refusal::WrongState {
                message: "no comparison that was asked for is running".to_owned(),
                action: "nothing to do; GET /api/sync/full shows the state".to_owned(),
            }),
            _ => Ok(show_full(sync)),
        }
    }

    async fn confirm_deletes(&self, namespaces: Vec<String>) -> Result<Affected, Refusal> {
        let shared = &self.sync_or_refuse()?.shared;
        let dirty: BTreeSet<String> = shared.dirty().0.into_iter().map(|(name, _)| name).collect();
        if let Some(name) = namespaces.iter().find(|name| !dirty.contains(*name)) {
            return Err(Refusal::Unknown {
                message: format!("{name} is not dirty"),
                action: "GET /api/sync/report names what is held".to_owned(),
            });
        }
        let namespaces = namespaces.iter().map(|name| Namespace::parse(name)).collect();
        Ok(Affected { affected: shared.confirm_deletes(namespaces).await.map_err(refused)? })
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
        ControlError::SourceAway(_) => Refusal::WrongState {
            message,
            action: "try again when it answers: GET /api/sync/connections".to_owned(),
        },
        ControlError::NoAnswer => {
            Refusal::Failed { message, action: "see the log; restart dualsync".to_owned() }
        }
    }
}
