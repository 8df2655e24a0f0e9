//! What was there before, and what became dirty, is made good by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bson::{DateTime, Document, doc};
use mongodb::IndexModel;
use mongodb::options::IndexOptions;
use serde_json::json;
use testkit::{Dualsync, ReplicaSet, compare, everything, wait_for};

use crate::support::{BIN, DRAIN_MAX, NOT_COMPARED, Source, Stage};

/// A database with everything in it is copied while its application writes and dualsync dies again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_before_is_copied_while_writes_flow() -> Result<()> {
    copied_while_writes_flow(8_000, 150).await
}

/// The same with as many documents as somebody may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test -p dualsync --test it -- --ignored what_was_there_before"]
async fn what_was_there_before_is_copied_however_much_it_is() -> Result<()> {
    copied_while_writes_flow(300_000, 4_000).await
}

/// `part`: writes from one kill to the next.
async fn copied_while_writes_flow(documents: u32, part: u64) -> Result<()> {
    let source = Source::standalone().await?;
    everything::fill(&source.client().await?, documents).await?;
    let target = ReplicaSet::start(1).await?;
    // Slowly, so that it dies in the middle.
    let builder = Dualsync::builder(BIN).local(source.uri()).atlas(target.uri());
    let dualsync = builder.env(NOT_COMPARED.0, "5000").start().await?;
    let mut stage = Stage { source, target, dualsync };
    // An insert whose outcome a kill has taken may have been anything.
    stage.dualsync.expect_warning("documents of a capped collection were changed or deleted");

    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (uri, begin) = (stage.dualsync.uri(), |n| (seed + n, stop.clone(), writes.clone()));
    let writers: Vec<_> = (0..4)
        .map(|n| {
            let (seed, stop, writes) = begin(n);
            tokio::spawn(everything::write(uri.clone(), documents, seed, stop, writes))
        })
        .collect();
    for kills in 1..=5 {
        wait_for("a part of the writes", DRAIN_MAX, async || {
            Ok((writes.load(Ordering::Relaxed) > kills * part).then_some(()))
        })
        .await?;
        stage.dualsync.kill()?;
        stage.dualsync.restart().await?;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await??;
    }
    println!("{}", stage.assert_mended().await?);
    all_equal(&stage).await?;
    let report = stage.dualsync.report().await?;
    let compared = report["namespaces"]["compared"].as_array().cloned().unwrap_or_default();
    for name in ["old.many", "old.odd", "old.last", "old.measured"] {
        let it = compared.iter().find(|it| it["namespace"] == name);
        ensure!(it.is_some_and(|it| it["equalAsOf"].is_string()), "{name}: since when? {report:#}");
    }
    ensure!(report["counts"]["deadLetters"] == 0, "{report:#}");
    Ok(())
}

/// What was compared before a kill is not compared again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_goes_on_where_it_was() -> Result<()> {
    let source = Source::standalone().await?;
    let many = source.client().await?.database("old").collection::<Document>("many");
    many.insert_many((0..12_000).map(|n| doc! {"_id": n})).await?;
    let target = ReplicaSet::start(1).await?;
    let builder = Dualsync::builder(BIN).local(source.uri()).atlas(target.uri());
    let dualsync = builder.env(NOT_COMPARED.0, "5000").start().await?;
    let mut stage = Stage { source, target, dualsync };
    wait_for("how far it is to be remembered", DRAIN_MAX, async || {
        let state = std::fs::read_to_string(stage.dualsync.log_dir().join("replicator.json"))?;
        let state: serde_json::Value = serde_json::from_str(&state)?;
        Ok((state["dirty"]["old.many"]["reached"]["source"].as_u64() >= Some(4_000)).then_some(()))
    })
    .await?;
    stage.dualsync.kill()?;
    many.update_one(doc! {"_id": 11_000}, doc! {"$set": {"by": "hand"}}).await?;
    stage.dualsync.set_env(NOT_COMPARED.0, "50000");
    stage.dualsync.restart().await?;
    stage.assert_mended().await?;
    let metrics = stage.dualsync.metrics().await?;
    let compared = metrics["dualsync_reconciler_documents_total"];
    ensure!(metrics["dualsync_reconciler_now_documents"] == 0.0, "nothing is being compared");
    ensure!(compared <= 8_000.0, "{compared} of 12000 documents were compared once more");
    let report = stage.dualsync.report().await?;
    ensure!(report["namespaces"]["compared"][0]["documents"] == 12_000, "{report:#}");
    Ok(())
}

/// Documents, options and indexes of all databases.
async fn all_equal(stage: &Stage) -> Result<()> {
    let (here, there) = (stage.source.client().await?, stage.target.client().await?);
    let own = |name: &str| !["admin", "config", "local", "__dualsync"].contains(&name);
    let comparison = compare::everything(&here, &there, own).await?;
    ensure!(comparison.equal(), "{comparison}");
    Ok(())
}

/// What becomes dirty by a captured command, or by a log that is lost, is made good while writes flow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_dirty_is_made_good() -> Result<()> {
    let mut stage = Stage::start(Source::replica_set().await?).await?;
    for warning in ["namespace is dirty", "the sync log does not vouch", "everything is dirty"] {
        stage.dualsync.expect_warning(warning);
    }
    let client = stage.dualsync.client().await?;
    let database = client.database("mend");
    for name in ["from", "out", "dropped", "renamed", "anew"] {
        database.collection(name).insert_many((0..3_000).map(|n| doc! {"_id": n, "name": name})).await?;
    }
    client.database("whole").collection("a").insert_many((0..10).map(|n| doc! {"_id": n})).await?;
    stage.assert_mended().await?;

    // Nearly all of `out` goes, and nothing of it is held: the command was seen.
    let first = doc! {"$match": {"_id": {"$lt": 5}}};
    database.collection::<Document>("from").aggregate([first, doc! {"$out": "out"}]).await?;
    database.collection::<Document>("dropped").drop().await?;
    let rename = doc! {"renameCollection": "mend.renamed", "to": "mend.new_name"};
    client.database("admin").run_command(rename).await?;
    database.collection::<Document>("anew").drop().await?;
    let folded = doc! {"create": "anew", "collation": {"locale": "en", "strength": 2}, "validator": {"n": 1}};
    database.run_command(folded).await?;
    database.collection("anew").insert_one(doc! {"_id": "A", "n": 1}).await?;
    client.database("whole").drop().await?;
    stage.assert_mended().await?;
    let copy = stage.target.client().await?;
    all_equal(&stage).await?;
    ensure!(!copy.list_database_names().await?.contains(&"whole".to_owned()), "a dropped database is there");

    // What is changed by hand on the target is found by a full comparison, and so is a lost index.
    let there = copy.database("mend").collection::<Document>("from");
    there.update_one(doc! {"_id": 5}, doc! {"$set": {"by": "hand"}}).await?;
    there.delete_one(doc! {"_id": 6}).await?;
    there.insert_one(doc! {"_id": "extra"}).await?;
    there.create_index(IndexModel::builder().keys(doc! {"by": 1}).build()).await?;
    let full = stage.dualsync.admin_post("/api/sync/full", &json!({})).await?;
    ensure!(full["state"] == "running", "{full:#}");
    stage.assert_mended().await?;
    all_equal(&stage).await?;
    ensure!(stage.dualsync.admin_get("/api/sync/full").await?["state"] == "idle", "it has not ended");

    // The log is lost, with what it knew.
    stage.dualsync.terminate().await?;
    stage
        .source
        .client()
        .await?
        .database("mend")
        .collection("from")
        .insert_one(doc! {"_id": "unseen"})
        .await?;
    std::fs::remove_dir_all(stage.dualsync.log_dir())?;
    stage.dualsync.expect_warning("nothing is sent to the target");
    stage.dualsync.restart().await?;
    // Until a moment ago that one fed the target, and it could be another machine's: three minutes, or a word.
    let line = stage.dualsync.wait_for_log("with the same host name and folder", DRAIN_MAX).await?;
    let id = line.split("sync.take_over = \"").nth(1).and_then(|rest| rest.split('"').next());
    stage.dualsync.set_env("DUALSYNC_SYNC_TAKE_OVER", id.context("the line names no id")?);
    stage.dualsync.restart().await?;
    stage.assert_mended().await?;
    Ok(())
}

/// The source has lost its documents, or its whole collection, and nobody saw it: the target keeps everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_source_never_empties_the_target() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    stage.dualsync.expect_warning("namespace stays dirty until somebody decides");
    let database = stage.dualsync.client().await?.database("kept");
    for name in ["emptied", "gone", "thinned"] {
        database.collection(name).insert_many((0..3_000).map(|n| doc! {"_id": n})).await?;
    }
    database.collection("anew").insert_many((0..300).map(|n| doc! {"_id": n})).await?;
    let hour = IndexOptions::builder().expire_after(Duration::from_secs(3_600)).build();
    let hour = IndexModel::builder().keys(doc! {"seen": 1}).options(hour).build();
    let seen = |n| if n < 3_000 { DateTime::now() } else { DateTime::from_millis(0) };
    let expiring = database.collection("expiring");
    expiring.insert_many((0..5_000).map(|n| doc! {"_id": n, "seen": seen(n)})).await?;
    expiring.create_index(hour).await?;
    stage.assert_mended().await?;

    let direct = stage.source.client().await?.database("kept");
    direct.collection::<Document>("emptied").delete_many(doc! {"_id": {"$gt": 10}}).await?;
    direct.collection::<Document>("gone").drop().await?;
    direct.collection::<Document>("thinned").delete_many(doc! {"_id": {"$lt": 1_200}}).await?;
    direct.collection::<Document>("emptied").update_one(doc! {"_id": 1}, doc! {"$set": {"n": 1}}).await?;
    direct.collection::<Document>("anew").drop().await?;
    // Most of it had not expired.
    direct.collection::<Document>("expiring").delete_many(doc! {"_id": {"$gt": 10}}).await?;
    stage.dualsync.admin_post("/api/sync/full", &json!({})).await?;
    let copy = stage.target.client().await?.database("kept");
    let count = async |name| copy.collection::<Document>(name).count_documents(doc! {}).await;
    let report = wait_for("what is lost to be held", DRAIN_MAX, async || {
        let report = stage.dualsync.report().await?;
        let dirty = report["namespaces"]["dirty"].as_array().cloned().unwrap_or_default();
        let held = dirty.iter().filter(|it| it["state"] == "held").count();
        Ok((held == 4 && dirty.len() == 4).then_some(report))
    })
    .await?;
    ensure!(count("emptied").await? == 3_000 && count("gone").await? == 3_000, "documents were deleted");
    ensure!(count("thinned").await? == 1_800, "a deletion of less than half was held");
    ensure!(
        count("expiring").await? == 3_000,
        "of what expires, the target has {}",
        count("expiring").await?
    );
    let changed = copy.collection::<Document>("emptied").find_one(doc! {"_id": 1}).await?;
    ensure!(changed == Some(doc! {"_id": 1, "n": 1}), "what differs was not copied: {changed:?}");
    ensure!(report["warnings"].to_string().contains("4 namespaces are held"), "{report:#}");
    // An application that begins anew with it is followed, and what was there is kept.
    database.collection("anew").insert_one(doc! {"_id": 1, "anew": true}).await?;
    stage.dualsync.wait_drained(DRAIN_MAX).await?;
    stage.dualsync.restart().await?;
    let why = wait_for("the new collection to be held", DRAIN_MAX, async || {
        let report = stage.dualsync.report().await?;
        let dirty = report["namespaces"]["dirty"].as_array().cloned().unwrap_or_default();
        let why = dirty.iter().find(|it| it["namespace"] == "kept.anew").map(|it| it["held"].to_string());
        Ok(why.filter(|why| why.contains("299 of 300")))
    })
    .await?;
    ensure!(why.contains("made anew") && count("anew").await? == 300, "{why}");
    let health = stage.dualsync.admin_get("/api/sync/health").await?;
    ensure!(health["status"] == "degraded", "{health:#}");

    let confirmed = json!({"namespaces": ["kept.emptied", "kept.gone", "kept.anew", "kept.expiring"]});
    stage.dualsync.admin_post("/api/sync/deletes/confirm", &confirmed).await?;
    stage.assert_mended().await?;
    ensure!(count("emptied").await? == 11 && count("gone").await? == 0, "not deleted although confirmed");
    Ok(())
}
