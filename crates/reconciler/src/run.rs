//! The loop: one dirty namespace after the other, for as long as there are any.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use prometheus::Registry;
use record::Namespace;
use replicator::plan::Scan;
use replicator::{Cause, Class, Desired, ServerError, Shared};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Config;
use crate::progress::Progress;
use crate::scan::{Interrupt, Outcome, Scanner};
use crate::side::Side;

/// Makes dirty namespaces good until it is told to stop.
pub struct Reconciler {
    config: Config,
    shared: Shared,
    progress: Progress,
    sides: Option<(Side, Side)>,
    /// What was learnt about a namespace that is dirty still.
    known: HashMap<Namespace, Known>,
    /// Dirty databases that may not be listed, as the last try has shown.
    unlisted: HashSet<String>,
    /// When they are tried again.
    unlisted_due: Instant,
}

#[derive(Debug)]
struct Known {
    /// Not before then.
    due: Instant,
    /// Scans in a row that ended dirty.
    rounds: u32,
    /// Held since this scan: only something new is a reason to look again.
    held: Option<Scan>,
}

impl Reconciler {
    /// Prepares everything; no connection is made yet. Errors: a metric's name is taken.
    pub fn new(config: Config, shared: Shared, registry: &Registry) -> Result<Reconciler, prometheus::Error> {
        let progress = Progress::new(registry)?;
        Ok(Reconciler {
            config,
            shared,
            progress,
            sides: None,
            known: HashMap::new(),
            unlisted: HashSet::new(),
            unlisted_due: Instant::now(),
        })
    }

    /// What others see of it.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Works until `shutdown`. What is under way then begins anew at the next start: its mark is still on disk.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut failures = 0;
        loop {
            let wait = match self.step(&shutdown).await {
                Ok(Step::Worked) => {
                    failures = 0;
                    continue;
                }
                Ok(Step::Idle) => IDLE_WAIT,
                Err(interrupt) => {
                    failures += 1;
                    if let (Interrupt::Away(error), 1) = (&interrupt, failures) {
                        info!(%error, "comparing waits: a server is away");
                    }
                    BACKOFF[failures.min(BACKOFF.len()) - 1]
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => break,
            }
        }
        self.disconnect().await;
    }

    async fn step(&mut self, shutdown: &CancellationToken) -> Result<Step, Interrupt> {
        if self.shared.desired() == Desired::Stopped {
            self.disconnect().await;
        }
        if self.shared.desired() != Desired::Running {
            return Ok(Step::Idle);
        }
        let (dirty, everything) = self.shared.dirty();
        let databases = || dirty.iter().map(|(name, _)| name).filter(|name| is_database(name));
        let new =
            databases().any(|name| !self.unlisted.contains(name)) || Instant::now() >= self.unlisted_due;
        if everything.is_some() || (new && databases().next().is_some()) {
            let all_listed = tokio::select! {
                expanded = self.shared.expand() => expanded?,
                () = shutdown.cancelled() => return Ok(Step::Idle),
            };
            // Those that a right is missing for: the others go on, and they are tried again.
            self.unlisted.clear();
            if !all_listed {
                let left = self.shared.dirty().0.into_iter().map(|(name, _)| name);
                self.unlisted.extend(left.filter(|name| is_database(name)));
                self.unlisted_due = Instant::now() + REFUSED_LOOK_INTERVAL;
            }
            return Ok(Step::Worked);
        }
        let namespaces = dirty.into_iter().map(|(name, _)| name).filter(|name| !is_database(name));
        let dirty: Vec<Namespace> = namespaces.map(|name| Namespace::parse(&name)).collect();
        self.forget_clean(&dirty);
        for ns in dirty {
            if self.known.get(&ns).is_some_and(|known| Instant::now() < known.due) {
                continue;
            }
            tokio::select! {
                looked = self.look(&ns) => if looked? { return Ok(Step::Worked) },
                () = shutdown.cancelled() => return Ok(Step::Idle),
            }
        }
        Ok(Step::Idle)
    }

    /// What has become clean by other means is not held any more.
    fn forget_clean(&mut self, dirty: &[Namespace]) {
        let progress = &self.progress;
        self.known.retain(|ns, _| {
            let still = dirty.binary_search(ns).is_ok();
            if !still {
                progress.release(ns);
            }
            still
        });
    }

    /// Compares `ns`, unless it is held and nothing has happened to it since.
    async fn look(&mut self, ns: &Namespace) -> Result<bool, Interrupt> {
        let Some((scan, cause)) = self.shared.begin_scan(ns).await? else { return Ok(false) };
        if let Some(known) = self.known.get_mut(ns)
            && known.held == Some(scan)
        {
            known.due = Instant::now() + HELD_LOOK_INTERVAL;
            return Ok(false);
        }
        let began = Instant::now();
        self.progress.begin(ns, 0);
        match cause {
            Cause::Shape => info!(%ns, "options and indexes are made equal"),
            _ => info!(%ns, "comparing a namespace as a whole"),
        }
        let outcome = self.scan(ns, scan, cause).await;
        self.settle(ns, began, outcome)?;
        Ok(true)
    }

    async fn scan(&mut self, ns: &Namespace, scan: Scan, cause: Cause) -> Result<Outcome, Interrupt> {
        if self.sides.is_none() {
            let connect = async || -> Result<(Side, Side), ServerError> {
                Ok((
                    Side::connect(&self.config.source_uri).await?,
                    Side::connect(&self.config.target_uri).await?,
                ))
            };
            self.sides = Some(connect().await.map_err(Interrupt::Away)?);
        }
        let Some((source, target)) = &self.sides else { return Err(Interrupt::Worker) };
        let scanner = Scanner {
            source,
            target,
            shared: &self.shared,
            progress: &self.progress,
            documents_per_second_max: self.config.documents_per_second_max,
            drops: self.config.drops,
        };
        scanner.scan(ns, scan, cause).await
    }

    fn settle(
        &mut self,
        ns: &Namespace,
        began: Instant,
        outcome: Result<Outcome, Interrupt>,
    ) -> Result<(), Interrupt> {
        let rounds = self.known.get(ns).map_or(0, |known| known.rounds) + 1;
        match outcome {
            Ok(Outcome::Equal(verdict)) => {
                self.progress.equal(ns);
                self.known.remove(ns);
                match verdict {
                    None => info!(%ns, "options and indexes are equal"),
                    Some(it) => info!(
                        %ns, documents = it.documents, repaired = it.repaired, took_ms = it.took_ms,
                        equal_as_of_ms = it.equal_as_of_ms, "namespace is equal"
                    ),
                }
            }
            Ok(Outcome::Again) => {
                self.progress.again(ns);
                // What makes it dirty again and again must not have it read all the time.
                let rest = (began.elapsed() * REST_FACTOR).max(REST_MIN) * rounds.min(ROUNDS_COUNTED);
                let due = Instant::now() + rest.min(REST_MAX);
                self.known.insert(ns.clone(), Known { due, rounds, held: None });
                info!(%ns, rest_ms = rest.as_millis(), "namespace became dirty while it was compared");
            }
            Ok(Outcome::Held { scan, why }) => {
                let known = self.known.insert(
                    ns.clone(),
                    Known { due: Instant::now() + HELD_LOOK_INTERVAL, rounds, held: Some(scan) },
                );
                let before = self.progress.held().into_iter().find(|(name, _)| name == ns);
                if known.is_none() || before.is_none_or(|(_, before)| before != why) {
                    warn!(%ns, why, "namespace stays dirty until somebody decides");
                }
                self.progress.hold(ns, &why);
            }
            // Of this namespace only, as far as anybody knows: the others go on, and it is tried again.
            Err(Interrupt::Away(error)) if matches!(error.class, Class::Refused | Class::Identity) => {
                let why = format!("a server refuses to have it compared: {error}");
                let due = Instant::now() + REFUSED_LOOK_INTERVAL;
                if self.known.insert(ns.clone(), Known { due, rounds, held: None }).is_none() {
                    warn!(%ns, why, "namespace stays dirty");
                }
                self.progress.hold(ns, &why);
            }
            Err(interrupt) => {
                self.progress.interrupted(ns);
                let due = Instant::now() + INTERRUPTED_REST * rounds.min(ROUNDS_COUNTED);
                self.known.insert(ns.clone(), Known { due, rounds, held: None });
                return Err(interrupt);
            }
        }
        Ok(())
    }

    async fn disconnect(&mut self) {
        if let Some((source, target)) = self.sides.take() {
            source.close().await;
            target.close().await;
        }
    }
}

enum Step {
    Worked,
    Idle,
}

fn is_database(name: &str) -> bool {
    Namespace::parse(name).coll().is_empty()
}

/// Between two looks for something dirty.
const IDLE_WAIT: Duration = Duration::from_millis(200);
/// Waits while a server or the worker is away.
const BACKOFF: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];
/// Between two questions whether a held namespace has changed.
const HELD_LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Between two tries of a namespace that a server refuses to have read.
const REFUSED_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// How long one whose scan was interrupted stands behind the others.
const INTERRUPTED_REST: Duration = Duration::from_millis(500);
/// A namespace that became dirty while it was compared rests for so many times what that took, and the more often
/// the longer.
const REST_FACTOR: u32 = 2;
const REST_MIN: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(600);
const ROUNDS_COUNTED: u32 = 20;
