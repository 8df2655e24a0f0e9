//! The local mongod is gone for good: what the log has is brought to the target, and what cannot be known is told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use serde_json::{Value, json};
use testkit::{Builder, Dualsync};

use crate::support::{BIN, Source, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_drained_without_its_source() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    let shop = stage.dualsync.client().await?.database("shop");
    let orders = shop.collection::<Document>("orders");
    orders.insert_many((0..10).map(|id| doc! {"_id": id, "n": 0})).await?;
    stage.assert_equal().await?;
    stage.dualsync.admin_post("/api/sync/worker/control", &json!({"action": "pause"})).await?;
    // Known for certain, then in doubt, then over a whole collection.
    orders.insert_many((10..3_000).map(|id| doc! {"_id": id, "n": 0})).await?;
    orders.update_one(doc! {"_id": 3}, doc! {"$inc": {"n": 5}}).await?;
    orders.delete_one(doc! {"_id": 4}).await?;
    orders.update_many(doc! {"_id": {"$gte": 2_000}}, doc! {"$set": {"n": 2}}).await?;
    orders.update_one(doc! {"n": 5}, doc! {"$set": {"by": "a filter"}}).await?;
    shop.collection::<Document>("gone").insert_one(doc! {"_id": 1}).await?;
    shop.collection::<Document>("gone").drop().await?;
    stage.dualsync.terminate().await?;

    let lost = |stage: &Stage| -> Builder {
        let builder = Dualsync::builder(BIN).local(stage.source.uri()).atlas(stage.target.uri());
        builder.log_dir(stage.dualsync.log_dir().to_owned()).arg("--source-lost")
    };
    let refused = lost(&stage).run_to_end(ENDS_MAX).await?;
    ensure!(refused.status.code() == Some(1) && refused.output.contains("answers"), "{}", refused.output);

    let expected: Vec<Document> = {
        let mut all = stage
            .source
            .client()
            .await?
            .database("shop")
            .collection::<Document>("orders")
            .find(doc! {})
            .await?;
        let mut found = Vec::new();
        while all.advance().await? {
            found.push(all.deserialize_current()?);
        }
        found
    };
    let Source::Standalone(mongod) = &mut stage.source else { return Ok(()) };
    mongod.stop().await?;
    for run in ["first", "second"] {
        let ended = lost(&stage).run_to_end(ENDS_MAX).await?;
        let (from, to) = (ended.output.find("\n{\n"), ended.output.rfind("\n}"));
        let (from, to) = from.zip(to).with_context(|| format!("{run} run: no report in {}", ended.output))?;
        let report: Value = serde_json::from_str(&ended.output[from..to + 2])?;
        if run == "second" {
            ensure!(report["entries"] == 0, "brought twice: {report:#}");
            continue;
        }
        ensure!(ended.status.code() == Some(3), "{:?}: {report:#}", ended.status);
        let unknown = &report["unknown"];
        ensure!(unknown["shop.orders"]["reasons"].to_string().contains("predicate"), "{report:#}");
        ensure!(unknown["shop.gone"]["anyDocument"] == true, "{report:#}");
        ensure!(unknown.as_object().is_some_and(|it| it.len() == 2), "{report:#}");
    }
    let there = stage.target.client().await?.database("shop").collection::<Document>("orders");
    let count = there.count_documents(doc! {}).await?;
    ensure!(count == expected.len() as u64, "{count} documents instead of {}", expected.len());
    for document in expected.iter().filter(|it| it.get_i32("_id").is_ok_and(|id| id % 100 == 3)) {
        let copy = there.find_one(doc! {"_id": document.get("_id")}).await?;
        ensure!(copy.as_ref() == Some(document), "{copy:?} is not {document}");
    }
    Ok(())
}

const ENDS_MAX: Duration = Duration::from_secs(60);
