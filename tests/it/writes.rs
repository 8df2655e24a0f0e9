//! Every shape of a write reaches the target, by the way that is meant for it.
//!
//! A shape has a collection of its own. After each, the entries that were replayed, converged and left to a full
//! comparison are counted; at the end both sides are compared, all but the namespaces that are dirty by intention,
//! and again when those have been made good.

mod by_hand;
mod ddl;
mod interrupted;
mod sessions;
mod shapes;
mod transactions;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use mongodb::Database;
use serde_json::Value;
use testkit::{Builder, compare};

use crate::support::{DRAIN_MAX, NOT_COMPARED, Source, Stage};

/// Entries that were replayed, converged, and made their namespace dirty.
type Ways = [u64; 3];

/// Some commands on a collection of their own, and the way that they take.
struct Shape {
    name: &'static str,
    /// What is there before, written through the proxy as well.
    before: Vec<RawDocumentBuf>,
    run: Vec<RawDocumentBuf>,
    /// How the entries of `run` reach the target.
    ways: Ways,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_on_a_standalone() -> Result<()> {
    let mut stage = stage(Source::standalone().await?).await?;
    every_shape(&stage).await?;
    // But for the one that was made capped.
    stage
        .source
        .client()
        .await?
        .database(DB)
        .collection::<bson::Document>("convert_to_capped")
        .drop()
        .await?;
    stage
        .target
        .client()
        .await?
        .database(DB)
        .collection::<bson::Document>("convert_to_capped")
        .drop()
        .await?;
    stage.mend().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_on_a_replica_set() -> Result<()> {
    let stage = stage(Source::replica_set().await?).await?;
    every_shape(&stage).await
}

async fn stage(source: Source) -> Result<Stage> {
    let quiet = |builder: Builder| {
        let (name, value) = NOT_COMPARED;
        builder.expect_warning("namespace is dirty").env("SYNC_WORKER_INTERVAL", "20").env(name, value)
    };
    Stage::start_with(source, quiet).await
}

async fn every_shape(stage: &Stage) -> Result<()> {
    let client = stage.dualsync.client().await?;
    let database = client.database(DB);
    let mut failures = Vec::new();
    let mut intended = 0;
    for shape in shapes::all() {
        intended += usize::from(shape.ways[2] > 0);
        if let Err(error) = run(stage, &database, &shape).await {
            failures.push(format!("{}: {error:#}", shape.name));
        }
    }
    if let Err(error) = equal_but_for_dirty(stage, intended).await {
        failures.push(format!("{error:#}"));
    }
    println!("{}", failures.join("\n"));
    ensure!(failures.is_empty(), "{} shapes failed", failures.len());
    Ok(())
}

async fn run(stage: &Stage, database: &Database, shape: &Shape) -> Result<()> {
    let beside = stage.source.client().await?.database(DB);
    for command in &shape.before {
        // Seen, it would leave the collection to a comparison.
        let to = if command.get("create")?.is_some() { &beside } else { database };
        let reply = to.run_raw_command(on(command, shape.name)?).await.context("before")?;
        ensure!(!reply.contains_key("writeErrors"), "before: {reply}");
    }
    stage.dualsync.wait_drained(DRAIN_MAX).await?;
    let before = ways(stage).await?;
    for command in &shape.run {
        // Some are meant to fail, wholly or in part.
        let reply = database.run_raw_command(on(command, shape.name)?).await;
        println!("{}: {reply:?}", shape.name);
        stage.dualsync.wait_drained(DRAIN_MAX).await?;
    }
    expect(stage, before, shape.ways).await
}

/// The command with its collection's name, where the table leaves it empty.
fn on(command: &RawDocument, name: &str) -> Result<RawDocumentBuf> {
    let mut named = RawDocumentBuf::new();
    for field in command {
        match field? {
            (key, RawBsonRef::String("")) => named.append(key, name),
            (key, value) => named.append(key, value),
        }
    }
    Ok(named)
}

/// Waits until everything is applied, and checks the way that it took since `before`.
async fn expect(stage: &Stage, before: Ways, expected: Ways) -> Result<()> {
    stage.dualsync.wait_drained(DRAIN_MAX).await?;
    let after = ways(stage).await?;
    let taken: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    ensure!(taken == expected, "replayed, converged, dirty: {taken:?}, expected {expected:?}");
    Ok(())
}

async fn ways(stage: &Stage) -> Result<Ways> {
    let metrics: BTreeMap<String, f64> = stage.dualsync.metrics().await?;
    let way = |way: &str| metrics.get(&format!("dualsync_entries_total{{way=\"{way}\"}}")).copied();
    let ways = ["replayed", "converged", "dirty"].map(way);
    ensure!(ways.iter().all(Option::is_some), "a way is missing: {metrics:?}");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "entries are counted one by one"
    )]
    Ok(ways.map(|count| count.unwrap_or_default() as u64))
}

/// Both sides are equal but for the namespaces that the report calls dirty; there are `intended` of those.
async fn equal_but_for_dirty(stage: &Stage, intended: usize) -> Result<()> {
    stage.dualsync.wait_drained(DRAIN_MAX).await?;
    let report = stage.dualsync.report().await?;
    let dirty = names(&report["namespaces"]["dirty"]);
    let source = stage.source.client().await?;
    let mut comparison = compare::databases(&source, &stage.target.client().await?).await?;
    comparison.collections.retain(|name, _| !dirty.contains(name));
    ensure!(comparison.equal(), "source and target differ:\n{comparison}");
    ensure!(dirty.len() == intended, "{intended} namespaces should be dirty: {dirty:?}");
    ensure!(report["counts"]["deadLetters"] == 0, "there are dead letters: {report:#}");
    ensure!(names(&report["namespaces"]["notCopiedYet"]).is_empty(), "{report:#}");
    Ok(())
}

fn names(namespaces: &Value) -> BTreeSet<String> {
    let namespaces = namespaces.as_array().into_iter().flatten();
    namespaces.filter_map(|it| it["namespace"].as_str().map(ToOwned::to_owned)).collect()
}

const DB: &str = "writes";
