//! The worker: one loop that takes batches of entries, has them planned and executed, and remembers how far it came.
//!
//! - one batch at a time, taken when it is durable, while the next one is read; after an error it is planned again, with
//!   what is now in doubt
//! - both servers may be away for any time: it waits 1, 5, 15, 30, then 60 s, and nothing is dropped
//! - orders are carried out between two batches, also while waiting
//!
//! Not here: a batch (`apply.rs`), deciding (`plan.rs`), doing (`execute.rs`), how far it came (`position.rs`), how much at
//! once (`pace.rs`).

mod apply;
mod asks;
mod connect;
mod feed;
mod fencing;
mod filters;
pub(crate) mod lost;
mod misses;
mod orders;
mod pace;
mod past;
mod position;
mod sweep;
mod undo;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use record::Namespace;
use synclog::{CursorSync, Lsn, Reader, SyncLog};
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Config;
use crate::asks::Ask;
use crate::error::Class;
use crate::execute::{Executor, Lanes, Stall};
use crate::over::is_over;
use crate::shared::{Activity, Order, Shared};
use crate::state::Desired;
use feed::Feed;
use pace::Pace;
use past::Past;

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
    /// Namespaces that were excluded a moment ago.
    lifted: Vec<filters::Lifted>,
    /// When this log last claimed the target; `None`: not yet in this run.
    claimed: Option<Instant>,
    /// When this log last said, without a claim, that it lives; and whether stopped.
    seen: Option<(Instant, bool)>,
    /// The target's list says that this log is stopped.
    told_stopped: bool,
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
            lifted: Vec::new(),
            claimed: None,
            seen: None,
            told_stopped: false,
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
            self.settle_lifted();
            let step = match desired {
                Desired::Running => self.step().await,
                Desired::Paused => {
                    self.be_seen(false).await;
                    self.stand(Activity::Paused)
                }
                Desired::Stopped => {
                    self.stop().await;
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
        if part.entries().any(|entry| is_over(entry)) {
            self.take_misses(); // a write before it that could not be recorded
        }
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
}
