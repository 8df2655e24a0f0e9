//! The primary steps down and dies while clients write: they go on through the proxy, and what they wrote is followed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bson::{Document, doc};
use futures_util::TryStreamExt as _;
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection};
use testkit::wait_for;
use tokio::task::JoinSet;

use super::Trio;
use crate::support::DRAIN_MAX;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_write_on_while_primaries_come_and_go() -> Result<()> {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let expected = ["local mongod unavailable", "mongod is not reachable", "source"];
    let expect =
        |builder| expected.iter().fold(builder, |builder: testkit::Builder, it| builder.expect_warning(*it));
    let mut trio = Trio::start(3, expect).await?;
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let random = fastrand::Rng::with_seed(seed.wrapping_add(u64::from(number)));
        let writer = Writer { number, random, uri: trio.uri(), done: done.clone(), stop: stop.clone() };
        writers.spawn(writer.run());
    }
    let progress = async |more: u64| -> Result<()> {
        let goal = done.load(Ordering::Relaxed) + more;
        wait_for("writes to go on", DRAIN_MAX, async || {
            Ok((done.load(Ordering::Relaxed) >= goal).then_some(()))
        })
        .await
    };
    progress(200).await?;
    let first = trio.set.primary().await?;
    trio.set.step_down().await?;
    progress(200).await?;
    let second = trio.set.primary().await?;
    ensure!(first != second, "the same primary again");
    trio.set.members_mut()[second].kill()?;
    progress(200).await?;
    ensure!(trio.set.primary().await? != second, "a dead primary");
    trio.set.resume().await?;
    progress(200).await?;

    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    while let Some(ids) = writers.join_next().await {
        acknowledged.extend(ids??);
    }
    println!("{} inserts were acknowledged", acknowledged.len());
    wait_for("every captured write to have ended", DRAIN_MAX, async || {
        let report = trio.dualsync.report().await?;
        let open = report["recommendations"].as_array().into_iter().flatten();
        Ok((!open.into_iter().any(|it| it["code"] == "ORPHANS")).then_some(()))
    })
    .await?;
    trio.assert_equal().await?;
    let there = trio.target.client().await?.database("failover").collection::<Document>("inserted");
    let found: Vec<Document> = there.find(doc! {}).await?.try_collect().await?;
    let found: HashSet<&str> = found.iter().filter_map(|document| document.get_str("_id").ok()).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|id| !found.contains(id.as_str())).collect();
    ensure!(lost.is_empty(), "acknowledged, and not on the target: {lost:?}");
    Ok(())
}

/// A client that inserts, updates and deletes by `_id`, until it is told to stop.
struct Writer {
    number: u32,
    random: fastrand::Rng,
    uri: String,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    /// The inserts that were acknowledged.
    async fn run(mut self) -> Result<Vec<String>> {
        let mut options = ClientOptions::parse(&self.uri).await?;
        options.server_selection_timeout = Some(Duration::from_secs(30));
        options.heartbeat_freq = Some(Duration::from_millis(500));
        let client = Client::with_options(options)?;
        let inserted: Collection<Document> = client.database("failover").collection("inserted");
        let changed: Collection<Document> = client.database("failover").collection("changed");
        let (mut acknowledged, mut failures) = (Vec::new(), 0);
        for turn in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let id = format!("{}-{turn}", self.number);
            let key = doc! {"_id": self.random.u32(..50)};
            let outcome = match self.random.u8(..4) {
                0 | 1 => {
                    let outcome = inserted.insert_one(doc! {"_id": &id}).await.map(drop);
                    acknowledged.extend(outcome.is_ok().then_some(id));
                    outcome
                }
                2 => changed.update_one(key, doc! {"$inc": {"n": 1}}).upsert(true).await.map(drop),
                _ => changed.delete_one(key).await.map(drop),
            };
            match outcome {
                Ok(()) => {
                    self.done.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    // An election that meets the one retry that a driver makes.
                    println!("writer {}: {error}", self.number);
                    failures += 1;
                    if failures > 20 {
                        bail!("too many failures, the last one: {error}");
                    }
                }
            }
        }
        Ok(acknowledged)
    }
}

const WRITERS: u32 = 4;
