//! Statements over many documents that were stopped on their way: nothing tells which documents they have reached.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bson::{Document, RawDocumentBuf, doc};
use mongodb::{Client, Collection};
use testkit::connection::Connection;
use testkit::wait_for;

use super::{DB, equal_but_for_dirty, expect, stage, ways};
use crate::bad_input::raw::{Socket, body, op_msg};
use crate::support::{DRAIN_MAX, Source, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_runs_out_of_time() -> Result<()> {
    let stage = stage(Source::standalone().await?).await?;
    let slow = documents(&stage, "out_of_time").await?;
    let before = ways(&stage).await?;
    let mut command = slow_update("out_of_time", doc! {});
    command.insert("maxTimeMS", 500);
    let database = stage.dualsync.client().await?.database(DB);
    let reply = database.run_command(command).await;
    ensure!(failed(&reply), "it ran to its end: {reply:?}");
    partly_done(&slow).await?;
    expect(&stage, before, [0, 1, 0]).await?;
    equal_but_for_dirty(&stage, 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_is_killed() -> Result<()> {
    let stage = stage(Source::replica_set().await?).await?;
    let slow = documents(&stage, "killed").await?;
    let before = ways(&stage).await?;
    let database = stage.dualsync.client().await?.database(DB);
    let (reply, killed) = tokio::join!(
        async { database.run_command(slow_update("killed", doc! {})).await },
        kill(&stage, &slow)
    );
    killed?;
    ensure!(failed(&reply), "it ran to its end: {reply:?}");
    partly_done(&slow).await?;
    expect(&stage, before, [0, 1, 0]).await?;
    equal_but_for_dirty(&stage, 0).await
}

/// wire-facts 3: it runs to its end. Nobody waits for the reply but us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_whose_client_has_gone() -> Result<()> {
    let stage = stage(Source::standalone().await?).await?;
    let slow = documents(&stage, "gone").await?;
    let before = ways(&stage).await?;
    let mut update = slow_update("gone", doc! {"_id": {"$lt": 100}});
    update.insert("$db", DB);
    let update = RawDocumentBuf::try_from(&update)?;
    let mut socket = Socket::connect(&stage.dualsync.proxy_address()).await?;
    socket.send(&op_msg(0, &body(&update))).await?;
    reached_some(&slow).await?;
    drop(socket);
    ensure!(
        slow.count_documents(doc! {"sum": {"$exists": true}}).await? < 50,
        "it had ended before its client went"
    );
    wait_for("its entry", SOON, async || {
        let report = stage.dualsync.report().await?;
        Ok((report["counts"]["captured"] == 2).then_some(()))
    })
    .await?;
    ensure!(slow.count_documents(doc! {"sum": {"$exists": true}}).await? == 100, "it was cut off");
    expect(&stage, before, [1, 0, 0]).await?;
    equal_but_for_dirty(&stage, 0).await
}

/// `applyOps` goes by a uuid, whatever the name beside it: it may be over anything. Its mark says so to the next run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_over_anything_when_the_proxy_is_killed() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    stage.dualsync.expect_warning("");
    let local = stage.source.client().await?.database(DB);
    let items = stage.dualsync.client().await?.database(DB).collection::<Document>("items");
    items.insert_many([doc! {"_id": 1}, doc! {"_id": 2}]).await?;
    stage.assert_equal().await?;
    let listed = local.run_command(doc! {"listCollections": 1, "filter": {"name": "items"}}).await?;
    let listed = listed.get_document("cursor")?.get_array("firstBatch")?;
    let uuid = listed.first().and_then(|it| it.as_document()?.get_document("info").ok()?.get("uuid"));
    let op = doc! {"op": "d", "ns": format!("{DB}.others"), "ui": uuid.context("no uuid")?, "o": {"_id": 1}};

    let mut connection = Connection::open(&stage.dualsync.proxy_address()).await?;
    connection.fence().await?;
    let appended = async || {
        let report = stage.dualsync.report().await?;
        report["positions"]["appended"].as_u64().context("no position")
    };
    let before = appended().await?;
    let Source::Standalone(mongod) = &stage.source else { bail!("a standalone was asked for") };
    mongod.pause()?;
    connection.send(&doc! {"applyOps": [op], "$db": "admin"}, 0, false).await?;
    wait_for("its mark", SOON, async || Ok((appended().await? > before).then_some(()))).await?;
    stage.dualsync.kill()?;
    let Source::Standalone(mongod) = &stage.source else { bail!("a standalone was asked for") };
    mongod.resume()?;
    wait_for("the source to have done it", SOON, async || {
        let left = local.collection::<Document>("items").count_documents(doc! {}).await?;
        Ok((left == 1).then_some(()))
    })
    .await?;
    stage.dualsync.restart().await?;
    // Everything is compared once the mark's connection is gone.
    let copy = stage.target.client().await?.database(DB).collection::<Document>("items");
    wait_for("the target to have done it", DRAIN_MAX, async || {
        Ok((copy.count_documents(doc! {}).await? == 1).then_some(()))
    })
    .await?;
    stage.assert_mended().await?;
    Ok(())
}

/// Kills the update once it has reached some documents.
async fn kill(stage: &Stage, slow: &Collection<Document>) -> Result<()> {
    reached_some(slow).await?;
    let client: Client = stage.source.client().await?;
    let admin = client.database("admin");
    let ns = format!("{DB}.{}", slow.name());
    let found = admin
        .aggregate([
            doc! {"$currentOp": {}},
            doc! {"$match": {"ns": ns, "op": {"$in": ["update", "command"]}}},
        ])
        .await;
    let mut found = found?;
    ensure!(found.advance().await?, "the update does not run any more");
    let op = found.deserialize_current()?.get("opid").cloned().context("an operation without opid")?;
    admin.run_command(doc! {"killOp": 1, "op": op}).await?;
    Ok(())
}

async fn reached_some(slow: &Collection<Document>) -> Result<()> {
    wait_for("the update to be on its way", SOON, async || {
        Ok((slow.count_documents(doc! {"sum": {"$exists": true}}).await? > 0).then_some(()))
    })
    .await
}

/// Documents on the source, as a client beside the proxy sees them.
async fn documents(stage: &Stage, name: &str) -> Result<Collection<Document>> {
    let through = stage.dualsync.client().await?.database(DB).collection::<Document>(name);
    through.insert_many((0..DOCUMENTS).map(|id| doc! {"_id": id})).await?;
    stage.dualsync.wait_drained(DRAIN_MAX).await?;
    Ok(stage.source.client().await?.database(DB).collection(name))
}

/// Some ten milliseconds for each document.
fn slow_update(name: &str, filter: Document) -> Document {
    let sum = doc! {"$reduce": {
        "input": {"$range": [0, 20_000]}, "initialValue": 0, "in": {"$add": ["$$value", "$$this"]},
    }};
    doc! {"update": name, "updates": [{"q": filter, "u": [{"$set": {"sum": sum}}], "multi": true}]}
}

fn failed(reply: &mongodb::error::Result<Document>) -> bool {
    reply.as_ref().map_or(true, |reply| reply.contains_key("writeErrors"))
}

async fn partly_done(slow: &Collection<Document>) -> Result<()> {
    let done = slow.count_documents(doc! {"sum": {"$exists": true}}).await?;
    ensure!(done > 0 && done < DOCUMENTS.unsigned_abs(), "{done} of {DOCUMENTS} documents were reached");
    Ok(())
}

const DOCUMENTS: i64 = 2_000;
const SOON: Duration = Duration::from_secs(10);
