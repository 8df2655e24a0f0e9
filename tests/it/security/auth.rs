//! Users of mongod log in through the proxy, and nobody gets rights by it.

use anyhow::{Context, Result, ensure};
use bson::raw::RawDocument;
use bson::{Document, doc, rawdoc};
use mongodb::Client;
use testkit::mongod::Options;
use testkit::{Dualsync, Mongod, wait_for};

use super::{run_python, used_by_python, used_by_rust};
use crate::bad_input::raw;
use crate::startup::{QUICK, refused};
use crate::support::{BIN, NOT_COMPARED, Source, Stage};

async fn mongod_with_users() -> Result<Mongod> {
    let args = vec!["--auth".to_owned()];
    Mongod::launch(Options { args, ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scram_passes_untouched() -> Result<()> {
    let mut mongod = mongod_with_users().await?;
    mongod.create_root("first").await?;
    let admin = mongod.client().await?.database("admin");
    for (user, mechanism) in [("one", "SCRAM-SHA-1"), ("two", "SCRAM-SHA-256")] {
        let role = doc! { "role": "readWrite", "db": "shop" };
        let create =
            doc! { "createUser": user, "pwd": "pässword", "roles": [role], "mechanisms": [mechanism] };
        admin.run_command(create).await?;
    }
    let stage = Stage::start_with(Source::Standalone(mongod), |builder| {
        builder.expect_warning("a secret stands in the configuration file")
    })
    .await?;
    let address = stage.dualsync.proxy_address();
    let uri = |user: &str, password: &str, mechanism: &str| {
        let short = "serverSelectionTimeoutMS=5000";
        format!("mongodb://{user}:{password}@{address}/?authSource=admin&authMechanism={mechanism}&{short}")
    };
    for (user, mechanism) in [("one", "SCRAM-SHA-1"), ("two", "SCRAM-SHA-256")] {
        let uri = uri(user, "p%C3%A4ssword", mechanism);
        used_by_rust(&uri, &format!("rust-{user}")).await?;
        used_by_python(&uri, &format!("python-{user}")).await?;
    }
    // Without a mechanism the driver asks which ones there are, in its first hello.
    used_by_rust(&format!("mongodb://two:p%C3%A4ssword@{address}/"), "negotiated").await?;
    let documents = stage.assert_equal().await?.documents();
    ensure!(documents == 500, "{documents} documents");
    stage.assert_followed().await?;

    let wrong = Client::with_uri_str(uri("two", "wrong", "SCRAM-SHA-256")).await?;
    let things = |client: &Client| client.database("shop").collection::<Document>("negotiated");
    let error = things(&wrong).count_documents(doc! {}).await.err().context("a wrong password let in")?;
    ensure!(error.to_string().contains("uthentication fail"), "{error}");
    let nobody = stage.dualsync.client().await?;
    let error = things(&nobody).count_documents(doc! {}).await.err().context("nobody was let in")?;
    ensure!(error.to_string().contains("13"), "{error}");
    // dualsync's own user stays its own.
    let admin = nobody.database("admin").run_command(doc! { "connectionStatus": 1 }).await?;
    let users = admin.get_document("authInfo")?.get_array("authenticatedUsers")?;
    ensure!(users.is_empty(), "a client is {users:?}");
    Ok(())
}

/// wire-facts 3: `w: 0` while nobody is logged in is silently dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_makes_nothing_dirty() -> Result<()> {
    let mut mongod = mongod_with_users().await?;
    mongod.create_root("first").await?;
    let stage = Stage::start_with(Source::Standalone(mongod), |builder| {
        builder
            .env(NOT_COMPARED.0, NOT_COMPARED.1)
            .expect_warning("a secret stands in the configuration file")
    })
    .await?;
    let shop = stage.source.client().await?.database("shop");
    shop.collection::<Document>("things").insert_one(doc! { "_id": 1 }).await?;
    let silent = |command: &RawDocument| raw::op_msg(raw::MORE_TO_COME, &raw::body(command));
    let writes = [
        silent(
            &rawdoc! { "insert": "things", "documents": [{ "_id": 2 }], "writeConcern": { "w": 0 }, "$db": "shop" },
        ),
        silent(&rawdoc! { "delete": "things", "deletes": [{ "q": {}, "limit": 0 }], "$db": "shop" }),
        silent(&rawdoc! { "drop": "things", "$db": "shop" }),
        silent(&rawdoc! { "dropDatabase": 1, "$db": "shop" }),
        silent(
            &rawdoc! { "applyOps": [{ "op": "d", "ns": "shop.things", "o": { "_id": 1 } }], "$db": "admin" },
        ),
        silent(&rawdoc! { "_unheardOf": 1, "$db": "shop" }),
    ];
    let writes = [writes.concat(), writes.map(|write| raw::compressed(&write)).concat()].concat();
    let garbage = raw::header(3, raw::OP_MSG);
    for end in [&[][..], &garbage] {
        raw::answer(&stage.dualsync.proxy_address(), &[&writes, end].concat()).await?;
    }
    stage.dualsync.wait_drained(QUICK).await?;
    let report = stage.dualsync.report().await?;
    ensure!(report["namespaces"]["dirty"].as_array().is_some_and(Vec::is_empty), "dirty: {report:#}");
    ensure!(report["counts"]["captured"] == 0, "captured: {report:#}");
    ensure!(shop.collection::<Document>("things").count_documents(doc! {}).await? == 1, "it was let in");
    // Who has logged in is followed, to the last write.
    let uri = format!("mongodb://root:first@{}/?w=0", stage.dualsync.proxy_address());
    run_python(SILENT, &[&uri]).await?;
    let things = stage.target.client().await?.database("shop").collection::<Document>("things");
    wait_for("the silent write on the target", QUICK, async || {
        Ok(things.find_one(doc! { "_id": 3 }).await?.map(drop))
    })
    .await
}

const SILENT: &str = "
import sys, pymongo
c = pymongo.MongoClient(sys.argv[1], serverSelectionTimeoutMS=10000)
c.shop.things.insert_one({'_id': 3})
c.close()
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_localhost_exception_is_for_localhost() -> Result<()> {
    //= a proxy on the same host gives remote clients the localhost auth exception (wire-facts.md 2.3)
    let mut mongod = mongod_with_users().await?;
    let key = "proxy.allow_unauthenticated_remote";
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let builder = Dualsync::builder(BIN).local(mongod.uri()).env("DUALSYNC_PROXY_LISTEN", listen);
        refused("no users yet", builder, 1, &[listen, "no users yet", "create a user", key]).await?;
    }
    mongod.create_root("first").await?;
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let builder = Dualsync::builder(BIN)
            .local(mongod.uri())
            .env("DUALSYNC_PROXY_LISTEN", listen)
            .expect_warning("a secret stands in the configuration file");
        // Whom the proxy itself logs in as is not what a client may do.
        let dualsync = builder.start().await.context("a mongod with users is its own guard")?;
        drop(dualsync);
    }
    Ok(())
}
