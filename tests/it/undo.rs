//! A source that takes acknowledged writes back, or has lost its data: the target follows the one, not the other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bson::{Bson, Document, doc};
use futures_util::TryStreamExt as _;
use mongodb::Client;
use testkit::{Dualsync, Mongod, ReplicaSet, compare, mongod, wait_for};

use crate::support::{BIN, DRAIN_MAX, NOT_COMPARED};

/// mongod writes its journal every 100 ms, as ever; what a kill takes of it, it takes back when it starts again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_that_mongod_takes_back_are_taken_back_on_the_target() -> Result<()> {
    let mut source = Mongod::standalone().await?;
    let target = ReplicaSet::start(1).await?;
    let dualsync = Dualsync::builder(BIN).local(source.uri()).atlas(target.uri());
    let expected = ["local mongod", "mongod is not reachable", "is dirty", "transaction was open"];
    let mut dualsync =
        expected.iter().fold(dualsync, |builder, it| builder.expect_warning(*it)).start().await?;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut undone = 0;
    for round in 0..10 {
        let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = |n| tokio::spawn(write(dualsync.uri(), round, n, seed + n, stop.clone(), writes.clone()));
        let writers: Vec<_> = (0..4).map(start).collect();
        wait_for("a part of the writes", DRAIN_MAX, async || {
            Ok((writes.load(Ordering::Relaxed) > 400).then_some(()))
        })
        .await?;
        source.kill()?;
        stop.store(true, Ordering::Relaxed);
        let mut acknowledged = BTreeSet::new();
        for writer in writers {
            acknowledged.extend(writer.await??);
        }
        // In every other round both die.
        if round % 2 == 1 {
            dualsync.kill()?;
        }
        source.start().await?;
        if round % 2 == 1 {
            dualsync.restart().await?;
        }
        let kept = source.client().await?.database("undo").collection::<Document>("inserted");
        let kept = kept.distinct("_id", doc! {"round": round}).await?;
        let kept: BTreeSet<String> = kept.iter().filter_map(|id| id.as_str()).map(str::to_owned).collect();
        undone += acknowledged.difference(&kept).count();
        wait_for("the new process to be noticed", Duration::from_secs(25), async || {
            let lines = dualsync.log_lines();
            let noticed = lines.iter().filter(|line| line.contains("the source was started anew: what was"));
            Ok((noticed.count() as i32 > round).then_some(()))
        })
        .await
        .with_context(|| dualsync.log_lines().join("\n"))?;
        clean(&dualsync).await?;
        let comparison = compare::databases(&source.client().await?, &target.client().await?).await?;
        ensure!(comparison.equal(), "round {round}: source and target differ:\n{comparison}");
        println!("after round {round}, {undone} acknowledged inserts were taken back");
        if round >= 3 && undone >= 10 {
            return Ok(());
        }
    }
    anyhow::bail!("mongod takes nothing back: {undone}")
}

/// The folder of the source's data is lost, and it is started on an empty one: nothing is deleted on the target, whatever
/// was written to it lately, or waits in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_data_folder_takes_nothing_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let options = |port, dbpath: &PathBuf| mongod::Options {
        port,
        dbpath: Some(dbpath.clone()),
        ..mongod::Options::default()
    };
    let mut source = Mongod::launch(options(None, &data)).await?;
    let port = source.address().rsplit(':').next().and_then(|port| port.parse().ok());
    let target = ReplicaSet::start(1).await?;
    let dualsync = Dualsync::builder(BIN).local(source.uri()).atlas(target.uri());
    let expected = ["local mongod", "mongod is not reachable", "is dirty", "stays dirty"];
    let dualsync = expected.iter().fold(dualsync, |builder, it| builder.expect_warning(*it)).start().await?;
    let database = dualsync.client().await?.database("kept");
    database.collection("gone").insert_many((0..100).map(|n| doc! {"_id": n})).await?;
    database.collection("anew").insert_many((0..100).map(|n| doc! {"_id": n})).await?;
    dualsync.wait_drained(DRAIN_MAX).await?;
    // In doubt, so that it has to be read; it is still in the log when the source is gone.
    dualsync.admin_post("/api/sync/worker/control", &serde_json::json!({"action": "pause"})).await?;
    let stamp = doc! {"$currentDate": {"at": true}};
    database.collection::<Document>("gone").update_one(doc! {"_id": 1}, stamp.clone()).await?;
    database.collection::<Document>("anew").update_one(doc! {"_id": 1}, stamp).await?;
    source.kill()?;
    drop(source);
    let mut source = Mongod::launch(options(port, &folder.path().join("empty"))).await?;
    dualsync.admin_post("/api/sync/worker/control", &serde_json::json!({"action": "resume"})).await?;
    dualsync.client().await?.database("kept").collection("anew").insert_one(doc! {"_id": "new"}).await?;
    wait_for("both to be held", DRAIN_MAX, async || {
        let report = dualsync.report().await?;
        let dirty = report["namespaces"]["dirty"].as_array().cloned().unwrap_or_default();
        Ok((dirty.iter().filter(|it| it["state"] == "held").count() == 2).then_some(()))
    })
    .await?;
    dualsync.wait_drained(DRAIN_MAX).await?;
    let copy = target.client().await?.database("kept");
    let count = async |name| copy.collection::<Document>(name).count_documents(doc! {}).await;
    let (gone, anew) = (count("gone").await?, count("anew").await?);
    ensure!((gone, anew) == (100, 101), "an empty source has emptied the target: {gone}, {anew}");
    let health = dualsync.admin_get("/api/sync/health").await?;
    ensure!(health["status"] == "degraded" && health.to_string().contains("held"), "{health:#}");
    let reasons = dualsync.report().await?["namespaces"]["dirty"].to_string();
    ensure!(reasons.contains("the source has other data than before"), "{reasons}");

    // The ways out: one is brought back from the target, as mongodump and mongorestore do; the other one is meant to be so.
    let saved: Vec<Document> = copy.collection::<Document>("gone").find(doc! {}).await?.try_collect().await?;
    let here = source.client().await?.database("kept");
    here.collection("gone").insert_many(saved).await?;
    let confirmed = serde_json::json!({"namespaces": ["kept.anew"]});
    dualsync.admin_post("/api/sync/deletes/confirm", &confirmed).await?;
    dualsync.admin_post("/api/sync/full", &serde_json::json!({})).await?;
    clean(&dualsync).await?;
    let comparison = compare::databases(&source.client().await?, &target.client().await?).await?;
    ensure!(comparison.equal() && comparison.documents() == 101, "{comparison}");
    let health = dualsync.admin_get("/api/sync/health").await?;
    ensure!(health["status"] == "healthy", "{health:#}");
    source.stop().await?;
    Ok(())
}

/// The data folder is lost while a collection is not compared yet: what of it came to the target is kept as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_compared_yet_is_kept_when_the_source_is_emptied() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = |port, name| mongod::Options {
        port,
        dbpath: Some(folder.path().join(name)),
        ..mongod::Options::default()
    };
    let source = Mongod::launch(options(None, "data")).await?;
    let port = source.address().rsplit(':').next().and_then(|port| port.parse().ok());
    let target = ReplicaSet::start(1).await?;
    for server in [source.client().await?, target.client().await?] {
        server.database("d").collection("before").insert_many((0..50).map(|n| doc! {"_id": n})).await?;
    }
    let dualsync =
        Dualsync::builder(BIN).local(source.uri()).atlas(target.uri()).env(NOT_COMPARED.0, NOT_COMPARED.1);
    let expected = ["local mongod", "mongod is not reachable", "is dirty"];
    let dualsync = expected.iter().fold(dualsync, |builder, it| builder.expect_warning(*it)).start().await?;
    let before = dualsync.client().await?.database("d").collection::<Document>("before");
    before.update_many(doc! {"_id": {"$lt": 10}}, doc! {"$set": {"n": 1}}).await?;
    dualsync.wait_drained(DRAIN_MAX).await?;
    dualsync.admin_post("/api/sync/worker/control", &serde_json::json!({"action": "pause"})).await?;
    before.update_many(doc! {"_id": {"$gt": 40}}, doc! {"$set": {"n": 2}}).await?;
    drop(source);
    let source = Mongod::launch(options(port, "empty")).await?;
    dualsync.admin_post("/api/sync/worker/control", &serde_json::json!({"action": "resume"})).await?;
    dualsync.client().await?.database("d").collection("before").insert_one(doc! {"_id": "new"}).await?;
    dualsync.wait_drained(DRAIN_MAX).await?;
    let copy = target.client().await?.database("d").collection::<Document>("before");
    let left = copy.count_documents(doc! {}).await?;
    ensure!(left == 51, "of 50 documents and a new one {left} are left");
    drop(source);
    Ok(())
}

/// The source is put back from a disk snapshot of before a collection was made, on a system where nothing was written since:
/// what was noted about its making is hours old, and no reason to delete it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_snapshot_of_the_disk_deletes_nothing_on_the_target() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = |port, name| mongod::Options {
        port,
        dbpath: Some(folder.path().join(name)),
        ..mongod::Options::default()
    };
    let mut source = Mongod::launch(options(None, "data")).await?;
    let port = source.address().rsplit(':').next().and_then(|port| port.parse().ok());
    source.stop().await?;
    copy_folder(&folder.path().join("data"), &folder.path().join("snapshot"))?;
    source.start().await?;
    let target = ReplicaSet::start(1).await?;
    let dualsync = Dualsync::builder(BIN).local(source.uri()).atlas(target.uri());
    let expected = ["local mongod", "mongod is not reachable", "is dirty", "stays dirty"];
    let mut dualsync =
        expected.iter().fold(dualsync, |builder, it| builder.expect_warning(*it)).start().await?;
    let documents = (0..50).map(|n| doc! {"_id": n});
    dualsync.client().await?.database("kept").collection("made").insert_many(documents).await?;
    dualsync.wait_drained(DRAIN_MAX).await?;
    clean(&dualsync).await?;
    dualsync.terminate().await?;
    source.stop().await?;
    drop(source);
    for name in ["recent.0", "recent.1"] {
        an_hour_older(&dualsync.log_dir().join(name))?;
    }
    let source = Mongod::launch(options(port, "snapshot")).await?;
    dualsync.restart().await?;
    dualsync.wait_for_log("the source was started anew: what was", DRAIN_MAX).await?;
    wait_for("it to be held", Duration::from_secs(20), async || {
        let report = dualsync.report().await?;
        Ok((report["namespaces"]["dirty"][0]["state"] == "held").then_some(()))
    })
    .await
    .with_context(|| dualsync.log_lines().join("\n"))?;
    let copy = target.client().await?.database("kept").collection::<Document>("made");
    let left = copy.count_documents(doc! {}).await?;
    ensure!(left == 50, "of 50 documents {left} are left");
    drop(source);
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Whatever time there is in these BSON documents.
fn an_hour_older(path: &Path) -> Result<()> {
    let Ok(bytes) = fs::read(path) else { return Ok(()) };
    let (mut rest, mut older) = (bytes.as_slice(), Vec::new());
    while !rest.is_empty() {
        let mut document = Document::from_reader(&mut rest)?;
        for (_, value) in document.iter_mut() {
            if let Bson::Int64(at) = value {
                *at -= 3_600_000;
            }
        }
        document.to_writer(&mut older)?;
    }
    fs::write(path, older)?;
    Ok(())
}

/// Random writes; yields the `_id`s of the inserts that were acknowledged.
async fn write(
    uri: String,
    round: i32,
    client: u64,
    seed: u64,
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
) -> Result<BTreeSet<String>> {
    let database = Client::with_uri_str(&uri).await?.database("undo");
    let inserted = database.collection::<Document>("inserted");
    let changed = database.collection::<Document>("changed");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut acknowledged = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let (id, tag) = (rng.i32(0..300), rng.i32(0..20));
        let name = format!("{round} {client} {}", acknowledged.len());
        let [one, other] = [(); 2].map(|()| format!("one{}", rng.u32(..12)));
        let done = match rng.u32(..80) {
            // Collections that come, go and are put in each other's place.
            8 => changed.aggregate([doc! {"$match": {"tag": tag}}, doc! {"$out": one}]).await.map(|_| ()),
            9 => database.collection::<Document>(&one).drop().await,
            10 => {
                let (from, to) = (format!("undo.{one}"), format!("undo.{other}"));
                let rename = doc! {"renameCollection": from, "to": to, "dropTarget": true};
                database.client().database("admin").run_command(rename).await.map(|_| ()).or(Ok(()))
            }
            11..16 => {
                database.collection(&one).insert_one(doc! {"_id": &name, "round": round}).await.map(|_| ())
            }
            n => match n % 8 {
                0 => changed.delete_one(doc! {"_id": id}).await.map(|_| ()),
                1 => changed.delete_many(doc! {"tag": tag, "n": {"$gt": 2}}).await.map(|_| ()),
                2 => {
                    let change = doc! {"$inc": {"n": 1}, "$set": {"tag": tag + 1}};
                    changed.update_many(doc! {"tag": tag}, change).await.map(|_| ())
                }
                3 | 4 => {
                    let change = doc! {"$inc": {"n": 1}, "$set": {"tag": tag}};
                    changed.update_one(doc! {"_id": id}, change).upsert(true).await.map(|_| ())
                }
                _ => inserted.insert_one(doc! {"_id": &name, "round": round}).await.map(|_| {
                    acknowledged.insert(name);
                }),
            },
        };
        match done {
            Ok(()) => drop(writes.fetch_add(1, Ordering::Relaxed)),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    Ok(acknowledged)
}

async fn clean(dualsync: &Dualsync) -> Result<()> {
    wait_for("everything to be compared", DRAIN_MAX, async || {
        let report = dualsync.report().await?;
        let empty = |list: &str| report["namespaces"][list].as_array().is_some_and(Vec::is_empty);
        let ended = !report["warnings"].to_string().contains("no outcome");
        let local = !report["warnings"].to_string().contains("local mongod");
        Ok((empty("dirty") && empty("notCopiedYet") && report["lag"]["entries"] == 0 && ended && local)
            .then_some(()))
    })
    .await
}
