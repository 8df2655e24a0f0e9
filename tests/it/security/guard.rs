//! Listeners that other hosts reach, before mongods that come, go, and change their mind about passwords.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bson::doc;
use mongodb::Client;
use testkit::mongod::Options;
use testkit::{Dualsync, Mongod, wait_for};

use super::{run_python, used_by_rust};
use crate::startup::{Folder, QUICK};
use crate::support::BIN;

/// A mongod that keeps port and data of the one before.
async fn mongod_at(port: Option<u16>, dbpath: &Path, args: &[&str]) -> Result<Mongod> {
    let args = args.iter().map(|it| (*it).to_owned()).collect();
    Mongod::launch(Options { port, dbpath: Some(dbpath.to_owned()), args, ..Options::default() }).await
}

fn port(mongod: &Mongod) -> Result<u16> {
    Ok(mongod.address().rsplit(':').next().context("a port")?.parse()?)
}

async fn readiness(dualsync: &Dualsync, expected: u16) -> Result<()> {
    wait_for("readiness to change", QUICK, async || {
        let status = dualsync.request("GET", "/readyz", None, None).await?.status;
        Ok((status == expected).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mongod_that_comes_back_without_passwords_is_left_alone() -> Result<()> {
    let folder = Folder::new()?;
    let data = folder.path("data");
    let mut mongod = mongod_at(None, &data, &["--auth"]).await?;
    mongod.create_root("first").await?;
    let (uri, port) = (mongod.uri(), port(&mongod)?);
    mongod.stop().await?;
    // It is away at the start: nobody is served, and nobody knows better.
    let dualsync = Dualsync::builder(BIN)
        .local(uri)
        .env("DUALSYNC_PROXY_LISTEN", "0.0.0.0:0")
        .expect_warning("a secret stands in the configuration file")
        .expect_warning("a local mongod cannot be asked yet")
        .expect_warning("the mongod behind it takes commands without authentication")
        .expect_warning("mongod is not reachable")
        .start();
    let (dualsync, started) = tokio::join!(dualsync, mongod.start());
    let dualsync = dualsync.context("it is ready once mongod is")?;
    started?;
    dualsync.wait_for_log("a local mongod cannot be asked yet", QUICK).await?;
    let line = dualsync.wait_for_log("dualsync listens", QUICK).await?;
    let place = line.split("0.0.0.0:").nth(1).and_then(|rest| rest.split_whitespace().next());
    let place = format!("127.0.0.1:{}", place.context("its port")?);
    let root = format!("mongodb://root:first@{place}/?serverSelectionTimeoutMS=5000");
    used_by_rust(&root, "guarded").await?;

    mongod.stop().await?;
    drop(mongod);
    let open = mongod_at(Some(port), &data, &[]).await?;
    dualsync.wait_for_log("the mongod behind it takes commands without authentication", QUICK).await?;
    readiness(&dualsync, 503).await?;
    let health = dualsync.request("GET", "/api/sync/health", None, None).await?;
    ensure!(
        health.status == 503
            && health.data()?["errors"][0].as_str().is_some_and(|it| it.contains("turned away")),
        "{health:?}"
    );
    // Who connects is told why: by a driver in the error for which it finds no server.
    for uri in [&root, &format!("mongodb://{place}/?serverSelectionTimeoutMS=3000")] {
        run_python(TURNED_AWAY, &[uri]).await?;
    }
    let turned_away = dualsync.metrics().await?["dualsync_proxy_turned_away_total{reason=\"mongod_open\"}"];
    ensure!(turned_away >= 2.0, "{turned_away} were turned away");

    drop(open);
    let _guarded = mongod_at(Some(port), &data, &["--auth"]).await?;
    readiness(&dualsync, 200).await?;
    used_by_rust(&root, "again").await?;
    let nobody = Client::with_uri_str(format!("mongodb://{place}/?directConnection=true")).await?;
    let refused = nobody.database("admin").run_command(doc! { "listDatabases": 1 }).await;
    ensure!(
        refused.is_err_and(|error| error.to_string().contains("requires authentication")),
        "nobody is let in"
    );
    Ok(())
}

const TURNED_AWAY: &str = "
import sys, pymongo
try:
    pymongo.MongoClient(sys.argv[1]).admin.command('listDatabases')
    sys.exit('it was let in')
except pymongo.errors.PyMongoError as error:
    assert 'takes commands without authentication' in str(error), str(error)
";
