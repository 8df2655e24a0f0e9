//! Documents that the target refuses: parked, named, retried, discarded; the rest flows on.

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::{Collection, IndexModel, options::IndexOptions};
use serde_json::{Value, json};

use super::{SOON, health, list, orders};
use crate::support::{NOT_COMPARED, Source, Stage};

/// The target has a unique index that the source does not have; `_id` 2 collides with `_id` 1 there.
async fn refused_document() -> Result<(Stage, Collection<Document>)> {
    let quiet = |builder: testkit::Builder| builder.env(NOT_COMPARED.0, NOT_COMPARED.1);
    let stage = Stage::start_with(Source::standalone().await?, quiet).await?;
    let orders = orders(&stage).await?;
    orders.insert_one(doc! {"_id": 1, "code": "a"}).await?;
    stage.assert_equal().await?;
    let there = stage.target.client().await?.database("shop").collection::<Document>("orders");
    let unique = IndexOptions::builder().unique(true).name("by_hand".to_owned()).build();
    there.create_index(IndexModel::builder().keys(doc! {"code": 1}).options(unique).build()).await?;

    stage.dualsync.expect_warning("target refuses a document");
    stage.dualsync.expect_warning("High sync failure rate");
    orders.insert_one(doc! {"_id": 2, "code": "a"}).await?;
    orders.insert_one(doc! {"_id": 3, "code": "c"}).await?;
    stage.dualsync.wait_drained(SOON).await?;
    Ok((stage, there))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_document_is_named_and_retried() -> Result<()> {
    let (stage, there) = refused_document().await?;
    ensure!(there.find_one(doc! {"_id": 3}).await?.is_some(), "the rest does not flow");
    let letters = stage.dualsync.admin_get("/api/sync/dead-letters").await?;
    ensure!(letters["total"] == 1, "{letters:#}");
    let letter = &letters["letters"][0];
    ensure!(letter["namespace"] == "shop.orders" && letter["key"] == 2, "{letter:#}");
    ensure!(
        letter["reason"].to_string().contains("by_hand"),
        "the reason does not name the index: {letter:#}"
    );
    let report = stage.dualsync.report().await?;
    ensure!(report["counts"]["deadLetters"] == 1 && report["counts"]["failed"] == 1, "{report:#}");
    ensure!(list(&report["recommendations"], "code").contains(&"DEAD_LETTERS".to_owned()), "{report:#}");
    ensure!(report["namespaces"]["dirty"] == json!([]), "{report:#}");
    health(&stage.dualsync, "degraded").await?;
    ensure!(stage.dualsync.metrics().await?["dualsync_dead_letters"] == 1.0, "not in the metrics");

    // While the reason stands, a retry changes nothing; a write to the key neither.
    let through = orders(&stage).await?;
    through.update_one(doc! {"_id": 2}, doc! {"$set": {"n": 1}}).await?;
    stage.dualsync.wait_drained(SOON).await?;
    retry(&stage, json!({"all": true})).await?;
    let letters = stage.dualsync.admin_get("/api/sync/dead-letters").await?;
    ensure!(letters["total"] == 1 && letters["letters"][0]["key"] == 2, "{letters:#}");

    there.drop_index("by_hand").await?;
    let id = letters["letters"][0]["id"].clone();
    retry(&stage, json!({"ids": [id]})).await?;
    stage.assert_equal().await?;
    let letters = stage.dualsync.admin_get("/api/sync/dead-letters").await?;
    ensure!(letters == json!({"total": 0, "letters": []}), "{letters:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_survives_a_restart_and_a_later_write_mends_it() -> Result<()> {
    let (mut stage, there) = refused_document().await?;
    stage.dualsync.restart().await?;
    let letters = stage.dualsync.admin_get("/api/sync/dead-letters").await?;
    ensure!(letters["total"] == 1 && letters["letters"][0]["key"] == 2, "{letters:#}");
    there.drop_index("by_hand").await?;
    orders(&stage).await?.update_one(doc! {"_id": 2}, doc! {"$set": {"code": "b"}}).await?;
    stage.assert_equal().await?;
    let letters = stage.dualsync.admin_get("/api/sync/dead-letters").await?;
    ensure!(letters["total"] == 0, "{letters:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_discarded_letter_leaves_its_namespace_dirty() -> Result<()> {
    let (mut stage, _) = refused_document().await?;
    stage.dualsync.expect_warning("namespace is dirty");
    let discarded =
        stage.dualsync.admin_post("/api/sync/dead-letters/discard", &json!({"all": true})).await?;
    ensure!(discarded == json!({"affected": 1}), "{discarded:#}");
    let letters = stage.dualsync.admin_get("/api/sync/dead-letters").await?;
    ensure!(letters["total"] == 0, "{letters:#}");
    let report = stage.dualsync.report().await?;
    ensure!(list(&report["namespaces"]["dirty"], "namespace") == ["shop.orders"], "{report:#}");
    ensure!(report["namespaces"]["dirty"].to_string().contains("discarded"), "{report:#}");
    // A comparison takes away the index that nobody asked for, and copies the document.
    stage.mend().await?;
    Ok(())
}

async fn retry(stage: &Stage, which: Value) -> Result<()> {
    let path = "/api/sync/dead-letters/retry";
    let tried = stage.dualsync.admin_post(path, &which).await.with_context(|| which.to_string())?;
    ensure!(tried == json!({"affected": 1}), "{tried:#}");
    Ok(())
}
