//! A source, a target and the binary between them, and what every test of equality asserts.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::doc;
use mongodb::Client;
use testkit::compare;
use testkit::traffic::{Shop, Tally};
use testkit::{Builder, Dualsync, Mongod, ReplicaSet};
use tokio::task::JoinHandle;

/// The binary under test.
pub const BIN: &str = env!("CARGO_BIN_EXE_dualsync");
/// Longest wait for the target to catch up.
pub const DRAIN_MAX: Duration = Duration::from_secs(120);

/// Switches comparing off (`sync.compare_rate_max`), so that what is dirty can be looked at; see [`Stage::mend`].
pub const NOT_COMPARED: (&str, &str) = ("DUALSYNC_SYNC_COMPARE_RATE_MAX", "0");

/// What the application writes to.
pub enum Source {
    Standalone(Mongod),
    ReplicaSet(ReplicaSet),
}

impl Source {
    pub async fn standalone() -> Result<Source> {
        Ok(Source::Standalone(Mongod::standalone().await?))
    }

    pub async fn replica_set() -> Result<Source> {
        Ok(Source::ReplicaSet(ReplicaSet::start(1).await?))
    }

    /// Of the one server that the proxy forwards to.
    pub fn uri(&self) -> String {
        match self {
            Source::Standalone(mongod) => mongod.uri(),
            Source::ReplicaSet(set) => set.members()[0].uri(),
        }
    }

    pub async fn client(&self) -> Result<Client> {
        match self {
            Source::Standalone(mongod) => mongod.client().await,
            Source::ReplicaSet(set) => set.client().await,
        }
    }
}

/// Waits until that server is at an update of `ns`. Its mark in the log is less: behind that it still has to leave.
pub async fn update_runs(client: &Client, ns: &str) -> Result<()> {
    updates(client, ns, "an update to run", |running| running > 0).await
}

/// Waits until that server is at no update of `ns` any more.
pub async fn update_ended(client: &Client, ns: &str) -> Result<()> {
    updates(client, ns, "the update to end", |running| running == 0).await
}

async fn updates(client: &Client, ns: &str, what: &str, enough: impl Fn(usize) -> bool) -> Result<()> {
    let (db, collection) = ns.split_once('.').context("a namespace")?;
    // One that a fail point holds is a command still.
    let either =
        [doc! {"ns": ns, "op": "update"}, doc! {"ns": format!("{db}.$cmd"), "command.update": collection}];
    testkit::wait_for(what, Duration::from_secs(60), async || {
        let operations = doc! {"currentOp": 1, "$or": &either};
        let running = client.database("admin").run_command(operations).await?;
        Ok(enough(running.get_array("inprog")?.len()).then_some(()))
    })
    .await
}

/// Waits until everything is on the target and nothing is dirty any more.
pub async fn wait_clean(dualsync: &Dualsync) -> Result<()> {
    let mut last = serde_json::Value::Null;
    let clean = testkit::wait_for("everything to be compared", DRAIN_MAX, async || {
        last = dualsync.report().await?;
        let empty = |list: &str| last["namespaces"][list].as_array().is_some_and(Vec::is_empty);
        Ok((empty("dirty") && empty("notCopiedYet") && last["lag"]["entries"] == 0).then_some(()))
    });
    clean.await.with_context(|| format!("{:#}\n{}", last["namespaces"], dualsync.log_lines().join("\n")))
}

/// Lets a shop's clients write through `dualsync`; returns when half of it is done.
pub async fn half_of(traffic: Shop, dualsync: &Dualsync) -> Result<JoinHandle<Result<Tally>>> {
    let (uri, done, half) = (dualsync.uri(), traffic.done.clone(), traffic.writes as u64 / 2);
    let clients = tokio::spawn(async move { traffic.run(&uri).await });
    testkit::wait_for("half of the traffic", DRAIN_MAX, async || {
        Ok((done.load(Ordering::Relaxed) > half).then_some(()))
    })
    .await?;
    Ok(clients)
}

/// Both servers and the binary.
pub struct Stage {
    // First, so that it is dropped before the servers: their going must not be what it complains of.
    pub dualsync: Dualsync,
    pub source: Source,
    pub target: ReplicaSet,
}

impl Stage {
    pub async fn start(source: Source) -> Result<Stage> {
        Stage::start_with(source, |builder| builder).await
    }

    pub async fn start_with(source: Source, change: impl FnOnce(Builder) -> Builder) -> Result<Stage> {
        let target = ReplicaSet::start(1).await?;
        let builder = Dualsync::builder(BIN).local(source.uri()).atlas(target.uri());
        let dualsync = change(builder).start().await?;
        Ok(Stage { source, target, dualsync })
    }

    /// Waits until the target has everything, then compares the raw bytes of every document.
    pub async fn assert_equal(&self) -> Result<compare::Comparison> {
        self.dualsync.wait_drained(DRAIN_MAX).await?;
        let comparison =
            compare::databases(&self.source.client().await?, &self.target.client().await?).await?;
        ensure!(comparison.equal(), "source and target differ:\n{comparison}");
        Ok(comparison)
    }

    /// Switches comparing on, after [`NOT_COMPARED`], and waits for its end.
    pub async fn mend(&mut self) -> Result<compare::Comparison> {
        self.dualsync.set_env(NOT_COMPARED.0, "50000");
        self.dualsync.restart().await?;
        self.assert_mended().await
    }

    /// Waits until everything is on the target and nothing is dirty any more, then compares as above.
    pub async fn assert_mended(&self) -> Result<compare::Comparison> {
        wait_clean(&self.dualsync).await?;
        self.assert_equal().await
    }

    /// Equality came about by following alone: nothing is dirty, refused or left to a comparison.
    pub async fn assert_followed(&self) -> Result<Ways> {
        let report = self.dualsync.report().await?;
        let empty = |list: &serde_json::Value| list.as_array().is_some_and(Vec::is_empty);
        ensure!(empty(&report["namespaces"]["dirty"]), "something is dirty: {report:#}");
        ensure!(empty(&report["namespaces"]["notCopiedYet"]), "something is not copied: {report:#}");
        ensure!(report["counts"]["deadLetters"] == 0, "there are dead letters: {report:#}");
        let ways = Ways::read(&self.dualsync.metrics().await?);
        ensure!(ways.dirty == 0.0, "entries went the dirty way: {ways:?}");
        let captured = report["counts"]["captured"].as_f64();
        ensure!(captured == Some(ways.replayed + ways.converged), "captured {captured:?}, applied {ways:?}");
        Ok(ways)
    }
}

/// How entries reached the target.
#[derive(Debug, Clone, Copy)]
pub struct Ways {
    pub replayed: f64,
    pub converged: f64,
    pub dirty: f64,
    /// The share of the entries that name `_id` that were replayed.
    pub keyed_replayed: f64,
}

impl Ways {
    fn read(metrics: &BTreeMap<String, f64>) -> Ways {
        let value = |name: &str, way: &str| {
            metrics.get(&format!("dualsync_{name}_total{{way=\"{way}\"}}")).copied().unwrap_or(f64::NAN)
        };
        let keyed = ["replayed", "converged", "dirty"].map(|way| value("keyed_entries", way));
        Ways {
            replayed: value("entries", "replayed"),
            converged: value("entries", "converged"),
            dirty: value("entries", "dirty"),
            keyed_replayed: keyed[0] / keyed.iter().sum::<f64>(),
        }
    }
}
