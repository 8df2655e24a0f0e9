//! The target's disk is full: it dies, as mongod does, and goes on when there is space again.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use testkit::{Dualsync, Mongod, compare, mongod, wait_for};

use crate::log::disk::{DISK, on_small_disk, take_space};
use crate::support::{BIN, DRAIN_MAX};

#[test]
fn the_targets_disk_is_full() -> Result<()> {
    // A mongod reserves a few hundred MiB before it takes anything.
    on_small_disk(1 << 30, "outages::disk::target_on_a_full_disk")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the_targets_disk_is_full"]
async fn target_on_a_full_disk() -> Result<()> {
    let disk = PathBuf::from(std::env::var_os(DISK).context("run by the_targets_disk_is_full")?);
    let dbpath = Some(disk.join("db"));
    let source = Mongod::standalone().await?;
    let mut target = Mongod::launch(mongod::Options { dbpath, ..mongod::Options::default() }).await?;
    let dualsync = Dualsync::builder(BIN)
        .local(source.uri())
        .atlas(target.uri())
        .expect_warning("Atlas unavailable")
        .start()
        .await?;
    let items = dualsync.client().await?.database("full").collection::<Document>("items");
    // Nothing that could be compressed away.
    let mut rng = fastrand::Rng::with_seed(41);
    let mut large =
        |id: i32| doc! {"_id": id, "x": (0..20_000).map(|_| rng.alphanumeric()).collect::<String>()};
    items.insert_many((0..20).map(&mut large)).await?;
    dualsync.wait_drained(DRAIN_MAX).await?;

    take_space(&disk)?;
    items.insert_many((20..200).map(&mut large)).await?;
    items.update_many(doc! {}, doc! {"$inc": {"n": 1}}).await?;
    // Writing out what it has taken is what kills it; by itself it does that once a minute.
    let sync = target.client().await?;
    let syncing = tokio::spawn(async move { sync.database("admin").run_command(doc! {"fsync": 1}).await });
    wait_for("the target to die of it", DRAIN_MAX, async || Ok(target.ended()?.map(drop)))
        .await
        .with_context(|| dualsync.log_lines().join("\n"))?;
    ensure!(syncing.await?.is_err(), "it has found space");
    items.insert_many((200..300).map(&mut large)).await?;

    // What it could not write it has not confirmed: nothing is lost.
    target.kill()?;
    fs::remove_file(disk.join("ballast"))?;
    target.start().await?;
    dualsync.wait_drained(DRAIN_MAX).await.with_context(|| dualsync.log_lines().join("\n"))?;
    let comparison = compare::databases(&source.client().await?, &target.client().await?).await?;
    ensure!(comparison.equal() && comparison.documents() == 300, "source and target differ:\n{comparison}");
    let letters = dualsync.admin_get("/api/sync/dead-letters").await?;
    ensure!(letters["total"] == 0, "{letters:#}");
    Ok(())
}
