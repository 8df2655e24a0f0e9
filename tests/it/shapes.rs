//! What collections are beside their documents, and what becomes of those that are dropped.

use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{Document, doc};
use mongodb::IndexModel;
use serde_json::json;
use testkit::{compare, wait_for};

use crate::support::{DRAIN_MAX, Source, Stage};

/// Options and indexes follow at once, over a kill, and no document is compared for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_and_indexes_follow_without_a_comparison() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    for round in 0..3 {
        let database = stage.dualsync.client().await?.database("shape");
        let items = database.collection::<Document>("items");
        items
            .insert_many((0..200).map(|n| doc! {"_id": round * 200 + n, "n": n, "u": round * 200 + n}))
            .await?;
        let index = |keys: Document| IndexModel::builder().keys(keys).build();
        let unique = bson::doc! {"createIndexes": "items", "indexes": [{"key": {"u": 1}, "name": "u", "unique": true}]};
        database.run_command(unique).await?;
        items.create_index(index(doc! {"n": round + 1})).await.ok();
        let name = format!("made{round}");
        let made = doc! {"create": &name, "collation": {"locale": "en", "strength": 2}, "validator": {"n": {"$gt": 0}}};
        database.run_command(made).await?;
        database.collection(&name).insert_one(doc! {"_id": "A", "n": 1}).await?;
        database
            .run_command(doc! {"create": format!("view{round}"), "viewOn": "items", "pipeline": []})
            .await?;
        database.run_command(doc! {"collMod": &name, "validationLevel": "off"}).await?;
        // Documents that the unique index would refuse, right after it is gone.
        items.drop_index("u").await?;
        items.update_many(doc! {"_id": {"$gte": round * 200}}, doc! {"$set": {"u": -1 - round}}).await?;
        items.delete_many(doc! {"_id": {"$gt": round * 200 + 100}}).await?;
        items.update_many(doc! {}, vec![doc! {"$set": {"u": "$_id"}}]).await?;
        if round == 1 {
            stage.dualsync.kill()?;
            stage.dualsync.restart().await?;
        }
    }
    stage.assert_mended().await?;
    let (source, target) = (stage.source.client().await?, stage.target.client().await?);
    let comparison = compare::everything(&source, &target, |name| name == "shape").await?;
    ensure!(comparison.equal(), "{comparison}");
    let letters = stage.dualsync.report().await?["counts"]["deadLetters"].clone();
    ensure!(letters == 0, "{letters} dead letters");
    let lines = stage.dualsync.log_lines();
    ensure!(lines.iter().any(|line| line.contains("options and indexes are made equal")), "not followed");
    let compared: Vec<_> =
        lines.iter().filter(|line| line.contains("comparing a namespace as a whole")).collect();
    ensure!(compared.is_empty(), "{compared:#?}");
    Ok(())
}

/// Collections are dropped, made anew, renamed, put in each other's place, and no document is compared for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collections_come_and_go_without_a_comparison() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    stage.dualsync.expect_warning("is dirty");
    for round in 0..3 {
        let client = stage.dualsync.client().await?;
        let (database, other) = (client.database("shape"), client.database("other"));
        let fill = async |name: &str| {
            let items = database.collection::<Document>(name);
            items.insert_many((0..100).map(|n| doc! {"_id": n, "name": name, "round": round})).await?;
            items.update_many(doc! {"_id": {"$gt": 50}}, doc! {"$inc": {"n": 1}}).await
        };
        let rename = async |from: &str, to: &str| {
            let rename = doc! {"renameCollection": from, "to": to, "dropTarget": true};
            client.database("admin").run_command(rename).await
        };
        for name in ["a", "b", "dropped", "anew", "moved"] {
            fill(name).await?;
        }
        let index = IndexModel::builder().keys(doc! {"round": 1}).build();
        database.collection::<Document>("a").create_index(index).await?;
        // The two change places; nothing is left of what either had before.
        rename("shape.a", "shape.between").await?;
        database.collection("between").insert_one(doc! {"_id": "between", "round": round}).await?;
        rename("shape.b", "shape.a").await?;
        rename("shape.between", "shape.b").await?;
        database.collection::<Document>("b").delete_one(doc! {"_id": 7}).await?;
        database.collection("a").insert_one(doc! {"_id": "a", "round": round}).await?;
        // An empty one, and one that moves to another database.
        database.create_collection("empty").await?;
        rename("shape.empty", "shape.still_empty").await?;
        rename("shape.moved", "other.moved").await?;
        database.collection::<Document>("dropped").drop().await?;
        database.collection::<Document>("anew").drop().await?;
        let folded = doc! {"create": "anew", "collation": {"locale": "en", "strength": 2}};
        database.run_command(folded).await?;
        database.collection("anew").insert_one(doc! {"_id": "A", "round": round}).await?;
        if round == 1 {
            // What is on its way then may have been done already: that is compared.
            let before = compared(&stage);
            ensure!(before == 0, "{before} were compared");
            other.drop().await?;
            stage.dualsync.kill()?;
            stage.dualsync.restart().await?;
        }
        stage.assert_mended().await?;
        let database = stage.dualsync.client().await?.database("shape");
        for name in ["a", "b", "anew"] {
            database.collection::<Document>(name).drop().await?;
        }
        stage.dualsync.client().await?.database("other").drop().await?;
        stage.assert_mended().await?;
        let (source, target) = (stage.source.client().await?, stage.target.client().await?);
        let comparison =
            compare::everything(&source, &target, |name| ["shape", "other"].contains(&name)).await?;
        ensure!(comparison.equal(), "{comparison}");
    }
    let letters = stage.dualsync.report().await?["counts"]["deadLetters"].clone();
    ensure!(letters == 0, "{letters} dead letters");
    Ok(())
}

/// The target's may still be without what cannot be changed of a collection, and what is capped keeps no keys apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn special_collections_are_renamed_behind_a_lag() -> Result<()> {
    let stage = Stage::start(Source::standalone().await?).await?;
    stage.dualsync.expect_warning("is dirty");
    stage.dualsync.admin_post("/api/sync/worker/control", &json!({"action": "pause"})).await?;
    let client = stage.dualsync.client().await?;
    let database = client.database("special");
    let folded = doc! {"collation": {"locale": "en", "strength": 2}};
    for (name, options) in [("tmp", folded), ("log", doc! {"capped": true, "size": 65536})] {
        for round in 0..2 {
            let mut create = doc! {"create": name};
            create.extend(options.clone());
            database.run_command(create).await?;
            database.collection(name).insert_many((0..5).map(|n| doc! {"_id": round * 5 + n})).await?;
            if round == 0 {
                let to = format!("special.{name}_renamed");
                let rename = doc! {"renameCollection": format!("special.{name}"), "to": to};
                client.database("admin").run_command(rename).await?;
            }
        }
    }
    stage.dualsync.admin_post("/api/sync/worker/control", &json!({"action": "resume"})).await?;
    stage.assert_mended().await?;
    let (source, target) = (stage.source.client().await?, stage.target.client().await?);
    let comparison = compare::everything(&source, &target, |name| name == "special").await?;
    ensure!(comparison.equal(), "{comparison}");
    Ok(())
}

fn compared(stage: &Stage) -> usize {
    let lines = stage.dualsync.log_lines();
    lines.iter().filter(|line| line.contains("comparing a namespace as a whole")).count()
}

/// Dropped collections go, wait for a confirmation, or stay, as `sync.drops` says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dropped_goes_waits_or_stays() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    for warning in ["namespace is dirty", "namespace stays dirty"] {
        stage.dualsync.expect_warning(warning);
    }
    let there = async |stage: &Stage| -> Result<u64> {
        let copy = stage.target.client().await?.database("d").collection::<Document>("dropped");
        Ok(copy.count_documents(doc! {}).await?)
    };
    for policy in ["replicate", "hold", "ignore"] {
        stage.dualsync.set_env("DUALSYNC_SYNC_DROPS", policy);
        stage.dualsync.restart().await?;
        let database = stage.dualsync.client().await?.database("d");
        let dropped = database.collection::<Document>("dropped");
        dropped.insert_many((0..20).map(|n| doc! {"_id": n, "policy": policy})).await?;
        stage.assert_mended().await?;
        dropped.drop().await?;
        if policy == "hold" {
            wait_for("the drop to be held", DRAIN_MAX, async || {
                let report = stage.dualsync.report().await?;
                Ok((report["namespaces"]["dirty"][0]["state"] == "held").then_some(()))
            })
            .await?;
            ensure!(there(&stage).await? == 20, "dropped without being confirmed");
            let confirmed = json!({"namespaces": ["d.dropped"]});
            stage.dualsync.admin_post("/api/sync/deletes/confirm", &confirmed).await?;
        }
        stage.dualsync.wait_drained(Duration::from_secs(30)).await?;
        wait_for("everything to be settled", DRAIN_MAX, async || {
            let dirty = stage.dualsync.report().await?["namespaces"]["dirty"].clone();
            Ok(dirty.as_array().is_some_and(Vec::is_empty).then_some(()))
        })
        .await?;
        let left = there(&stage).await?;
        ensure!(left == if policy == "ignore" { 20 } else { 0 }, "{policy}: {left} documents are left");
    }
    Ok(())
}
