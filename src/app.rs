//! The wiring of the running program: builds the parts, lets them run, ends them in order.
//!
//! Start: log, what an earlier run left in it, replicator, ports. Only then clients are taken.
//! Shutdown: the proxy takes no more connections and its sessions come to an end; the replicator parks at its
//! checkpoint; the log is synced and closed; the admin port ends last. Each step has a deadline.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail};
use capture::{Capture, Pattern};
use futures_util::future::join_all;
use prometheus::Registry;
use proxy::{Listener, ServerTls, Watch};
use reconciler::Reconciler;
use record::Namespace;
use replicator::{Feeding, Filter, Miss, Orphan, Pending, Replicator, Tuning};
use synclog::SyncLog;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, block_in_place};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::bounds::Bounds;
use crate::config::{AtlasConfig, Config, Durability};
use crate::doors::{self, Doors};
use crate::program::{Program, Sync, bypass, filters};

/// How long the replicator may take to finish its batch.
const PARK_MAX: Duration = Duration::from_secs(10);
/// How long the source may take to say what it holds, before clients are taken without knowing.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(5);
/// Orphans on their way to the replicator; when it is full their namespaces are missed instead.
const ORPHANS_MAX: usize = 10_000;
/// Between two looks at thresholds.
const TICK: Duration = Duration::from_secs(1);

/// Runs until a signal, or until a part that nothing works without has died.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let registry = Registry::new();
    let doors = Doors::read(&config)?;
    doors::refuse_open(&config, &doors).await?;
    doors::warn_of_certificate_user(&config, &doors).await;
    let (sync, workers) = match config.sync_enabled() {
        true => {
            let (sync, workers) = build_sync(&config, &doors, &registry).await?;
            (Some(sync), Some(workers))
        }
        false => {
            replicator::capture_is_off(&config.log.dir)
                .context("note in the log's folder that syncing is off")?;
            (None, None)
        }
    };
    let (orphans, orphan_inbox) = mpsc::channel(ORPHANS_MAX);
    let watch = sync.as_ref().map(|sync| Watch {
        capture: sync.capture.clone(),
        log: sync.log.clone(),
        orphans,
        entries: sync.pending.appended.clone(),
        level: {
            let bounds = sync.bounds.clone();
            Arc::new(move || bounds.level())
        },
        bypass: sync.bypass.switch.clone(),
    });
    let metrics = proxy::Metrics::register(&registry)?;
    let tls = doors.tls.clone();
    let listeners = doors.open(&config, watch, metrics).await.context("open the proxy's port")?;
    let listen: Vec<_> = listeners.iter().map(|listener| listener.place().to_string()).collect();
    let gates = listeners.iter().filter_map(Listener::gate).collect();
    let program = Arc::new(Program::new(config, sync, gates, &registry)?);
    let admin = admin::Admin::bind(program.admin_config(), program.clone(), registry.clone())
        .await
        .context("open the admin port")?;
    info!(version = env!("CARGO_PKG_VERSION"), proxy = %listen.join(", "), admin = %admin.local_addr(), "dualsync listens");
    Running::start(program, listeners, tls, workers, admin, orphan_inbox).await
}

/// Runs all listeners until `shutdown`; they drain at the same time.
async fn serve(listeners: Vec<Listener>, shutdown: CancellationToken) {
    join_all(listeners.into_iter().map(|listener| listener.run(shutdown.clone()))).await;
}

/// What brings the log to the target, and makes good what the log cannot.
pub(crate) struct Workers {
    pub(crate) replicator: Replicator,
    /// None when it is switched off.
    reconciler: Option<Reconciler>,
}

impl Workers {
    /// They end together: neither is of use without the other.
    async fn run(self, shutdown: CancellationToken) {
        let reconcile = async {
            match self.reconciler {
                Some(reconciler) => reconciler.run(shutdown.clone()).await,
                None => shutdown.cancelled().await,
            }
        };
        tokio::join!(self.replicator.run(shutdown.clone()), reconcile);
    }
}

/// Opens the log and prepares the replicator; nothing runs yet.
pub(crate) async fn build_sync(
    config: &Config,
    doors: &Doors,
    registry: &Registry,
) -> anyhow::Result<(Sync, Workers)> {
    let AtlasConfig { uri: Some(atlas) } = &config.atlas else {
        bail!("sync.enabled is true, but atlas.uri is not set: set MONGODB_ATLAS_URI");
    };
    let (log, recovery) = SyncLog::open(log_config(config)).context("open the sync log in log.dir")?;
    for note in &recovery.notes {
        info!(note, "sync log recovery");
    }
    if let Some(gap) = &recovery.gap {
        error!(gap, "the sync log does not vouch for everything: a full comparison is needed");
    }
    let notes = log.clone();
    let capture =
        // The log's disk may hang: the other tasks of this thread go on elsewhere meanwhile.
        Capture::noting(capture_config(config), Box::new(move |ns| block_in_place(|| replicator::note(&notes, ns).is_ok())));
    let reading = log.clone();
    let recovered = tokio::task::spawn_blocking(move || replicator::recover(&reading)).await?;
    info!(
        head = %log.head(), pending = recovered.entries, orphans = recovered.orphans.len(), clean = recovery.clean,
        "sync initialised"
    );
    let pending = Arc::new(Pending::default());
    let bounds = Arc::new(Bounds::new(log.clone(), pending.clone(), config.log.max_entries, capture.clone()));
    let (misses, unrecorded) = (capture.clone(), capture.clone());
    let settings = replicator::Config {
        source_uri: config.local.uri.expose().to_owned(),
        dials: doors.dials(),
        target_uri: atlas.expose().to_owned(),
        log_id: log.id().iter().map(|byte| format!("{byte:02x}")).collect(),
        dir: config.log.dir.clone(),
        tuning: Tuning {
            lanes: config.sync.lanes,
            batch_entries_max: config.sync.batch_entries_max,
            rate_max: config.sync.rate_max,
        },
        idle_wait: config.sync.idle_wait,
        sweep_interval: config.sync.expiry_interval,
        drops: config.sync.drops,
        past_interval: config.sync.past_interval,
        max_retries: config.sync.max_retries,
        pending: pending.clone(),
        feeding: feeding(config),
        filter: filters::effective(config),
        captures,
        misses: Box::new(move || take_misses(&misses)),
        unrecorded: Box::new(move || unrecorded.unrecorded().under_way),
    };
    let mut replicator =
        Replicator::new(settings, log.clone(), &recovered, recovery.gap.clone(), registry).await?;
    match tokio::time::timeout(FIRST_LOOK_MAX, replicator.look_at_source()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            warn!(%error, "local mongod unavailable: check that it runs, and local.uri with its credentials")
        }
        Err(_) => warn!("local mongod does not answer: check that it runs and local.uri"),
    }
    let shared = replicator.shared();
    for (mark, record) in recovered.orphans {
        let guard = Box::new(capture.enter_orphan(&record, replicator::now_ms()));
        shared.orphan(Orphan { mark: Some(mark), record, guard });
    }
    let settings = reconciler::Config {
        source_uri: config.local.uri.expose().to_owned(),
        target_uri: atlas.expose().to_owned(),
        documents_per_second_max: config.sync.compare_rate_max,
        drops: config.sync.drops,
    };
    let reconciler = Reconciler::new(settings, shared.clone(), registry)?;
    let comparing = reconciler.progress();
    let reconciler = (config.sync.compare_rate_max > 0).then_some(reconciler);
    let bypass = bypass::Switch::default();
    let sync = Sync { log, capture, shared, pending, comparing, bounds, bypass };
    bypass::restore(config, &sync).context("take up whether capture is bypassed")?;
    Ok((sync, Workers { replicator, reconciler }))
}

fn take_misses(capture: &Capture) -> Vec<Miss> {
    let missed = capture.take_missed();
    let everything = missed.everything.then(|| Miss::Everything("a write could not be recorded".to_owned()));
    let named = missed.namespaces.into_iter();
    let named = named.map(|ns| Miss::Namespace(ns, "a write to it could not be recorded".to_owned()));
    everything.into_iter().chain(named).collect()
}

/// The tasks of a running program.
struct Running {
    program: Arc<Program>,
    tls: Option<Arc<ServerTls>>,
    proxy: JoinHandle<()>,
    admin: JoinHandle<()>,
    replicator: Option<JoinHandle<()>>,
    /// Looks at what dualsync's users may do; nothing depends on it.
    rights: JoinHandle<()>,
    /// Open until the last session has ended: what is still under way then is found by its mark at the next start.
    orphans: mpsc::Receiver<capture::Orphan>,
    stop_proxy: CancellationToken,
    stop_replicator: CancellationToken,
    stop_admin: CancellationToken,
}

impl Running {
    async fn start(
        program: Arc<Program>,
        listeners: Vec<Listener>,
        tls: Option<Arc<ServerTls>>,
        workers: Option<Workers>,
        admin: admin::Admin,
        orphans: mpsc::Receiver<capture::Orphan>,
    ) -> anyhow::Result<()> {
        let (stop_proxy, stop_replicator, stop_admin) = Default::default();
        let mut running = Running {
            proxy: tokio::spawn(serve(listeners, CancellationToken::clone(&stop_proxy))),
            admin: tokio::spawn(admin.run(CancellationToken::clone(&stop_admin))),
            replicator: workers.map(|it| tokio::spawn(it.run(CancellationToken::clone(&stop_replicator)))),
            rights: tokio::spawn({
                let (program, stop) = (program.clone(), CancellationToken::clone(&stop_replicator));
                async move { program.watch_rights(stop).await }
            }),
            orphans,
            tls,
            program,
            stop_proxy,
            stop_replicator,
            stop_admin,
        };
        running.program.ready.store(true, Ordering::Release);
        let mut signals = Signals::listen(running.tls.is_some())?;
        let ended = running.until_told(&mut signals).await;
        tokio::select! {
            () = running.stop() => ended,
            () = signals.end() => {
                bail!("told to end a second time: what is under way is found by its marks at the next start")
            }
        }
    }

    /// Returns at a signal; an error when the proxy has died.
    async fn until_told(&mut self, signals: &mut Signals) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => { info!("SIGTERM: ending in order"); return Ok(()) }
                _ = signals.interrupt.recv() => { info!("Ctrl-C: ending in order"); return Ok(()) }
                () = told(&mut signals.hangup) => self.tls.iter().for_each(|tls| doors::reload(tls)),
                Some(orphan) = self.orphans.recv() => self.program.hand_on(orphan),
                _ = tick.tick() => self.program.tick(),
                result = &mut self.proxy => {
                    result.context("the proxy has died")?;
                    bail!("the proxy has ended by itself");
                }
                result = died(&mut self.replicator) => {
                    error!(?result, "the replicator has died: clients are served and writes are recorded; restart dualsync to replicate them");
                    self.replicator = None;
                    self.program.replicator_died.store(true, Ordering::Release);
                }
            }
        }
    }

    async fn stop(self) {
        self.program.ready.store(false, Ordering::Release);
        self.stop_proxy.cancel();
        if !self.proxy.is_finished() && self.proxy.await.is_err() {
            error!("the proxy died while it ended");
        }
        self.stop_replicator.cancel();
        if let Some(mut replicator) = self.replicator
            && tokio::time::timeout(PARK_MAX, &mut replicator).await.is_err()
        {
            // As after a kill: what was under way is converged at the next start.
            info!("the replicator's batch was not finished in time");
            replicator.abort();
        }
        let _ = self.rights.await; // it has been told as well
        if let Some(sync) = &self.program.sync {
            let log = sync.log.clone();
            // The disk may not answer: a second signal is heard meanwhile.
            match tokio::task::spawn_blocking(move || log.close()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => error!(%error, "the sync log could not be closed in order"),
                Err(error) => error!(%error, "closing the sync log died"),
            }
        }
        self.stop_admin.cancel();
        if self.admin.await.is_err() {
            error!("the admin port died");
        }
        info!("dualsync has ended");
    }
}

/// What the operator tells by signals.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// `reloads`: there is something to read again; else a terminal that closes ends the program, as ever.
    fn listen(reloads: bool) -> anyhow::Result<Signals> {
        let listen = |kind, name| signal(kind).with_context(|| format!("listen for {name}"));
        Ok(Signals {
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "Ctrl-C")?,
            hangup: reloads.then(|| listen(SignalKind::hangup(), "SIGHUP")).transpose()?,
        })
    }

    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Resolves at the signal; never where it is not listened for.
async fn told(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Resolves when the task has ended by itself; never without one.
async fn died(task: &mut Option<JoinHandle<()>>) -> Result<(), tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

fn feeding(config: &Config) -> Feeding {
    let host = rustix::system::uname();
    let dir = config.log.dir.canonicalize().unwrap_or_else(|_| config.log.dir.clone());
    Feeding {
        place: format!("{}:{}", host.nodename().to_string_lossy(), dir.display()),
        join: config.sync.join,
        take_over: config.sync.take_over.clone(),
    }
}

fn log_config(config: &Config) -> synclog::Config {
    let mut settings = synclog::Config::new(&config.log.dir);
    settings.segment_bytes_max = config.log.segment_bytes_max;
    settings.bytes_max = Some(config.log.max_bytes);
    settings.free_bytes_min = config.log.min_free_bytes;
    settings.durability = durability(config);
    settings
}

pub(crate) fn durability(config: &Config) -> synclog::Durability {
    match config.log.durability {
        Durability::Process => synclog::Durability::Process,
        Durability::Journal => synclog::Durability::Journal,
        Durability::Strict => synclog::Durability::Strict,
    }
}

fn capture_config(config: &Config) -> capture::Config {
    let filter = filters::effective(config);
    let read = |texts: &[String]| filters::patterns(texts).unwrap_or_default();
    let (include, exclude) = (read(&filter.include), read(&filter.exclude));
    capture::Config { include, exclude, ..capture::Config::default() }
}

/// Whether a filter, of this or an earlier start, captures a namespace, or anything of a database.
fn captures(filter: &Filter, ns: &Namespace) -> bool {
    let patterns = |texts: &[String]| texts.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
    let (include, exclude) = (patterns(&filter.include), patterns(&filter.exclude));
    let config = capture::Config { include, exclude, ..capture::Config::default() };
    match ns.coll() {
        "" => config.captures_some_of(ns.db()),
        coll => config.captures(ns.db(), coll),
    }
}
