//! Rights that dualsync's users lack are named before it runs, and while it runs.

use anyhow::{Result, ensure};
use bson::{Document, doc};
use mongodb::Database;
use testkit::mongod::Options;
use testkit::{Builder, Dualsync, Mongod, wait_for};

use crate::startup::refused;
use crate::support::{BIN, DRAIN_MAX};

/// A server, and the address by which a user of these roles gets in.
struct Guarded {
    _mongod: Mongod,
    admin: Database,
    uri: String,
}

impl Guarded {
    async fn start(roles: &[&str]) -> Result<Guarded> {
        let args = vec!["--auth".to_owned()];
        let mut mongod = Mongod::launch(Options { args, ..Options::default() }).await?;
        mongod.create_root("first").await?;
        let admin = mongod.client().await?.database("admin");
        let roles: Vec<Document> = roles.iter().map(|role| doc! {"role": role, "db": "admin"}).collect();
        admin.run_command(doc! {"createUser": "sync", "pwd": "secret", "roles": roles}).await?;
        let uri = format!("mongodb://sync:secret@{}/?authSource=admin", mongod.address());
        Ok(Guarded { _mongod: mongod, admin, uri })
    }

    async fn grant(&self, role: &str) -> Result<()> {
        let roles = [doc! {"role": role, "db": "admin"}];
        self.admin.run_command(doc! {"grantRolesToUser": "sync", "roles": &roles[..]}).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_named_with_the_role_that_gives_it() -> Result<()> {
    let (source, target) = tokio::try_join!(Guarded::start(&[]), Guarded::start(&["readWriteAnyDatabase"]))?;
    let builder = || -> Builder {
        let builder = Dualsync::builder(BIN).local(&source.uri).atlas(&target.uri);
        builder.env("MONGODB_LOCAL_URI", &source.uri).env("DUALSYNC_LOCAL_URI", &source.uri)
    };
    let check =
        |code, words: &'static [&'static str]| refused("rights", builder().arg("check-config"), code, words);
    let words = &[
        "local.uri: its user lacks find, listCollections, listIndexes",
        "readAnyDatabase",
        "warning: local.uri: its user lacks inprog",
        "lacks top",
        "clusterMonitor",
        "atlas.uri: its user lacks collMod",
        "warning: atlas.uri: its user lacks bypassDocumentValidation",
        "dbAdminAnyDatabase (Atlas: ",
    ];
    check(2, words).await?;
    source.grant("readAnyDatabase").await?;
    check(2, &["lacks inprog", "lacks collMod"]).await?;
    target.grant("dbAdminAnyDatabase").await?;
    check(0, &["lacks inprog"]).await?;

    let dualsync = builder().expect_warning("a secret stands in the configuration file").start().await?;
    dualsync.expect_warning("grant clusterMonitor");
    let lacking = async || {
        let report = dualsync.report().await?;
        let codes = report["recommendations"].to_string();
        let warnings = report["warnings"].to_string();
        Ok::<_, anyhow::Error>((codes.contains("RIGHTS_MISSING"), warnings))
    };
    let named = wait_for("what is missing to be named", DRAIN_MAX, async || {
        let (is_named, warnings) = lacking().await?;
        Ok(is_named.then_some(warnings))
    })
    .await?;
    ensure!(named.contains("lacks inprog") && named.contains("clusterMonitor"), "{named}");
    ensure!(!named.contains("find,") && !named.contains("atlas.uri"), "{named}");
    Ok(())
}
