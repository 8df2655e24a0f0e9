//! Capture taken out of the way while clients are served, and brought back.

use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{Document, doc};
use serde_json::{Value, json};
use testkit::mongod::Options;
use testkit::{Dualsync, Mongod, wait_for};

use super::{TEST_COMMANDS, slow_update};
use crate::startup::QUICK;
use crate::support::{NOT_COMPARED, Source, Stage};

async fn order(dualsync: &Dualsync, action: &str) -> Result<(u16, Value)> {
    let body = json!({ "action": action }).to_string();
    let path = "/api/sync/capture/control";
    let answer = dualsync.request("POST", path, Some(dualsync.token()), Some(&body)).await?;
    Ok((answer.status, answer.json()?))
}

async fn told(dualsync: &Dualsync, action: &str, state: &str) -> Result<()> {
    let (status, answer) = order(dualsync, action).await?;
    ensure!(status == 200 && answer["data"]["state"] == state, "{action}: {status} {answer:#}");
    Ok(())
}

async fn is_dirty(dualsync: &Dualsync) -> Result<bool> {
    let report = dualsync.report().await?;
    Ok(report["namespaces"]["dirty"].to_string().contains("while capture was bypassed"))
}

/// Waits until everything has been compared.
async fn made_good(stage: &Stage) -> Result<()> {
    wait_for("everything to be compared", Duration::from_secs(60), async || {
        let report = stage.dualsync.report().await?;
        let clean = report["namespaces"]["dirty"].as_array().is_some_and(Vec::is_empty);
        Ok((clean && report["capture"]["state"] == "on").then_some(()))
    })
    .await?;
    stage.assert_equal().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_pass_unseen_over_restarts_and_are_compared_in_the_end() -> Result<()> {
    let args = TEST_COMMANDS.map(str::to_owned).to_vec();
    let mongod = Mongod::launch(Options { args, ..Options::default() }).await?;
    let mut stage = Stage::start_with(Source::Standalone(mongod), |builder| {
        let (name, value) = NOT_COMPARED;
        builder.env(name, value).expect_warning("capture is bypassed").expect_warning("is dirty")
    })
    .await?;
    // One that is under way when capture is switched off ends as a captured one.
    let update = slow_update(&stage, 1_000).await?;
    told(&stage.dualsync, "bypass", "bypassed").await?;
    let (status, answer) = order(&stage.dualsync, "bypass").await?;
    ensure!(status == 409, "{status} {answer:#}");
    ensure!(is_dirty(&stage.dualsync).await?, "nothing says what is missed");
    let captured = async |stage: &Stage| {
        Ok::<_, anyhow::Error>(stage.dualsync.report().await?["counts"]["captured"].as_u64())
    };
    update.await??;
    wait_for("the captured update's entry", QUICK, async || {
        Ok((captured(&stage).await? == Some(2)).then_some(()))
    })
    .await?;

    let things = stage.dualsync.client().await?.database("shop").collection::<Document>("things");
    things.insert_many((100..150).map(|id| doc! { "_id": id })).await?;
    things.update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await?;
    ensure!(captured(&stage).await? == Some(2), "what was bypassed was captured");
    let metrics = stage.dualsync.metrics().await?;
    ensure!(metrics["dualsync_capture_bypassed"] == 1.0, "no gauge says so");
    ensure!(metrics["dualsync_proxy_requests_total{class=\"bypass\"}"] == 2.0, "{metrics:#?}");
    let health = stage.dualsync.admin_get("/api/sync/health").await?;
    ensure!(
        health["status"] == "degraded" && health["checks"]["syncEnabled"]["status"] == "warn",
        "{health:#}"
    );

    // Killed and started again it is still so: the order came from a person.
    stage.dualsync.kill()?;
    stage.dualsync.restart().await?;
    let state = stage.dualsync.admin_get("/api/sync/capture").await?;
    ensure!(state["state"] == "bypassed", "{state:#}");
    ensure!(is_dirty(&stage.dualsync).await?, "a kill has made it forget what is missed");

    // From here on everything is compared, again and again: also before the last write that passes has ended.
    stage.dualsync.set_env(NOT_COMPARED.0, "50000");
    stage.dualsync.restart().await?;
    let things = stage.dualsync.client().await?.database("shop").collection::<Document>("things");
    things.delete_one(doc! { "_id": 3 }).await?;

    // One that passes unseen, and ends only after capture is back.
    let admin = stage.source.client().await?.database("admin");
    let slow = doc! { "failCommands": ["update"], "blockConnection": true, "blockTimeMS": 3_000 };
    admin
        .run_command(doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": slow })
        .await?;
    let late = {
        let things = things.clone();
        tokio::spawn(
            async move { things.update_one(doc! { "_id": 5 }, doc! { "$set": { "late": true } }).await },
        )
    };
    wait_for("it to pass", QUICK, async || {
        let state = stage.dualsync.admin_get("/api/sync/capture").await?;
        Ok((state["passing"] == 1).then_some(()))
    })
    .await?;
    told(&stage.dualsync, "resume", "resuming").await?;
    let (status, answer) = order(&stage.dualsync, "resume").await?;
    ensure!(status == 409, "{status} {answer:#}");
    things.insert_one(doc! { "_id": 1000 }).await?;
    ensure!(captured(&stage).await? == Some(1), "capture is not back");
    let state = stage.dualsync.admin_get("/api/sync/capture").await?;
    ensure!(state["state"] == "resuming", "it is over before what passed has ended: {state:#}");
    late.await??;
    stage.dualsync.wait_for_log("all writes that passed unseen have ended", QUICK).await?;
    made_good(&stage).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_bypasses_until_it_does_not() -> Result<()> {
    let mut stage = Stage::start_with(Source::standalone().await?, |builder| {
        builder
            .env("DUALSYNC_SYNC_BYPASS", "true")
            .expect_warning("capture is bypassed")
            .expect_warning("is dirty")
    })
    .await?;
    let things = stage.dualsync.client().await?.database("shop").collection::<Document>("things");
    things.insert_one(doc! { "_id": 1 }).await?;
    let (status, answer) = order(&stage.dualsync, "resume").await?;
    ensure!(status == 409 && answer["error"]["message"].to_string().contains("sync.bypass"), "{answer:#}");
    stage.dualsync.set_env("DUALSYNC_SYNC_BYPASS", "false");
    stage.dualsync.restart().await?;
    let things = stage.dualsync.client().await?.database("shop").collection::<Document>("things");
    things.insert_one(doc! { "_id": 2 }).await?;
    made_good(&stage).await
}
