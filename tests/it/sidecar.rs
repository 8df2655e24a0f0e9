//! The admin port of the running binary: who may ask what, what it shows, what it can be told.

mod filters;
mod letters;
mod orders;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::Collection;
use serde_json::{Value, json};
use testkit::{Dualsync, ReplicaSet, wait_for};

use crate::support::{BIN, NOT_COMPARED, Source, Stage};

/// Status without a token, with a wrong one, with the read token, with the admin token.
type Statuses = [u16; 4];
const OPEN: Statuses = [200; 4];
const READ: Statuses = [401, 401, 200, 200];
const fn change(admin: u16) -> Statuses {
    [401, 401, 403, admin]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_ask_what() -> Result<()> {
    let read_token = "a-token-that-may-only-read";
    let stage = Stage::start_with(Source::standalone().await?, |builder| {
        // So that a full comparison is refused, however quickly it would end.
        builder.env("DUALSYNC_ADMIN_READ_TOKEN", read_token).env(NOT_COMPARED.0, NOT_COMPARED.1)
    })
    .await?;
    let cases: &[(&str, &str, Option<&str>, Statuses)] = &[
        ("GET", "/", None, OPEN),
        ("GET", "/healthz", None, OPEN),
        ("GET", "/readyz", None, OPEN),
        ("GET", "/metrics", None, OPEN),
        ("GET", "/api/sync/health", None, OPEN),
        ("GET", "/api/sync/metrics", None, READ),
        ("GET", "/api/sync/report", None, READ),
        ("GET", "/api/sync/queue", None, READ),
        ("GET", "/api/sync/worker", None, READ),
        ("GET", "/api/sync/connections", None, READ),
        ("GET", "/api/sync/config", None, READ),
        ("GET", "/api/sync/full", None, READ),
        ("GET", "/api/sync/dead-letters", None, READ),
        ("GET", "/api/sync/dead-letters?limit=1000", None, READ),
        ("GET", "/api/sync/dead-letters?limit=0", None, [401, 401, 400, 400]),
        ("POST", "/api/sync/worker/control", Some(r#"{"action":"resume"}"#), change(409)),
        ("POST", "/api/sync/worker/control", Some(r#"{"action":"start"}"#), change(409)),
        ("POST", "/api/sync/worker/control", Some(r#"{"action":"dance"}"#), change(400)),
        ("POST", "/api/sync/worker/control", None, change(400)),
        ("POST", "/api/sync/queue/clear", Some(r#"{"confirm":"yes"}"#), change(400)),
        ("POST", "/api/sync/queue/clear", Some(r#"{"confirm":"clear"}"#), change(200)),
        ("POST", "/api/sync/stats/reset", None, change(200)),
        ("POST", "/api/sync/worker/pace", Some(r#"{"lanes":0}"#), change(400)),
        ("POST", "/api/sync/worker/pace", Some("{}"), change(200)),
        ("GET", "/api/sync/capture", None, READ),
        ("POST", "/api/sync/capture/control", Some(r#"{"action":"resume"}"#), change(409)),
        ("GET", "/api/sync/filters", None, READ),
        ("POST", "/api/sync/filters", Some(r#"{"include":["a b"]}"#), change(400)),
        ("POST", "/api/sync/filters", Some("{}"), change(200)),
        ("POST", "/api/sync/deletes/confirm", Some(r#"{"namespaces":[]}"#), change(400)),
        ("POST", "/api/sync/deletes/confirm", Some(r#"{"namespaces":["no.such"]}"#), change(404)),
        ("POST", "/api/sync/full", None, change(409)),
        ("DELETE", "/api/sync/full", None, change(409)),
        ("POST", "/api/sync/dead-letters/retry", Some(r#"{"all":true}"#), change(200)),
        ("POST", "/api/sync/dead-letters/retry", Some(r#"{"ids":["7"]}"#), change(404)),
        ("POST", "/api/sync/dead-letters/retry", Some(r#"{"all":false}"#), change(400)),
        ("POST", "/api/sync/dead-letters/discard", Some(r#"{"all":true}"#), change(200)),
        ("POST", "/api/sync/dead-letters/discard", Some("[]"), change(400)),
        ("POST", "/api/sync/retry-failed", None, change(200)),
        ("GET", "/api/sync/nothing", None, [404; 4]),
        ("POST", "/healthz", None, [405; 4]),
        ("POST", "/api/sync/health", None, [405; 4]),
    ];
    stage.dualsync.expect_warning("pending entries cleared on request");
    let tokens = [None, Some("wrong"), Some(read_token), Some(stage.dualsync.token())];
    let mut failures = Vec::new();
    for (method, path, body, expected) in cases {
        for (token, status) in tokens.iter().zip(expected) {
            let response = stage.dualsync.request(method, path, *token, *body).await?;
            if response.status != *status {
                failures.push(format!(
                    "{method} {path} {body:?} {token:?}: {} {}",
                    response.status, response.body
                ));
            }
            if path.starts_with("/api/") {
                envelope(&response.json()?, *status).with_context(|| format!("{method} {path}"))?;
            }
        }
    }
    println!("{}", failures.join("\n"));
    ensure!(failures.is_empty(), "{} answers are wrong", failures.len());
    Ok(())
}

/// `{"success":true,"data":…}` or `{"success":false,"error":{"code","message","action"}}`, and nothing beside.
fn envelope(answer: &Value, status: u16) -> Result<()> {
    let fields = |value: &Value| value.as_object().map(|it| it.keys().cloned().collect::<Vec<_>>());
    let good = match status {
        200 => answer["success"] == true && fields(answer) == Some(vec!["data".into(), "success".into()]),
        _ => {
            answer["success"] == false
                && fields(answer) == Some(vec!["error".into(), "success".into()])
                && ["code", "message", "action"].iter().all(|name| answer["error"][name].is_string())
        }
    };
    ensure!(good, "{status} with {answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_the_servers() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    let orders = orders(&stage).await?;
    orders.insert_one(doc! {"_id": 1}).await?;
    stage.assert_equal().await?;
    let healthy = health(&stage.dualsync, "healthy").await?;
    for check in
        ["syncEnabled", "localDatabase", "atlasDatabase", "worker", "queueSize", "syncLag", "failureRate"]
    {
        ensure!(healthy["checks"][check]["status"] == "pass", "{check} does not pass: {healthy:#}");
    }
    ensure!(healthy["checks"]["queueSize"]["value"] == 0 && healthy["warnings"] == json!([]), "{healthy:#}");

    stage.dualsync.expect_warning("Atlas unavailable");
    stage.target.stop().await?;
    orders.insert_one(doc! {"_id": 2}).await?;
    let degraded = health(&stage.dualsync, "degraded").await?;
    ensure!(degraded["checks"]["atlasDatabase"]["status"] == "warn", "{degraded:#}");
    ensure!(degraded["checks"]["localDatabase"]["status"] == "pass", "{degraded:#}");
    let connections = stage.dualsync.admin_get("/api/sync/connections").await?;
    ensure!(connections["atlas"]["state"] == "disconnected", "{connections:#}");
    ensure!(connections["atlas"]["lastError"]["message"].is_string(), "{connections:#}");
    ensure!(connections["local"]["state"] == "connected", "{connections:#}");
    let worker = stage.dualsync.admin_get("/api/sync/worker").await?;
    ensure!(worker["state"] == "backing-off" && worker["attempt"].as_u64() > Some(0), "{worker:#}");
    ensure!(status(&stage.dualsync, "/readyz").await? == 200, "readiness knows of Atlas");

    stage.target.resume().await?;
    health(&stage.dualsync, "healthy").await?;
    stage.assert_equal().await?;
    stage.assert_followed().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_bad_while_the_local_mongod_is_away() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    stage.dualsync.expect_warning("local mongod unavailable");
    let Source::Standalone(mongod) = &mut stage.source else { return Ok(()) };
    mongod.stop().await?;
    let unhealthy = health(&stage.dualsync, "unhealthy").await?;
    ensure!(unhealthy["checks"]["localDatabase"]["status"] == "fail", "{unhealthy:#}");
    ensure!(status(&stage.dualsync, "/api/sync/health").await? == 503, "unhealthy, and not 503");
    ensure!(status(&stage.dualsync, "/healthz").await? == 200, "the process turns all the same");
    ensure!(status(&stage.dualsync, "/readyz").await? == 200, "the proxy is ready all the same");
    mongod.start().await?;
    health(&stage.dualsync, "healthy").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_before_is_not_copied_yet() -> Result<()> {
    let source = Source::standalone().await?;
    let before = source.client().await?.database("old").collection::<Document>("before");
    before.insert_many([doc! {"_id": 1, "n": 1}, doc! {"_id": 2, "n": 1}]).await?;
    source.client().await?.database("old").create_collection("empty").await?;
    let target = ReplicaSet::start(1).await?;
    let there = target.client().await?.database("there").collection::<Document>("already");
    there.insert_one(doc! {"_id": 1}).await?;
    let dualsync = Dualsync::builder(BIN).local(source.uri()).atlas(target.uri());
    let dualsync = dualsync.env(NOT_COMPARED.0, NOT_COMPARED.1);
    let dualsync = dualsync.expect_warning("namespace stays dirty until somebody decides").start().await?;
    let mut stage = Stage { source, target, dualsync };

    let report = wait_for("both sides to be looked at", SOON, async || {
        let report = stage.dualsync.report().await?;
        let names = report["namespaces"]["notCopiedYet"].as_array().map_or(0, Vec::len);
        Ok((names == 3).then_some(report))
    })
    .await?;
    let names: Vec<_> = list(&report["namespaces"]["notCopiedYet"], "namespace");
    ensure!(names == ["old.before", "old.empty", "there.already"], "{report:#}");
    ensure!(report["namespaces"]["dirty"] == json!([]), "{report:#}");
    ensure!(list(&report["recommendations"], "code").contains(&"NOT_COPIED_YET".to_owned()), "{report:#}");
    let health = health(&stage.dualsync, "degraded").await?;
    ensure!(health["warnings"].to_string().contains("not copied yet"), "{health:#}");
    ensure!(stage.dualsync.metrics().await?["dualsync_dirty_namespaces"] == 3.0, "not in the metrics");

    // What is written meanwhile is followed, by copying: the rest of the documents is not there.
    let through = stage.dualsync.client().await?.database("old").collection::<Document>("before");
    through.update_one(doc! {"_id": 1}, doc! {"$inc": {"n": 1}}).await?;
    stage.dualsync.wait_drained(SOON).await?;
    let copied = stage.target.client().await?.database("old").collection::<Document>("before");
    let copied = copied.find_one(doc! {}).await?;
    ensure!(copied == Some(doc! {"_id": 1, "n": 2}), "{copied:?}");
    ensure!(ways(&stage.dualsync).await? == [0.0, 1.0, 0.0], "it was not converged");

    // Compared, what the source has is copied. What only the target has is kept until somebody decides.
    stage.dualsync.set_env(NOT_COMPARED.0, "50000");
    stage.dualsync.restart().await?;
    let held = wait_for("the rest to be copied", SOON, async || {
        let report = stage.dualsync.report().await?;
        let left = list(&report["namespaces"]["notCopiedYet"], "namespace");
        Ok((left == ["there.already"] && report["warnings"].to_string().contains("is held"))
            .then_some(report))
    })
    .await?;
    ensure!(held["namespaces"]["notCopiedYet"][0]["state"] == "held", "{held:#}");
    ensure!(copied_all(&stage, "old", "before").await? == 2, "not copied");
    ensure!(copied_all(&stage, "there", "already").await? == 1, "the target's own is gone");
    let confirmed = json!({"namespaces": ["there.already"]});
    stage.dualsync.admin_post("/api/sync/deletes/confirm", &confirmed).await?;
    stage.assert_mended().await?;
    ensure!(copied_all(&stage, "there", "already").await? == 0, "not deleted although confirmed");
    Ok(())
}

async fn copied_all(stage: &Stage, db: &str, name: &str) -> Result<u64> {
    let there = stage.target.client().await?.database(db).collection::<Document>(name);
    Ok(there.count_documents(doc! {}).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_add_up() -> Result<()> {
    let stage = Stage::start(Source::standalone().await?).await?;
    ensure!(ways(&stage.dualsync).await? == [0.0; 3], "the counters do not start at 0");
    let orders = orders(&stage).await?;
    for id in 0..20 {
        orders.insert_one(doc! {"_id": id, "n": id % 2}).await?;
    }
    orders.insert_many((20..30).map(|id| doc! {"_id": id, "n": 9})).await?;
    orders.update_one(doc! {"n": 1}, doc! {"$set": {"x": 1}}).await?;
    orders.delete_one(doc! {"_id": 4}).await?;
    orders.delete_one(doc! {"_id": "nobody"}).await?;
    ensure!(orders.insert_one(doc! {"_id": 5}).await.is_err(), "inserted twice");

    let mut highest = [0; 4];
    wait_for("the lag to go to 0", SOON, async || {
        let report = stage.dualsync.report().await?;
        let positions = positions(&report)?;
        ensure!(positions.is_sorted(), "trimmed <= applied <= durable <= appended is broken: {positions:?}");
        ensure!(positions.iter().zip(highest).all(|(now, before)| *now >= before), "a position went back");
        highest = positions;
        Ok((report["lag"]["entries"] == 0).then_some(()))
    })
    .await?;
    stage.assert_equal().await?;
    ensure!(ways(&stage.dualsync).await? == [22.0, 1.0, 0.0], "ways {:?}", ways(&stage.dualsync).await?);
    let metrics = stage.dualsync.metrics().await?;
    let captured = |kind: &str| metrics[&format!("dualsync_captured_entries_total{{kind=\"{kind}\"}}")];
    let kinds = ["insert", "update", "delete", "find_and_modify", "coarse"].map(captured);
    ensure!(kinds == [21.0, 1.0, 1.0, 0.0, 0.0], "captured {kinds:?}");
    ensure!(metrics["dualsync_lag_entries"] == 0.0 && metrics["dualsync_lag_seconds"] == 0.0, "lag");
    let report = stage.dualsync.report().await?;
    ensure!(report["counts"]["captured"] == 23 && report["counts"]["replayed"] == 22, "{report:#}");
    ensure!(report["counts"]["inDoubt"]["predicate"] == 1, "{report:#}");
    ensure!(report["lag"] == json!({"entries": 0, "bytes": 0, "seconds": 0.0}), "{report:#}");
    let queue = stage.dualsync.admin_get("/api/sync/queue").await?;
    ensure!(queue["size"] == 0 && queue["level"] == "normal" && queue["oldestAgeMs"].is_null(), "{queue:#}");
    let stats = stage.dualsync.admin_get("/api/sync/metrics").await?;
    ensure!(stats["succeeded"] == 23 && stats["failed"] == 0 && stats["successRate"] == 1.0, "{stats:#}");

    stage.dualsync.admin_post("/api/sync/stats/reset", &json!({})).await?;
    let stats = stage.dualsync.admin_get("/api/sync/metrics").await?;
    ensure!(stats["succeeded"] == 0, "not reset: {stats:#}");
    ensure!(
        ways(&stage.dualsync).await? == [22.0, 1.0, 0.0],
        "a reset must leave Prometheus' counters alone"
    );
    Ok(())
}

/// A collection as the application sees it.
async fn orders(stage: &Stage) -> Result<Collection<Document>> {
    Ok(stage.dualsync.client().await?.database("shop").collection("orders"))
}

/// Waits for a verdict, and yields all of health.
async fn health(dualsync: &Dualsync, wanted: &str) -> Result<Value> {
    let mut last = Value::Null;
    let what = format!("health to be {wanted}");
    let health = wait_for(&what, HEALTH_MAX, async || {
        last = dualsync.admin_get("/api/sync/health").await?;
        Ok((last["status"] == wanted).then_some(()))
    });
    health.await.with_context(|| format!("{last:#}"))?;
    Ok(last)
}

async fn status(dualsync: &Dualsync, path: &str) -> Result<u16> {
    Ok(dualsync.request("GET", path, None, None).await?.status)
}

/// Entries that were replayed, converged, and gone the dirty way; each must be there.
async fn ways(dualsync: &Dualsync) -> Result<[f64; 3]> {
    let metrics: BTreeMap<String, f64> = dualsync.metrics().await?;
    let way = |way: &str| metrics.get(&format!("dualsync_entries_total{{way=\"{way}\"}}")).copied();
    let ways = ["replayed", "converged", "dirty"].map(way);
    ensure!(ways.iter().all(Option::is_some), "a way is missing: {metrics:?}");
    Ok(ways.map(Option::unwrap_or_default))
}

fn positions(report: &Value) -> Result<[u64; 4]> {
    let at = |name: &str| report["positions"][name].as_u64();
    let all = ["trimmed", "applied", "durable", "appended"].map(at);
    ensure!(all.iter().all(Option::is_some), "{report:#}");
    Ok(all.map(Option::unwrap_or_default))
}

/// One text field of every object in a list.
fn list(objects: &Value, field: &str) -> Vec<String> {
    let objects = objects.as_array().into_iter().flatten();
    objects.filter_map(|object| object[field].as_str().map(ToOwned::to_owned)).collect()
}

const SOON: Duration = Duration::from_secs(15);
/// An idle replicator asks the servers every 5 s, and waits 1, then 5 s when one does not answer within 5 s.
const HEALTH_MAX: Duration = Duration::from_secs(20);
