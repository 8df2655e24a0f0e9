//! The wiring of the running program: builds the parts, lets them run, ends them in order.
//!
//! Start: log, what an earlier run left in it, replicator, ports. Only then clients are taken.
//! Shutdown: the proxy takes no more connections and its sessions come to an end; the replicator parks at its
//! checkpoint; the log is synced and closed; the admin port ends last. Each step has a deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail};
use capture::{Capture, Pattern};
use futures_util::future::join_all;
use prometheus::Registry;
use proxy::{Listener, Watch};
use record::Namespace;
use replicator::{Filter, Miss, Orphan, Pending, Replicator};
use synclog::SyncLog;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{AtlasConfig, Config, Durability, ListenerConfig};
use crate::program::{Program, Sync};

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
    refuse_open_door(&config).await?;
    let (sync, replicator) = match config.sync_enabled() {
        true => {
            let (sync, replicator) = build_sync(&config, &registry).await?;
            (Some(sync), Some(replicator))
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
    });
    let metrics = proxy::Metrics::register(&registry)?;
    let listeners = bind(&config, watch, metrics).await.context("open the proxy's port")?;
    let listen: Vec<_> = listeners.iter().map(Listener::local_addr).collect();
    let program = Arc::new(Program::new(config, sync, &registry)?);
    let admin = admin::Admin::bind(program.admin_config(), program.clone(), registry.clone())
        .await
        .context("open the admin port")?;
    info!(version = env!("CARGO_PKG_VERSION"), proxy = %shown(&listen), admin = %admin.local_addr(), "dualsync listens");
    Running::start(program, listeners, replicator, admin, orphan_inbox).await
}

/// Takes the proxy's port, or one for each member of a replica set.
async fn bind(
    config: &Config,
    watch: Option<Watch>,
    metrics: proxy::Metrics,
) -> anyhow::Result<Vec<Listener>> {
    let mut settings = proxy_configs(config)?.into_iter();
    let first = settings.next().context("there is no listener")?;
    let mut listeners = vec![Listener::bind(first, watch, metrics).await?];
    for next in settings {
        listeners.push(listeners[0].beside(next).await?);
    }
    Ok(listeners)
}

/// Runs all listeners until `shutdown`; they drain at the same time.
async fn serve(listeners: Vec<Listener>, shutdown: CancellationToken) {
    join_all(listeners.into_iter().map(|listener| listener.run(shutdown.clone()))).await;
}

fn shown(listen: &[SocketAddr]) -> String {
    listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Opens the log and prepares the replicator; nothing runs yet.
async fn build_sync(config: &Config, registry: &Registry) -> anyhow::Result<(Sync, Replicator)> {
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
    let capture = Capture::new(capture_config(config));
    let reading = log.clone();
    let recovered = tokio::task::spawn_blocking(move || replicator::recover(&reading)).await?;
    info!(
        head = %log.head(), pending = recovered.entries, orphans = recovered.orphans.len(), clean = recovery.clean,
        "sync initialised"
    );
    let pending = Arc::new(Pending::default());
    let misses = capture.clone();
    let texts = |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect();
    let settings = replicator::Config {
        source_uri: config.local.uri.expose().to_owned(),
        upstreams: upstreams(config),
        target_uri: atlas.expose().to_owned(),
        log_id: log.id().iter().map(|byte| format!("{byte:02x}")).collect(),
        dir: config.log.dir.clone(),
        batch_entries_max: config.sync.batch_entries_max,
        idle_wait: config.sync.idle_wait,
        max_retries: config.sync.max_retries,
        pending: pending.clone(),
        filter: Filter { include: texts(&config.sync.include), exclude: texts(&config.sync.exclude) },
        captures,
        misses: Box::new(move || take_misses(&misses)),
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
        shared.orphan(Orphan { mark, record, guard });
    }
    Ok((Sync { log, capture, shared, pending }, replicator))
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
    proxy: JoinHandle<()>,
    admin: JoinHandle<()>,
    replicator: Option<JoinHandle<()>>,
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
        replicator: Option<Replicator>,
        admin: admin::Admin,
        orphans: mpsc::Receiver<capture::Orphan>,
    ) -> anyhow::Result<()> {
        let (stop_proxy, stop_replicator, stop_admin) = Default::default();
        let mut running = Running {
            proxy: tokio::spawn(serve(listeners, CancellationToken::clone(&stop_proxy))),
            admin: tokio::spawn(admin.run(CancellationToken::clone(&stop_admin))),
            replicator: replicator.map(|it| tokio::spawn(it.run(CancellationToken::clone(&stop_replicator)))),
            orphans,
            program,
            stop_proxy,
            stop_replicator,
            stop_admin,
        };
        running.program.ready.store(true, Ordering::Release);
        let ended = running.until_told().await;
        running.stop().await;
        ended
    }

    /// Returns at a signal; an error when the proxy has died.
    async fn until_told(&mut self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = terminate.recv() => { info!("SIGTERM: ending in order"); return Ok(()) }
                _ = interrupt.recv() => { info!("Ctrl-C: ending in order"); return Ok(()) }
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
        if let Some(sync) = &self.program.sync
            && let Err(error) = sync.log.close()
        {
            error!(%error, "the sync log could not be closed in order");
        }
        self.stop_admin.cancel();
        if self.admin.await.is_err() {
            error!("the admin port died");
        }
        info!("dualsync has ended");
    }
}

/// Resolves when the task has ended by itself; never without one.
async fn died(task: &mut Option<JoinHandle<()>>) -> Result<(), tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// A proxy beside mongod would give everybody who reaches it what mongod gives to its own host alone.
async fn refuse_open_door(config: &Config) -> anyhow::Result<()> {
    let listens = config.listens();
    let Some(listen) = listens.iter().find(|listen| !listen.ip().to_canonical().is_loopback()) else {
        return Ok(());
    };
    if config.proxy.allow_unauthenticated_remote {
        warn!(%listen, "proxy.allow_unauthenticated_remote is set: whoever reaches the proxy may do what mongod allows without a password");
        return Ok(());
    }
    if any_is_open(&servers(config))
        .await
        .context("ask the local mongod whether it wants authentication (the proxy listens beyond loopback)")?
    {
        bail!(
            "proxy.listen {listen} is reachable from other hosts, and the local mongod takes commands without \
             authentication: switch authentication on in mongod, or listen on 127.0.0.1, or set \
             proxy.allow_unauthenticated_remote = true"
        );
    }
    Ok(())
}

/// Whether one of the servers takes commands without authentication. Those that are away are not waited for, as long
/// as one of them answers.
async fn any_is_open(servers: &[(String, u16)]) -> anyhow::Result<bool> {
    let asked =
        servers.iter().map(|server| replicator::takes_unauthenticated_commands(std::slice::from_ref(server)));
    let (mut closed, mut last_error) = (false, None);
    for answer in join_all(asked).await {
        match answer {
            Ok(true) => return Ok(true),
            Ok(false) => closed = true,
            Err(error) => last_error = Some(error),
        }
    }
    match last_error {
        Some(error) if !closed => Err(error.into()),
        _ => Ok(false),
    }
}

fn log_config(config: &Config) -> synclog::Config {
    let mut settings = synclog::Config::new(&config.log.dir);
    settings.segment_bytes_max = config.log.segment_bytes_max;
    settings.durability = durability(config);
    settings
}

fn durability(config: &Config) -> synclog::Durability {
    match config.log.durability {
        Durability::Process => synclog::Durability::Process,
        Durability::Journal => synclog::Durability::Journal,
        Durability::Strict => synclog::Durability::Strict,
    }
}

/// The servers behind the proxy, one for each listener.
fn servers(config: &Config) -> Vec<(String, u16)> {
    match config.proxy.listeners.as_slice() {
        [] => config.local.uri.hosts().to_vec(),
        several => several.iter().map(|it| (it.member.host().to_owned(), it.member.port())).collect(),
    }
}

/// How they are dialled.
fn upstreams(config: &Config) -> Vec<String> {
    let address = |(host, port): (String, u16)| {
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    };
    servers(config).into_iter().map(address).collect()
}

/// The settings of each listener.
fn proxy_configs(config: &Config) -> anyhow::Result<Vec<proxy::Config>> {
    let one = |listen: String, upstream: String| proxy::Config {
        listen,
        upstream,
        connections_max: config.proxy.connections_max,
        held_bytes_max: usize::try_from(config.proxy.held_bytes_max).unwrap_or(usize::MAX),
        durability: durability(config),
        drain_timeout: config.proxy.drain_timeout,
        ..proxy::Config::new()
    };
    let upstreams = upstreams(config);
    if config.proxy.listeners.is_empty() {
        let upstream = upstreams.into_iter().next().context("local.uri names no server")?;
        let settings = one(config.proxy.listen.to_string(), upstream);
        return Ok(vec![proxy::Config { advertise: config.proxy.advertise.clone(), ..settings }]);
    }
    let members: Vec<proxy::Member> = config.proxy.listeners.iter().map(member).collect();
    let each = members.iter().zip(upstreams).map(|(own, upstream)| proxy::Config {
        advertise: own.advertise.clone(),
        member: Some(own.address.clone()),
        others: members.iter().filter(|other| *other != own).cloned().collect(),
        ..one(own.listen.to_string(), upstream)
    });
    Ok(each.collect())
}

fn member(listener: &ListenerConfig) -> proxy::Member {
    let ListenerConfig { listen, member, advertise } = listener.clone();
    proxy::Member { address: member, listen, advertise }
}

fn capture_config(config: &Config) -> capture::Config {
    let (include, exclude) = (config.sync.include.clone(), config.sync.exclude.clone());
    capture::Config { include, exclude, ..capture::Config::default() }
}

/// Whether a filter, of this or an earlier start, captures a namespace.
fn captures(filter: &Filter, ns: &Namespace) -> bool {
    let patterns = |texts: &[String]| texts.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
    let (include, exclude) = (patterns(&filter.include), patterns(&filter.exclude));
    capture::Config { include, exclude, ..capture::Config::default() }.captures(ns.db(), ns.coll())
}
