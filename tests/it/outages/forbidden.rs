//! A right that is missing on one namespace, and a filter that no server takes, hold up nothing else.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bson::{Document, doc};
use testkit::{Dualsync, Mongod, compare, mongod, wait_for};

use crate::support::{BIN, DRAIN_MAX, Source, Stage, wait_clean};

/// Well below the first waits after an outage, taken together.
const SOON: Duration = Duration::from_secs(10);

/// Where the reconciler hands documents over, and where the source has taken back something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_without_rights_holds_up_no_other() -> Result<()> {
    let mut source = Mongod::standalone().await?;
    let forbidden = source.client().await?.database("b").collection::<Document>("items");
    forbidden.insert_many((0..10).map(|id| doc! {"_id": id})).await?;
    let args = vec!["--auth".to_owned()];
    let mut target = Mongod::launch(mongod::Options { args, ..mongod::Options::default() }).await?;
    target.create_root("first").await?;
    let admin = target.client().await?.database("admin");
    let on = |db: &str, role: &str| doc! {"role": role, "db": db};
    let roles = vec![
        on("admin", "readAnyDatabase"),
        on("admin", "clusterMonitor"),
        on("a", "readWrite"),
        on("a", "dbAdmin"),
        on("__dualsync", "readWrite"),
    ];
    admin.run_command(doc! {"createUser": "dualsync", "pwd": "x", "roles": roles}).await?;
    let mut dualsync = Dualsync::builder(BIN)
        .local(source.uri())
        .atlas(format!("mongodb://dualsync:x@{}/?authSource=admin&directConnection=true", target.address()))
        .expect_warning("a secret stands in the configuration file")
        .expect_warning("its user lacks")
        .expect_warning("namespace stays dirty")
        .expect_warning("namespace is dirty")
        .expect_warning("local mongod unavailable")
        .expect_warning("mongod is not reachable")
        .start()
        .await?;
    let named = async |dualsync: &Dualsync, words: &str| {
        let mut report = serde_json::Value::Null;
        let named = wait_for("the namespace to be named", SOON, async || {
            report = dualsync.report().await?;
            let text = report.to_string();
            Ok((text.contains("b.items") && text.contains(words)).then_some(()))
        });
        named.await.with_context(|| format!("{report:#}\n{}", dualsync.log_lines().join("\n")))
    };
    named(&dualsync, "not authorized").await?;
    let items = dualsync.client().await?.database("a").collection::<Document>("items");
    items.insert_many((0..10).map(|id| doc! {"_id": id, "n": 0})).await?;
    dualsync.wait_drained(SOON).await.with_context(|| dualsync.log_lines().join("\n"))?;

    let rights =
        |command: &str| doc! {command: "dualsync", "roles": [on("b", "readWrite"), on("b", "dbAdmin")]};
    admin.run_command(rights("grantRolesToUser")).await?;
    dualsync.restart().await?; // sooner than the next try
    wait_clean(&dualsync).await?;
    let client = dualsync.client().await?;
    // On the source's disk, so that it does not take it back.
    let insert = doc! {"insert": "items", "documents": [{"_id": 10}], "writeConcern": {"j": true}};
    client.database("b").run_command(insert).await?;
    dualsync.wait_drained(DRAIN_MAX).await?;

    // What was written lately is written again.
    admin.run_command(rights("revokeRolesFromUser")).await?;
    source.kill()?;
    source.start().await?;
    named(&dualsync, "may not write to it").await?;
    let items = client.database("a").collection::<Document>("items");
    items.update_one(doc! {"_id": 0}, doc! {"$inc": {"n": 1}}).await?;
    dualsync.wait_drained(SOON).await.with_context(|| dualsync.log_lines().join("\n"))?;
    admin.run_command(rights("grantRolesToUser")).await?;
    dualsync.restart().await?;
    wait_clean(&dualsync).await?;
    let comparison = compare::databases(&source.client().await?, &target.client().await?).await?;
    ensure!(comparison.equal() && comparison.documents() == 21, "source and target differ:\n{comparison}");
    Ok(())
}

/// A database that the local user may see but not list: it is named where it is captured, and nothing waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_may_not_be_listed_holds_up_no_other() -> Result<()> {
    let args = vec!["--auth".to_owned()];
    let mut source = Mongod::launch(mongod::Options { args, ..mongod::Options::default() }).await?;
    source.create_root("first").await?;
    let here = source.client().await?;
    for db in ["shop", "secret"] {
        here.database(db).collection("items").insert_one(doc! {"_id": 0}).await?;
    }
    let on = |db: &str, role: &str| doc! {"role": role, "db": db};
    let roles = vec![on("admin", "clusterMonitor"), on("shop", "read")];
    let admin = here.database("admin");
    admin.run_command(doc! {"createUser": "dualsync", "pwd": "x", "roles": roles}).await?;
    let target = Mongod::standalone().await?;
    let mut dualsync = Dualsync::builder(BIN)
        .local(format!("mongodb://dualsync:x@{}/?authSource=admin&directConnection=true", source.address()))
        .atlas(target.uri())
        .env("DUALSYNC_SYNC_INCLUDE", "shop.*")
        .expect_warning("a secret stands in the configuration file")
        .expect_warning("its user lacks")
        .expect_warning("namespace is dirty")
        .expect_warning("local mongod unavailable")
        .expect_warning("mongod is not reachable")
        .start()
        .await?;
    clean(&dualsync).await.context("one that is not captured")?;
    ensure!(!dualsync.report().await?["namespaces"].to_string().contains("secret"), "it is not captured");

    dualsync.set_env("DUALSYNC_SYNC_INCLUDE", "");
    dualsync.restart().await?;
    dualsync.wait_for_log("does not let dualsync's user read it", SOON).await?;
    let client = mongodb::Client::with_uri_str(source.uri_at(&dualsync.proxy_address())).await?;
    client.database("shop").collection("items").insert_one(doc! {"_id": 1}).await?;
    client.database("shop").collection("more").insert_one(doc! {"_id": 1}).await?;
    dualsync.wait_drained(SOON).await.with_context(|| dualsync.log_lines().join("\n"))?;
    // The others are compared beside it, and everything that is asked for.
    dualsync.admin_post("/api/sync/full", &serde_json::json!({})).await?;
    wait_for("only that database to be dirty", SOON, async || {
        let dirty = dualsync.report().await?["namespaces"]["dirty"].clone();
        let names: Vec<_> =
            dirty.as_array().into_iter().flatten().map(|it| it["namespace"].clone()).collect();
        Ok((names == ["secret"]).then_some(()))
    })
    .await
    .with_context(|| dualsync.log_lines().join("\n"))?;

    admin.run_command(doc! {"grantRolesToUser": "dualsync", "roles": [on("secret", "read")]}).await?;
    dualsync.restart().await?; // sooner than the next try
    clean(&dualsync).await?;
    let there = target.client().await?;
    for (db, count) in [("shop", 2), ("secret", 1)] {
        let found = there.database(db).collection::<Document>("items").count_documents(doc! {}).await?;
        ensure!(found == count, "{db}: {found} documents");
    }
    Ok(())
}

/// As [`wait_clean`], within [`SOON`].
async fn clean(dualsync: &Dualsync) -> Result<()> {
    tokio::time::timeout(SOON, wait_clean(dualsync)).await.with_context(|| dualsync.log_lines().join("\n"))?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_no_server_takes_changes_nothing() -> Result<()> {
    let stage = Stage::start(Source::standalone().await?).await?;
    let items = stage.dualsync.client().await?.database("filters").collection::<Document>("items");
    items.insert_many((0..10).map(|id| doc! {"_id": id, "a": 1 - i32::from(id == 9), "n": 0})).await?;
    stage.assert_equal().await?;
    let more = || doc! {"$inc": {"n": 1}};
    for filter in [doc! {"a": {"$foo": 1}}, doc! {"$expr": {"$foo": "$a"}}, doc! {"$foo": 1}] {
        ensure!(items.update_many(filter.clone(), more()).await.is_err(), "{filter}");
        ensure!(items.delete_many(filter.clone()).await.is_err(), "{filter}");
    }
    // In doubt, and looked up beside them.
    items.update_one(doc! {"a": 1}, more()).await?;
    stage.assert_equal().await?;
    let ways = stage.assert_followed().await?;
    ensure!(ways.converged > 1.0, "the source has said that nothing was done: {ways:?}");

    // Both servers read this one, and fail over some document, when others may have been changed.
    stage.dualsync.expect_warning("target refuses a filter");
    stage.dualsync.expect_warning("namespace is dirty");
    let divided = doc! {"$expr": {"$gt": [{"$divide": [6, "$a"]}, 0]}};
    ensure!(items.update_many(divided, more()).await.is_err(), "it divides by zero");
    let changed = stage.source.client().await?.database("filters").collection::<Document>("items");
    ensure!(changed.count_documents(doc! {"n": {"$gt": 0}}).await? > 1, "nothing was changed before");
    stage.dualsync.wait_for_log("namespace is dirty", SOON).await?;
    stage.assert_mended().await?;
    // From now on its filters are looked up again.
    items.update_one(doc! {"a": 1}, more()).await?;
    stage.assert_equal().await?;
    let report = stage.dualsync.report().await?;
    ensure!(report["namespaces"]["dirty"] == serde_json::json!([]), "{report:#}");
    Ok(())
}
