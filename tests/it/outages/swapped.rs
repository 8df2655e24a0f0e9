//! Unique values that go round among documents: at no moment may two have the same, on either side.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bson::{Bson, Document, Timestamp, doc};
use mongodb::options::{Collation, CollationStrength, IndexOptions};
use mongodb::{Collection, IndexModel};
use serde_json::json;
use testkit::{ReplicaSet, wait_for};

use crate::support::{Source, Stage};

const SOON: Duration = Duration::from_secs(30);
const ROUND: &str = "unique values have gone round";

/// Documents 0 to `count` - 1 with a unique `u` of the same number, the same on both sides.
async fn seats(stage: &Stage, count: i32) -> Result<Collection<Document>> {
    stage.dualsync.expect_warning("namespace is dirty"); // an index is made equal by a comparison
    let seats = stage.dualsync.client().await?.database("cinema").collection::<Document>("seats");
    let unique = IndexOptions::builder().unique(true).build();
    seats.create_index(IndexModel::builder().keys(doc! {"u": 1}).options(unique).build()).await?;
    seats.insert_many((0..count).map(|id| doc! {"_id": id, "u": id, "name": id})).await?;
    stage.assert_mended().await?;
    Ok(seats)
}

/// A unique index that has some documents only, and one that takes spellings for the same.
async fn narrow(stage: &Stage, name: &str) -> Result<Collection<Document>> {
    let items = stage.dualsync.client().await?.database("cinema").collection::<Document>(name);
    let unique = IndexOptions::builder().unique(true);
    let options = match name {
        "partial" => unique.partial_filter_expression(doc! {"taken": true}).build(),
        _ => unique
            .collation(Collation::builder().locale("en").strength(CollationStrength::Secondary).build())
            .build(),
    };
    items.create_index(IndexModel::builder().keys(doc! {"u": 1}).options(options).build()).await?;
    if name == "partial" {
        // Beside the index, and found first by their values alone.
        items
            .insert_many((0..20).map(|id| doc! {"_id": id, "u": if id % 2 == 0 { "Ann" } else { "Bob" }}))
            .await?;
    }
    items
        .insert_many([(100, "Ann"), (101, "Bob")].map(|(id, u)| doc! {"_id": id, "u": u, "taken": true}))
        .await?;
    Ok(items)
}

/// In doubt, as above.
async fn swap(items: &Collection<Document>, one: i32, other: i32) -> Result<()> {
    for (id, u) in [(one, "Eve"), (other, "Ann"), (one, "Bob")] {
        let stamped = doc! {"u": u, "taken": true, "at": Timestamp {time: 0, increment: 0}};
        ensure!(items.replace_one(doc! {"_id": id}, stamped).await?.modified_count == 1, "{id}");
    }
    Ok(())
}

/// No server looks for `undefined`: who holds it is found out by trying again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_cannot_be_looked_for_holds_up_nothing() -> Result<()> {
    let stage = Stage::start(Source::standalone().await?).await?;
    let seats = seats(&stage, 2).await?;
    let take = async |name: i32, u: Bson| {
        seats.replace_one(doc! {"name": name}, doc! {"name": name, "u": u}).await.map(|it| it.modified_count)
    };
    ensure!(take(1, Bson::Undefined).await? == 1);
    stage.assert_equal().await?;
    control(&stage, "pause").await?;
    // The one that wants it is written first.
    ensure!(take(1, Bson::Int32(7)).await? == 1 && take(0, Bson::Undefined).await? == 1);
    control(&stage, "resume").await?;
    seats.insert_one(doc! {"_id": 2, "u": 2}).await?;
    stage.dualsync.wait_drained(SOON).await.with_context(|| stage.dualsync.log_lines().join("\n"))?;
    stage.assert_equal().await?;
    stage.assert_followed().await.map(drop)
}

async fn control(stage: &Stage, action: &str) -> Result<()> {
    stage.dualsync.admin_post("/api/sync/worker/control", &json!({"action": action})).await?;
    Ok(())
}

/// In doubt: the server fills in its time, which is never the same again. So the document is copied as it is by then.
async fn put(seats: &Collection<Document>, id: i32, u: i32) -> Result<()> {
    let stamped = doc! {"u": u, "name": id, "at": Timestamp {time: 0, increment: 0}};
    let replaced = seats.replace_one(doc! {"_id": id}, stamped).await?;
    ensure!(replaced.modified_count == 1, "{id}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_swapped_and_rotate() -> Result<()> {
    let stage = Stage::start(Source::standalone().await?).await?;
    let seats = seats(&stage, 300).await?;
    let (partial, folded) = (narrow(&stage, "partial").await?, narrow(&stage, "folded").await?);
    stage.assert_mended().await?;
    control(&stage, "pause").await?;
    swap(&partial, 100, 101).await?;
    swap(&folded, 100, 101).await?;
    // Certain statements, over several lanes: two swaps, step by step.
    for (id, u) in [(0, -1), (1, 0), (0, 1), (2, -1), (3, 2), (2, 3)] {
        seats.update_one(doc! {"_id": id}, doc! {"$set": {"u": u}}).await?;
    }
    // In doubt: a swap; a round of forty; a row in which each moves up by one, which ends where nobody sits.
    for (id, u) in [(10, -1), (11, 10), (10, 11)] {
        put(&seats, id, u).await?;
    }
    put(&seats, 20, -1).await?;
    for id in 21..60 {
        put(&seats, id, id - 1).await?;
    }
    put(&seats, 20, 59).await?;
    for id in (100..150).rev() {
        put(&seats, id, if id == 149 { 1_000 } else { id + 1 }).await?;
    }
    control(&stage, "resume").await?;
    stage.assert_equal().await?;
    let report = stage.dualsync.report().await?;
    ensure!(report["counts"]["deadLetters"] == 0, "{report:#}");
    ensure!(report["namespaces"]["dirty"] == json!([]), "{report:#}");
    ensure!(stage.dualsync.log_lines().iter().any(|line| line.contains(ROUND)), "nothing has gone round");
    Ok(())
}

/// Killed when one side of a swap is deleted on the target: what is still to be applied finds it by a filter only, and
/// there is nothing to find any more (scenario D11).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_a_swap() -> Result<()> {
    let target = ReplicaSet::start_with(1, &["--setParameter", "enableTestCommands=1"]).await?;
    let source = Source::standalone().await?;
    let dualsync = testkit::Dualsync::builder(crate::support::BIN)
        .local(source.uri())
        .atlas(target.uri())
        .expect_warning("Atlas unavailable")
        .start()
        .await?;
    let mut stage = Stage { dualsync, source, target };
    let seats = seats(&stage, 2).await?;
    stage.dualsync.admin_post("/api/sync/worker/pace", &json!({"batchEntriesMax": 1})).await?;
    control(&stage, "pause").await?;
    // One document by a filter: which one is the server's choice, so it is looked up on the target.
    seats.update_one(doc! {"name": 0}, doc! {"$set": {"u": -1}}).await?;
    put(&seats, 1, 0).await?;
    seats.update_one(doc! {"name": 0}, doc! {"$set": {"u": 1}}).await?;

    // The first document is refused by the index, then it and the one that stands in its way. Then they go, and no update
    // comes through.
    let admin = stage.target.client().await?.database("admin");
    let fail_point = |mode: bson::Bson| {
        let data = doc! {"failCommands": ["update"], "closeConnection": true};
        doc! {"configureFailPoint": "failCommand", "mode": mode, "data": data}
    };
    admin.run_command(fail_point(doc! {"skip": 2}.into())).await?;
    control(&stage, "resume").await?;
    let there = stage.target.client().await?.database("cinema").collection::<Document>("seats");
    wait_for("a document to be deleted", SOON, async || {
        Ok((there.count_documents(doc! {}).await? < 2).then_some(()))
    })
    .await
    .with_context(|| stage.dualsync.log_lines().join("\n"))?;
    stage.dualsync.kill()?;
    admin.run_command(fail_point("off".into())).await?;
    ensure!(there.count_documents(doc! {"_id": 0}).await? == 0, "it is there: nothing depends on the log");
    stage.dualsync.restart().await?;
    stage.assert_equal().await?;
    let report = stage.dualsync.report().await?;
    ensure!(report["counts"]["deadLetters"] == 0, "{report:#}");
    Ok(())
}
