//! A command that is late: its connection is gone, the target still runs it, and it must not land on top of a newer one.

use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{Document, doc};
use testkit::net::Relay;
use testkit::{Dualsync, ReplicaSet, compare, wait_for};

use crate::security::TEST_COMMANDS;
use crate::support::{BIN, DRAIN_MAX, Source, update_ended, update_runs};

const SOON: Duration = Duration::from_secs(30);

/// The target holds an upsert; its line breaks, and is mended; the source deletes the document. Were the delete sent at
/// once, there would be nothing to delete yet, and the upsert would come after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_write_lands_before_the_newer_one() -> Result<()> {
    let (source, target) = (Source::standalone().await?, ReplicaSet::start_with(1, &TEST_COMMANDS).await?);
    let relay = Relay::start(target.members()[0].address()).await?;
    let dualsync = Dualsync::builder(BIN)
        .local(source.uri())
        .atlas(relay.uri())
        .expect_warning("Atlas unavailable")
        .start()
        .await?;
    let items = dualsync.client().await?.database("late").collection::<Document>("items");
    items.insert_one(doc! {"_id": 0}).await?;
    dualsync.wait_drained(DRAIN_MAX).await?;

    let there = target.client().await?;
    let admin = there.database("admin");
    let hold = |mode: &str| {
        doc! {"configureFailPoint": "hangDuringBatchUpdate", "mode": mode, "data": {"nss": "late.items"}}
    };
    admin.run_command(hold("alwaysOn")).await?;
    items.replace_one(doc! {"_id": 1}, doc! {"n": 1}).upsert(true).await?;
    update_runs(&there, "late.items").await?;
    relay.cut().await?;
    relay.resume().await?;
    items.delete_one(doc! {"_id": 1}).await?;

    // It is back, by another application name, while the one that was cut off still runs.
    let ours = doc! {"$currentOp": {"allUsers": true, "idleConnections": true}};
    wait_for("a second generation of connections", SOON, async || {
        let mut names = std::collections::BTreeSet::new();
        let mut operations = admin.aggregate([ours.clone()]).await?;
        while operations.advance().await? {
            let operation = operations.deserialize_current()?;
            let name = operation.get_str("appName").unwrap_or_default();
            if name.starts_with("dualsync ") && name != "dualsync reconciler" {
                names.insert(name.to_owned());
            }
        }
        Ok((names.len() > 1).then_some(()))
    })
    .await?;
    // Time for what must not happen.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let report = dualsync.report().await?;
    ensure!(report["lag"]["entries"].as_u64() >= Some(1), "something was sent beside it: {report:#}");

    admin.run_command(hold("off")).await?;
    update_ended(&there, "late.items").await?;
    dualsync.wait_drained(DRAIN_MAX).await?;
    let comparison = compare::databases(&source.client().await?, &there).await?;
    ensure!(comparison.equal() && comparison.documents() == 1, "source and target differ:\n{comparison}");
    Ok(())
}
