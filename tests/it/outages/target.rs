//! A target that is slow, silent, deposed, or has too much to do: nothing is lost, and nobody is told of trouble that is none.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{Document, doc};
use testkit::net::Relay;
use testkit::traffic::Shop;
use testkit::{Dualsync, Mongod, ReplicaSet, compare, wait_for};

use crate::support::{BIN, DRAIN_MAX, Source, Stage, half_of};

/// Far away, then frozen for a moment, then behind a line that loses everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_far_then_frozen_then_cut_off() -> Result<()> {
    let (source, target) = (Mongod::standalone().await?, ReplicaSet::start(1).await?);
    let relay = Relay::start_delayed(target.members()[0].address(), Duration::from_millis(25)).await?;
    let dualsync = Dualsync::builder(BIN)
        .local(source.uri())
        .atlas(relay.uri())
        .expect_warning("Atlas unavailable")
        .start()
        .await?;
    let traffic = Shop { clients: 8, writes: 6_000, seed: 31, ..Shop::default() };
    let (uri, done) = (dualsync.uri(), traffic.done.clone());
    let clients = tokio::spawn(async move { traffic.run(&uri).await });
    let part = async |part: u64| {
        wait_for("a part of the traffic", DRAIN_MAX, async || {
            Ok((done.load(Ordering::Relaxed) > part * 2_000).then_some(()))
        })
        .await
    };
    part(1).await?;
    target.members()[0].pause()?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    target.members()[0].resume()?;
    part(2).await?;
    relay.swallow().await?;
    clients.await??;
    let report = dualsync.report().await?;
    ensure!(report["lag"]["entries"].as_u64() > Some(0), "nothing waits: {report:#}");
    relay.resume().await?;
    dualsync.wait_drained(DRAIN_MAX).await?;
    let comparison = compare::databases(&source.client().await?, &target.client().await?).await?;
    ensure!(comparison.equal(), "source and target differ:\n{comparison}");
    let report = dualsync.report().await?;
    ensure!(report["counts"]["deadLetters"] == 0, "{report:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_primary_steps_down() -> Result<()> {
    let stage = Stage::start(Source::standalone().await?).await?;
    stage.dualsync.expect_warning("Atlas unavailable");
    let traffic = Shop { clients: 8, writes: 6_000, seed: 32, ..Shop::default() };
    let clients = half_of(traffic, &stage.dualsync).await?;
    stage.target.step_down().await?;
    clients.await??;
    stage.assert_equal().await?;
    stage.assert_followed().await?;
    Ok(())
}

/// What a server turns away because it has too much to do, it has not done: sent again a little later, it counts as replayed,
/// and no outage is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_sheds_load() -> Result<()> {
    let (source, target) = (
        Source::standalone().await?,
        ReplicaSet::start_with(1, &["--setParameter", "enableTestCommands=1"]).await?,
    );
    let dualsync = Dualsync::builder(BIN).local(source.uri()).atlas(target.uri()).start().await?;
    let stage = Stage { dualsync, source, target };
    let items = stage.dualsync.client().await?.database("busy").collection::<Document>("items");
    items.insert_one(doc! {"_id": 0, "n": 0}).await?;
    stage.assert_equal().await?;
    let shed = doc! {
        "configureFailPoint": "failCommand", "mode": {"times": 3},
        "data": {
            "failCommands": ["insert", "update"], "errorCode": 462,
            "errorLabels": ["SystemOverloadedError", "RetryableError"],
        },
    };
    stage.target.client().await?.database("admin").run_command(shed).await?;
    items.update_one(doc! {"_id": 0}, doc! {"$inc": {"n": 1}}).await?;
    items.insert_many((1..100).map(|id| doc! {"_id": id, "n": 0})).await?;
    items.update_one(doc! {"_id": 1}, doc! {"$inc": {"n": 1}}).await?;
    stage.assert_equal().await?;
    let ways = stage.assert_followed().await?;
    ensure!(ways.replayed == 4.0 && ways.converged == 0.0, "{ways:?}");
    Ok(())
}
