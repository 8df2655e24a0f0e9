//! The worker: one loop that reads batches of entries, has them planned and executed, and remembers how far it came.
//!
//! - one batch at a time, taken when it is durable; after an error it is planned again, with what is now in doubt
//! - both servers may be away for any time: it waits 1, 5, 15, 30, then 60 s, and nothing is dropped
//! - orders are carried out between two batches, also while waiting
//!
//! Not here: deciding (`plan.rs`), doing (`execute.rs`).

mod asks;
mod connect;
mod fencing;
mod orders;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use record::{Entry, Namespace, Record, Touch};
use synclog::{CursorSync, Lsn, ReadError, Reader, SyncLog};
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::asks::Ask;
use crate::error::{Class, UNAUTHORIZED};
use crate::execute::{Executor, Followed, Saved, Stall, Tally};
use crate::notes::{self, Noted, UNRECORDED};
use crate::plan::{Unit, queues};
use crate::shared::{Activity, Order, Shared, Way, now_ms};
use crate::state::{Cause, Desired, Dirty};
use crate::{Config, Miss};

/// A batch is closed when its entries are this large: memory, and the time until it is done.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// The cursor reaches the disk at least this often, so that segments can go.
const CURSOR_SYNC_INTERVAL: Duration = Duration::from_millis(300);

/// Tries to read from the log's disk, one a second, before a segment is given up.
const READ_TRIES: u32 = 5;
/// Between two looks at the log's reserve.
const NOTES_INTERVAL: Duration = Duration::from_secs(1);

/// Entries that are not applied yet, in the log's order.
#[derive(Default)]
struct Batch {
    entries: Vec<Entry>,
    /// The position behind the last record that was read for it.
    end: u64,
}

pub(crate) struct Pump {
    config: Config,
    log: SyncLog,
    executor: Executor,
    shared: Shared,
    reader: Reader,
    /// Marks that were read and have no end yet.
    open_marks: BTreeSet<u64>,
    batch: Batch,
    /// The target's connections are known to be ours alone, and the servers have been looked at.
    connected: bool,
    /// Errors in a row.
    failures: usize,
    /// The kind of the last of them.
    last_class: Option<Class>,
    /// How often the target's user was not allowed to write to a namespace.
    forbidden: HashMap<Namespace, u32>,
    cursor_synced: Instant,
    trimmed_to: u64,
    last_problem: Option<String>,
    unreadable_now: bool,
    /// Times in a row that the disk refused to read.
    refusals: u32,
    /// Entries were passed that nobody could count.
    lost: bool,
    probed: Instant,
    notes_looked: Instant,
    /// When this log last claimed the target; `None`: not yet in this run.
    claimed: Option<Instant>,
    /// The source's process that answered last.
    source_process: Option<ObjectId>,
    /// From the reconciler, one at a time.
    asks: Receiver<Ask>,
}

fn words(desired: Desired) -> &'static str {
    match desired {
        Desired::Running => "started",
        Desired::Paused => "paused",
        Desired::Stopped => "stopped",
    }
}

enum Step {
    /// There may be more at once.
    Again,
    /// Nothing to do until something is appended, ordered or told.
    Idle,
    /// A server is away.
    Wait(Duration),
}

impl Pump {
    pub(crate) fn new(
        config: Config,
        log: SyncLog,
        executor: Executor,
        reader: Reader,
        asks: Receiver<Ask>,
    ) -> Pump {
        let end = reader.position().0;
        Pump {
            shared: executor.shared.clone(),
            config,
            log,
            executor,
            reader,
            open_marks: BTreeSet::new(),
            batch: Batch { entries: Vec::new(), end },
            connected: false,
            failures: 0,
            last_class: None,
            forbidden: HashMap::new(),
            cursor_synced: Instant::now(),
            trimmed_to: 0,
            last_problem: None,
            unreadable_now: false,
            refusals: 0,
            lost: false,
            probed: Instant::now(),
            notes_looked: Instant::now(),
            claimed: None,
            source_process: None,
            asks,
        }
    }

    /// Works until `shutdown`; then parks at its checkpoint.
    pub(crate) async fn run(mut self, mut orders: Receiver<Order>, shutdown: CancellationToken) {
        let mut told = None;
        while !shutdown.is_cancelled() {
            let desired = self.shared.desired();
            if told.replace(desired) != Some(desired) {
                info!(applied = self.executor.checkpoint.applied, "worker {}", words(desired));
            }
            while let Ok(order) = orders.try_recv() {
                self.obey(order).await;
            }
            self.take_misses();
            let step = match desired {
                Desired::Running => self.step().await,
                Desired::Paused => self.stand(Activity::Paused),
                Desired::Stopped => {
                    self.disconnect().await;
                    self.stand(Activity::Stopped)
                }
            };
            let wait = match step {
                Step::Again => continue,
                Step::Idle => self.config.idle_wait,
                Step::Wait(wait) => wait,
            };
            let follow = matches!(step, Step::Idle) && desired == Desired::Running;
            self.wait(wait, follow, &shutdown).await;
        }
        self.take_misses();
        self.park(CursorSync::Now);
        info!(applied = self.executor.checkpoint.applied, "worker parked at its checkpoint");
    }

    /// Until something happens, and at most for `wait`. What capture misses meanwhile is on disk within a second.
    async fn wait(&mut self, wait: Duration, follow: bool, shutdown: &CancellationToken) {
        let until = tokio::time::Instant::now() + wait;
        loop {
            self.take_misses();
            self.save_state(); // again, when an earlier try failed
            let slice = until.min(tokio::time::Instant::now() + Duration::from_secs(1));
            tokio::select! {
                () = self.log.wait_appended(self.reader.position()), if follow => return,
                () = tokio::time::sleep_until(slice) => if slice == until { return },
                () = self.shared.changed() => return,
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Not working: still shows how old the oldest pending entry is.
    fn stand(&mut self, activity: Activity) -> Step {
        if self.batch.entries.is_empty() {
            self.fill(1);
        }
        let mut status = self.shared.status_mut();
        status.set_activity(activity);
        status.oldest_pending_ms = self.batch.entries.first().map(|entry| entry.at_ms);
        Step::Idle
    }

    async fn step(&mut self) -> Step {
        let result = match self.connect().await {
            Ok(()) => self.next_batch().await,
            Err(stall) => Err(stall),
        };
        match result {
            Ok(step) => {
                (self.failures, self.last_class) = (0, None);
                let mut status = self.shared.status_mut();
                (status.attempt, status.next_try_ms) = (0, None);
                step
            }
            Err(stall) => self.stalled(stall).await,
        }
    }

    async fn next_batch(&mut self) -> Result<Step, Stall> {
        self.probe().await?;
        // One, then a batch: live writes do not wait behind a comparison.
        if let Ok(ask) = self.asks.try_recv() {
            self.carry_out(ask).await?;
        }
        if self.batch.entries.is_empty() {
            self.fill(self.config.batch_entries_max);
        }
        if self.batch.entries.is_empty() {
            self.advance();
            if self.unreadable_now {
                return Ok(Step::Wait(Duration::from_secs(1)));
            }
            let mut status = self.shared.status_mut();
            status.set_activity(Activity::Idle);
            status.oldest_pending_ms = None;
            return Ok(Step::Idle);
        }
        {
            let mut status = self.shared.status_mut();
            status.set_activity(Activity::Applying);
            status.oldest_pending_ms = self.batch.entries.first().map(|entry| entry.at_ms);
        }
        // `applied` never passes `durable`. A poisoned log cannot promise that any more; what it holds is still true.
        if let Err(problem) = self.log.wait_durable(Lsn(self.batch.end)).await {
            warn!(error = %problem, "applying entries that are not known to be on disk");
        }
        let started = Instant::now();
        let tally = self.apply().await?;
        let now = now_ms();
        for (number, entry) in self.batch.entries.iter().enumerate() {
            let names_id = entry.effects.iter().all(|effect| matches!(effect.target.touch, Touch::Key(_)));
            self.shared.count_entry(tally.way(number), names_id, now.saturating_sub(entry.at_ms));
        }
        self.config.pending.done(self.batch.entries.len() as u64);
        self.shared.count_batch(started.elapsed());
        self.batch.entries.clear();
        self.advance();
        Ok(Step::Again)
    }

    async fn apply(&mut self) -> Result<Tally, Stall> {
        let mut tally = Tally::default();
        self.executor.batch_end = self.batch.end;
        for (ns, mut queue) in queues(self.batch.entries.clone()) {
            match self.apply_to(&ns, &mut queue, &mut tally).await {
                Err(Stall::Target(error)) if error.code == Some(UNAUTHORIZED) && self.is_forbidden(&ns) => {
                    self.executor.make_dirty(&ns, "the target's user may not write to it");
                    queue.iter().for_each(|unit| tally.note(unit.entry, Way::Dirty));
                }
                other => other?,
            }
        }
        Ok(tally)
    }

    /// Counts refusals: rights may come back, but one namespace without them must not hold up the others for ever.
    fn is_forbidden(&mut self, ns: &Namespace) -> bool {
        let count = self.forbidden.entry(ns.clone()).or_insert(0);
        *count += 1;
        *count > self.executor.max_retries
    }

    async fn apply_to(
        &mut self,
        ns: &Namespace,
        queue: &mut VecDeque<Unit>,
        tally: &mut Tally,
    ) -> Result<(), Stall> {
        if self.executor.prepare(ns).await? == Followed::No {
            queue.iter().for_each(|unit| tally.note(unit.entry, Way::Dirty));
            return Ok(());
        }
        while !queue.is_empty() {
            let work = self.executor.planner.next(ns, queue);
            let taken = work.taken.max(1);
            self.executor.execute(ns, work, tally).await?;
            drop(queue.drain(..taken));
        }
        Ok(())
    }

    /// Reads records until `entries_max` entries, or enough bytes, are together.
    fn fill(&mut self, entries_max: usize) {
        let appended = self.config.pending.appended();
        self.fill_batch(entries_max);
        // Caught up: every entry that was counted before has been read, or is lost.
        if self.lost && self.batch.entries.is_empty() && self.reader.position() >= self.log.head() {
            self.lost = false;
            self.config.pending.settle(appended);
        }
    }

    fn fill_batch(&mut self, entries_max: usize) {
        self.unreadable_now = false;
        let mut bytes = 0;
        while self.batch.entries.len() < entries_max && bytes < BATCH_BYTES_MAX {
            let raw = match self.reader.next() {
                Ok(Some(raw)) => raw,
                Ok(None) => return,
                // The reader already stands behind the damage.
                Err(error @ ReadError::Damaged { .. }) => {
                    self.unreadable(&error.to_string());
                    self.lost = true;
                    continue;
                }
                Err(error @ ReadError::Disk { .. }) if self.refusals >= READ_TRIES => {
                    self.unreadable(&error.to_string());
                    let at = self.reader.skip_segment();
                    error!(%error, resume_at = %at, "what the disk does not read is given up: everything is dirty");
                    (self.refusals, self.lost) = (0, true);
                    continue;
                }
                Err(error) => {
                    self.unreadable_now = true; // asked again later
                    self.refusals += 1;
                    return self.unreadable(&error.to_string());
                }
            };
            self.refusals = 0;
            bytes += raw.payload.len();
            self.batch.end = raw.lsn.next().0;
            match Record::decode(raw.kind, &raw.payload) {
                Ok(Record::Mark(_)) => {
                    self.open_marks.insert(raw.lsn.0);
                }
                Ok(Record::Closed { mark }) => {
                    self.open_marks.remove(&mark);
                }
                Ok(Record::Entry(entry)) => {
                    self.open_marks.remove(&entry.mark);
                    if raw.lsn.0 >= self.executor.checkpoint.applied {
                        self.batch.entries.push(entry);
                    }
                }
                Err(error) => self.unreadable(&format!("record {}: {error}", raw.lsn)),
            }
        }
    }

    /// Something in the log cannot be read: what it said is lost, so everything needs a full comparison.
    fn unreadable(&mut self, problem: &str) {
        if self.last_problem.as_deref() != Some(problem) {
            error!(problem, "the sync log cannot be read here: everything is dirty");
            self.everything_dirty(&format!("the sync log could not be read: {problem}"));
            self.last_problem = Some(problem.to_owned());
        }
    }

    fn everything_dirty(&mut self, reason: &str) {
        self.executor.planner.set_everything_dirty();
        let dirty = Dirty::new(reason, Cause::Unknown, now_ms());
        if self.shared.state().set_everything_dirty(dirty) {
            warn!(reason, "everything is dirty: only a full comparison can make it good");
        }
        self.save_state();
    }

    /// Everything that was read is applied: remembers it, and lets the log delete what nobody needs.
    fn advance(&mut self) {
        let end = self.batch.end;
        let oldest = self.open_marks.first().copied().unwrap_or(end).min(end);
        self.executor.planner.forget(oldest);
        let moved = self.executor.checkpoint.applied < end || self.executor.checkpoint.resume < oldest;
        self.executor.checkpoint.applied = self.executor.checkpoint.applied.max(end);
        self.executor.checkpoint.resume = oldest;
        self.shared.status_mut().applied = self.executor.checkpoint.applied;
        if moved || self.trimmed_to < oldest {
            let due = self.cursor_synced.elapsed() >= CURSOR_SYNC_INTERVAL;
            self.park(if due { CursorSync::Now } else { CursorSync::Later });
            if due {
                self.cursor_synced = Instant::now();
                self.trimmed_to = oldest;
                if let Err(error) = tokio::task::block_in_place(|| self.log.trim(Lsn(oldest))) {
                    warn!(%error, "applied segments cannot be deleted");
                }
            }
        }
    }

    /// The disk may take its time: other tasks of this thread go on elsewhere meanwhile.
    fn park(&mut self, sync: CursorSync) {
        tokio::task::block_in_place(|| self.executor.park(sync));
    }

    fn save_state(&mut self) {
        tokio::task::block_in_place(|| self.executor.save_state());
    }

    /// Writes that are in no log. Their notes go when the namespaces are dirty on disk, and the writes have ended.
    fn take_misses(&mut self) {
        // In this order: a write that is noted either is under way still, or is among the misses.
        let noted = self.look_at_notes();
        let under_way = (self.config.unrecorded)();
        let misses = (self.config.misses)();
        if misses.is_empty() && noted.is_none() {
            return;
        }
        if noted.as_ref().is_some_and(|noted| noted.everything) {
            self.everything_dirty(UNRECORDED);
        }
        // A namespace that is noted is missed as well, when its write has ended: that counts.
        for miss in &misses {
            match miss {
                Miss::Everything(reason) => self.everything_dirty(reason),
                Miss::Namespace(ns, reason) => self.executor.make_dirty_by(ns, reason, Cause::Written),
            }
        }
        let saved = tokio::task::block_in_place(|| self.executor.save_state());
        let clearable = saved == Saved::Here && under_way == 0;
        let Some(noted) = noted.filter(|_| clearable) else { return };
        if let Err(error) = tokio::task::block_in_place(|| self.log.clear_notes(noted.upto)) {
            debug!(%error, "the log's reserve cannot be cleared: it will be told again");
        }
    }

    /// What is noted; looked up once a second.
    fn look_at_notes(&mut self) -> Option<Noted> {
        if self.notes_looked.elapsed() < NOTES_INTERVAL {
            return None;
        }
        self.notes_looked = Instant::now();
        let noted = tokio::task::block_in_place(|| notes::noted(&self.log));
        (!noted.is_empty()).then_some(noted)
    }
}
