//! Servers that are not there yet at the start: it starts all the same, says so, and catches up when they come.

use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{Document, doc};
use testkit::{Dualsync, Mongod, ReplicaSet, wait_for};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{BIN, Source, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_mongod_it_starts_and_waits() -> Result<()> {
    let mut mongod = Mongod::standalone().await?;
    mongod.stop().await?;
    let target = ReplicaSet::start(1).await?;
    let dualsync = Dualsync::builder(BIN)
        .local(mongod.uri())
        .atlas(target.uri())
        .expect_warning("local mongod unavailable")
        .expect_warning("local mongod does not answer")
        .expect_warning("mongod is not reachable: clients are turned away")
        .start()
        .await?;
    let mut client = TcpStream::connect(dualsync.proxy_address()).await?;
    let read = timeout(SOON, client.read(&mut [0; 1])).await?;
    ensure!(matches!(read, Ok(0) | Err(_)), "the connection is open, to nobody: {read:?}");
    wait_for("health to say that the local mongod is away", SOON, async || {
        let health = dualsync.request("GET", "/api/sync/health", None, None).await?;
        let said = health.data()?["checks"]["localDatabase"]["status"] == "fail";
        Ok((health.status == 503 && said).then_some(()))
    })
    .await?;
    ensure!(dualsync.metrics().await?["dualsync_proxy_upstream_errors_total"] == 1.0, "not counted");

    mongod.start().await?;
    wait_for("health", SOON, async || {
        let health = dualsync.admin_get("/api/sync/health").await?;
        Ok((health["status"] == "healthy").then_some(()))
    })
    .await?;
    // Written before the first look at mongod, its collection would count as one from before dualsync.
    let orders = dualsync.client().await?.database("shop").collection::<Document>("orders");
    orders.insert_one(doc! {"_id": 1}).await?;
    let stage = Stage { source: Source::Standalone(mongod), target, dualsync };
    stage.assert_equal().await?;
    stage.assert_followed().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_target_it_starts_and_queues() -> Result<()> {
    let mongod = Mongod::standalone().await?;
    let mut target = ReplicaSet::start(1).await?;
    target.stop().await?;
    let dualsync = Dualsync::builder(BIN)
        .local(mongod.uri())
        .atlas(target.uri())
        .expect_warning("Atlas unavailable")
        .start()
        .await?;
    let orders = dualsync.client().await?.database("shop").collection::<Document>("orders");
    for id in 0..10 {
        orders.insert_one(doc! {"_id": id}).await?;
    }
    ensure!(dualsync.report().await?["lag"]["entries"] == 10, "nothing waits");
    dualsync.wait_for_log("Atlas unavailable", SOON).await?;
    let health = dualsync.request("GET", "/api/sync/health", None, None).await?;
    ensure!(health.status == 200 && health.data()?["status"] == "degraded", "{}", health.body);

    target.resume().await?;
    let stage = Stage { source: Source::Standalone(mongod), target, dualsync };
    stage.assert_equal().await?;
    stage.assert_followed().await?;
    Ok(())
}

const SOON: Duration = Duration::from_secs(15);
