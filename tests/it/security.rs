//! What carries the connections, who may connect, and who is shown out: TLS and Unix sockets on both sides,
//! authentication, limits.

mod auth;
mod bypass;
mod doors;
mod guard;
mod rights;
mod tls;
mod unix;
mod x509;

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::Client;
use mongodb::results::UpdateResult;
use testkit::{python, wait_for};
use tokio::task::JoinHandle;

use crate::startup::QUICK;
use crate::support::{Stage, update_runs};

/// Writes and reads through `uri` with the Rust driver; the collection's name tells one way from another.
pub async fn used_by_rust(uri: &str, collection: &str) -> Result<()> {
    let client = Client::with_uri_str(uri).await?;
    let collection = client.database("shop").collection::<Document>(collection);
    let many: Vec<Document> = (0..100).map(|id| doc! { "_id": id, "text": "x".repeat(10_000) }).collect();
    collection.insert_many(many).await.context("insert with the Rust driver")?;
    collection.update_many(doc! { "_id": { "$lt": 10 } }, doc! { "$set": { "changed": true } }).await?;
    let found = collection.count_documents(doc! { "changed": true }).await?;
    ensure!(found == 10, "{found} of 10 were changed");
    let longest = collection.find_one(doc! { "_id": 99 }).await?.context("document 99")?;
    ensure!(
        longest.get_str("text").is_ok_and(|text| text.len() == 10_000),
        "what is read is what was written"
    );
    client.shutdown().immediate(true).await;
    Ok(())
}

/// The same with PyMongo.
pub async fn used_by_python(uri: &str, collection: &str) -> Result<()> {
    run_python(PYTHON, &[uri, collection]).await.with_context(|| format!("PyMongo through {uri}"))
}

/// Runs a script that says nothing when all is well.
pub async fn run_python(script: &str, args: &[&str]) -> Result<()> {
    let interpreter = tokio::task::spawn_blocking(python::interpreter).await??;
    let output = tokio::process::Command::new(interpreter)
        .args(["-I", "-c", script])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

const PYTHON: &str = "
import sys, pymongo
client = pymongo.MongoClient(sys.argv[1], serverSelectionTimeoutMS=10000)
c = client.shop[sys.argv[2]]
c.insert_many([{'_id': i, 'text': 'x' * 10000} for i in range(100)])
assert c.update_many({'_id': {'$lt': 10}}, {'$set': {'changed': True}}).modified_count == 10
assert sum(1 for _ in c.find({}, batch_size=7)) == 100
client.close()
";

/// Kills the proxy while mongod, which must have test commands, is at an update that goes on without it; starts it again.
pub async fn killed_under_an_update(stage: &mut Stage) -> Result<()> {
    let update = slow_update(stage, 2_000).await?;
    stage.dualsync.kill()?;
    ensure!(update.await?.is_err(), "the update ended before the proxy was killed");
    stage.dualsync.restart().await?;
    let things = stage.source.client().await?.database("shop").collection::<Document>("things");
    wait_for("the update", QUICK, async || {
        Ok(things.find_one(doc! { "_id": 7, "seen": true }).await?.map(drop))
    })
    .await
}

/// Sends an update that mongod, which must have test commands, takes some time for; returns while it does.
pub async fn slow_update(
    stage: &Stage,
    takes_ms: i32,
) -> Result<JoinHandle<mongodb::error::Result<UpdateResult>>> {
    let things = stage.dualsync.client().await?.database("shop").collection::<Document>("things");
    things.insert_many((0..50).map(|id| doc! { "_id": id })).await?;
    stage.dualsync.wait_drained(QUICK).await?;
    let slow = doc! { "failCommands": ["update"], "blockConnection": true, "blockTimeMS": takes_ms };
    let point = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": slow };
    stage.source.client().await?.database("admin").run_command(point).await?;
    let update =
        tokio::spawn(
            async move { things.update_one(doc! { "_id": 7 }, doc! { "$set": { "seen": true } }).await },
        );
    update_runs(&stage.source.client().await?, "shop.things").await?;
    Ok(update)
}

/// What a mongod needs for that.
pub const TEST_COMMANDS: [&str; 2] = ["--setParameter", "enableTestCommands=1"];

/// A path as a connection string has it.
pub fn in_uri(path: &Path) -> String {
    path.display().to_string().replace('/', "%2F")
}
