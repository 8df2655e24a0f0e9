//! The worker: one loop that takes batches of entries, has them planned and executed, and remembers how far it came.
//!
//! - one batch at a time, taken when it is durable, while the next one is read; after an error it is planned again, with
//!   what is now in doubt
//! - both servers may be away for any time: it waits 1, 5, 15, 30, then 60 s, and nothing is dropped
//! - orders are carried out between two batches, also while waiting
//!
//! Not here: deciding (`plan.rs`), doing (`execute.rs`), how much at once (`pace.rs`).

mod asks;
mod connect;
mod feed;
mod fencing;
mod orders;
mod pace;
mod past;
mod sweep;
mod undo;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use record::{Entry, Namespace, Touch};
use synclog::{CursorSync, Lsn, Reader, SyncLog};
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::asks::Ask;
use crate::error::Class;
use crate::execute::{Executor, Lanes, Stall, Tally, worst};
use crate::meet::Followed;
use crate::notes::{self, Noted, UNRECORDED};
use crate::plan::{Unit, queues};
use crate::remember::Saved;
use crate::shared::{Activity, Applied, Order, Shared, Way, now_ms};
use crate::state::{Cause, Desired, Dirty};
use crate::{Config, Miss};
use feed::{Feed, Looked, Part};
use pace::Pace;
use past::Past;

/// The cursor reaches the disk at least this often, so that segments can go.
const CURSOR_SYNC_INTERVAL: Duration = Duration::from_millis(300);
/// Between two looks at the log's reserve.
const NOTES_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Pump {
    config: Config,
    log: SyncLog,
    executor: Executor,
    shared: Shared,
    /// Read ahead by a thread of its own while a batch is applied, and used here between two of them.
    feed: Arc<Mutex<Feed>>,
    pace: Pace,
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
    /// Entries were passed that nobody could count.
    lost: bool,
    probed: Instant,
    notes_looked: Instant,
    swept: Instant,
    past: Past,
    /// When this log last claimed the target; `None`: not yet in this run.
    claimed: Option<Instant>,
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
    /// A server is away, or nothing more is allowed yet.
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
        let shared = executor.shared.clone();
        Pump {
            feed: Arc::new(Mutex::new(Feed::new(reader, executor.checkpoint().applied))),
            pace: Pace::new(shared.tuning()),
            shared,
            config,
            log,
            executor,
            connected: false,
            failures: 0,
            last_class: None,
            forbidden: HashMap::new(),
            cursor_synced: Instant::now(),
            trimmed_to: 0,
            last_problem: None,
            unreadable_now: false,
            lost: false,
            probed: Instant::now(),
            notes_looked: Instant::now(),
            swept: Instant::now(),
            past: Past::default(),
            claimed: None,
            asks,
        }
    }

    fn feed(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works until `shutdown`; then parks at its checkpoint.
    pub(crate) async fn run(mut self, mut orders: Receiver<Order>, shutdown: CancellationToken) {
        let mut told = None;
        while !shutdown.is_cancelled() {
            let desired = self.shared.desired();
            if told.replace(desired) != Some(desired) {
                info!(applied = self.executor.checkpoint().applied, "worker {}", words(desired));
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
        info!(applied = self.executor.checkpoint().applied, "worker parked at its checkpoint");
    }

    /// Until something happens, and at most for `wait`. What capture misses meanwhile is on disk within a second.
    async fn wait(&mut self, wait: Duration, follow: bool, shutdown: &CancellationToken) {
        let until = tokio::time::Instant::now() + wait;
        let position = self.feed().position();
        loop {
            self.take_misses();
            self.save_state(); // again, when an earlier try failed
            let slice = until.min(tokio::time::Instant::now() + Duration::from_secs(1));
            tokio::select! {
                () = self.log.wait_appended(position), if follow => return,
                () = tokio::time::sleep_until(slice) => if slice == until { return },
                () = self.shared.changed() => return,
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Not working: still shows how old the oldest pending entry is.
    fn stand(&mut self, activity: Activity) -> Step {
        if self.feed().is_empty() {
            self.fill(1);
        }
        let oldest_ms = self.feed().oldest_ms();
        let mut status = self.shared.status_mut();
        status.set_activity(activity);
        status.oldest_pending_ms = oldest_ms;
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
        self.pace.allow(self.shared.tuning());
        self.executor.lanes = Lanes::new(self.pace.lanes());
        self.sweep().await?;
        self.look_past().await?;
        // One, then a batch: live writes do not wait behind a comparison.
        if let Ok(ask) = self.asks.try_recv() {
            self.carry_out(ask).await?;
        }
        let rest = self.pace.rest();
        if !rest.is_zero() {
            return Ok(Step::Wait(rest));
        }
        let size = self.pace.entries();
        self.fill(size);
        let (part, oldest_ms) = {
            let mut feed = self.feed();
            let oldest_ms = feed.oldest_ms();
            (feed.take(size), oldest_ms)
        };
        if part.entries().len() == 0 {
            self.advance(part.end);
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
            status.oldest_pending_ms = oldest_ms;
        }
        // `applied` never passes `durable`. A poisoned log cannot promise that any more; what it holds is still true.
        if let Err(problem) = self.log.wait_durable(Lsn(part.end)).await {
            warn!(error = %problem, "applying entries that are not known to be on disk");
        }
        if let Err(stall) = self.wait_committed(&part).await {
            self.feed().put_back(part);
            return Err(stall);
        }
        let began = Instant::now();
        match self.apply_and_read_on(&part, size).await {
            Ok(tally) => self.applied(&part, tally, began),
            Err(stall) => {
                self.feed().put_back(part);
                return Err(stall);
            }
        }
        Ok(Step::Again)
    }

    fn applied(&mut self, part: &Part, tally: Tally, began: Instant) {
        let (now, mut applied) = (now_ms(), Applied::default());
        for (entry, way) in part.entries().zip(tally.ways()) {
            let names_id = entry.effects.iter().all(|effect| matches!(effect.target.touch, Touch::Key(_)));
            applied.add(way, names_id, now.saturating_sub(entry.at_ms));
        }
        let entries = part.entries().len();
        self.shared.count_applied(&applied);
        self.config.pending.done(entries as u64);
        self.shared.count_batch(began.elapsed());
        let shed = self.executor.target.take_shed();
        self.pace.applied(entries, began, shed);
        self.advance(part.end);
    }

    /// While there is more to do than fits into one batch, the next one is read meanwhile.
    async fn apply_and_read_on(&mut self, part: &Part, size: usize) -> Result<Tally, Stall> {
        let reading = (part.entries().len() >= size).then(|| {
            let feed = self.feed.clone();
            // It may be larger.
            let most = size.saturating_mul(pace::GROWTH_MAX).min(self.shared.tuning().batch_entries_max);
            tokio::task::spawn_blocking(move || {
                feed.lock().unwrap_or_else(PoisonError::into_inner).fill(most)
            })
        });
        let applied = self.apply(part).await;
        if let Some(reading) = reading {
            match reading.await {
                Ok(looked) => self.heed(looked),
                Err(died) => self.unreadable(&format!("reading it has died: {died}")),
            }
        }
        applied
    }

    async fn apply(&mut self, part: &Part) -> Result<Tally, Stall> {
        let tally = Tally::new(part.entries().len());
        self.executor.remember_sent(part.end)?;
        let entries: Vec<Arc<Entry>> = part.entries().cloned().collect();
        let done = self.executor.send_transactions(&entries).await?;
        let mut queues = queues(entries.iter().enumerate().filter(|(number, _)| !done.contains(number)));
        // All are waited for: what is under way in one namespace is of no concern to the others, until one stalls.
        let results = {
            let this = &*self;
            let apply = |(ns, queue)| this.apply_to(ns, queue, &tally);
            join_all(queues.iter_mut().map(|(ns, queue)| (&*ns, queue)).map(apply)).await
        };
        let mut ends = Vec::new();
        for ((ns, queue), result) in queues.iter().zip(results) {
            match result {
                Err(stall) if stall.is_forbidden() && self.is_forbidden(ns) => {
                    self.executor.unless_forbidden(ns, Err(stall))?;
                    tally.note(queue.iter().map(|unit| unit.entry), Way::Dirty);
                }
                other => ends.push(other),
            }
        }
        worst(ends)?;
        Ok(tally)
    }

    /// Counts refusals: rights may come back, but one namespace without them must not hold up the others for ever.
    fn is_forbidden(&mut self, ns: &Namespace) -> bool {
        let count = self.forbidden.entry(ns.clone()).or_insert(0);
        *count += 1;
        *count > self.executor.max_retries
    }

    async fn apply_to(&self, ns: &Namespace, queue: &mut VecDeque<Unit>, tally: &Tally) -> Result<(), Stall> {
        if self.executor.prepare(ns).await? == Followed::No {
            tally.note(queue.iter().map(|unit| unit.entry), Way::Dirty);
            return Ok(());
        }
        while !queue.is_empty() {
            let work = self.executor.planner().next(ns, queue);
            let taken = work.taken.max(1);
            self.executor.execute(ns, work, tally).await?;
            drop(queue.drain(..taken));
        }
        Ok(())
    }

    /// Reads until so many entries, or enough bytes, are together.
    fn fill(&mut self, entries_max: usize) {
        let appended = self.config.pending.appended();
        let looked = tokio::task::block_in_place(|| self.feed().fill(entries_max));
        self.heed(looked);
        // Caught up: every entry that was counted before has been read, or is lost.
        let caught_up = self.feed().is_empty() && self.feed().position() >= self.log.head();
        if self.lost && caught_up {
            self.lost = false;
            self.config.pending.settle(appended);
        }
    }

    fn heed(&mut self, looked: Looked) {
        self.unreadable_now = looked.later;
        self.lost |= looked.lost;
        for problem in looked.problems {
            self.unreadable(&problem);
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
        self.executor.planner().set_everything_dirty();
        let dirty = Dirty::new(reason, Cause::Unknown, now_ms());
        if self.shared.state().set_everything_dirty(dirty) {
            warn!(reason, "everything is dirty: only a full comparison can make it good");
        }
        self.save_state();
    }

    /// Everything before `end` is applied: remembers it, and lets the log delete what nobody needs.
    fn advance(&mut self, end: u64) {
        let (oldest, oldest_named) = {
            let feed = self.feed();
            let open = feed.oldest_open_mark().unwrap_or(end).min(end);
            (open, feed.oldest_mark().unwrap_or(open).min(open))
        };
        self.executor.planner().forget(oldest_named);
        let moved = {
            let checkpoint = &mut self.executor.positions().checkpoint;
            let moved = checkpoint.applied < end || checkpoint.resume < oldest;
            checkpoint.applied = checkpoint.applied.max(end);
            checkpoint.resume = oldest;
            self.shared.status_mut().applied = checkpoint.applied;
            moved
        };
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
