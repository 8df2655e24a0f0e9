//! Documents that somebody has changed on the target by hand: put right by the next write that shows the difference.

use anyhow::{Context, Result};
use bson::{Document, doc};
use serde_json::json;

use super::{DB, Ways, equal_but_for_dirty, expect, stage, ways};
use crate::support::Source;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_write_puts_it_right() -> Result<()> {
    let stage = stage(Source::standalone().await?).await?;
    let through = stage.dualsync.client().await?.database(DB).collection::<Document>("by_hand");
    let target = stage.target.client().await?.database(DB).collection::<Document>("by_hand");
    let insert = |id: i32| through.insert_one(doc! {"_id": id, "n": 1});

    insert(1).await?;
    insert(2).await?;
    insert(3).await?;
    insert(4).await?;
    let step = async |what: &str, before: Ways, expected: Ways| {
        expect(&stage, before, expected).await.with_context(|| what.to_owned())
    };
    stage.dualsync.wait_drained(crate::support::DRAIN_MAX).await?;

    let before = ways(&stage).await?;
    target.delete_one(doc! {"_id": 1}).await?;
    through.update_one(doc! {"_id": 1}, doc! {"$set": {"n": 2}}).await?;
    step("deleted, then updated", before, [0, 1, 0]).await?;

    let before = ways(&stage).await?;
    target.update_one(doc! {"_id": 2}, doc! {"$set": {"by_hand": true}}).await?;
    through.replace_one(doc! {"_id": 2}, doc! {"n": 2}).await?;
    step("changed, then replaced", before, [1, 0, 0]).await?;

    let before = ways(&stage).await?;
    target.update_one(doc! {"_id": 3}, doc! {"$set": {"n": 7, "by_hand": true}}).await?;
    through.update_one(doc! {"_id": 3}, doc! {"$currentDate": {"at": true}}).await?;
    step("changed, then written in doubt", before, [0, 1, 0]).await?;

    // Equal to the server, and not the same bytes.
    let before = ways(&stage).await?;
    target.delete_one(doc! {"_id": 4}).await?;
    target.insert_one(doc! {"_id": 4.0, "n": 1}).await?;
    through.update_one(doc! {"_id": 4}, doc! {"$currentDate": {"at": true}}).await?;
    step("its _id of another type, then written in doubt", before, [0, 1, 0]).await?;

    let before = ways(&stage).await?;
    target.insert_one(doc! {"_id": 5, "by_hand": true}).await?;
    insert(5).await?;
    step("inserted before us", before, [0, 1, 0]).await?;

    let before = ways(&stage).await?;
    target.insert_one(doc! {"_id": 6, "n": 1}).await?;
    through.delete_one(doc! {"_id": 6}).await?;
    step("deleted where it never was", before, [0, 0, 0]).await?;
    target.delete_one(doc! {"_id": 6}).await?;
    equal_but_for_dirty(&stage, 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_has_changed_its_type_is_copied() -> Result<()> {
    let stage = stage(Source::standalone().await?).await?;
    let through = stage.dualsync.client().await?.database(DB).collection::<Document>("types");
    let zero = bson::Timestamp { time: 0, increment: 0 };
    through.insert_one(doc! {"_id": 5, "n": 1}).await?;
    stage.dualsync.wait_drained(crate::support::DRAIN_MAX).await?;
    let before = ways(&stage).await?;
    // Both in one batch, so that the target goes from one type to the other in one step.
    control(&stage, "pause").await?;
    through.delete_one(doc! {"_id": 5}).await?;
    through.insert_one(doc! {"_id": 5.0, "n": 2, "in_doubt": zero}).await?;
    control(&stage, "resume").await?;
    expect(&stage, before, [0, 2, 0]).await?;
    equal_but_for_dirty(&stage, 0).await
}

/// By the collection's collation a key stands for documents of another spelling: what is asked for is then never found under
/// its own name, and a portion that holds only some of them must still get on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_spellings_of_large_documents_are_copied_and_done_with() -> Result<()> {
    let stage = stage(Source::standalone().await?).await?;
    let through = stage.dualsync.client().await?.database(DB);
    through.run_command(doc! {"create": "spelt", "collation": {"locale": "en", "strength": 2}}).await?;
    let spelt = through.collection::<Document>("spelt");
    let filler = "x".repeat(900_000);
    for n in 0..12 {
        spelt.insert_one(doc! {"_id": format!("Ann {n}"), "filler": &filler, "n": 0}).await?;
    }
    stage.dualsync.wait_drained(crate::support::DRAIN_MAX).await?;
    control(&stage, "pause").await?;
    for n in 0..12 {
        let changed = spelt.update_one(doc! {"_id": format!("ann {n}")}, doc! {"$set": {"n": 1}}).await?;
        anyhow::ensure!(changed.modified_count == 1, "{changed:?}");
    }
    control(&stage, "resume").await?;
    stage.assert_equal().await.map(drop)
}

async fn control(stage: &crate::support::Stage, action: &str) -> Result<()> {
    stage.dualsync.admin_post("/api/sync/worker/control", &json!({"action": action})).await?;
    Ok(())
}
