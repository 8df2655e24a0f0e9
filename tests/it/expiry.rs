//! What expires on the source expires on the target, and nothing else does.

use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{DateTime, Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Database, IndexModel};
use testkit::{Dualsync, Mongod, ReplicaSet, compare, mongod, wait_for};

use crate::support::{BIN, DRAIN_MAX, wait_clean};

const SWIFT: [&str; 2] = ["--setParameter", "ttlMonitorSleepSecs=1"];

/// Sessions are renewed, begun and left alone while the target is away for longer than they live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_expire_and_are_renewed_through_an_outage() -> Result<()> {
    let args = SWIFT.map(ToOwned::to_owned).to_vec();
    let source = Mongod::launch(mongod::Options { args, ..mongod::Options::default() }).await?;
    let mut target = ReplicaSet::start_with(1, &SWIFT).await?;
    let dualsync = Dualsync::builder(BIN)
        .local(source.uri())
        .atlas(target.uri())
        .env("DUALSYNC_SYNC_EXPIRY_INTERVAL", "500ms")
        .expect_warning("is dirty")
        .expect_warning("Atlas unavailable")
        .start()
        .await?;
    let database = dualsync.client().await?.database("web");
    let sessions = database.collection::<Document>("sessions");
    let expire = IndexOptions::builder().expire_after(Duration::from_secs(2));
    let partial = expire.partial_filter_expression(doc! {"guest": true}).name("guests".to_owned()).build();
    sessions.create_index(IndexModel::builder().keys(doc! {"seen": 1}).options(partial).build()).await?;
    for id in 0..60 {
        sessions.insert_one(doc! {"_id": id, "seen": DateTime::now(), "guest": id % 3 > 0}).await?;
    }
    wait_clean(&dualsync).await?;
    let noted = after(&target.client().await?.database("web")).await?;
    ensure!(
        noted == Some(2),
        "{noted:?} is noted:\n{}{:#}",
        dualsync.log_lines().join("\n"),
        dualsync.report().await?
    );

    // Those with `_id` 1, 4, 7… are renewed; those with 2, 5, 8… expire; those with 0, 3, 6… never do.
    let renewed = sessions.clone();
    let renewing = tokio::spawn(async move {
        loop {
            for id in (1..60).step_by(3) {
                // On a machine that is slow, one may have expired: it begins anew.
                let seen = doc! {"$set": {"seen": DateTime::now(), "guest": true}};
                if let Err(error) = renewed.update_one(doc! {"_id": id}, seen).upsert(true).await {
                    return error;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    target.stop().await?;
    let count = async |of: &Database| of.collection::<Document>("sessions").count_documents(doc! {}).await;
    let here = source.client().await?.database("web");
    wait_for("what was left alone to expire", DRAIN_MAX, async || {
        sessions.insert_one(doc! {"seen": DateTime::now(), "guest": true}).await?;
        let left = doc! {"_id": {"$mod": [3, 2]}};
        let gone = here.collection::<Document>("sessions").count_documents(left).await? == 0;
        Ok(gone.then_some(()))
    })
    .await?;
    target.resume().await?;
    let copy = target.client().await?.database("web");
    wait_for("the target to follow", DRAIN_MAX, async || {
        let left = doc! {"_id": {"$mod": [3, 2]}};
        Ok((copy.collection::<Document>("sessions").count_documents(left).await? == 0).then_some(()))
    })
    .await?;
    ensure!(!renewing.is_finished(), "renewing has failed: {:?}", renewing.await);
    renewing.abort();
    // From now on those that were renewed stay.
    let for_ever = doc! {"$set": {"seen": DateTime::from_millis(4_000_000_000_000)}};
    for id in (1..60).step_by(3) {
        sessions.update_one(doc! {"_id": id}, for_ever.clone()).upsert(true).await?;
    }
    wait_for("all others to expire on both sides", DRAIN_MAX, async || {
        Ok((count(&here).await? == 40 && count(&copy).await? == 40).then_some(()))
    })
    .await?;
    dualsync.wait_drained(DRAIN_MAX).await?;
    let comparison = compare::databases(&source.client().await?, &target.client().await?).await?;
    ensure!(comparison.equal() && comparison.documents() == 40, "{comparison}");

    // Another value is followed, and so is its end.
    let change = doc! {"collMod": "sessions", "index": {"name": "guests", "expireAfterSeconds": 3600}};
    database.run_command(change).await?;
    wait_for("the new value", DRAIN_MAX, async || Ok((after(&copy).await? == Some(3600)).then_some(())))
        .await?;
    sessions.drop_index("guests").await?;
    wait_for("no value", DRAIN_MAX, async || Ok(after(&copy).await?.is_none().then_some(()))).await?;
    Ok(())
}

/// The noted expiry; the index on the target must have none.
async fn after(copy: &Database) -> Result<Option<i64>> {
    let indexes = copy.collection::<Document>("sessions").list_indexes().await?;
    let indexes: Vec<IndexModel> = futures_util::TryStreamExt::try_collect(indexes).await?;
    let expires = |index: &IndexModel| index.options.as_ref().is_some_and(|it| it.expire_after.is_some());
    ensure!(!indexes.iter().any(expires), "an index of the target lets documents expire");
    let notes = copy.client().database("__dualsync").collection::<Document>("expiry");
    let Some(note) = notes.find_one(doc! {"_id": "web.sessions"}).await? else { return Ok(None) };
    let index =
        note.get_array("indexes")?.first().and_then(bson::Bson::as_document).cloned().unwrap_or_default();
    let seconds = index.get("expireAfterSeconds");
    Ok(seconds.and_then(|it| it.as_i64().or_else(|| it.as_i32().map(i64::from))))
}
