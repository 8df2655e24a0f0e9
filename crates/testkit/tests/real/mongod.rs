use std::path::Path;

use bson::{Document, doc};
use mongodb::Client;
use testkit::mongod::{self, Mongod, Options};
use testkit::wait_for;

use crate::Result;

async fn count(client: &Client) -> anyhow::Result<u64> {
    Ok(client.database("kit").collection::<Document>("c").count_documents(doc! {}).await?)
}

async fn insert(client: &Client, document: Document) -> Result {
    client.database("kit").collection("c").insert_one(document).await?;
    Ok(())
}

#[test]
fn one_is_found_or_installed() -> Result {
    let path = mongod::find()?;
    assert!(path.is_file());
    assert_eq!(mongod::find()?, path);
    Ok(())
}

#[tokio::test]
async fn data_and_port_stay_over_stop_kill_and_start() -> Result {
    let mut mongod = Mongod::standalone().await?;
    let (uri, client) = (mongod.uri(), mongod.client().await?);
    insert(&client, doc! { "_id": 1 }).await?;
    mongod.stop().await?;
    assert_eq!(mongod.pid(), None);
    mongod.start().await?;
    assert_eq!(mongod.uri(), uri);
    let client = mongod.client().await?;
    assert_eq!(count(&client).await?, 1);

    client
        .database("kit")
        .run_command(doc! {
            "insert": "c", "documents": [{ "_id": 2 }], "writeConcern": { "j": true },
        })
        .await?;
    mongod.kill()?;
    mongod.start().await?;
    assert_eq!(count(&mongod.client().await?).await?, 2);
    Ok(())
}

#[tokio::test]
async fn a_paused_one_answers_when_it_is_resumed() -> Result {
    let mut mongod = Mongod::standalone().await?;
    let client = mongod.client().await?;
    assert_eq!(count(&client).await?, 0);
    mongod.pause()?;
    // State T is "stopped by a signal", which takes its time: until then it may answer.
    let stat = format!("/proc/{}/stat", mongod.pid().unwrap());
    wait_for("the server to be stopped", std::time::Duration::from_secs(10), async || {
        Ok(std::fs::read_to_string(&stat)?.contains(") T ").then_some(()))
    })
    .await?;
    let waiting = tokio::spawn(async move { count(&client).await });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    mongod.resume()?;
    assert_eq!(waiting.await??, 0);
    mongod.pause()?;
    mongod.stop().await?;
    Ok(())
}

#[tokio::test]
async fn dropping_ends_the_process_and_removes_its_folder() -> Result {
    let mongod = Mongod::standalone().await?;
    let (process, folder) = (format!("/proc/{}", mongod.pid().unwrap()), mongod.dbpath().to_owned());
    assert!(Path::new(&process).exists() && folder.exists());
    drop(mongod);
    assert!(!Path::new(&process).exists() && !folder.exists());
    Ok(())
}

#[tokio::test]
async fn a_named_folder_is_kept() -> Result {
    let folder = tempfile::tempdir()?;
    let options = || Options { dbpath: Some(folder.path().join("db")), ..Options::default() };
    let mut mongod = Mongod::launch(options()).await?;
    insert(&mongod.client().await?, doc! { "_id": 1 }).await?;
    mongod.stop().await?;
    drop(mongod);
    let mongod = Mongod::launch(options()).await?;
    assert_eq!(count(&mongod.client().await?).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_failed_start_shows_the_servers_own_log() -> Result {
    let taken = Mongod::standalone().await?;
    let port = taken.address().rsplit(':').next().unwrap().parse()?;
    let options = Options { port: Some(port), ..Options::default() };
    // The port answers, but not from the process that was just started.
    let error = Mongod::launch(options).await.map(drop);
    let error = format!("{:#}", error.unwrap_err());
    assert!(error.contains("Address already in use"), "{error}");
    Ok(())
}
