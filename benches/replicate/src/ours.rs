//! The replicator over a log of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use prometheus::Registry;
use replicator::{Feeding, Filter, Pending, Replicator, Shared};
use synclog::SyncLog;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Settings;

/// A running replicator that was told to pause, with an empty log.
pub(crate) struct Ours {
    pub(crate) log: SyncLog,
    pub(crate) pending: Arc<Pending>,
    pub(crate) shared: Shared,
    task: JoinHandle<()>,
    stop: CancellationToken,
    _dir: TempDir,
}

impl Ours {
    pub(crate) async fn start(settings: &Settings, source: &str, target: &str) -> Result<Ours> {
        let dir = tempfile::Builder::new().prefix("bench-replicate-").tempdir_in(&settings.dir)?;
        let (log, _) = SyncLog::open(synclog::Config::new(dir.path().join("log")))?;
        let pending = Arc::new(Pending::default());
        let config = replicator::Config {
            source_uri: source.to_owned(),
            dials: Vec::new(),
            target_uri: target.to_owned(),
            log_id: log.id().iter().map(|byte| format!("{byte:02x}")).collect(),
            dir: dir.path().join("log"),
            tuning: replicator::Tuning {
                lanes: settings.lanes as usize,
                batch_entries_max: settings.batch,
                rate_max: 0,
            },
            idle_wait: Duration::from_millis(100),
            past_interval: Duration::from_secs(3_600),
            drops: replicator::Drops::Replicate,
            sweep_interval: Duration::from_secs(3_600),
            max_retries: 5,
            pending: pending.clone(),
            feeding: Feeding { place: dir.path().display().to_string(), join: false, take_over: None },
            filter: Filter::default(),
            // What is there before is no concern of this bench.
            captures: |_, _| false,
            misses: Box::new(Vec::new),
            unrecorded: Box::new(|| 0),
        };
        let recovered = replicator::recover(&log);
        let replicator = Replicator::new(config, log.clone(), &recovered, None, &Registry::new()).await?;
        let (shared, stop) = (replicator.shared(), CancellationToken::new());
        let task = tokio::spawn(replicator.run(stop.clone()));
        testkit::wait_for("both servers", Duration::from_secs(60), async || {
            Ok(shared.status().target.connected.then_some(()))
        })
        .await?;
        shared.pause()?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(Ours { log, pending, shared, task, stop, _dir: dir })
    }

    /// Lets it work until nothing is left.
    pub(crate) async fn drain(&self) -> Result<Duration> {
        let began = Instant::now();
        self.shared.resume()?;
        while self.pending.entries() > 0 {
            ensure!(!self.task.is_finished(), "the replicator has ended");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(began.elapsed())
    }

    /// Every entry was replayed or converged, as it should be.
    pub(crate) fn expect(&self, replayed: u64, converged: u64) -> Result<()> {
        let counts = self.shared.status().counts;
        let all = (counts.replayed, counts.converged, counts.dirty, counts.failed, counts.stalls);
        ensure!(all == (replayed, converged, 0, 0, 0), "replayed, converged, dirty, failed, stalls: {all:?}");
        Ok(())
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.task.await.context("the replicator's task")?;
        self.log.close()?;
        Ok(())
    }
}
