//! The sync log from outside: its levels, a full disk, and the command that looks into it.

mod damage;
pub(crate) mod disk;
mod levels;
mod look;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Dualsync, compare, wait_for};

use crate::support::{DRAIN_MAX, Stage};

const SOON: Duration = Duration::from_secs(20);

async fn control(dualsync: &Dualsync, action: &str) -> Result<()> {
    dualsync.admin_post("/api/sync/worker/control", &json!({"action": action})).await?;
    Ok(())
}

/// Pauses the worker, and returns when it applies nothing more.
async fn pause(dualsync: &Dualsync) -> Result<()> {
    let pauses = || dualsync.log_lines().iter().filter(|line| line.contains("worker paused")).count();
    let before = pauses();
    control(dualsync, "pause").await?;
    wait_for("the worker to pause", SOON, async || Ok((pauses() > before).then_some(()))).await
}

async fn queue(dualsync: &Dualsync) -> Result<Value> {
    dualsync.admin_get("/api/sync/queue").await
}

async fn level(dualsync: &Dualsync) -> Result<String> {
    Ok(queue(dualsync).await?["level"].as_str().context("a level")?.to_owned())
}

async fn wait_for_level(dualsync: &Dualsync, wanted: &str) -> Result<()> {
    let mut last = Value::Null;
    let what = format!("the level {wanted}");
    let reached = wait_for(&what, DRAIN_MAX, async || {
        last = queue(dualsync).await?;
        Ok((last["level"] == wanted).then_some(()))
    });
    reached.await.with_context(|| format!("last: {last:#}"))
}

/// The names of what is dirty; `*` is everything.
async fn dirty(dualsync: &Dualsync) -> Result<BTreeSet<String>> {
    let report = dualsync.report().await?;
    let list = report["namespaces"]["dirty"].as_array().context("a list")?;
    Ok(list.iter().filter_map(|it| it["namespace"].as_str().map(str::to_owned)).collect())
}

/// Exactly these come to be dirty, and stay it.
async fn wait_for_dirty(dualsync: &Dualsync, names: &[&str]) -> Result<()> {
    let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut last = BTreeSet::new();
    let reached = wait_for("what is dirty to be named", SOON, async || {
        last = dirty(dualsync).await?;
        Ok((last == wanted).then_some(()))
    });
    reached.await.with_context(|| format!("dirty: {last:?}, wanted: {wanted:?}"))
}

/// Everything arrives, and whatever is not dirty is equal.
async fn assert_equal_but_for_dirty(stage: &Stage) -> Result<()> {
    stage.dualsync.wait_drained(DRAIN_MAX).await?;
    let dirty = dirty(&stage.dualsync).await?;
    ensure!(!dirty.contains("*"), "everything is dirty");
    let comparison = compare::databases(&stage.source.client().await?, &stage.target.client().await?).await?;
    for (namespace, collection) in &comparison.collections {
        ensure!(dirty.contains(namespace) || collection.equal(), "{namespace} differs:\n{comparison}");
    }
    Ok(())
}
