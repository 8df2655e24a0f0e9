//! Writes that go past the proxy are noticed, and nothing else is taken for such.

use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{DateTime, Document, doc};
use mongodb::IndexModel;
use mongodb::options::IndexOptions;
use serde_json::json;
use testkit::traffic::Shop;
use testkit::{Mongod, mongod, wait_for};

use crate::support::{DRAIN_MAX, Source, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_past_the_proxy_are_noticed_and_compared() -> Result<()> {
    let args = ["--setParameter", "ttlMonitorSleepSecs=1"].map(ToOwned::to_owned).to_vec();
    let source = Mongod::launch(mongod::Options { args, ..mongod::Options::default() }).await?;
    let interval = |builder: testkit::Builder| builder.env("DUALSYNC_SYNC_PAST_INTERVAL", "100ms");
    let stage = Stage::start_with(Source::Standalone(source), interval).await?;
    stage.dualsync.expect_warning("only a full comparison can make it good");
    // All kinds of writes, and what mongod does by itself: nothing of it went past.
    let database = stage.dualsync.client().await?.database("d");
    let expire = IndexOptions::builder().expire_after(Duration::from_secs(1)).build();
    let expire = IndexModel::builder().keys(doc! {"at": 1}).options(expire).build();
    database.collection::<Document>("expires").create_index(expire).await?;
    let traffic = Shop { writes: 1_500, seed: 81, ..Shop::default() };
    let uri = stage.dualsync.uri();
    let shop = tokio::spawn(async move { traffic.run(&uri).await });
    for round in 0..15 {
        let items = database.collection::<Document>("items");
        database.collection("expires").insert_one(doc! {"at": DateTime::now()}).await?;
        items.insert_one(doc! {"_id": round}).await?;
        items.aggregate([doc! {"$out": "out"}]).await?;
        items.aggregate([doc! {"$merge": "merged"}]).await?;
        items.create_index(IndexModel::builder().keys(doc! {format!("n{round}"): 1}).build()).await?;
        database.collection::<Document>("out").drop().await?;
        let rename = doc! {"renameCollection": "d.merged", "to": "d.renamed", "dropTarget": true};
        stage.dualsync.client().await?.database("admin").run_command(rename).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    shop.await??;
    database.collection::<Document>("expires").drop().await?;
    for name in ["inserted", "changed", "indexed", "dropped", "quiet"] {
        database.collection(name).insert_one(doc! {"_id": 1}).await?;
    }
    stage.assert_mended().await?;
    ensure!(past(&stage).await?.is_empty(), "taken for writes past the proxy: {:?}", past(&stage).await?);

    stage.dualsync.expect_warning("written to past dualsync");
    stage.dualsync.expect_warning("namespace stays dirty");
    let direct = stage.source.client().await?.database("d");
    let quiet = direct.collection::<Document>("quiet");
    quiet.find_one(doc! {}).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    direct.collection("inserted").insert_one(doc! {"_id": 2}).await?;
    direct.collection::<Document>("changed").find_one_and_update(doc! {}, doc! {"$set": {"a": 1}}).await?;
    direct
        .collection::<Document>("indexed")
        .create_index(IndexModel::builder().keys(doc! {"a": 1}).build())
        .await?;
    direct.collection::<Document>("dropped").drop().await?;
    wait_for("what went past to be noticed", DRAIN_MAX, async || {
        let past = past(&stage).await?;
        Ok((past == ["d.changed", "d.dropped", "d.indexed", "d.inserted"]).then_some(()))
    })
    .await?;
    wait_for("the drop to be held", DRAIN_MAX, async || {
        Ok((stage.dualsync.report().await?["namespaces"]["dirty"][0]["state"] == "held").then_some(()))
    })
    .await?;
    stage.dualsync.admin_post("/api/sync/deletes/confirm", &json!({"namespaces": ["d.dropped"]})).await?;
    stage.assert_mended().await?;
    stage.dualsync.admin_post("/api/sync/stats/reset", &json!({})).await?;
    ensure!(past(&stage).await?.is_empty(), "the warning stays after a reset");
    Ok(())
}

/// The collections that the report names.
async fn past(stage: &Stage) -> Result<Vec<String>> {
    let report = stage.dualsync.report().await?;
    let warnings = report["warnings"].as_array().cloned().unwrap_or_default();
    let named = warnings.iter().filter_map(|it| it.as_str()?.strip_prefix("written to past dualsync: "));
    Ok(named.flat_map(|names| names.split(", ")).map(str::to_owned).collect())
}
