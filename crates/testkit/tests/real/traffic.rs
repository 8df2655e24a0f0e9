use std::sync::atomic::Ordering;

use testkit::traffic::{Keys, Kind, OnError, Shop};
use testkit::{Mongod, compare};

use crate::Result;

#[tokio::test]
async fn one_client_writes_the_same_with_the_same_seed() -> Result {
    let shop = Shop { clients: 1, writes: 400, seed: 7, ..Shop::default() };
    let (left, right) = tokio::join!(Mongod::standalone(), Mongod::standalone());
    let (left, right) = (left?, right?);
    let first = shop.run(&left.uri()).await?;
    let second = shop.run(&right.uri()).await?;
    assert_eq!((first.writes(), shop.done.load(Ordering::Relaxed)), (400, 800));
    assert_eq!(first.kinds, second.kinds);
    let comparison = compare::databases(&left.client().await?, &right.client().await?).await?;
    assert!(comparison.equal(), "{comparison}");
    assert!(comparison.documents() > 300, "{comparison}");

    let other = Mongod::standalone().await?;
    Shop { seed: 8, ..shop }.run(&other.uri()).await?;
    let comparison = compare::databases(&left.client().await?, &other.client().await?).await?;
    assert!(!comparison.equal());
    Ok(())
}

#[tokio::test]
async fn sixteen_clients_on_the_same_and_on_their_own_keys() -> Result {
    let mongod = Mongod::standalone().await?;
    for (database, keys) in [("own", Keys::Disjoint), ("same", Keys::Shared)] {
        let shop = Shop { database: database.to_owned(), clients: 16, writes: 3000, keys, ..Shop::default() };
        let tally = shop.run(&mongod.uri()).await?;
        println!("{database}: {tally}");
        assert_eq!((tally.writes(), tally.failed), (3000, 0));
        let by_predicate = tally.kinds[&Kind::Promotion] as f64 * 2.0 / 3.0 / 3000.0;
        assert!((0.01..0.03).contains(&by_predicate), "{tally}");
    }
    Ok(())
}

#[tokio::test]
async fn a_shop_that_counts_errors_outlives_a_restart() -> Result {
    let mut mongod = Mongod::standalone().await?;
    let shop = Shop { clients: 4, writes: 2000, on_error: OnError::Count, ..Shop::default() };
    let (running, uri) = (shop.clone(), mongod.uri());
    let running = tokio::spawn(async move { running.run(&uri).await });
    testkit::wait_for("half of the writes", std::time::Duration::from_secs(60), async || {
        Ok((shop.done.load(Ordering::Relaxed) >= 1000).then_some(()))
    })
    .await?;
    mongod.kill()?;
    mongod.start().await?;
    let tally = running.await??;
    assert_eq!(tally.writes(), 2000);
    assert!(tally.failed <= 100, "{tally}");
    Ok(())
}
