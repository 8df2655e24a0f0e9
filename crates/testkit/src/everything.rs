//! A database that was there before dualsync: documents of every type that BSON has, the odd ones too, and every kind
//! of collection, option and index that a 6.0 server knows.
//!
//! [`fill`] makes it; [`write()`] is an application that goes on writing to it.

mod documents;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use bson::{Bson, DateTime, Document, doc};
use mongodb::{Client, Database};

/// The database's name.
pub const DATABASE: &str = "old";

/// Makes it, with about so many documents, three of four of them in `many`.
pub async fn fill(client: &Client, documents: u32) -> Result<()> {
    let old = client.database(DATABASE);
    let (many, few) = (documents * 3 / 4, documents / 12);
    let coll = |name: &str| old.collection::<Document>(name);
    for chunk in (0..many).collect::<Vec<_>>().chunks(5_000) {
        coll("many").insert_many(chunk.iter().map(|n| doc! {"_id": n, "tag": n % 50, "n": 0})).await?;
    }
    indexes(&old, "many", vec![doc! {"key": {"tag": 1}, "name": "tag"}]).await?;
    documents::fill(&old).await?;

    old.run_command(doc! {
        "create": "checked", "validator": {"n": {"$type": "int"}}, "validationLevel": "moderate",
        "validationAction": "warn", "changeStreamPreAndPostImages": {"enabled": true},
    })
    .await?;
    let checked = |n: u32| {
        let at = DateTime::from_millis(documents::A_DAY + i64::from(n));
        let place = doc! {"type": "Point", "coordinates": [n % 90, n % 80]};
        doc! {"_id": n, "n": n, "at": at, "words": "a b", "where": [n % 90, 1], "place": place, "tags": [n, n + 1],
        "deep": {"a": {"b": n}}, "kept": DateTime::now()}
    };
    coll("checked").insert_many((0..few).map(checked)).await?;
    indexes(&old, "checked", every_index()).await?;

    let folded = doc! {"locale": "en", "strength": 2};
    old.run_command(doc! {"create": "folded", "collation": folded}).await?;
    coll("folded").insert_many(["b", "A", "c", "ü"].map(|id| doc! {"_id": id, "n": "Text"})).await?;
    indexes(&old, "folded", vec![doc! {"key": {"n": 1}, "name": "n"}]).await?;
    let clustered = doc! {"key": {"_id": 1}, "unique": true, "name": "by id"};
    old.run_command(doc! {"create": "clustered", "clusteredIndex": clustered}).await?;
    coll("clustered").insert_many((0..few).map(|n| doc! {"_id": n})).await?;
    old.run_command(doc! {"create": "empty"}).await?;

    old.run_command(doc! {"create": "view", "viewOn": "many", "pipeline": [{"$match": {"n": {"$gt": 1}}}]})
        .await?;
    old.run_command(doc! {"create": "a view on it", "viewOn": "view", "pipeline": [{"$project": {"n": 1}}]})
        .await?;

    old.run_command(doc! {"create": "last", "capped": true, "size": 100_000, "max": 500}).await?;
    coll("last").insert_many((0..few.max(700)).map(|n| doc! {"_id": n, "n": 0})).await?;
    indexes(&old, "last", vec![doc! {"key": {"n": 1}, "name": "n"}]).await?;
    old.run_command(doc! {
        "create": "measured", "timeseries": {"timeField": "at", "metaField": "of", "granularity": "minutes"},
        "expireAfterSeconds": 10_000_000,
    })
    .await?;
    coll("measured").insert_many((0..few).map(|n| measurement(n, 60_000))).await?;
    indexes(&old, "measured", vec![doc! {"key": {"of": 1, "at": -1}, "name": "of"}]).await?;
    Ok(())
}

fn every_index() -> Vec<Document> {
    vec![
        doc! {"key": {"n": 1}, "name": "single", "unique": true},
        doc! {"key": {"n": -1, "at": 1}, "name": "compound"},
        doc! {"key": {"tags": 1}, "name": "multikey"},
        doc! {"key": {"kept": 1}, "name": "expires", "expireAfterSeconds": 3_600},
        doc! {"key": {"words": "text", "deep.a": "text"}, "name": "text", "weights": {"words": 3}},
        doc! {"key": {"where": "2d"}, "name": "2d", "min": -200, "max": 200},
        doc! {"key": {"place": "2dsphere"}, "name": "2dsphere"},
        doc! {"key": {"at": -1}, "name": "partial", "partialFilterExpression": {"n": {"$gt": 5}}},
        doc! {"key": {"deep.$**": 1}, "name": "wildcard"},
        doc! {"key": {"x": "hashed"}, "name": "hashed"},
        doc! {"key": {"y": 1}, "name": "sparse", "sparse": true},
        doc! {"key": {"words": 1}, "name": "folded", "collation": {"locale": "en", "strength": 2}},
        doc! {"key": {"z": 1}, "name": "hidden", "hidden": true},
    ]
}

async fn indexes(database: &Database, name: &str, specs: Vec<Document>) -> Result<()> {
    database.run_command(doc! {"createIndexes": name, "indexes": specs}).await?;
    Ok(())
}

/// The n-th from now back, so far apart.
fn measurement(n: u32, millis_apart: i64) -> Document {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = i64::try_from(now.as_millis()).unwrap_or(0) - i64::from(n) * millis_apart;
    let mut measured = doc! {"at": DateTime::from_millis(at), "of": {"sensor": n % 3}, "v": f64::from(n)};
    if n.is_multiple_of(5) {
        measured.insert("more", Bson::Array(vec![Bson::Null, i64::from(n).into()]));
    }
    measured
}

/// Random writes to it until `stop`, errors of a killed proxy taken as they come. `documents`: as filled with.
pub async fn write(
    uri: String,
    documents: u32,
    seed: u64,
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
) -> Result<()> {
    let old = Client::with_uri_str(&uri).await?.database(DATABASE);
    let many = old.collection::<Document>("many");
    let mut rng = fastrand::Rng::with_seed(seed);
    while !stop.load(Ordering::Relaxed) {
        let (id, tag) = (rng.u32(0..documents), rng.i32(0..50));
        let one = |done: mongodb::error::Result<mongodb::results::UpdateResult>| done.map(drop);
        let done = match rng.u32(..12) {
            0 => many.delete_one(doc! {"_id": id}).await.map(drop),
            1 => many.insert_one(doc! {"_id": id, "tag": tag, "n": 0}).await.map(drop),
            2 => {
                let change = doc! {"$inc": {"n": 1}, "$set": {"tag": tag + 1}};
                one(many.update_many(doc! {"tag": tag}, change).await)
            }
            3 => many.delete_many(doc! {"tag": tag, "n": {"$gt": 30}}).await.map(drop),
            4 => one(many.update_one(doc! {"tag": tag}, doc! {"$inc": {"n": 1}}).await),
            5 => old.collection("last").insert_one(doc! {"n": tag}).await.map(drop),
            6 => old.collection("measured").insert_one(measurement(rng.u32(..100), 1_000)).await.map(drop),
            _ => one(many.update_one(doc! {"_id": id}, doc! {"$inc": {"n": 1}}).await),
        };
        match done {
            Ok(()) => drop(writes.fetch_add(1, Ordering::Relaxed)),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    Ok(())
}
