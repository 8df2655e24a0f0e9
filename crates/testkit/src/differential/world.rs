//! A source, a target, the binary between them, and whether both sides are equal.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mongodb::Client;
use serde_json::{Value, json};

use super::Source;
use super::commands::{SERIES, SIZED};
use crate::compare::{self, Comparison};
use crate::mongod::Options;
use crate::{Dualsync, Mongod, ReplicaSet, wait_for};

/// What runs; dropping it ends all of it, the proxy first.
#[derive(Debug)]
pub struct World {
    /// The binary.
    pub dualsync: Dualsync,
    /// What the application writes to.
    pub source: Server,
    pub(super) target: ReplicaSet,
}

/// The source.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is what it says")]
pub enum Server {
    Standalone(Mongod),
    ReplicaSet(ReplicaSet),
}

/// The way of the entries, and what is not equal by following alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Followed {
    /// Entries by the way that they took: replayed, converged, dirty.
    pub ways: BTreeMap<String, u64>,
    /// Entries in doubt, by reason.
    pub in_doubt: BTreeMap<String, u64>,
    /// Entries.
    pub captured: u64,
}

impl World {
    /// Starts everything and waits until nothing is left to compare.
    pub async fn start(binary: &Path, source: Source) -> Result<World> {
        // A transaction that nobody ends keeps others waiting for a minute, unless told otherwise.
        let lifetime = ["--setParameter", "transactionLifetimeLimitSeconds=3"];
        let args: Vec<String> = lifetime.iter().map(|&arg| arg.to_owned()).collect();
        let source = async {
            Ok::<Server, anyhow::Error>(match source {
                Source::Standalone => {
                    Server::Standalone(Mongod::launch(Options { args, ..Options::default() }).await?)
                }
                Source::ReplicaSet => Server::ReplicaSet(ReplicaSet::start_with(1, &lifetime).await?),
            })
        };
        let (source, target) = tokio::try_join!(source, ReplicaSet::start(1))?;
        let dualsync = Dualsync::builder(binary)
            .local(source.mongod().uri())
            .atlas(target.uri())
            .env("SYNC_WORKER_INTERVAL", "20")
            // What there is to warn of is looked at, by its kind, in the report.
            .expect_warning("")
            .start()
            .await?;
        Ok(World { dualsync, source, target })
    }

    /// Waits until everything is on the target, and nothing is left to a comparison or without an outcome.
    pub async fn settle(&self) -> Result<()> {
        let mut last = Value::Null;
        let settled = wait_for("both sides to settle", SETTLE_MAX, async || {
            let clients = self.dualsync.metrics().await?;
            let clients = clients.iter().filter(|(name, _)| name.starts_with("dualsync_proxy_sessions"));
            if clients.map(|(_, served)| served).sum::<f64>() > 0.0 {
                return Ok(None);
            }
            last = self.dualsync.report().await?;
            // What is held is not copied: capped and time-series collections.
            let empty = |list: &str| {
                last["namespaces"][list].as_array().is_some_and(|all| all.iter().all(not_copied))
            };
            let known = !last["warnings"].to_string().contains("no outcome");
            self.confirm(&last["namespaces"]["dirty"]).await?;
            Ok((known && empty("dirty") && empty("notCopiedYet") && last["lag"]["entries"] == 0)
                .then_some(()))
        });
        settled.await.with_context(|| format!("the last report: {last:#}"))
    }

    /// Where a kill came between a command that makes its collection anew and the note of it, deletes wait for somebody
    /// who knows that the source has lost nothing: we do.
    async fn confirm(&self, dirty: &Value) -> Result<()> {
        let waits = |it: &&Value| it["held"].as_str().is_some_and(|why| why.contains("nothing was deleted"));
        let waiting: Vec<&Value> = dirty.as_array().into_iter().flatten().filter(waits).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let namespaces: Vec<&Value> = waiting.iter().map(|it| &it["namespace"]).collect();
        eprintln!("  confirmed by hand: {}", json!(waiting));
        self.dualsync.admin_post("/api/sync/deletes/confirm", &json!({"namespaces": namespaces})).await?;
        Ok(())
    }

    /// Compares documents, indexes and options of the databases whose name begins like this.
    pub async fn compare(&self, database: &str) -> Result<Comparison> {
        let (source, target) = (self.source.mongod().client().await?, self.target.client().await?);
        let comparison = compare::everything(&source, &target, |name| name.starts_with(database)).await;
        for client in [source, target] {
            client.shutdown().immediate(true).await;
        }
        let mut comparison = comparison?;
        let copied = |name: &String| ![SIZED, SERIES].iter().any(|it| name.ends_with(&format!(".{it}")));
        comparison.collections.retain(|name, _| copied(name));
        comparison.shapes.retain(|name, _| copied(name));
        Ok(comparison)
    }

    /// What was followed since the start of the binary.
    pub async fn followed(&self) -> Result<Followed> {
        let report = self.dualsync.report().await?;
        let counts = &report["counts"];
        if counts["deadLetters"] != 0 {
            bail!("there are dead letters: {:#}", self.dualsync.admin_get("/api/sync/dead-letters").await?);
        }
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let ways = ["replayed", "converged", "dirty"];
        let in_doubt = counts["inDoubt"].as_object().context("no reasons in the report")?;
        Ok(Followed {
            ways: ways.iter().map(|way| ((*way).to_owned(), number(&counts[*way]))).collect(),
            in_doubt: in_doubt.iter().map(|(name, count)| (name.clone(), number(count))).collect(),
            captured: number(&counts["captured"]),
        })
    }
}

impl Server {
    /// The one server that there is.
    pub fn mongod(&self) -> &Mongod {
        match self {
            Server::Standalone(mongod) => mongod,
            Server::ReplicaSet(set) => &set.members()[0],
        }
    }

    /// A client beside the proxy.
    pub async fn client(&self) -> Result<Client> {
        self.mongod().client().await
    }
}

impl Followed {
    /// What has come since `before`.
    #[must_use]
    pub fn since(&self, before: &Followed) -> Followed {
        let less = |now: &BTreeMap<String, u64>, then: &BTreeMap<String, u64>| {
            let since = |(name, n): (&String, &u64)| (name.clone(), n - then.get(name).unwrap_or(&0).min(n));
            now.iter().map(since).collect()
        };
        Followed {
            ways: less(&self.ways, &before.ways),
            in_doubt: less(&self.in_doubt, &before.in_doubt),
            captured: self.captured.saturating_sub(before.captured),
        }
    }
}

/// Held for its kind.
fn not_copied(dirty: &Value) -> bool {
    dirty["held"].as_str().is_some_and(|why| why.contains("not copied"))
}

const SETTLE_MAX: Duration = Duration::from_secs(180);
