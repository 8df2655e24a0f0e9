//! Each level: what is recorded, what becomes dirty, what is said; and that it falls again by itself.

use anyhow::{Result, ensure};
use bson::{Document, doc};
use mongodb::Collection;
use testkit::wait_for;

use super::{
    SOON, assert_equal_but_for_dirty, control, dirty, level, pause, queue, wait_for_dirty, wait_for_level,
};
use crate::support::{NOT_COMPARED, Source, Stage, update_runs};

/// A stage whose log takes 100 entries, with the worker paused: the target is away, as far as the log can tell. What is
/// dirty stays it, until [`Stage::mend`].
async fn paused(source: Source) -> Result<Stage> {
    let stage = Stage::start_with(source, |builder| {
        builder.env("DUALSYNC_LOG_MAX_ENTRIES", "100").env(NOT_COMPARED.0, NOT_COMPARED.1)
    })
    .await?;
    stage.dualsync.expect_warning("the sync log is");
    pause(&stage.dualsync).await?;
    Ok(stage)
}

async fn collection(stage: &Stage, db: &str, coll: &str) -> Result<Collection<Document>> {
    Ok(stage.dualsync.client().await?.database(db).collection(coll))
}

/// Until so many entries wait.
async fn fill_to(stage: &Stage, waiting: u64) -> Result<()> {
    let fill = collection(stage, "fill", "items").await?;
    loop {
        let size = queue(&stage.dualsync).await?["size"].as_u64().unwrap_or_default();
        ensure!(size <= waiting, "{size} entries wait, more than {waiting}");
        if size == waiting {
            return Ok(());
        }
        fill.insert_one(doc! {"x": 1}).await?;
    }
}

/// The target is back: the log empties, and all that is not dirty is equal.
async fn empty(stage: &Stage) -> Result<()> {
    control(&stage.dualsync, "resume").await?;
    wait_for_level(&stage.dualsync, "normal").await?;
    assert_equal_but_for_dirty(stage).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_level_of_entries_keeps_less_and_falls_again() -> Result<()> {
    let mut stage = paused(Source::standalone().await?).await?;
    let counts = async |stage: &Stage| Ok::<_, anyhow::Error>(stage.dualsync.report().await?["log"].clone());

    fill_to(&stage, 79).await?;
    ensure!(level(&stage.dualsync).await? == "normal");
    fill_to(&stage, 80).await?;
    ensure!(level(&stage.dualsync).await? == "warning");
    stage.dualsync.wait_for_log("80 % full (log.max_entries = 100)", SOON).await?;
    let health = stage.dualsync.admin_get("/api/sync/health").await?;
    ensure!(
        health["status"] == "degraded" && health["checks"]["queueSize"]["status"] == "warn",
        "{health:#}"
    );

    fill_to(&stage, 90).await?;
    ensure!(level(&stage.dualsync).await? == "keys-only");
    let before = counts(&stage).await?;
    ensure!(before["entriesWithoutStatements"] == 0 && before["bound"] == "entries", "{before:#}");
    let keys = collection(&stage, "keys", "only").await?;
    for id in 0..5 {
        keys.insert_one(doc! {"_id": id}).await?;
    }
    keys.update_many(doc! {"_id": {"$gt": 2}}, doc! {"$set": {"x": 1}}).await?;
    keys.delete_one(doc! {"_id": 0}).await?;
    let after = counts(&stage).await?;
    ensure!(after["entriesWithoutStatements"] == 7, "{after:#}");
    ensure!(dirty(&stage.dualsync).await?.is_empty());

    fill_to(&stage, 100).await?;
    ensure!(level(&stage.dualsync).await? == "full");
    let lost = collection(&stage, "lost", "items").await?;
    lost.insert_many((0..10).map(|id| doc! {"_id": id})).await?;
    lost.update_many(doc! {}, doc! {"$inc": {"n": 1}}).await?;
    wait_for_dirty(&stage.dualsync, &["lost.items"]).await?;
    let full = counts(&stage).await?;
    ensure!(full["unrecordedWrites"] == 2, "{full:#}");
    ensure!(queue(&stage.dualsync).await?["size"] == 100, "nothing is appended to a full log");
    let answer = stage.dualsync.request("GET", "/api/sync/health", None, None).await?;
    ensure!(answer.status == 503 && answer.body.contains("not recorded"), "{}", answer.body);
    let metrics = stage.dualsync.metrics().await?;
    ensure!(metrics["dualsync_log_level"] == 3.0, "{metrics:?}");
    ensure!(metrics["dualsync_unrecorded_writes_total"] == 2.0);

    stage.dualsync.expect_warning("namespace is dirty");
    empty(&stage).await?;
    ensure!(dirty(&stage.dualsync).await? == ["lost.items".to_owned()].into());
    stage.dualsync.wait_for_log("the sync log has room again", SOON).await?;
    // What is dirty is on disk, so that nothing need be noted any more.
    wait_for("the notes to be cleared", SOON, async || {
        Ok((counts(&stage).await?["noted"]["namespaces"] == serde_json::json!([])).then_some(()))
    })
    .await?;
    stage.mend().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_one_mebibyte_fills_and_empties() -> Result<()> {
    let mut stage = Stage::start_with(Source::standalone().await?, |builder| {
        builder
            .env("DUALSYNC_LOG_MAX_BYTES", "1MiB")
            .env(NOT_COMPARED.0, NOT_COMPARED.1)
            .expect_warning("the sync log is")
    })
    .await?;
    stage.dualsync.expect_warning("namespace is dirty");
    for round in 0..3 {
        pause(&stage.dualsync).await?;
        let large = collection(&stage, "large", &format!("round{round}")).await?;
        let mut seen = vec!["normal".to_owned()];
        while seen.last().is_none_or(|last| last != "full") {
            ensure!(seen.len() < 5, "levels rise one after the other: {seen:?}");
            // Small towards the end, so that no level is passed over.
            let bytes = if seen.len() < 3 { 10_000 } else { 2_000 };
            large.insert_many((0..4).map(|_| doc! {"x": "y".repeat(bytes)})).await?;
            let now = level(&stage.dualsync).await?;
            if seen.last() != Some(&now) {
                seen.push(now);
            }
        }
        ensure!(seen == ["normal", "warning", "keys-only", "full"], "{seen:?}");
        let used = queue(&stage.dualsync).await?["bytes"].as_u64().unwrap_or(u64::MAX);
        ensure!(used < (1 << 20) + (64 << 10), "{used} bytes are used");
        empty(&stage).await?;
    }
    stage.mend().await?;
    Ok(())
}

/// At 100 % the proxy dies, with a write under way that the log has no mark of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_with_a_full_log_it_still_names_what_is_dirty() -> Result<()> {
    let mut stage = paused(Source::standalone().await?).await?;
    let source = stage.source.client().await?;
    let seen = collection(&stage, "seen", "items").await?;
    seen.insert_one(doc! {"_id": 1}).await?;
    let slow = collection(&stage, "slow", "items").await?;
    slow.insert_many((0..20).map(|id| doc! {"_id": id, "a": 1})).await?;
    fill_to(&stage, 100).await?;
    stage.dualsync.expect_warning("namespace is dirty");

    collection(&stage, "lost", "items").await?.insert_one(doc! {"_id": 1}).await?;
    let filter = doc! {"$where": "sleep(100) || true", "a": 1};
    let running = tokio::spawn(async move { slow.update_many(filter, doc! {"$set": {"n": 1}}).await });
    update_runs(&source, "slow.items").await?;
    stage.dualsync.kill()?;
    ensure!(running.await?.is_err(), "the proxy was killed under the statement");

    stage.dualsync.restart().await?;
    ensure!(level(&stage.dualsync).await? == "full", "100 entries still wait");
    wait_for_dirty(&stage.dualsync, &["lost.items", "slow.items"]).await?;
    // Once more, without any write in between: it is on disk by now.
    stage.dualsync.kill()?;
    stage.dualsync.restart().await?;
    wait_for_dirty(&stage.dualsync, &["lost.items", "slow.items"]).await?;
    empty(&stage).await?;
    stage.mend().await?;
    Ok(())
}

/// A transaction that begins with room in the log and ends without, and one that is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_meets_a_full_log() -> Result<()> {
    let mut stage = paused(Source::replica_set().await?).await?;
    let client = stage.dualsync.client().await?;
    let names = ["before", "full", "given_up"];
    for name in names {
        client.database("tx").collection::<Document>(name).insert_one(doc! {"_id": 0}).await?;
    }
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    let items = |name: &str| client.database("tx").collection::<Document>(name);
    items("before").insert_one(doc! {"_id": 1}).session(&mut session).await?;
    fill_to(&stage, 100).await?;
    items("full").insert_one(doc! {"_id": 1}).session(&mut session).await?;
    ensure!(dirty(&stage.dualsync).await?.is_empty(), "nothing has happened yet");
    stage.dualsync.expect_warning("namespace is dirty");
    session.commit_transaction().await?;
    wait_for_dirty(&stage.dualsync, &["tx.full"]).await?;

    session.start_transaction().await?;
    items("given_up").insert_one(doc! {"_id": 1}).session(&mut session).await?;
    session.abort_transaction().await?;
    empty(&stage).await?;
    ensure!(dirty(&stage.dualsync).await? == ["tx.full".to_owned()].into());
    stage.mend().await?;
    Ok(())
}
