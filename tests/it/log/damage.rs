//! The log loses a part of itself, while it runs or between two runs: it is told, compared, and told once.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bson::{Document, doc};

use super::{SOON, control, dirty, pause};
use crate::support::{DRAIN_MAX, NOT_COMPARED, Source, Stage};

/// Those with records, oldest first.
fn segments(dir: &Path) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?.into_iter().map(|file| file.path());
    let full = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.len() > 64);
    let mut segments: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|it| it == "seg") && full(path)).collect();
    segments.sort();
    Ok(segments)
}

/// Flips a bit in the middle of a file.
fn flip(path: &Path) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let at = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    Ok(())
}

/// One segment is damaged, another one cannot be read at all: the worker passes both, and says what that means.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_given_up_and_compared() -> Result<()> {
    let mut stage = Stage::start_with(Source::standalone().await?, |builder| {
        builder.env("DUALSYNC_LOG_SEGMENT_BYTES_MAX", "64KiB").env(NOT_COMPARED.0, NOT_COMPARED.1)
    })
    .await?;
    pause(&stage.dualsync).await?;
    let items = stage.dualsync.client().await?.database("d").collection::<Document>("items");
    let documents = 150;
    for id in 0..documents {
        items.insert_one(doc! {"_id": id, "x": "y".repeat(5_000)}).await?;
    }
    let segments = segments(stage.dualsync.log_dir())?;
    ensure!(segments.len() > 8, "{segments:?}");
    flip(&segments[3])?;
    fs::remove_file(&segments[6])?;
    for declared in ["cannot be read here", "everything is dirty: only a full comparison"] {
        stage.dualsync.expect_warning(declared);
    }
    control(&stage.dualsync, "resume").await?;
    stage.dualsync.wait_for_log("what the disk does not read is given up", SOON).await?;
    stage.dualsync.wait_drained(DRAIN_MAX).await?;
    ensure!(dirty(&stage.dualsync).await?.contains("*"));
    // What could be read has come, before and behind; a twelfth at most is not there.
    let target = stage.target.client().await?.database("d").collection::<Document>("items");
    let come = target.count_documents(doc! {}).await?;
    ensure!((documents as u64 * 3 / 4..documents as u64).contains(&come), "{come} of {documents}");
    ensure!(target.find_one(doc! {"_id": documents - 1}).await?.is_some(), "the last one");
    stage.mend().await?;
    Ok(())
}

/// Damage that a start finds is compared once, and not at each start that follows, though nothing is written any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_told_by_one_start() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    pause(&stage.dualsync).await?;
    let items = stage.dualsync.client().await?.database("d").collection::<Document>("items");
    items.insert_many((0..100).map(|id| doc! {"_id": id, "x": "y".repeat(500)})).await?;
    items.update_many(doc! {}, doc! {"$set": {"n": 1}}).await?;
    stage.dualsync.kill()?;
    flip(segments(stage.dualsync.log_dir())?.last().context("a segment")?)?;
    for declared in
        ["does not vouch for everything", "everything is dirty: only a full comparison", "namespace is dirty"]
    {
        stage.dualsync.expect_warning(declared);
    }
    stage.dualsync.restart().await?;
    control(&stage.dualsync, "resume").await?;
    stage.assert_mended().await?;
    let told = |stage: &Stage| {
        stage
            .dualsync
            .log_lines()
            .iter()
            .filter(|line| line.contains("does not vouch for everything"))
            .count()
    };
    ensure!(told(&stage) == 1, "{} times", told(&stage));
    for _ in 0..2 {
        stage.dualsync.kill()?;
        stage.dualsync.restart().await?;
        ensure!(told(&stage) == 1, "it is told again");
        stage.assert_mended().await?;
    }
    Ok(())
}
