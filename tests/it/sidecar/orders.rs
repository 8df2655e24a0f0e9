//! What the worker and the queue can be told.

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::options::ReturnDocument;
use serde_json::{Value, json};
use testkit::{Dualsync, wait_for};

use super::{SOON, health, list, orders, ways};
use crate::support::{NOT_COMPARED, Source, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_holds_entries_back_over_a_restart() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    let orders = orders(&stage).await?;
    orders.insert_one(doc! {"_id": 0}).await?;
    stage.assert_equal().await?;

    let worker = control(&stage.dualsync, "pause").await?;
    ensure!(worker["state"] == "paused", "{worker:#}");
    refused(&stage.dualsync, &["pause", "start"]).await?;
    for id in 1..=5 {
        orders.insert_one(doc! {"_id": id}).await?;
    }
    let degraded = health(&stage.dualsync, "degraded").await?;
    ensure!(degraded["checks"]["worker"]["status"] == "warn", "{degraded:#}");
    holds_back(&stage, 5).await?;

    stage.dualsync.restart().await?;
    let worker = stage.dualsync.admin_get("/api/sync/worker").await?;
    ensure!(worker["state"] == "paused", "the pause is forgotten: {worker:#}");
    orders.insert_one(doc! {"_id": 6}).await?;
    holds_back(&stage, 6).await?;

    stage.dualsync.kill()?;
    stage.dualsync.restart().await?;
    holds_back(&stage, 6).await?;
    let worker = control(&stage.dualsync, "resume").await?;
    ensure!(worker["state"] == "running", "{worker:#}");
    refused(&stage.dualsync, &["resume", "start"]).await?;
    stage.assert_equal().await?;
    health(&stage.dualsync, "healthy").await?;
    // A copy of nothing but what was never sent: all of it could be replayed.
    ensure!(ways(&stage.dualsync).await? == [6.0, 0.0, 0.0], "ways {:?}", ways(&stage.dualsync).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_closes_the_targets_connections() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    let orders = orders(&stage).await?;
    orders.insert_one(doc! {"_id": 0}).await?;
    stage.assert_equal().await?;
    ensure!(connections(&stage).await? > 0, "dualsync is not seen on the target");

    control(&stage.dualsync, "stop").await?;
    refused(&stage.dualsync, &["stop", "pause", "resume"]).await?;
    wait_for("the target's connections to be closed", SOON, async || {
        Ok((connections(&stage).await? == 0).then_some(()))
    })
    .await?;
    orders
        .find_one_and_update(doc! {"_id": 0}, doc! {"$set": {"n": 1}})
        .return_document(ReturnDocument::After)
        .await?;
    holds_back(&stage, 1).await?;
    stage.dualsync.restart().await?;
    let worker = stage.dualsync.admin_get("/api/sync/worker").await?;
    ensure!(worker["state"] == "stopped", "the stop is forgotten: {worker:#}");
    ensure!(connections(&stage).await? == 0, "a stopped worker has connected after a restart");

    control(&stage.dualsync, "start").await?;
    stage.assert_equal().await?;
    ensure!(ways(&stage.dualsync).await? == [1.0, 0.0, 0.0], "ways {:?}", ways(&stage.dualsync).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cleared_queue_leaves_its_namespaces_dirty() -> Result<()> {
    let quiet = |builder: testkit::Builder| builder.env(NOT_COMPARED.0, NOT_COMPARED.1);
    let mut stage = Stage::start_with(Source::standalone().await?, quiet).await?;
    stage.dualsync.expect_warning("namespace is dirty");
    stage.dualsync.expect_warning("pending entries cleared on request");
    let orders = orders(&stage).await?;
    let database = stage.dualsync.client().await?.database("shop");
    let carts = database.collection::<Document>("carts");
    carts.insert_one(doc! {"_id": 0}).await?;
    stage.assert_equal().await?;

    control(&stage.dualsync, "pause").await?;
    orders.insert_many([doc! {"_id": 1}, doc! {"_id": 2}]).await?;
    orders.delete_one(doc! {"_id": 1}).await?;
    database.collection::<Document>("users").insert_one(doc! {"_id": 1}).await?;
    let cleared = stage.dualsync.admin_post("/api/sync/queue/clear", &json!({"confirm": "clear"})).await?;
    ensure!(cleared == json!({"cleared": 3, "dirty": ["shop.orders", "shop.users"]}), "{cleared:#}");
    let report = stage.dualsync.report().await?;
    ensure!(report["lag"]["entries"] == 0, "{report:#}");
    ensure!(list(&report["namespaces"]["dirty"], "namespace") == ["shop.orders", "shop.users"], "{report:#}");
    ensure!(report["namespaces"]["dirty"].to_string().contains("cleared on request"), "{report:#}");
    ensure!(list(&report["recommendations"], "code").contains(&"DIRTY".to_owned()), "{report:#}");
    let again = stage.dualsync.admin_post("/api/sync/queue/clear", &json!({"confirm": "clear"})).await?;
    ensure!(again["cleared"] == 0, "{again:#}");

    // What comes later is followed; in what was cleared by copying.
    control(&stage.dualsync, "resume").await?;
    orders.insert_one(doc! {"_id": 3}).await?;
    carts.insert_one(doc! {"_id": 1}).await?;
    stage.dualsync.wait_drained(SOON).await?;
    ensure!(ways(&stage.dualsync).await? == [2.0, 1.0, 3.0], "ways {:?}", ways(&stage.dualsync).await?);
    let there = stage.target.client().await?.database("shop").collection::<Document>("orders");
    ensure!(there.count_documents(doc! {}).await? == 1, "what was cleared has been sent");
    health(&stage.dualsync, "degraded").await?;
    stage.mend().await?;
    health(&stage.dualsync, "healthy").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pace_is_kept_over_a_restart() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    let orders = orders(&stage).await?;
    orders.insert_one(doc! {"_id": 0}).await?;
    stage.assert_equal().await?;
    control(&stage.dualsync, "pause").await?;
    for id in 1..=100 {
        orders.insert_one(doc! {"_id": id}).await?;
    }
    let ordered = json!({"lanes": 2, "rateMax": 50});
    let worker = stage.dualsync.admin_post("/api/sync/worker/pace", &ordered).await?;
    ensure!(worker["rateMax"] == 50 && worker["lanes"] == 2, "{worker:#}");
    stage.dualsync.restart().await?;
    let config = stage.dualsync.admin_get("/api/sync/config").await?["sync"].clone();
    ensure!(config["rate_max"] == 50 && config["lanes"] == 2, "it is forgotten: {config:#}");
    let began = std::time::Instant::now();
    control(&stage.dualsync, "resume").await?;
    stage.assert_equal().await?;
    ensure!(began.elapsed().as_millis() > 1_500, "100 entries took {:?}", began.elapsed());
    let worker = stage.dualsync.admin_post("/api/sync/worker/pace", &json!({})).await?;
    ensure!(worker["rateMax"] == 0 && worker["lanes"] == 8, "{worker:#}");
    Ok(())
}

async fn control(dualsync: &Dualsync, action: &str) -> Result<Value> {
    let worker = dualsync.admin_post("/api/sync/worker/control", &json!({"action": action})).await;
    worker.with_context(|| action.to_owned())
}

/// What does not fit the worker's state is a conflict, and changes nothing.
async fn refused(dualsync: &Dualsync, actions: &[&str]) -> Result<()> {
    let before = dualsync.admin_get("/api/sync/worker").await?["state"].clone();
    for action in actions {
        let body = json!({"action": action}).to_string();
        let token = Some(dualsync.token());
        let response = dualsync.request("POST", "/api/sync/worker/control", token, Some(&body)).await?;
        ensure!(response.status == 409, "{action} while {before}: {} {}", response.status, response.body);
        ensure!(response.json()?["error"]["code"] == "WRONG_STATE", "{}", response.body);
    }
    let after = dualsync.admin_get("/api/sync/worker").await?["state"].clone();
    ensure!(before == after, "{before} became {after}");
    Ok(())
}

/// So many entries wait, and the target does not have them.
async fn holds_back(stage: &Stage, entries: u64) -> Result<()> {
    let report = stage.dualsync.report().await?;
    ensure!(report["lag"]["entries"] == entries, "{entries} entries should wait: {report:#}");
    let there = stage.target.client().await?.database("shop").collection::<Document>("orders");
    let written = there.count_documents(doc! {"$or": [{"_id": {"$gt": 0}}, {"n": 1}]}).await?;
    ensure!(written == 0, "{written} documents reached the target");
    wait_for("the age of the oldest entry", SOON, async || {
        let report = stage.dualsync.report().await?;
        Ok((report["lag"]["seconds"].as_f64() > Some(0.0)).then_some(()))
    })
    .await
}

/// Connections of dualsync that the target knows.
async fn connections(stage: &Stage) -> Result<usize> {
    let admin = stage.target.client().await?.database("admin");
    let pipeline = [
        doc! {"$currentOp": {"allUsers": true, "idleConnections": true}},
        doc! {"$match": {"appName": {"$regex": "^dualsync"}}},
    ];
    let mut found = admin.aggregate(pipeline).await?;
    let mut count = 0;
    while found.advance().await? {
        count += 1;
    }
    Ok(count)
}
