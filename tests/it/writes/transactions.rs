//! Transactions reach the target as transactions, whatever happens on the way.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bson::{Bson, Document, doc};
use mongodb::Client;
use mongodb::options::WriteConcern;
use testkit::{Dualsync, Mongod, ReplicaSet, compare, wait_for};

use super::{DB, equal_but_for_dirty, expect, ways};
use crate::security::TEST_COMMANDS;
use crate::support::{BIN, DRAIN_MAX, Source, Stage};

const SOON: Duration = Duration::from_secs(20);

/// Moves some money, and keeps a note of it in another collection.
async fn transfer(client: &Client, from: i32, to: i32) -> Result<()> {
    let accounts = client.database(DB).collection::<Document>("accounts");
    let notes = client.database(DB).collection::<Document>("notes");
    let mut session = client.start_session().await?;
    session.start_transaction().write_concern(WriteConcern::majority()).await?;
    accounts.update_one(doc! {"_id": from}, doc! {"$inc": {"n": -5}}).session(&mut session).await?;
    accounts.update_one(doc! {"_id": to}, doc! {"$inc": {"n": 5}}).session(&mut session).await?;
    notes.insert_one(doc! {"from": from, "to": to}).session(&mut session).await?;
    session.commit_transaction().await?;
    Ok(())
}

/// How many transactions that changed so many documents of ours the target has seen.
async fn transactions_of(target: &Client, documents: i32) -> Result<u64> {
    let oplog = target.database("local").collection::<Document>("oplog.rs");
    let ours = doc! {
        "op": "c", "o.applyOps": {"$size": documents}, "lsid": {"$exists": true},
        "o.applyOps.0.ns": {"$regex": format!("^{DB}[.]")},
    };
    Ok(oplog.count_documents(ours).await?)
}

async fn stage() -> Result<Stage> {
    let target = ReplicaSet::start_with(1, &TEST_COMMANDS).await?;
    let source = Source::replica_set().await?;
    let dualsync = Dualsync::builder(BIN).local(source.uri()).atlas(target.uri());
    let dualsync =
        dualsync.expect_warning("Atlas unavailable").env("SYNC_WORKER_INTERVAL", "20").start().await?;
    let stage = Stage { dualsync, source, target };
    let accounts = stage.dualsync.client().await?.database(DB).collection::<Document>("accounts");
    accounts.insert_many((0..10).map(|id| doc! {"_id": id, "n": 100})).await?;
    stage.dualsync.wait_drained(DRAIN_MAX).await?;
    Ok(stage)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn are_applied_as_one() -> Result<()> {
    let stage = stage().await?;
    let (client, there) = (stage.dualsync.client().await?, stage.target.client().await?);
    let accounts = client.database(DB).collection::<Document>("accounts");
    let before = ways(&stage).await?;
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    accounts.update_one(doc! {"_id": 1}, doc! {"$inc": {"n": -5}}).session(&mut session).await?;
    stage.dualsync.wait_drained(DRAIN_MAX).await?;
    expect(&stage, before, [0, 0, 0]).await?;
    accounts.update_one(doc! {"_id": 2}, doc! {"$inc": {"n": 5}}).session(&mut session).await?;
    session.commit_transaction().await?;
    expect(&stage, before, [1, 0, 0]).await?;
    ensure!(transactions_of(&there, 2).await? == 1, "not as one");

    // By a filter: which documents that were depends on when the transaction began.
    let before = ways(&stage).await?;
    session.start_transaction().await?;
    accounts.update_many(doc! {"n": {"$gt": 100}}, doc! {"$inc": {"n": 1}}).session(&mut session).await?;
    accounts.delete_one(doc! {"_id": 9}).session(&mut session).await?;
    session.commit_transaction().await?;
    expect(&stage, before, [0, 2, 0]).await?;

    let before = ways(&stage).await?;
    session.start_transaction().await?;
    accounts.delete_many(doc! {}).session(&mut session).await?;
    session.abort_transaction().await?;
    expect(&stage, before, [0, 0, 0]).await?;

    // Many, in few of ours; one document of the target is not as it should be, which undoes those beside it as well.
    let before = ways(&stage).await?;
    let control = async |action: &str| {
        stage.dualsync.admin_post("/api/sync/worker/control", &serde_json::json!({"action": action})).await
    };
    control("pause").await?;
    for id in [1, 3, 5] {
        transfer(&client, id, id + 1).await?;
    }
    there.database(DB).collection::<Document>("accounts").delete_one(doc! {"_id": 4}).await?;
    control("resume").await?;
    expect(&stage, before, [0, 3, 0]).await?;
    let before = ways(&stage).await?;
    control("pause").await?;
    for id in [1, 3, 5] {
        transfer(&client, id, id + 1).await?;
    }
    accounts.update_one(doc! {"_id": 3}, doc! {"$inc": {"n": 1}}).await?; // not beside its transaction
    control("resume").await?;
    expect(&stage, before, [2, 2, 0]).await?;
    ensure!(transactions_of(&there, 6).await? == 1, "not together");
    equal_but_for_dirty(&stage, 0).await
}

/// The commit's reply is lost, the transaction lost before it, the worker killed in the middle of it: nothing is done twice,
/// and nothing waits for what was left open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn are_applied_once_whatever_happens() -> Result<()> {
    let mut stage = stage().await?;
    let client = stage.dualsync.client().await?;
    let admin = stage.target.client().await?.database("admin");
    let fail_commit = |mode: Bson, more: Document| {
        let mut data = doc! {"failCommands": ["commitTransaction"]};
        data.extend(more);
        doc! {"configureFailPoint": "failCommand", "mode": mode, "data": data}
    };
    // Twice: the driver asks a second time by itself.
    let twice = || Bson::from(doc! {"times": 2});
    let done = doc! {"writeConcernError": {"code": 91, "errmsg": "it goes down"}};
    for how in [done, doc! {"closeConnection": true}] {
        let before = ways(&stage).await?;
        admin.run_command(fail_commit(twice(), how)).await?;
        transfer(&client, 1, 2).await?;
        stage.dualsync.wait_drained(SOON).await.with_context(|| stage.dualsync.log_lines().join("\n"))?;
        expect(&stage, before, [0, 1, 0]).await?;
        equal_but_for_dirty(&stage, 0).await?;
    }
    admin
        .run_command(fail_commit("alwaysOn".into(), doc! {"blockConnection": true, "blockTimeMS": 1_000}))
        .await?;
    transfer(&client, 3, 4).await?;
    wait_for("a commit to be on its way", SOON, async || {
        let commits = doc! {"currentOp": 1, "command.commitTransaction": 1};
        let running = admin.run_command(commits).await?;
        Ok((!running.get_array("inprog")?.is_empty()).then_some(()))
    })
    .await?;
    stage.dualsync.kill()?;
    admin.run_command(fail_commit("off".into(), doc! {})).await?;
    stage.dualsync.restart().await?;
    stage.dualsync.wait_drained(SOON).await?;
    equal_but_for_dirty(&stage, 0).await
}

/// A standalone knows no transactions: their statements are sent by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn are_statements_to_a_standalone() -> Result<()> {
    let (source, target) = (ReplicaSet::start(1).await?, Mongod::standalone().await?);
    let dualsync =
        Dualsync::builder(BIN).local(source.members()[0].uri()).atlas(target.uri()).start().await?;
    let client = dualsync.client().await?;
    let accounts = client.database(DB).collection::<Document>("accounts");
    accounts.insert_many((0..10).map(|id| doc! {"_id": id, "n": 100})).await?;
    for id in 0..9 {
        transfer(&client, id, id + 1).await?;
    }
    dualsync.wait_drained(DRAIN_MAX).await?;
    let counts = dualsync.report().await?["counts"].clone();
    ensure!(counts["replayed"] == 10 && counts["converged"] == 0, "{counts:#}");
    let comparison = compare::databases(&source.client().await?, &target.client().await?).await?;
    ensure!(comparison.equal(), "source and target differ:\n{comparison}");
    Ok(())
}
