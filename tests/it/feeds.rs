//! One target, one log; several only when all of them were told so.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bson::{Document, doc};
use mongodb::Client;
use testkit::traffic::Shop;
use testkit::{Dualsync, compare, wait_for};

use crate::support::{BIN, DRAIN_MAX, Source, Stage, wait_clean};

const REFUSED: &str = "nothing is sent to the target";

/// A second proxy is refused, goes on capturing, and says who feeds the target; told to join, both converge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_log_is_refused_until_both_are_told_to_join() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    stage.dualsync.client().await?.database("d").collection("c").insert_one(doc! {"_id": 0}).await?;
    stage.assert_mended().await?;
    let second = Dualsync::builder(BIN).local(stage.source.uri()).atlas(stage.target.uri());
    let mut second = second.expect_warning(REFUSED).start().await?;
    let line = second.wait_for_log(REFUSED, DRAIN_MAX).await?;
    ensure!(
        line.contains("another log") && line.contains("sync.join") && line.contains("sync.take_over"),
        "{line}"
    );
    ensure!(line.contains(&stage.dualsync.log_dir().display().to_string()), "it does not say where: {line}");
    let health = second.admin_get("/api/sync/health").await?;
    ensure!(health["status"] == "degraded" && health.to_string().contains("another log"), "{health:#}");
    let report = second.report().await?;
    ensure!(report["recommendations"].to_string().contains("TARGET_TAKEN"), "{report:#}");
    second.client().await?.database("d").collection("c").insert_one(doc! {"_id": 1}).await?;
    ensure!(second.report().await?["lag"]["entries"] == 1, "capture does not go on");

    // Only one of them is told.
    second.set_env("DUALSYNC_SYNC_JOIN", "true");
    second.restart().await?;
    second.wait_for_log("by another log alone", DRAIN_MAX).await?;
    // The first one was never disturbed, and now is told as well.
    ensure!(
        stage.dualsync.report().await?["warnings"].to_string().find("another log").is_none(),
        "disturbed"
    );
    stage.dualsync.set_env("DUALSYNC_SYNC_JOIN", "true");
    stage.dualsync.restart().await?;

    let traffic =
        |seed: u64| Shop { database: format!("shop{seed}"), writes: 1_500, seed, ..Shop::default() };
    let (one, two) = (stage.dualsync.uri(), second.uri());
    let hot = tokio::spawn(write_hot(one.clone(), two.clone()));
    let clients = [tokio::spawn(async move { traffic(71).run(&one).await })];
    tokio::time::timeout(DRAIN_MAX, traffic(72).run(&two)).await??;
    for client in clients {
        client.await??;
    }
    hot.await??;
    second.wait_drained(DRAIN_MAX).await?;
    wait_clean(&second).await?;
    stage.assert_mended().await?;
    Ok(())
}

/// The folder of the log is put back from a copy: what the copy does not know is on the target already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_log_is_refused_until_it_takes_over() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    for warning in [REFUSED, "everything is dirty", "namespace is dirty"] {
        stage.dualsync.expect_warning(warning);
    }
    let client = stage.dualsync.client().await?;
    let counters = client.database("d").collection::<Document>("counters");
    counters.insert_many((0..100).map(|n| doc! {"_id": n, "n": 0})).await?;
    stage.assert_mended().await?;
    // Killed and started again, it is the same log.
    stage.dualsync.kill()?;
    stage.dualsync.restart().await?;
    stage.assert_equal().await?;
    stage.dualsync.terminate().await?;
    let (dir, copy) = (stage.dualsync.log_dir().to_owned(), tempfile::tempdir()?);
    copy_files(&dir, copy.path())?;
    stage.dualsync.restart().await?;
    let counters = stage.dualsync.client().await?.database("d").collection::<Document>("counters");
    counters.update_many(doc! {}, doc! {"$inc": {"n": 1}}).await?;
    for n in 0..50 {
        counters.delete_one(doc! {"_id": n}).await?;
    }
    stage.assert_equal().await?;
    stage.dualsync.terminate().await?;
    fs::remove_dir_all(&dir)?;
    copy_files(copy.path(), &dir)?;

    stage.dualsync.restart().await?;
    let line = stage.dualsync.wait_for_log("older copy", DRAIN_MAX).await?;
    let counters = stage.dualsync.client().await?.database("d").collection::<Document>("counters");
    counters.update_many(doc! {}, doc! {"$inc": {"n": 1}}).await?;
    ensure!(stage.dualsync.report().await?["lag"]["entries"] == 1, "an older copy has written to the target");
    let id = line.split("sync.take_over = \"").nth(1).and_then(|rest| rest.split('"').next());
    stage.dualsync.set_env("DUALSYNC_SYNC_TAKE_OVER", id.context("the line names no id")?);
    stage.dualsync.restart().await?;
    stage.assert_mended().await?;
    Ok(())
}

/// A log that is lost is replaced, by name; should it come back, it is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_replaced_is_refused_when_it_comes_back() -> Result<()> {
    let stage = Stage::start(Source::standalone().await?).await?;
    stage.dualsync.expect_warning(REFUSED);
    stage.dualsync.client().await?.database("d").collection("c").insert_one(doc! {"_id": 0}).await?;
    stage.assert_mended().await?;
    let second = Dualsync::builder(BIN).local(stage.source.uri()).atlas(stage.target.uri());
    let second = second.expect_warning(REFUSED).expect_warning("is dirty");
    let mut second = second.start().await?;
    let line = second.wait_for_log(REFUSED, DRAIN_MAX).await?;
    let id = line.split("sync.take_over = \"").nth(1).and_then(|rest| rest.split('"').next());
    second.set_env("DUALSYNC_SYNC_TAKE_OVER", id.context("the line names no id")?);
    // The one that it replaces still runs: it finds out by itself, and nothing is sent before it has.
    second.restart().await?;
    stage.dualsync.wait_for_log("was replaced by log", DRAIN_MAX).await?;
    second.client().await?.database("d").collection("c").insert_one(doc! {"_id": 1}).await?;
    second.wait_drained(DRAIN_MAX).await?;
    wait_clean(&second).await?;
    let (source, target) = (stage.source.client().await?, stage.target.client().await?);
    let comparison = compare::databases(&source, &target).await?;
    ensure!(comparison.equal() && comparison.documents() == 2, "{comparison}");
    Ok(())
}

/// A log that cannot send just now is seen all the same, so that nobody takes its place; one that is stopped says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_waits_is_seen_and_one_that_is_stopped_says_so() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    for warning in ["local mongod", "mongod is not reachable"] {
        stage.dualsync.expect_warning(warning);
    }
    stage.dualsync.client().await?.database("d").collection("c").insert_one(doc! {"_id": 0}).await?;
    stage.assert_mended().await?;
    let feeds = stage.target.client().await?.database("__dualsync").collection::<Document>("feeds");
    let own = async || -> Result<(bson::DateTime, bool)> {
        let list = feeds.find_one(doc! {}).await?.context("no list")?;
        let own = list.get_array("logs")?[0].as_document().context("no log")?;
        Ok((*own.get_datetime("seen")?, own.get_bool("stopped").unwrap_or(false)))
    };
    let control = async |dualsync: &Dualsync, action: &str| {
        dualsync.admin_post("/api/sync/worker/control", &serde_json::json!({"action": action})).await
    };
    let until = async |what: &str, stopped: bool, after: bson::DateTime| {
        wait_for(what, DRAIN_MAX, async || {
            let own = own().await?;
            Ok((own.1 == stopped && own.0 > after).then_some(own.0))
        })
        .await
    };
    let claimed = own().await?.0;
    control(&stage.dualsync, "stop").await?;
    let stopped = until("it to say that it is stopped", true, claimed).await?;
    control(&stage.dualsync, "start").await?;
    let paused = until("it to be started", false, stopped).await?;
    control(&stage.dualsync, "pause").await?;
    stage.dualsync.restart().await?;
    let paused = until("it to be seen while it is paused", false, paused).await?;
    control(&stage.dualsync, "resume").await?;
    stage.assert_equal().await?;
    stage.dualsync.terminate().await?;
    let Source::Standalone(source) = &mut stage.source else { anyhow::bail!("no standalone") };
    source.stop().await?;
    stage.dualsync.restart().await?;
    until("it to be seen without its source", false, paused).await?;
    source.start().await
}

/// Both proxies' clients write to the same few documents.
async fn write_hot(one: String, two: String) -> Result<()> {
    let (one, two) = (Client::with_uri_str(one).await?, Client::with_uri_str(two).await?);
    let hot = |client: &Client| client.database("d").collection::<Document>("hot");
    for n in 0..600 {
        let (id, upsert) = (doc! {"_id": n % 7}, doc! {"$inc": {"n": 1}, "$set": {"tag": n % 3}});
        let (left, right) = (hot(&one), hot(&two));
        let (a, b, c) = tokio::join!(
            left.update_one(id.clone(), upsert.clone()).upsert(true),
            right.update_one(id.clone(), upsert).upsert(true),
            right.update_many(doc! {"tag": n % 3}, doc! {"$inc": {"m": 1}}),
        );
        // Two upserts of one key may collide.
        drop((a, b));
        c?;
        if n % 50 == 0 {
            hot(&one).delete_many(doc! {"tag": n % 2}).await?;
        }
    }
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
