//! A shop's traffic reaches the target byte for byte, undisturbed and through faults.

use anyhow::{Result, ensure};
use testkit::traffic::{Keys, OnError, Shop};
use testkit::{python, wait_for};

use crate::support::{DRAIN_MAX, Source, Stage};

fn shop(seed: u64) -> Shop {
    Shop { clients: 16, writes: 10_000, seed, ..Shop::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standalone_undisturbed() -> Result<()> {
    undisturbed(Source::standalone().await?, Keys::Shared, 0.95).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_set_undisturbed() -> Result<()> {
    undisturbed(Source::replica_set().await?, Keys::Shared, 0.95).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disjoint_keys_are_all_replayed() -> Result<()> {
    undisturbed(Source::standalone().await?, Keys::Disjoint, 1.0).await
}

async fn undisturbed(source: Source, keys: Keys, replayed_min: f64) -> Result<()> {
    let stage = Stage::start(source).await?;
    let tally = Shop { keys, ..shop(11) }.run(&stage.dualsync.uri()).await?;
    let comparison = stage.assert_equal().await?;
    let ways = stage.assert_followed().await?;
    println!("{tally}\n{ways:?}\n{comparison}");
    println!("in doubt: {}", stage.dualsync.report().await?["counts"]["inDoubt"]);
    ensure!(ways.keyed_replayed >= replayed_min, "too few entries with _id were replayed: {ways:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standalone_target_away_for_a_while() -> Result<()> {
    target_away(Source::standalone().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_set_target_away_for_a_while() -> Result<()> {
    target_away(Source::replica_set().await?).await
}

async fn target_away(source: Source) -> Result<()> {
    let mut stage = Stage::start(source).await?;
    stage.dualsync.expect_warning("Atlas unavailable");
    let traffic = shop(12);
    let (uri, done) = (stage.dualsync.uri(), traffic.done.clone());
    let clients = tokio::spawn(async move { traffic.run(&uri).await });
    wait_for("a third of the traffic", DRAIN_MAX, async || {
        Ok((done.load(std::sync::atomic::Ordering::Relaxed) > 3_000).then_some(()))
    })
    .await?;
    stage.target.stop().await?;
    clients.await??;
    let waiting = stage.dualsync.report().await?["lag"]["entries"].clone();
    ensure!(waiting.as_u64() > Some(0), "nothing waits while the target is away: {waiting}");
    stage.target.resume().await?;
    stage.assert_equal().await?;
    stage.assert_followed().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standalone_proxy_killed_in_the_middle() -> Result<()> {
    proxy_killed(Source::standalone().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_set_proxy_killed_in_the_middle() -> Result<()> {
    proxy_killed(Source::replica_set().await?).await
}

async fn proxy_killed(source: Source) -> Result<()> {
    let mut stage = Stage::start(source).await?;
    let traffic = Shop { on_error: OnError::Count, ..shop(13) };
    let (uri, done) = (stage.dualsync.uri(), traffic.done.clone());
    let clients = tokio::spawn(async move { traffic.run(&uri).await });
    for part in 1..=3 {
        wait_for("a part of the traffic", DRAIN_MAX, async || {
            Ok((done.load(std::sync::atomic::Ordering::Relaxed) > part * 2_500).then_some(()))
        })
        .await?;
        stage.dualsync.kill()?;
        stage.dualsync.restart().await?;
    }
    let tally = clients.await??;
    println!("{tally}");
    stage.assert_equal().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_is_followed_as_well() -> Result<()> {
    for source in [Source::standalone().await?, Source::replica_set().await?] {
        let stage = Stage::start(source).await?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/shop.py");
        let python = python::interpreter()?;
        let uri = stage.dualsync.uri();
        let run =
            tokio::process::Command::new(python).args(["-I", script, &uri, "16", "10000", "14"]).output();
        let output = run.await?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "the script failed:\n{out}\n{err}");
        stage.assert_equal().await?;
        let ways = stage.assert_followed().await?;
        println!("{out}\n{ways:?}");
        ensure!(ways.keyed_replayed >= 0.95, "too few entries with _id were replayed: {ways:?}");
    }
    Ok(())
}
