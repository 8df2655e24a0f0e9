//! The Rust driver: steps as in the scripts, in this process.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result};
use bson::{Document, doc};
use mongodb::change_stream::event::ChangeStreamEvent;
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{
    ClientOptions, CollationStrength, FullDocumentType, IndexOptions, ReturnDocument, WriteConcern,
};
use mongodb::options::{Collation, CursorType};
use mongodb::{Client, Collection, Cursor, Database, IndexModel};

use super::Pair;

/// Runs all steps on both sides at once and compares what came of them.
pub async fn compare(pair: &Pair, options: &str) -> Result<()> {
    let [direct, proxied] = pair.uris().map(|uri| uri + options);
    let (direct, proxied) = tokio::try_join!(steps(&direct), steps(&proxied)).context("the Rust driver")?;
    pair.same().check(&direct.join("\n"), &proxied.join("\n")).context("the Rust driver")
}

async fn steps(uri: &str) -> Result<Vec<String>> {
    let mut options = ClientOptions::parse(uri).await?;
    options.server_selection_timeout = Some(Duration::from_secs(20));
    let client = Client::with_options(options)?;
    let db = client.database("rust");
    db.drop().await?;
    let mut told = Told::default();
    crud(&db, &mut told).await?;
    errors(&db, &mut told).await?;
    cursors(&db, &mut told).await?;
    schema(&db, &mut told).await?;
    transactions(&client, &db, &mut told).await?;
    change_streams(&db, &mut told).await?;
    files(&db, &mut told).await?;
    large(&db, &mut told).await?;
    db.drop().await?;
    client.shutdown().await;
    Ok(told.0)
}

async fn crud(db: &Database, told: &mut Told) -> Result<()> {
    let c = db.collection::<Document>("crud");
    told.say("insert", c.insert_one(doc! { "_id": 1, "n": 1 }).await);
    told.say("insert without an id", c.insert_one(doc! { "n": 2 }).await);
    told.say("insert the same", c.insert_one(doc! { "_id": 1 }).await);
    let some = [doc! { "_id": 2 }, doc! { "_id": 1 }, doc! { "_id": 3 }];
    told.say("insert some", c.insert_many(&some).await.map(sorted));
    told.say("insert unordered", c.insert_many(&some).ordered(false).await.map(sorted));
    told.say("update", c.update_one(doc! { "_id": 1 }, doc! { "$inc": { "n": 1 } }).await);
    told.say("upsert", c.update_one(doc! { "_id": 9 }, doc! { "$set": { "n": 1 } }).upsert(true).await);
    let pipeline = vec![doc! { "$set": { "sum": { "$add": ["$n", 1] } } }];
    told.say("update many", c.update_many(doc! { "n": { "$gt": 0 } }, pipeline).await);
    told.say("replace", c.replace_one(doc! { "_id": 2 }, doc! { "r": [1, 2.5, bson::Bson::Null] }).await);
    let change = c.find_one_and_update(doc! { "_id": 1 }, doc! { "$set": { "f": true } });
    told.say("find and update", change.return_document(ReturnDocument::After).await);
    told.say("find and delete", c.find_one_and_delete(doc! { "_id": 9 }).await);
    told.say("delete", c.delete_many(doc! { "_id": { "$in": [2, 77] } }).await);
    told.say("count", c.count_documents(doc! {}).await);
    told.say("estimate", c.estimated_document_count().await);
    told.say("distinct", c.distinct("n", doc! {}).await);
    told.say("all", all(c.find(doc! {}).sort(doc! { "_id": 1 }).await).await);
    Ok(())
}

async fn errors(db: &Database, told: &mut Told) -> Result<()> {
    let c = db.collection::<Document>("errors");
    let unique = IndexOptions::builder().unique(true).build();
    c.create_index(IndexModel::builder().keys(doc! { "u": 1 }).options(unique).build()).await?;
    c.insert_one(doc! { "_id": 1, "u": 1 }).await?;
    db.create_collection("validated").validator(doc! { "a": { "$type": "int" } }).await?;
    told.say("duplicate key", c.insert_one(doc! { "_id": 2, "u": 1 }).await);
    told.say(
        "duplicate by an update",
        c.update_one(doc! { "_id": 3 }, doc! { "$set": { "u": 1 } }).upsert(true).await,
    );
    told.say("not valid", db.collection("validated").insert_one(doc! { "a": "text" }).await);
    told.say("no such command", db.run_command(doc! { "nosuch": 1 }).await);
    told.say("no such field", db.run_command(doc! { "find": "errors", "nosuch": 1 }).await);
    told.say("bad update", c.update_one(doc! { "_id": 1 }, doc! { "$nosuch": { "a": 1 } }).await);
    told.say("bad filter", c.find_one(doc! { "$nosuch": 1 }).await);
    let slow = c.find(doc! { "$where": "sleep(2000) || true" }).max_time(Duration::from_millis(50));
    // Where the server notices it is a matter of chance, and the text says where.
    let out_of_time = |error: &Error| matches!(&*error.kind, ErrorKind::Command(error) if error.code == 50);
    told.say("out of time", Ok(slow.await.err().as_ref().map(out_of_time)));
    let many = WriteConcern::builder().w(mongodb::options::Acknowledgment::Nodes(5));
    let many = many.w_timeout(Duration::from_millis(50)).build();
    told.say("too many nodes", c.insert_one(doc! { "_id": 50 }).write_concern(many).await);
    told.say("exists", db.create_collection("errors").capped(true).size(4096_u64).await);
    told.say("no such index", c.drop_index("none").await);
    Ok(())
}

async fn cursors(db: &Database, told: &mut Told) -> Result<()> {
    let c = db.collection::<Document>("cursors");
    c.insert_many((0..500).map(|id| doc! { "_id": id })).await?;
    told.say("batches", all(c.find(doc! {}).batch_size(7).await).await.map(|found| found.len()));
    let weak = Collation::builder().locale("de").strength(CollationStrength::Primary).build();
    told.say("collation", all(c.find(doc! { "_id": { "$lt": 3 } }).collation(weak).await).await);
    let group = [
        doc! { "$group": { "_id": { "$mod": ["$_id", 3] }, "n": { "$sum": 1 } } },
        doc! { "$sort": { "_id": 1 } },
    ];
    told.say("aggregate", all(c.aggregate(group.clone()).await).await);
    told.say("out", all(c.aggregate([group[0].clone(), doc! { "$out": "out" }]).await).await);
    told.say("merge", all(c.aggregate([group[0].clone(), doc! { "$merge": { "into": "out" } }]).await).await);
    told.say("written", all(db.collection("out").find(doc! {}).sort(doc! { "_id": 1 }).await).await);
    db.create_collection("capped").capped(true).size(1_u64 << 20).await?;
    let capped = db.collection::<Document>("capped");
    capped.insert_one(doc! { "_id": 1 }).await?;
    let wait = Duration::from_secs(2);
    let mut tail = capped.find(doc! {}).cursor_type(CursorType::TailableAwait).max_await_time(wait).await?;
    told.say("tail", tail.advance().await);
    let (next, inserted) = tokio::join!(tail.advance(), capped.insert_one(doc! { "_id": 2 }));
    told.say("tail on", next.and(inserted).map(|_| tail.current().as_bytes().to_vec()));
    Ok(())
}

async fn schema(db: &Database, told: &mut Told) -> Result<()> {
    let c = db.collection::<Document>("schema");
    let models = ["a", "b"].map(|key| IndexModel::builder().keys(doc! { key: -1 }).build());
    told.say("indexes", c.create_indexes(models).await.map(|it| it.index_names));
    told.say("index names", c.list_index_names().await);
    told.say("drop an index", c.drop_index("a_-1").await);
    let rename = doc! { "renameCollection": "rust.schema", "to": "rust.renamed" };
    told.say(
        "rename",
        db.client().database("admin").run_command(rename).await.map(|reply| reply.get("ok").cloned()),
    );
    let names = db.list_collection_names().await.map(|mut names| {
        names.sort();
        names
    });
    told.say("collections", names);
    told.say("databases", db.client().list_database_names().filter(doc! { "name": "rust" }).await);
    Ok(())
}

async fn transactions(client: &Client, db: &Database, told: &mut Told) -> Result<()> {
    let c = db.collection::<Document>("transactions");
    c.insert_one(doc! { "_id": 0, "n": 0 }).await?;
    for end in ["commit", "abort"] {
        let mut session = client.start_session().await?;
        session.start_transaction().await?;
        told.say(end, c.insert_one(doc! { "_id": end }).session(&mut session).await);
        let ended = match end {
            "commit" => session.commit_transaction().await,
            _ => session.abort_transaction().await,
        };
        told.say("ended", ended);
    }
    let (mut one, mut two) = (client.start_session().await?, client.start_session().await?);
    one.start_transaction().await?;
    two.start_transaction().await?;
    let change = || c.update_one(doc! { "_id": 0 }, doc! { "$inc": { "n": 1 } });
    told.say("first", change().session(&mut one).await);
    told.say("conflict", change().session(&mut two).await);
    told.say("first commits", one.commit_transaction().await);
    told.say("after transactions", all(c.find(doc! {}).sort(doc! { "_id": 1 }).await).await);
    Ok(())
}

async fn change_streams(db: &Database, told: &mut Told) -> Result<()> {
    let c = db.collection::<Document>("watched");
    let mut stream = match c.watch().full_document(FullDocumentType::UpdateLookup).await {
        Ok(stream) => stream,
        Err(error) => {
            told.say::<()>("watch", Err(error));
            return Ok(());
        }
    };
    c.insert_one(doc! { "_id": 1 }).await?;
    c.update_one(doc! { "_id": 1 }, doc! { "$set": { "a": 1 } }).await?;
    c.delete_one(doc! { "_id": 1 }).await?;
    for _ in 0..3 {
        let event: Option<ChangeStreamEvent<Document>> = stream.next_if_any().await?;
        let Some(event) = event else { continue };
        told.say("event", Ok((event.operation_type, event.document_key, event.full_document)));
    }
    Ok(())
}

async fn files(db: &Database, told: &mut Told) -> Result<()> {
    use futures_util::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let bucket = db.gridfs_bucket(None);
    let content: Vec<u8> = (0..2_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut upload = bucket.open_upload_stream("big").await?;
    upload.write_all(&content).await?;
    upload.close().await?;
    let mut again = Vec::new();
    bucket.open_download_stream_by_name("big").await?.read_to_end(&mut again).await?;
    told.say("file", Ok(again == content));
    told.say("delete the file", bucket.delete_by_name("big").await);
    told.say("gone", bucket.open_download_stream_by_name("big").await.map(drop));
    Ok(())
}

async fn large(db: &Database, told: &mut Told) -> Result<()> {
    let c: Collection<Document> = db.collection("large");
    let fill = |length| bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![7; length] };
    told.say("16 MB", c.insert_one(doc! { "_id": 1, "b": fill((16 << 20) - 31) }).await);
    told.say("more", c.update_one(doc! { "_id": 1 }, doc! { "$set": { "c": "x".repeat(40) } }).await);
    told.say("too much", c.insert_one(doc! { "_id": 2, "b": fill(16 << 20) }).await);
    let found = c.find_one(doc! { "_id": 1 }).await;
    told.say(
        "16 MB again",
        found.map(|found| found.map(|it| bson::serialize_to_vec(&it).map(|it| it.len()).ok())),
    );
    Ok(())
}

async fn all(cursor: Result<Cursor<Document>, Error>) -> Result<Vec<Document>, Error> {
    let mut cursor = cursor?;
    let mut found = Vec::new();
    while cursor.advance().await? {
        found.push(cursor.deserialize_current()?);
    }
    Ok(found)
}

fn sorted(inserted: mongodb::results::InsertManyResult) -> Vec<(usize, bson::Bson)> {
    let mut ids: Vec<_> = inserted.inserted_ids.into_iter().collect();
    ids.sort_by_key(|(index, _)| *index);
    ids
}

/// One line for each result, with all that an application can see of an error.
#[derive(Default)]
struct Told(Vec<String>);

impl Told {
    fn say<T: Debug>(&mut self, step: &str, result: Result<T, Error>) {
        let line = match result {
            Ok(value) => format!("{value:?}"),
            Err(error) => {
                let mut labels: Vec<&String> = error.labels().iter().collect();
                labels.sort();
                format!("error {:?} {labels:?}", Kind(&error.kind))
            }
        };
        self.0.push(format!("{step}\t{line}"));
    }
}

/// An error's kind without the ids of what was inserted: the driver keeps them in a table without order.
struct Kind<'a>(&'a ErrorKind);

impl Debug for Kind<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ErrorKind::InsertMany(error) = self.0 else { return self.0.fmt(out) };
        write!(out, "InsertMany {:?} {:?}", error.write_errors, error.write_concern_error)
    }
}
