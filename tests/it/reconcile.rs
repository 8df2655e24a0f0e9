//! What was there before, and what became dirty, is made good by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bson::oid::ObjectId;
use bson::{Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp, doc};
use mongodb::options::IndexOptions;
use mongodb::{Client, Database, IndexModel};
use serde_json::json;
use testkit::{Dualsync, ReplicaSet, wait_for};

use crate::support::{BIN, DRAIN_MAX, Source, Stage};

/// A database with everything in it is copied while its application writes and dualsync dies again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_before_is_copied_while_writes_flow() -> Result<()> {
    let source = Source::standalone().await?;
    let old = source.client().await?.database("old");
    fill(&old).await?;
    let target = ReplicaSet::start(1).await?;
    let dualsync = Dualsync::builder(BIN).local(source.uri()).atlas(target.uri()).start().await?;
    let mut stage = Stage { source, target, dualsync };

    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..4)
        .map(|n| tokio::spawn(write(stage.dualsync.uri(), seed + n, stop.clone(), writes.clone())))
        .collect();
    for part in 1..=4 {
        wait_for("a part of the writes", DRAIN_MAX, async || {
            Ok((writes.load(Ordering::Relaxed) > part * 250).then_some(()))
        })
        .await?;
        stage.dualsync.kill()?;
        stage.dualsync.restart().await?;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await??;
    }
    let comparison = stage.assert_mended().await?;
    println!("{comparison}");
    let copy = stage.target.client().await?.database("old");
    same_shapes(&old, &copy).await?;
    let report = stage.dualsync.report().await?;
    let compared = report["namespaces"]["compared"].as_array().cloned().unwrap_or_default();
    let many = compared.iter().find(|it| it["namespace"] == "old.many");
    ensure!(many.is_some_and(|it| it["equalAsOf"].is_string()), "the report does not say when: {report:#}");
    ensure!(report["counts"]["deadLetters"] == 0, "{report:#}");
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
    same_shapes(&stage.source.client().await?.database("mend"), &copy.database("mend")).await?;
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
    same_shapes(&stage.source.client().await?.database("mend"), &copy.database("mend")).await?;
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

/// Random writes through the proxy to what was there before, errors of a killed proxy taken as they come.
async fn write(uri: String, seed: u64, stop: Arc<AtomicBool>, writes: Arc<AtomicU64>) -> Result<()> {
    let client = Client::with_uri_str(&uri).await?;
    let many = client.database("old").collection::<Document>("many");
    let mut rng = fastrand::Rng::with_seed(seed);
    while !stop.load(Ordering::Relaxed) {
        let (id, tag) = (rng.i32(0..MANY + 500), rng.i32(0..50));
        let done = match rng.u32(..10) {
            0 => many.delete_one(doc! {"_id": id}).await.map(|_| ()),
            1 => many.insert_one(doc! {"_id": id, "tag": tag, "n": 0}).await.map(|_| ()),
            2 => many
                .update_many(doc! {"tag": tag}, doc! {"$inc": {"n": 1}, "$set": {"tag": tag + 1}})
                .await
                .map(|_| ()),
            3 => many.delete_many(doc! {"tag": tag, "n": {"$gt": 3}}).await.map(|_| ()),
            4 => many.update_one(doc! {"tag": tag}, doc! {"$inc": {"n": 1}}).await.map(|_| ()),
            _ => many.update_one(doc! {"_id": id}, doc! {"$inc": {"n": 1}}).await.map(|_| ()),
        };
        match done {
            Ok(()) => drop(writes.fetch_add(1, Ordering::Relaxed)),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    Ok(())
}

const MANY: i32 = 20_000;

async fn fill(old: &Database) -> Result<()> {
    let many = old.collection::<Document>("many");
    for chunk in (0..MANY).collect::<Vec<_>>().chunks(5_000) {
        many.insert_many(chunk.iter().map(|n| doc! {"_id": n, "tag": n % 50, "n": 0})).await?;
    }
    many.create_index(IndexModel::builder().keys(doc! {"tag": 1}).build()).await?;
    let types = old.collection::<Document>("types");
    types.insert_many(every_type().into_iter().map(|value| doc! {"_id": value.clone(), "v": value})).await?;
    types
        .insert_many(
            [
                Bson::RegularExpression(Regex {
                    pattern: bson::raw::CString::try_from("^a").map_err(|e| anyhow::anyhow!("{e}"))?,
                    options: bson::raw::CString::try_from("i").map_err(|e| anyhow::anyhow!("{e}"))?,
                }),
                Bson::Undefined,
                Bson::Array(vec![1.into(), Bson::Null]),
            ]
            .into_iter()
            .map(|v| doc! {"v": v}),
        )
        .await?;
    old.run_command(doc! {
        "create": "checked", "validator": {"n": {"$type": "int"}}, "validationLevel": "moderate", "validationAction": "warn",
    })
    .await?;
    let checked = old.collection::<Document>("checked");
    checked
        .insert_many((0..100).map(|n| doc! {"n": n, "at": DateTime::now(), "words": "a b", "where": [n, 1]}))
        .await?;
    old.run_command(doc! {"createIndexes": "checked", "indexes": [
        {"key": {"n": 1}, "name": "unique", "unique": true},
        {"key": {"at": 1}, "name": "expires", "expireAfterSeconds": 3_600},
        {"key": {"words": "text"}, "name": "text"},
        {"key": {"where": "2d"}, "name": "where"},
        {"key": {"n": -1, "at": 1}, "name": "partial", "partialFilterExpression": {"n": {"$gt": 5}}},
        {"key": {"$**": 1}, "name": "wild"},
        {"key": {"x": "hashed"}, "name": "hashed", "sparse": true},
        {"key": {"y": 1}, "name": "folded", "collation": {"locale": "en", "strength": 2}},
    ]})
    .await?;
    old.run_command(doc! {"create": "folded", "collation": {"locale": "en", "strength": 2}}).await?;
    old.collection::<Document>("folded").insert_many(["b", "A", "c"].map(|id| doc! {"_id": id})).await?;
    old.run_command(doc! {"create": "clustered", "clusteredIndex": {"key": {"_id": 1}, "unique": true}})
        .await?;
    old.collection::<Document>("clustered").insert_many((0..50).map(|n| doc! {"_id": n})).await?;
    old.run_command(doc! {"create": "view", "viewOn": "many", "pipeline": [{"$match": {"n": {"$gt": 1}}}]})
        .await?;
    old.create_collection("empty").await?;
    Ok(())
}

/// One value of each type that can be an `_id`, and numbers of every type around zero.
fn every_type() -> Vec<Bson> {
    let decimal = |text: &str| text.parse::<Decimal128>().map(Bson::Decimal128).ok();
    let mut all = vec![
        Bson::MinKey,
        Bson::Null,
        Bson::Int32(-7),
        Bson::Int64(1 << 40),
        Bson::Double(f64::NAN),
        Bson::Double(f64::NEG_INFINITY),
        Bson::Double(0.1),
        Bson::String("text".into()),
        Bson::Symbol("symbol".into()),
        Bson::Document(doc! {"a": 1, "b": {"c": [1, "x"]}}),
        Bson::Binary(Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0, 1, 2] }),
        Bson::Binary(Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![7; 16] }),
        Bson::ObjectId(ObjectId::new()),
        Bson::Boolean(false),
        Bson::Boolean(true),
        Bson::DateTime(DateTime::from_millis(-1)),
        Bson::Timestamp(Timestamp { time: 5, increment: 6 }),
        Bson::JavaScriptCode("f()".into()),
        Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: "g()".into(), scope: doc! {"x": 1} }),
        Bson::MaxKey,
    ];
    all.extend(decimal("0.2"));
    all.extend(decimal("1E+6000"));
    all
}

/// Options and indexes, but for what expires: that is switched off on the target.
async fn same_shapes(left: &Database, right: &Database) -> Result<()> {
    let shapes = async |database: &Database| -> Result<Vec<Document>> {
        let reply = database.run_command(doc! {"listCollections": 1, "cursor": {"batchSize": 1_000}}).await?;
        let list = reply.get_document("cursor")?.get_array("firstBatch")?.clone();
        let mut all = Vec::new();
        for info in list.iter().filter_map(Bson::as_document) {
            let name = info.get_str("name")?;
            let mut shape =
                doc! {"name": name, "type": info.get_str("type")?, "options": info.get_document("options")?};
            if info.get_str("type")? == "collection" {
                let reply = database.run_command(doc! {"listIndexes": name}).await?;
                let mut indexes = reply.get_document("cursor")?.get_array("firstBatch")?.clone();
                for index in indexes.iter_mut().filter_map(Bson::as_document_mut) {
                    index.remove("expireAfterSeconds");
                }
                indexes.sort_by_key(ToString::to_string);
                shape.insert("indexes", indexes);
            }
            all.push(shape);
        }
        all.sort_by_key(ToString::to_string);
        Ok(all)
    };
    let (left, right) = (shapes(left).await?, shapes(right).await?);
    for (here, there) in left.iter().zip(&right) {
        ensure!(here == there, "shapes differ:\n{here:#}\n{there:#}");
    }
    ensure!(left.len() == right.len(), "{} and {} collections", left.len(), right.len());
    Ok(())
}
