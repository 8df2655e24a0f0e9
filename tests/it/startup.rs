//! Starts that go well, starts that must not, and ends: what the person at the terminal sees.

mod refused;
mod unreachable;

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use serde_json::json;
use testkit::traffic::{OnError, Shop};
use testkit::{Builder, Dualsync, Mongod, wait_for};

use crate::support::{BIN, DRAIN_MAX, NOT_COMPARED, Source, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_in_order_in_the_middle_of_traffic() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    let traffic = Shop { clients: 8, writes: 3_000, seed: 21, on_error: OnError::Count, ..Shop::default() };
    let (uri, done) = (stage.dualsync.uri(), traffic.done.clone());
    let clients = tokio::spawn(async move { traffic.run(&uri).await });
    for part in 1..=2 {
        wait_for("a part of the traffic", DRAIN_MAX, async || {
            Ok((done.load(Ordering::Relaxed) > part * 1_000).then_some(()))
        })
        .await?;
        let status = stage.dualsync.terminate().await?;
        ensure!(status.code() == Some(0), "SIGTERM ends with {status}");
        stage.dualsync.restart().await?;
    }
    println!("{}", clients.await??);
    stage.assert_equal().await?;
    let report = stage.dualsync.report().await?;
    ensure!(report["namespaces"]["dirty"] == json!([]), "an orderly end left something dirty: {report:#}");
    let lines = stage.dualsync.log_lines();
    for line in ["SIGTERM: ending in order", "worker parked at its checkpoint", "dualsync has ended"] {
        let said = lines.iter().filter(|it| it.contains(line)).count();
        ensure!(said == 2, "{line:?} was said {said} times");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_in_order_with_what_was_written_on_disk() -> Result<()> {
    let folder = Folder::new()?;
    let source = Source::standalone().await?;
    let target = testkit::ReplicaSet::start(1).await?;
    let log_dir = folder.path("log");
    let listen = format!("127.0.0.1:{}", free_port()?);
    let builder = || Dualsync::builder(BIN).local(source.uri()).atlas(target.uri()).log_dir(&log_dir);
    let run = builder().env("DUALSYNC_PROXY_LISTEN", &listen).run_to_end(Duration::from_secs(60));
    let (ended, written) = tokio::join!(run, write_until_ctrl_c(&listen, &log_dir));
    let (ended, written) = (ended?, written?);
    ensure!(ended.status.code() == Some(0), "Ctrl-C ends with {}: {}", ended.status, ended.output);
    ensure!(ended.output.contains("Ctrl-C: ending in order"), "{}", ended.output);
    ensure!(!ended.output.contains(" WARN ") && !ended.output.contains(" ERROR "), "{}", ended.output);
    let dualsync = builder().start().await?;
    let stage = Stage { source, target, dualsync };
    let comparison = stage.assert_equal().await?;
    ensure!(comparison.documents() >= written, "{written} writes were acknowledged:\n{comparison}");
    ensure!(stage.dualsync.report().await?["namespaces"]["dirty"] == json!([]), "something is dirty");
    Ok(())
}

/// Inserts until the proxy is gone, for it gets a Ctrl-C meanwhile; says how many were acknowledged.
async fn write_until_ctrl_c(listen: &str, log_dir: &std::path::Path) -> Result<u64> {
    let client = mongodb::Client::with_uri_str(format!("mongodb://{listen}/?retryWrites=false")).await?;
    let orders = client.database("shop").collection::<Document>("orders");
    let mut written = 0;
    while orders.insert_one(doc! {"_id": i64::try_from(written)?}).await.is_ok() {
        written += 1;
        if written == 100 {
            // The lock file names the process; there is no other way to it from here.
            let pid = std::fs::read_to_string(log_dir.join("LOCK"))?;
            let kill = tokio::process::Command::new("kill").args(["-INT", pid.trim()]).status().await?;
            ensure!(kill.success(), "kill -INT {pid}");
        }
    }
    client.shutdown().immediate(true).await;
    ensure!(written >= 100, "the proxy was gone after {written} writes");
    Ok(written)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_target_it_is_a_pure_proxy() -> Result<()> {
    let mongod = Mongod::standalone().await?;
    let dualsync = Dualsync::builder(BIN).local(mongod.uri()).start().await?;
    let orders = dualsync.client().await?.database("shop").collection::<Document>("orders");
    orders.insert_one(doc! {"_id": 1}).await?;
    ensure!(orders.find_one(doc! {}).await? == Some(doc! {"_id": 1}), "not proxied");
    ensure!(!dualsync.log_dir().exists(), "a sync log was made");
    let health = dualsync.admin_get("/api/sync/health").await?;
    ensure!(health["checks"]["syncEnabled"]["status"] == "warn", "{health:#}");
    ensure!(dualsync.admin_get("/api/sync/worker").await?["state"] == "off", "the worker is not off");
    let report = dualsync.report().await?;
    ensure!(report["counts"]["captured"] == 0 && report["lag"]["entries"] == 0, "{report:#}");
    let pause = dualsync.request(
        "POST",
        "/api/sync/worker/control",
        Some(dualsync.token()),
        Some(r#"{"action":"pause"}"#),
    );
    ensure!(pause.await?.status == 409, "a worker that is off was paused");
    ensure!(dualsync.admin_get("/api/sync/config").await?["sync"]["enabled"] == false, "not said");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncing_that_was_off_for_a_time_makes_everything_dirty() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    stage.dualsync.set_env(NOT_COMPARED.0, NOT_COMPARED.1);
    let orders = stage.dualsync.client().await?.database("shop").collection::<Document>("orders");
    orders.insert_one(doc! {"_id": 1}).await?;
    stage.assert_equal().await?;
    stage.dualsync.set_env("SYNC_ENABLED", "false");
    stage.dualsync.restart().await?;
    orders.insert_one(doc! {"_id": 2}).await?;
    stage.dualsync.set_env("SYNC_ENABLED", "true");
    stage.dualsync.restart().await?;
    orders.insert_one(doc! {"_id": 3}).await?;
    stage.dualsync.wait_drained(DRAIN_MAX).await?;
    let report = stage.dualsync.report().await?;
    ensure!(report["namespaces"]["dirty"].to_string().contains("switched off"), "{report:#}");
    let health = stage.dualsync.admin_get("/api/sync/health").await?;
    ensure!(health["status"] == "degraded", "{health:#}");
    stage.mend().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_never_shown() -> Result<()> {
    const SECRET: &str = "s3cret-of-ours";
    let mongod = Mongod::standalone().await?;
    let target = testkit::ReplicaSet::start(1).await?;
    let with_password = |uri: String| uri.replacen("://", &format!("://somebody:{SECRET}%40x@"), 1);
    let dualsync = Dualsync::builder(BIN)
        .local(with_password(mongod.uri()))
        .atlas(with_password(target.uri()))
        .env("DUALSYNC_TELEMETRY_LEVEL", "trace")
        .expect_warning("a secret stands in the configuration file")
        // Nobody has that password here, which makes it the more likely to be said.
        .expect_warning("check the credentials")
        .expect_warning("local mongod unavailable")
        .start()
        .await?;
    let orders = dualsync.client().await?.database("shop").collection::<Document>("orders");
    orders.insert_one(doc! {"_id": 1}).await?;
    dualsync.wait_for_log("check the credentials", Duration::from_secs(15)).await?;
    let mut shown = dualsync.log_lines().join("\n");
    for path in ["/metrics", "/api/sync/health", "/"] {
        shown += &dualsync.request("GET", path, None, None).await?.body;
    }
    for path in ["config", "connections", "report", "metrics", "worker", "queue", "dead-letters"] {
        shown += &dualsync.admin_get(&format!("/api/sync/{path}")).await?.to_string();
    }
    for secret in [SECRET, dualsync.token()] {
        let at = shown.find(secret).map(|at| &shown[at.saturating_sub(300)..at]);
        ensure!(at.is_none(), "a secret is shown behind: {at:?}");
    }

    let uri = with_password("mongodb://127.0.0.1:notaport/".to_owned());
    let ended = Dualsync::builder(BIN).local(&uri).atlas(&uri).run_to_end(QUICK).await?;
    ensure!(ended.status.code() == Some(2), "{}", ended.output);
    ensure!(!ended.output.contains(SECRET), "{}", ended.output);
    let ended = Dualsync::builder(BIN)
        .local(with_password(mongod.uri()))
        .atlas(with_password(target.uri()))
        .arg("check-config")
        .run_to_end(QUICK)
        .await?;
    ensure!(ended.status.code() == Some(0) && !ended.output.contains(SECRET), "{}", ended.output);
    Ok(())
}

/// A start that must fail: its status, and what its output must say.
pub(crate) async fn refused(what: &str, builder: Builder, status: i32, says: &[&str]) -> Result<()> {
    let ended = builder.run_to_end(QUICK).await.with_context(|| what.to_owned())?;
    println!("{what}: {}", ended.output);
    ensure!(ended.status.code() == Some(status), "{what}: {}, not {status}\n{}", ended.status, ended.output);
    ensure!(!ended.output.contains("panicked"), "{what}: {}", ended.output);
    for part in says {
        ensure!(ended.output.contains(part), "{what}: does not say {part:?}\n{}", ended.output);
    }
    Ok(())
}

/// A port that is free now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A temporary folder of this test.
pub(crate) struct Folder(std::path::PathBuf);

impl Folder {
    pub(crate) fn new() -> Result<Folder> {
        let name = format!("dualsync-it-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)?;
        Ok(Folder(path))
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What refuses to start does so at once.
pub(crate) const QUICK: Duration = Duration::from_secs(15);
