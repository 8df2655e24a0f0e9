//! Lines that break and servers that die in the middle of a batch: nothing is lost, nothing is done twice.

mod disk;
mod forbidden;
mod late;
mod refused;
mod swapped;
mod target;

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use bson::doc;
use testkit::net::Relay;
use testkit::traffic::{OnError, Shop};
use testkit::{Dualsync, Mongod, ReplicaSet, compare, mongod, wait_for};

use crate::support::{BIN, DRAIN_MAX, Source, Stage, half_of, update_ended, update_runs};

/// Drivers' own tests drop collections while what was written to them is still being read. mongod kills such reads; that
/// is no outage, and the undeclared warning of one would fail the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_killed_by_a_drop_is_no_outage() -> Result<()> {
    let args = ["--setParameter", "enableTestCommands=1"].map(ToOwned::to_owned).to_vec();
    let source = Mongod::launch(mongod::Options { args, ..mongod::Options::default() }).await?;
    let stage = Stage::start(Source::Standalone(source)).await?;
    let killed = doc! {
        "configureFailPoint": "failCommand", "mode": { "times": 2 },
        "data": { "failCommands": ["find"], "errorCode": 175, "appName": "dualsync replicator" },
    };
    stage.source.client().await?.database("admin").run_command(killed).await?;
    // In doubt, so that they are read again.
    let stamped = (0..10).map(|id| doc! { "_id": id, "at": bson::Timestamp { time: 0, increment: 0 } });
    stage.dualsync.client().await?.database("d").collection("killed").insert_many(stamped).await?;
    let comparison = stage.assert_equal().await?;
    ensure!(comparison.documents() == 10, "they are not there:\n{comparison}");
    stage.assert_followed().await?;
    Ok(())
}

/// The line to the target is cut again and again, with commands on it whose answers are lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_line_to_the_target_breaks_in_the_middle_of_batches() -> Result<()> {
    let (source, target) = (Mongod::standalone().await?, ReplicaSet::start(1).await?);
    let relay = Relay::start(target.members()[0].address()).await?;
    let dualsync = Dualsync::builder(BIN)
        .local(source.uri())
        .atlas(relay.uri())
        .expect_warning("Atlas unavailable")
        .start()
        .await?;
    let traffic = Shop { clients: 8, writes: 6_000, seed: 21, ..Shop::default() };
    let (uri, done) = (dualsync.uri(), traffic.done.clone());
    let clients = tokio::spawn(async move { traffic.run(&uri).await });
    for part in 1..=4 {
        wait_for("a part of the traffic", DRAIN_MAX, async || {
            Ok((done.load(Ordering::Relaxed) > part * 1_200).then_some(()))
        })
        .await?;
        relay.cut().await?;
        relay.resume().await?;
    }
    clients.await??;
    dualsync.wait_drained(DRAIN_MAX).await?;
    let comparison = compare::databases(&source.client().await?, &target.client().await?).await?;
    ensure!(comparison.equal(), "source and target differ:\n{comparison}");
    let report = dualsync.report().await?;
    ensure!(report["namespaces"]["dirty"].as_array().is_some_and(Vec::is_empty), "{report:#}");
    ensure!(report["counts"]["deadLetters"] == 0, "{report:#}");
    Ok(())
}

/// The target dies without a word, with commands under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_target_is_killed() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    stage.dualsync.expect_warning("Atlas unavailable");
    let traffic = Shop { clients: 8, writes: 6_000, seed: 22, ..Shop::default() };
    let clients = half_of(traffic, &stage.dualsync).await?;
    stage.target.kill()?;
    stage.target.resume().await?;
    clients.await??;
    stage.assert_equal().await?;
    stage.assert_followed().await?;
    Ok(())
}

/// The local mongod is away for a while: clients see what they would see without us, and it goes on after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_source_is_restarted() -> Result<()> {
    let mut mongod = Mongod::standalone().await?;
    let target = ReplicaSet::start(1).await?;
    let dualsync = Dualsync::builder(BIN)
        .local(mongod.uri())
        .atlas(target.uri())
        .expect_warning("local mongod")
        .expect_warning("mongod is not reachable")
        .expect_warning("may have taken back a statement")
        .start()
        .await?;
    let traffic = Shop { clients: 4, writes: 3_000, seed: 23, on_error: OnError::Count, ..Shop::default() };
    let clients = half_of(traffic, &dualsync).await?;
    mongod.stop().await?;
    mongod.start().await?;
    let tally = clients.await??;
    println!("{tally}");
    dualsync.wait_drained(DRAIN_MAX).await?;
    wait_for("orphans to end", Duration::from_secs(30), async || {
        let warnings = dualsync.report().await?["warnings"].to_string();
        Ok((!warnings.contains("no outcome")).then_some(()))
    })
    .await?;
    wait_for("what it may have taken back to be compared", DRAIN_MAX, async || {
        let dirty = dualsync.report().await?["namespaces"]["dirty"].clone();
        Ok(dirty.as_array().is_some_and(Vec::is_empty).then_some(()))
    })
    .await?;
    dualsync.wait_drained(DRAIN_MAX).await?;
    let comparison = compare::databases(&mongod.client().await?, &target.client().await?).await?;
    ensure!(comparison.equal(), "source and target differ:\n{comparison}");
    Ok(())
}

/// The proxy dies while a long statement runs on the source: what it touches stays in doubt until it has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_is_killed_under_a_long_statement() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    let client = stage.dualsync.client().await?;
    let items = client.database("long").collection::<bson::Document>("items");
    items.insert_many((0..200).map(|n| doc! {"_id": n, "a": 1, "n": 0})).await?;
    stage.assert_equal().await?;

    // About 20 ms a document: four seconds.
    let slow = doc! {"$where": "sleep(20) || true", "a": 1};
    let running = tokio::spawn(async move { items.update_many(slow, doc! {"$inc": {"n": 1}}).await });
    let source = stage.source.client().await?;
    update_runs(&source, "long.items").await?;
    stage.dualsync.kill()?;
    ensure!(running.await?.is_err(), "the proxy was killed under the statement");
    stage.dualsync.expect_warning("namespace is dirty"); // `$where` is no pure function of a document
    stage.dualsync.restart().await?;
    let client = stage.dualsync.client().await?;
    let items = client.database("long").collection::<bson::Document>("items");
    for n in 0..200 {
        items.update_one(doc! {"_id": n}, doc! {"$inc": {"n": 10}, "$set": {"a": 2}}).await?;
    }
    update_ended(&source, "long.items").await?;
    stage.dualsync.wait_for_log("namespace is dirty", Duration::from_secs(30)).await?;
    stage.assert_mended().await?;
    Ok(())
}
