//! From the settings and the disk to a replicator that runs.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use prometheus::Registry;
use record::Namespace;
use synclog::SyncLog;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::Config;
use crate::error::ServerError;
use crate::execute::{Executor, Lanes};
use crate::notes::{self, Noted, UNRECORDED};
use crate::orphans::{self, Recorder};
use crate::plan::{Limits, Planner, Rules};
use crate::pump::Pump;
use crate::pump::lost::{Lost, LostError};
use crate::recent::Recent;
use crate::recover::{Recovered, reader_at};
use crate::remember::Positions;
use crate::shared::{Inbox, Shared, now_ms};
use crate::source::Source;
use crate::state::{Cause, Dirty, Filter, State};
use crate::target::Target;

/// The running replicator.
pub struct Replicator {
    pump: Pump,
    inbox: Inbox,
    source: Source,
    recorder: Recorder,
    shared: Shared,
}

/// Why the replicator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `local.uri` cannot be used.
    #[error("local.uri cannot be used: {0}")]
    Source(ServerError),
    /// The log cannot be read from where it should go on.
    #[error("the sync log cannot be read: {0}")]
    Log(String),
    /// The replicator's small file cannot be written.
    #[error("cannot write in the log's folder {dir}: {source}; check its rights and the disk")]
    State {
        /// `log.dir`.
        dir: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A metric's name is taken.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

impl Replicator {
    /// Prepares everything; no connection is made yet. `recovered` comes from [`crate::recover`] over the same log;
    /// `gap` says why the log's own recovery does not vouch for it.
    pub async fn new(
        config: Config,
        log: SyncLog,
        recovered: &Recovered,
        gap: Option<String>,
        registry: &Registry,
    ) -> Result<Replicator, StartError> {
        let mut state = State::open(&config.dir, &config.log_id, log.cursor().is_none(), now_ms());
        if let Some(problem) = gap.as_ref().or(recovered.problem.as_ref()) {
            state.set_everything_dirty(Dirty::new(problem, Cause::Unknown, now_ms()));
        }
        let noted = notes::noted(&log);
        if noted.everything {
            state.set_everything_dirty(Dirty::new(UNRECORDED, Cause::Written, now_ms()));
        }
        for ns in &noted.namespaces {
            if state.set_dirty(ns, Dirty::new(UNRECORDED, Cause::Written, now_ms())) {
                warn!(%ns, reason = UNRECORDED, "namespace is dirty: only a full comparison can make it good");
            }
        }
        keep(&mut state, &log, &noted, gap.is_some())
            .map_err(|source| StartError::State { dir: config.dir.clone(), source })?;
        config.pending.add(recovered.entries);
        let mut planner = remembered(&state, recovered.checkpoint.sent);
        if config.feeding.join {
            planner.set_joined();
        }
        let (shared, inbox, asks) = Shared::new(state, config.tuning, registry)?;
        shared.status_mut().applied = recovered.checkpoint.applied;
        let source = Source::new(&config.source_uri, &config.dials).await.map_err(StartError::Source)?;
        let target = Target::new(&config.target_uri, &config.log_id);
        let checkpoint = recovered.checkpoint;
        let executor = Executor {
            source: source.clone(),
            target,
            log: log.clone(),
            shared: shared.clone(),
            max_retries: config.max_retries,
            drops: config.drops,
            planner: Mutex::new(planner),
            positions: Mutex::new(Positions { checkpoint, parked: checkpoint }),
            unsaved: AtomicBool::new(false),
            known: Mutex::default(),
            no_look_up: Mutex::default(),
            lanes: Lanes::new(1),
            source_process: Mutex::default(),
            recent: Mutex::new(Recent::open(&config.dir)),
            joined: config.feeding.join,
            pending: config.pending.clone(),
        };
        let (reader, _) = reader_at(&log, recovered.checkpoint.resume).map_err(StartError::Log)?;
        let recorder =
            Recorder { log: log.clone(), pending: config.pending.clone(), refused: AtomicBool::new(false) };
        let pump = Pump::new(config, log, executor, reader, asks);
        Ok(Replicator { pump, inbox, source, recorder, shared })
    }

    /// What others see of it and how they steer it.
    pub fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// Looks at the source for documents from before, so that what is written from now on to a collection that
    /// was empty is known to be all there is. Later, with a source that is away now, it costs needless doubt.
    pub async fn look_at_source(&mut self) -> Result<(), ServerError> {
        self.pump.look_at_source().await
    }

    /// Brings what the log has to the target, for good: there is no source any more, and none may answer.
    pub async fn drain_without_source(mut self) -> Result<Lost, LostError> {
        let mut lost = Lost::default();
        while let Ok(orphan) = self.inbox.orphans.try_recv() {
            for target in &orphan.record.targets {
                lost.touch(&target.ns, &target.touch, "whether this write took place is not known");
            }
        }
        self.pump.drain_without_source(lost).await
    }

    /// Follows the log until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let Inbox { orders, orphans } = self.inbox;
        let resolver = orphans::resolve(self.source, self.recorder, self.shared, orphans, shutdown.clone());
        tokio::join!(self.pump.run(orders, shutdown), resolver);
    }
}

/// Puts the state on disk before any cursor says that the log has been dealt with. On a full disk that waits: until then
/// no cursor is stored, the notes stay, and what only this start knows is noted.
fn keep(state: &mut State, log: &SyncLog, noted: &Noted, gap: bool) -> std::io::Result<()> {
    match state.save() {
        // What is not forgotten is told again, which costs nothing but a comparison.
        Ok(()) => {
            if gap && let Err(error) = log.forget_gap() {
                warn!(%error, "the log's gap will be told again");
            }
            if !noted.is_empty()
                && let Err(error) = log.clear_notes(noted.upto)
            {
                warn!(%error, "the log's reserve cannot be cleared");
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            warn!(%error, "the replicator's state cannot be saved: it is kept in memory and in the log's reserve");
            let all = state.everything_dirty().is_some() && !noted.everything;
            if all && notes::note(log, None).is_err() { Err(error) } else { Ok(()) }
        }
        Err(error) => Err(error),
    }
}

/// Syncing is switched off: what is written from now on nobody sees, so a log in `dir` vouches for nothing any more.
/// Errors: the log's small file cannot be written.
pub fn capture_is_off(dir: &Path) -> std::io::Result<()> {
    State::note_capture_off(dir, now_ms())
}

/// What an earlier run of the log in `dir` was ordered to capture, beside its configuration.
pub fn ordered_filter(dir: &Path) -> Option<Filter> {
    State::ordered_in(dir)
}

/// A planner that knows what the state remembers.
fn remembered(state: &State, sent: u64) -> Planner {
    let mut planner = Planner::new(Rules::default(), Limits::default(), sent);
    for (ns, dirty) in state.dirty() {
        match dirty.cause {
            Cause::Shape => planner.set_misshapen(&ns),
            _ => planner.set_dirty(&ns),
        }
    }
    for letter in state.dead_letters() {
        if let Some(key) = letter.key() {
            planner.set_dead(&Namespace::parse(&letter.namespace), &key);
        }
    }
    if state.everything_dirty().is_some() {
        planner.set_everything_dirty();
    }
    planner
}
