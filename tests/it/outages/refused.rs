//! A target that answers, and says no: missing rights hold everything back, a validator refuses documents one by one.

use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{Document, doc};
use serde_json::json;
use testkit::{Dualsync, Mongod, compare, mongod, wait_for};

use crate::support::{BIN, DRAIN_MAX};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_only_read_then_not_pass_a_validator() -> Result<()> {
    let source = Mongod::standalone().await?;
    let args = vec!["--auth".to_owned()];
    let mut target = Mongod::launch(mongod::Options { args, ..mongod::Options::default() }).await?;
    target.create_root("first").await?;
    let admin = target.client().await?.database("admin");
    let roles = |role: &str| vec![bson::Bson::from(role), "clusterMonitor".into()];
    admin.run_command(doc! {"createUser": "dualsync", "pwd": "x", "roles": roles("readAnyDatabase")}).await?;
    let dualsync = Dualsync::builder(BIN)
        .local(source.uri())
        .atlas(format!("mongodb://dualsync:x@{}/?authSource=admin&directConnection=true", target.address()))
        .expect_warning("a secret stands in the configuration file")
        .expect_warning("its user lacks")
        .expect_warning("refused: check the credentials")
        .expect_warning("target refuses a document")
        .expect_warning("High sync failure rate")
        .start()
        .await?;
    let items = dualsync.client().await?.database("shop").collection::<Document>("items");
    items.insert_many((0..10).map(|id| doc! {"_id": id, "n": id})).await?;
    let atlas = wait_for("the refusal to be shown", SOON, async || {
        let atlas = dualsync.admin_get("/api/sync/connections").await?["atlas"].clone();
        Ok((atlas["lastError"].is_object()).then_some(atlas))
    })
    .await?;
    ensure!(atlas["state"] == "disconnected" && atlas["lastError"].to_string().contains("13"), "{atlas:#}");
    // Nothing is given up.
    let report = dualsync.report().await?;
    ensure!(report["lag"]["entries"] == 1 && report["counts"]["deadLetters"] == 0, "{report:#}");

    admin.run_command(doc! {"grantRolesToUser": "dualsync", "roles": ["readWriteAnyDatabase"]}).await?;
    dualsync.wait_drained(DRAIN_MAX).await?;
    let report = dualsync.report().await?;
    ensure!(report["namespaces"]["dirty"] == json!([]), "{report:#}");

    // This user may not pass by validators, and the target has one.
    let there = target.client().await?.database("shop");
    there.run_command(doc! {"collMod": "items", "validator": {"n": {"$lt": 100}}}).await?;
    items.update_many(doc! {}, doc! {"$inc": {"n": 1}}).await?;
    items.update_one(doc! {"_id": 3}, doc! {"$set": {"n": 100}}).await?;
    items.insert_many([doc! {"_id": 10, "n": 200}, doc! {"_id": 11, "n": 0}]).await?;
    items.delete_one(doc! {"_id": 0}).await?;
    dualsync.wait_drained(DRAIN_MAX).await?;
    let letters = dualsync.admin_get("/api/sync/dead-letters").await?;
    let mut keys: Vec<i64> = letters["letters"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|letter| letter["key"].as_i64())
        .collect();
    keys.sort_unstable();
    ensure!(keys == [3, 10], "{letters:#}");
    ensure!(letters.to_string().contains("failed validation"), "{letters:#}");
    // They are exactly what differs.
    let (here, there) = (source.client().await?, target.client().await?);
    let differ = |id: i32| {
        let (here, there) = (here.database("shop"), there.database("shop"));
        async move {
            let find = |db: mongodb::Database| async move {
                db.collection::<Document>("items").find_one(doc! {"_id": id}).await
            };
            anyhow::Ok(find(here).await? != find(there).await?)
        }
    };
    for id in 0..=11 {
        ensure!(differ(id).await? == [3, 10].contains(&id), "{id}");
    }
    there.database("shop").run_command(doc! {"collMod": "items", "validator": {}}).await?;
    dualsync.admin_post("/api/sync/dead-letters/retry", &json!({"all": true})).await?;
    let comparison = compare::databases(&here, &there).await?;
    ensure!(comparison.documents() == 11, "{comparison}");
    for id in 0..=11 {
        ensure!(!differ(id).await?, "{id}");
    }
    Ok(())
}
