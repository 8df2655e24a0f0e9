//! Bytes that no driver sends: answered as mongod answers them, and nobody else notices.
//!
//! Every case goes straight to a mongod and through the proxy to another one, each time on a connection of its own;
//! what comes back until the connection ends must be the same. Meanwhile another client reads and writes through a
//! driver.

mod cases;
mod odd;
pub mod raw;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc, rawdoc};
use testkit::{Mongod, wait_for};
use tokio::task::JoinHandle;

use crate::support::{Source, Stage};
use raw::{OP_MSG, Socket, answer, body, frame, op_msg};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_frames_are_answered_as_by_mongod() -> Result<()> {
    let stage = Stage::start(Source::standalone().await?).await?;
    stage.dualsync.expect_warning("a client is turned away: it speaks TLS");
    // Who cannot read a frame cannot tell whether it belongs to one.
    stage.dualsync.expect_warning("a transaction was open when its connection");
    let mongod = Mongod::standalone().await?;
    let other = OtherClient::start(&stage);
    let silent = silent_clients(&stage).await?;

    let mut failures = Vec::new();
    for (name, bytes) in cases::all()?.into_iter().chain(odd::all()?) {
        let direct = answer(&mongod.address(), &bytes).await.context(name)?;
        let proxied = answer(&stage.dualsync.proxy_address(), &bytes).await.context(name)?;
        if direct != proxied {
            failures.push(format!("{name}: mongod {direct:?}, through the proxy {proxied:?}"));
        }
        let moved = other.goes_on().await;
        if let Err(error) = moved {
            failures.push(format!("{name}: {error:#}"));
        }
    }
    println!("{}", failures.join("\n"));
    ensure!(failures.is_empty(), "{} cases failed", failures.len());

    drop(silent);
    wait_for("the silent clients' sessions to end", SOON, async || {
        let open = stage.dualsync.metrics().await?["dualsync_proxy_connections"];
        Ok((open < f64::from(SILENT_CLIENTS)).then_some(()))
    })
    .await?;
    finish(stage, other).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_are_answered_as_by_mongod() -> Result<()> {
    let stage = Stage::start(Source::standalone().await?).await?;
    // One start in 256 is TLS's.
    stage.dualsync.expect_warning("a client is turned away: it speaks TLS");
    let mongod = Mongod::standalone().await?;
    let other = OtherClient::start(&stage);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..150 {
        let bytes = garbage(&mut random);
        let direct = answer(&mongod.address(), &bytes).await?;
        let proxied = answer(&stage.dualsync.proxy_address(), &bytes).await?;
        let shown = &bytes[..bytes.len().min(64)];
        ensure!(
            direct == proxied,
            "seed {seed}, round {round}, {shown:02x?}: mongod {direct:?}, through the proxy {proxied:?}"
        );
    }
    other.goes_on().await?;
    finish(stage, other).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_in_mid_write_leaves_nothing_behind() -> Result<()> {
    let stage = Stage::start(Source::standalone().await?).await?;
    let other = OtherClient::start(&stage);
    let address = stage.dualsync.proxy_address();
    let insert = |id: i32| {
        let filler = "x".repeat(100_000);
        op_msg(
            0,
            &body(&rawdoc! {"insert": "gone", "documents": [{"_id": id, "filler": filler}], "$db": "it"}),
        )
    };
    let update = op_msg(
        0,
        &body(&rawdoc! {
            "update": "gone", "$db": "it",
            "updates": [{"q": {"_id": 1}, "u": {"$set": {"filler": "y".repeat(100_000)}}}],
        }),
    );
    // Cut everywhere: nothing of the write may happen, and no trace of it stays.
    for whole in [insert(2), update.clone()] {
        for length in [1, 15, 16, 20, 100, 50_000, whole.len() - 1] {
            answer(&address, &whole[..length]).await.context("a part of a write")?;
        }
    }
    // Whole, but nobody waits for the reply: it happens, and is followed.
    let mut socket = Socket::connect(&address).await?;
    socket.send(&insert(1)).await?;
    drop(socket);
    let gone = stage.source.client().await?.database("it").collection::<Document>("gone");
    wait_for("the write of the client that is gone", SOON, async || {
        Ok(gone.find_one(doc! {"_id": 1}).await?)
    })
    .await?;
    let mut socket = Socket::connect(&address).await?;
    socket.send(&update).await?;
    drop(socket);
    wait_for("the update of the client that is gone", SOON, async || {
        Ok(gone.find_one(doc! {"filler": {"$regex": "^y"}}).await?)
    })
    .await?;
    ensure!(gone.count_documents(doc! {}).await? == 1, "a part of an insert has inserted something");
    // An orphan becomes an entry when mongod has lost its connection.
    wait_for("every write to have an outcome", SOON, async || {
        let report = stage.dualsync.report().await?;
        let open = report["recommendations"].to_string().contains("ORPHANS");
        Ok((!open && report["counts"]["captured"].as_u64() >= Some(2)).then_some(()))
    })
    .await?;
    finish(stage, other).await
}

/// All is well at the end: nothing is dirty, nobody panicked, both sides are equal.
async fn finish(stage: Stage, other: OtherClient) -> Result<()> {
    let rounds = other.end().await?;
    println!("the other client made {rounds} rounds");
    stage.assert_equal().await?;
    let report = stage.dualsync.report().await?;
    ensure!(report["namespaces"]["dirty"] == serde_json::json!([]), "something is dirty: {report:#}");
    ensure!(report["counts"]["deadLetters"] == 0, "there are dead letters: {report:#}");
    let metrics = stage.dualsync.metrics().await?;
    ensure!(metrics["dualsync_proxy_sessions_died_total"] == 0.0, "a session died");
    stage.dualsync.check_log()
}

/// Anything from noise to a well-formed frame with noise inside.
fn garbage(random: &mut fastrand::Rng) -> Vec<u8> {
    let count = random.usize(0..300);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(count).collect();
    match random.u8(0..4) {
        0 => noise,
        1 => frame(OP_MSG, &noise),
        2 => op_msg(0, &noise),
        // A good frame with one byte that is not.
        _ => {
            let id = random.i32(0..1000);
            let mut bytes =
                op_msg(0, &body(&rawdoc! {"find": "bad", "filter": {"_id": id, "x": "text"}, "$db": "it"}));
            let at = random.usize(0..bytes.len());
            bytes[at] = random.u8(..);
            bytes
        }
    }
}

/// Clients that connect and say nothing.
async fn silent_clients(stage: &Stage) -> Result<Vec<Socket>> {
    let mut silent = Vec::new();
    for _ in 0..SILENT_CLIENTS {
        silent.push(Socket::connect(&stage.dualsync.proxy_address()).await?);
    }
    wait_for("the silent clients to be served", SOON, async || {
        let open = stage.dualsync.metrics().await?["dualsync_proxy_connections"];
        Ok((open >= f64::from(SILENT_CLIENTS)).then_some(()))
    })
    .await?;
    Ok(silent)
}

/// A driver's client that writes and reads its own writes, all the time.
struct OtherClient {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    task: JoinHandle<Result<()>>,
}

impl OtherClient {
    fn start(stage: &Stage) -> OtherClient {
        let (stop, rounds): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let (uri, stopped, count) = (stage.dualsync.uri(), stop.clone(), rounds.clone());
        let task = tokio::spawn(async move {
            let client = mongodb::Client::with_uri_str(uri).await?;
            let documents = client.database("it").collection::<Document>("other");
            for id in 0_i32.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                documents.insert_one(doc! {"_id": id, "n": 0}).await?;
                documents.update_one(doc! {"_id": id}, doc! {"$inc": {"n": 1}}).await?;
                let read = documents.find_one(doc! {"_id": id}).await?;
                ensure!(read == Some(doc! {"_id": id, "n": 1}), "read {read:?}");
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        OtherClient { stop, rounds, task }
    }

    /// Waits until it has made another round.
    async fn goes_on(&self) -> Result<()> {
        let before = self.rounds.load(Ordering::Relaxed);
        wait_for("the other client to go on", SOON, async || {
            Ok((self.rounds.load(Ordering::Relaxed) > before).then_some(()))
        })
        .await
    }

    async fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?.context("the other client failed")?;
        Ok(self.rounds.load(Ordering::Relaxed))
    }
}

const SILENT_CLIENTS: u32 = 100;
const SOON: Duration = Duration::from_secs(10);
