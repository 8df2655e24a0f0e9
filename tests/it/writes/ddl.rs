//! Commands over whole collections: their namespaces are named, nothing is silent.

use anyhow::{Result, ensure};
use bson::{Document, doc};
use mongodb::IndexModel;
use testkit::compare;

use super::{DB, equal_but_for_dirty, expect, names, stage, ways};
use crate::support::{DRAIN_MAX, Source};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_followed_by_namespace_is_named() -> Result<()> {
    let mut stage = stage(Source::standalone().await?).await?;
    let client = stage.dualsync.client().await?;
    let database = client.database(DB);
    let documents = || (1..=3).map(|id| doc! {"_id": id, "n": id});
    for name in ["from", "old_name", "dropped", "stays", "reduced"] {
        database.collection(name).insert_many(documents()).await?;
    }
    client.database("whole").collection("a").insert_many(documents()).await?;
    stage.dualsync.wait_drained(DRAIN_MAX).await?;
    let before = ways(&stage).await?;

    let from = database.collection::<Document>("from");
    from.aggregate([doc! {"$match": {"n": 1}}, doc! {"$out": "out"}]).await?;
    from.aggregate([doc! {"$merge": {"into": {"db": "elsewhere", "coll": "merged"}}}]).await?;
    from.aggregate([doc! {"$match": {"n": 1}}, doc! {"$merge": {"into": "stays_out"}}]).batch_size(0).await?;
    let rename = doc! {"renameCollection": format!("{DB}.old_name"), "to": format!("{DB}.new_name")};
    client.database("admin").run_command(rename).await?;
    database.collection::<Document>("dropped").drop().await?;
    client.database("whole").drop().await?;
    let reduce = doc! {
        "mapReduce": "reduced", "map": "function() { emit(this.n, 1) }", "reduce": "function(k, v) { return 1 }",
        "out": {"replace": "reduction"},
    };
    database.run_command(reduce).await?;
    expect(&stage, before, [3, 0, 4]).await?;
    let report = stage.dualsync.report().await?;
    let dirty = names(&report["namespaces"]["dirty"]);
    // One of them for its options and indexes only.
    let expected =
        ["elsewhere.merged", "writes.new_name", "writes.out", "writes.reduction", "writes.stays_out"];
    ensure!(dirty.iter().map(|name| name.trim_end_matches('.')).eq(expected), "dirty: {dirty:?}");

    // The rest goes on as before, and what is dirty is copied write by write.
    let before = ways(&stage).await?;
    database.collection("stays").insert_one(doc! {"_id": 4}).await?;
    database.collection("new_name").insert_one(doc! {"_id": 4}).await?;
    client.database("whole").collection("b").insert_one(doc! {"_id": 4}).await?;
    expect(&stage, before, [3, 0, 0]).await?;

    // Then all of it is made good: what was dropped is gone, what was renamed and written is there.
    stage.mend().await?;
    let left = stage.target.client().await?.database(DB).list_collection_names().await?;
    ensure!(!left.iter().any(|name| name == "dropped" || name == "old_name"), "{left:?}");
    let left = stage.target.client().await?.database("whole").list_collection_names().await?;
    ensure!(left == ["b"], "{left:?}");
    Ok(())
}

/// What a collection is beside its documents is left to a comparison, and what changes nothing is left alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_and_indexes_are_compared() -> Result<()> {
    let mut stage = stage(Source::standalone().await?).await?;
    let database = stage.dualsync.client().await?.database(DB);
    let indexed = database.collection::<Document>("indexed");
    indexed.insert_one(doc! {"_id": 1, "n": 1, "m": 1}).await?;
    stage.dualsync.wait_drained(DRAIN_MAX).await?;
    let before = ways(&stage).await?;
    let index = |keys: Document| IndexModel::builder().keys(keys).build();
    indexed.create_index(index(doc! {"n": 1})).await?;
    indexed.create_index(index(doc! {"m": 1})).await?;
    indexed.drop_index("n_1").await?;
    database.create_collection("made").await?;
    database.run_command(doc! {"collMod": "indexed", "validationLevel": "moderate"}).await?;
    expect(&stage, before, [0, 5, 0]).await?;

    // As an application does at every start, and what is refused.
    let before = ways(&stage).await?;
    indexed.create_index(index(doc! {"m": 1})).await?;
    ensure!(
        database.create_collection("made").capped(true).size(4096_u64).await.is_err(),
        "it was made twice"
    );
    ensure!(indexed.drop_index("none_1").await.is_err(), "an index is gone that never was");
    expect(&stage, before, [0, 0, 0]).await?;

    stage.mend().await?;
    let (source, target) = (stage.source.client().await?, stage.target.client().await?);
    let comparison = compare::everything(&source, &target, |name| name == DB).await?;
    ensure!(comparison.equal(), "{comparison}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_replicated_is_named() -> Result<()> {
    let stage = stage(Source::standalone().await?).await?;
    let database = stage.dualsync.client().await?.database(DB);
    let before = ways(&stage).await?;
    database.run_command(doc! {"createRole": "reader", "privileges": [], "roles": []}).await?;
    ensure!(database.run_command(doc! {"frobnicate": 1}).await.is_err(), "mongod knows frobnicate");
    expect(&stage, before, [0, 0, 0]).await?;
    let report = stage.dualsync.report().await?;
    for command in ["createRole", "frobnicate"] {
        ensure!(report["notReplicated"][command] == 1, "{command} is not named: {report:#}");
        let metric = format!("dualsync_not_replicated_total{{command=\"{command}\"}}");
        ensure!(stage.dualsync.metrics().await?.get(&metric) == Some(&1.0), "{metric}");
    }
    ensure!(report["warnings"].to_string().contains("createRole"), "{report:#}");
    equal_but_for_dirty(&stage, 0).await
}
