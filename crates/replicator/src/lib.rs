//! Reads the sync log, plans, replays or converges, and remembers how far it came.
//!
//! - [`recover`] looks through the log before the proxy takes connections: which writes have no outcome
//! - [`Replicator::run`] follows the log until it is told to stop
//! - [`Shared`] is what others see of it and how they steer it
//!
//! The data's way: `pump.rs` reads a batch, `plan.rs` decides, `execute.rs` does it with `replay.rs`, `source.rs`
//! and `target.rs`, `checkpoint.rs` and `state.rs` remember.

mod asks;
mod checkpoint;
mod collide;
mod converge;
mod error;
mod execute;
mod expiry;
mod feeds;
mod find;
mod indexes;
mod joined;
mod meet;
mod notes;
mod orphans;
pub mod plan;
mod pump;
mod recent;
mod remember;
pub mod replay;
mod server;
mod shared;
mod source;
mod state;
mod target;
mod transactions;
mod tuning;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use asks::{Documents, Handed, Made, NotNow};
pub use error::{Class, ServerError};
pub use execute::Drops;
pub use expiry::{EXPIRY, Expiry};
pub use feeds::Feeding;
pub use indexes::{by_name, fields, indexes, unwanted};
pub use notes::{Noted, note, noted};
pub use orphans::Orphan;
use prometheus::Registry;
use record::{Mark, Namespace, Record, RecordKind};
pub use server::{Collection, Concern, answer, collection, concern, connect, cursor, integer, next};
pub use shared::{Activity, ControlError, Counts, Link, Shared, Status, Way, now_ms};
pub use source::{Dial, Dialled, Duplex};
pub use state::{Bypass, Cause, DeadLetter, Desired, Dirty, Filter, Keep};
use synclog::{Lsn, ReadError, Reader, SyncLog};
pub use target::{OWN_DATABASE, Reply, Validation, WriteError};
use tokio_util::sync::CancellationToken;
use tracing::warn;
pub use tuning::{Retuned, Tuning};

use checkpoint::Checkpoint;
use execute::{Executor, Lanes};
use notes::UNRECORDED;
use orphans::Recorder;
use plan::{Limits, Planner, Rules};
use pump::Pump;
use recent::Recent;
use remember::Positions;
use shared::Inbox;
use source::Source;
use state::State;
use target::Target;

/// What the replicator needs to know.
pub struct Config {
    /// The local mongod, with the credentials of dualsync's own reads.
    pub source_uri: String,
    /// How the proxy connects to it for its clients, one for each listener.
    pub dials: Vec<Dial>,
    /// Atlas.
    pub target_uri: String,
    /// The log's id in hexadecimal: names the feed on the target.
    pub log_id: String,
    /// The log's folder, which also holds the replicator's own small file.
    pub dir: PathBuf,
    /// How much at once and how fast, unless an order says otherwise.
    pub tuning: Tuning,
    /// Longest wait between two looks at the log.
    pub idle_wait: Duration,
    /// Between two looks for writes that went past dualsync.
    pub past_interval: Duration,
    /// What becomes of collections that are dropped.
    pub drops: Drops,
    /// Between two looks for what has expired on the source.
    pub sweep_interval: Duration,
    /// Tries for a document that the target refuses.
    pub max_retries: u32,
    /// Entries that wait, shared with whoever appends.
    pub pending: Arc<Pending>,
    /// How this log feeds the target.
    pub feeding: Feeding,
    /// Which namespaces are captured.
    pub filter: Filter,
    /// Whether a filter captures a namespace.
    pub captures: fn(&Filter, &Namespace) -> bool,
    /// Takes what capture could not record since the last call.
    pub misses: Box<dyn Fn() -> Vec<Miss> + Send + Sync>,
    /// How many writes are under way that the log has no mark of: their notes must stay.
    pub unrecorded: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// A write that could not be recorded.
#[derive(Debug, Clone)]
pub enum Miss {
    /// It may have touched anything.
    Everything(String),
    /// It may have touched this collection, or database.
    Namespace(Namespace, String),
}

/// How many entries are in the log and not applied.
#[derive(Debug, Default)]
pub struct Pending {
    /// Entries appended, by whomever; those that an earlier run left count as well.
    pub appended: Arc<AtomicU64>,
    applied: AtomicU64,
}

impl Pending {
    fn add(&self, entries: u64) {
        self.appended.fetch_add(entries, Ordering::Relaxed);
    }

    fn done(&self, entries: u64) {
        self.applied.fetch_add(entries, Ordering::Relaxed);
    }

    fn appended(&self) -> u64 {
        self.appended.load(Ordering::SeqCst)
    }

    /// Of the entries that were appended so far, none waits.
    fn settle(&self, appended: u64) {
        self.applied.fetch_max(appended, Ordering::SeqCst);
    }

    /// Entries that wait.
    pub fn entries(&self) -> u64 {
        let applied = self.applied.load(Ordering::Relaxed);
        self.appended.load(Ordering::Relaxed).saturating_sub(applied)
    }
}

/// What an earlier run left in the log.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Marks without an end: their writes may still run on the source.
    pub orphans: Vec<(u64, Mark)>,
    /// Entries that are not applied.
    pub entries: u64,
    checkpoint: Checkpoint,
    /// Something could not be read.
    problem: Option<String>,
}

/// Looks through the part of the log that is not applied. Blocking: reads it from the disk.
pub fn recover(log: &SyncLog) -> Recovered {
    let checkpoint = Checkpoint::load(log);
    let mut recovered = Recovered { checkpoint, ..Recovered::default() };
    if let Err(problem) = look_through(log, &mut recovered) {
        recovered.problem = Some(problem);
    }
    recovered
}

fn look_through(log: &SyncLog, recovered: &mut Recovered) -> Result<(), String> {
    let (mut reader, problem) = reader_at(log, recovered.checkpoint.resume)?;
    let mut open = BTreeMap::new();
    let mut problem = problem.map_or(Ok(()), Err);
    loop {
        let raw = match reader.next() {
            Ok(Some(raw)) => raw,
            Ok(None) => break,
            // The reader already stands behind the damage.
            Err(error @ ReadError::Damaged { .. }) => {
                problem = Err(error.to_string());
                continue;
            }
            // The disk refuses: what is there is lost to us, and what comes behind it is not.
            Err(error @ ReadError::Disk { .. }) => {
                problem = Err(error.to_string());
                reader.skip_segment();
                continue;
            }
            Err(error) => {
                problem = Err(error.to_string());
                break;
            }
        };
        if raw.kind == RecordKind::Entry as u8 && raw.lsn.0 >= recovered.checkpoint.applied {
            recovered.entries += 1;
        }
        match Record::decode(raw.kind, &raw.payload) {
            Ok(Record::Mark(mark)) => drop(open.insert(raw.lsn.0, mark)),
            Ok(Record::Closed { mark }) => drop(open.remove(&mark)),
            Ok(Record::Entry(entry)) => drop(open.remove(&entry.mark)),
            Err(error) => problem = Err(format!("record {}: {error}", raw.lsn)),
        }
    }
    recovered.orphans = open.into_iter().collect();
    problem
}

/// A reader from `resume` on, or from behind the damage that is there, and what that was.
fn reader_at(log: &SyncLog, resume: u64) -> Result<(Reader, Option<String>), String> {
    match log.reader(Lsn(resume)) {
        Ok(reader) => Ok((reader, None)),
        Err(ReadError::Damaged { resume_at, .. }) if resume_at > Lsn(resume) => {
            let problem = format!("damaged from record {resume} on");
            let (reader, more) = reader_at(log, resume_at.0)?;
            Ok((reader, more.or(Some(problem))))
        }
        // The disk refuses: what is there is lost to us, and what comes now is not.
        Err(error) if Lsn(resume) < log.head() => {
            let (reader, _) = reader_at(log, log.head().0)?;
            Ok((reader, Some(error.to_string())))
        }
        Err(error) => Err(error.to_string()),
    }
}

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
    /// Prepares everything; no connection is made yet. `recovered` comes from [`recover`] over the same log;
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
pub fn capture_is_off(dir: &std::path::Path) -> std::io::Result<()> {
    State::note_capture_off(dir, now_ms())
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
