//! What a replica set acknowledged and rolls back, since no majority had it, never stays on the target.

use anyhow::{Result, ensure};
use bson::{Document, doc};
use mongodb::Client;
use testkit::{Builder, Dualsync, Mongod, ReplicaSet};

use super::Trio;
use crate::support::{BIN, DRAIN_MAX, wait_clean};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_majority_had_is_not_on_the_target() -> Result<()> {
    let expected = ["local mongod unavailable", "mongod is not reachable", "source", "is dirty"];
    let expect = |builder| expected.iter().fold(builder, |builder: Builder, it| builder.expect_warning(*it));
    // Else the primary would go on sending what it writes, and they would find it when they wake.
    let asked_for = ["--setParameter", "oplogFetcherUsesExhaust=false"];
    let (set, target) = tokio::try_join!(ReplicaSet::start_with(3, &asked_for), ReplicaSet::start(1))?;
    let members: Vec<String> = set.members().iter().map(Mongod::address).collect();
    let builder = Dualsync::builder(BIN).local(set.uri()).atlas(target.uri()).members(members);
    let mut trio = Trio { dualsync: expect(builder).start().await?, set, target };
    let all = Client::with_uri_str(trio.uri()).await?.database("rolled").collection::<Document>("back");
    all.insert_many((0..20).map(|id| doc! {"_id": id, "by": "all"})).await?;
    trio.dualsync.wait_drained(DRAIN_MAX).await?;

    // Its secondaries hang: for about a second the primary does not know that it is alone.
    let first = trio.set.primary().await?;
    let alone = format!(
        "mongodb://{}/?directConnection=true&w=1&journal=true&retryWrites=false",
        trio.dualsync.listeners()[first]
    );
    let alone = Client::with_uri_str(alone).await?.database("rolled").collection::<Document>("back");
    alone.update_one(doc! {"_id": 0}, doc! {"$set": {"warm": true}}).await?;
    for (_, member) in trio.set.members().iter().enumerate().filter(|(number, _)| *number != first) {
        member.pause()?;
    }
    // The first write answers what they had asked for before, and reaches them when they wake; nothing behind it does.
    alone.update_one(doc! {"_id": 0}, doc! {"$set": {"reaches": "them"}}).await?;
    for id in 20..40 {
        alone.insert_one(doc! {"_id": id, "by": "alone"}).await?;
    }
    alone.update_one(doc! {"_id": 1}, doc! {"$set": {"by": "alone"}}).await?;
    alone.delete_one(doc! {"_id": 2}).await?;
    alone.update_many(doc! {"_id": {"$lt": 20}}, doc! {"$inc": {"n": 1}}).await?;
    trio.set.members_mut()[first].kill()?;
    for (_, member) in trio.set.members().iter().enumerate().filter(|(number, _)| *number != first) {
        member.resume()?;
    }
    trio.set.wait_for_primary().await?;
    ensure!(trio.set.primary().await? != first, "a dead primary");
    // The new one goes on from before.
    all.update_one(doc! {"_id": 1}, doc! {"$set": {"by": "others"}}).await?;
    all.insert_many((40..60).map(|id| doc! {"_id": id, "by": "others"})).await?;
    trio.set.resume().await?;

    wait_clean(&trio.dualsync).await?;
    trio.assert_equal().await?;
    let there = trio.target.client().await?.database("rolled").collection::<Document>("back");
    let left = there.count_documents(doc! {"by": "alone"}).await?;
    ensure!(left < 10, "nothing was rolled back: {left} of 20 are there");
    ensure!(
        there.count_documents(doc! {}).await? == 40 + left,
        "what was written before or after is not there"
    );
    Ok(())
}
