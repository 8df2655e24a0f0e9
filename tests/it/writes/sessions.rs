//! Retryable writes, writes without a reply, and a driver's own bulk.

use anyhow::{Result, ensure};
use bson::raw::RawDocumentBuf;
use bson::spec::BinarySubtype;
use bson::{Binary, Document, cstr, doc, rawdoc};

use super::{DB, equal_but_for_dirty, expect, stage, ways};
use crate::bad_input::raw::{MORE_TO_COME, Socket, answer, body, compressed, must, op_msg};
use crate::support::{DRAIN_MAX, Source};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retried_write_happens_once() -> Result<()> {
    let stage = stage(Source::replica_set().await?).await?;
    let mut socket = Socket::connect(&stage.dualsync.proxy_address()).await?;
    let lsid = || rawdoc! {"id": Binary { subtype: BinarySubtype::Uuid, bytes: vec![9; 16] }};
    let insert = rawdoc! {
        "insert": "retried", "documents": [{"_id": 1, "n": 1}], "lsid": lsid(), "txnNumber": 1_i64, "$db": DB,
    };
    let before = ways(&stage).await?;
    must(&mut socket, &insert).await?;
    expect(&stage, before, [1, 0, 0]).await?;
    let update = rawdoc! {
        "update": "retried", "updates": [{"q": {"_id": 1}, "u": {"$inc": {"n": 1}}}],
        "lsid": lsid(), "txnNumber": 2_i64, "$db": DB,
    };
    must(&mut socket, &update).await?;
    expect(&stage, before, [2, 0, 0]).await?;
    // Answered from memory: mongod does not do it a second time, and neither does the target.
    let again = must(&mut socket, &update).await?;
    ensure!(again.contains_key("retriedStmtIds"), "not a retry: {again}");
    expect(&stage, before, [2, 1, 0]).await?;
    let there = stage.target.client().await?.database(DB).collection::<Document>("retried");
    ensure!(there.find_one(doc! {}).await? == Some(doc! {"_id": 1, "n": 2}), "applied twice");
    equal_but_for_dirty(&stage, 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_without_a_reply() -> Result<()> {
    for source in [Source::standalone().await?, Source::replica_set().await?] {
        let stage = stage(source).await?;
        let before = ways(&stage).await?;
        let mut socket = Socket::connect(&stage.dualsync.proxy_address()).await?;
        let set = |n: i32| rawdoc! {"q": {"_id": 1}, "u": {"$set": {"n": n}}};
        let silent = [
            rawdoc! {"insert": "silent", "documents": [{"_id": 1, "n": 1}, {"_id": 2}]},
            rawdoc! {"update": "silent", "updates": [set(2)]},
            rawdoc! {"insert": "silent", "documents": [{"_id": 1, "refused": true}]},
            rawdoc! {"delete": "silent", "deletes": [{"q": {"_id": 2}, "limit": 1}]},
        ];
        for command in silent {
            socket.send(&op_msg(MORE_TO_COME, &body(&unacknowledged(command)))).await?;
        }
        must(&mut socket, &rawdoc! {"ping": 1, "$db": "admin"}).await?;
        expect(&stage, before, [0, 4, 0]).await?;
        // With a reply that says nothing.
        let update = unacknowledged(rawdoc! {"update": "silent", "updates": [set(3)]});
        let reply = must(&mut socket, &update).await?;
        println!("w: 0 is answered by {reply}");
        expect(&stage, before, [0, 5, 0]).await?;
        // Nothing behind it: the proxy finds out by itself when it has ended.
        let last = unacknowledged(rawdoc! {"insert": "silent", "documents": [{"_id": 3}]});
        socket.send(&op_msg(MORE_TO_COME, &body(&last))).await?;
        let silent = stage.source.client().await?.database(DB).collection::<Document>("silent");
        testkit::wait_for("the last silent insert", DRAIN_MAX, async || {
            let seen = silent.find_one(doc! {"_id": 3}).await?.is_some();
            let captured = stage.dualsync.report().await?["counts"]["captured"] == 6;
            Ok((seen && captured).then_some(()))
        })
        .await?;
        expect(&stage, before, [0, 6, 0]).await?;
        must(&mut socket, &rawdoc! {"ping": 1, "$db": "admin"}).await?;
        equal_but_for_dirty(&stage, 0).await?;
    }
    Ok(())
}

/// We offer no compressor, and mongod takes what is compressed all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_write_is_followed() -> Result<()> {
    let stage = stage(Source::standalone().await?).await?;
    let insert = rawdoc! {"insert": "compressed", "documents": [{"_id": 1}, {"n": 1}], "$db": DB};
    let update =
        rawdoc! {"update": "compressed", "updates": [{"q": {"_id": 1}, "u": {"$inc": {"n": 1}}}], "$db": DB};
    let address = stage.dualsync.proxy_address();
    let before = ways(&stage).await?;
    for command in [insert, update] {
        let answer = answer(&address, &compressed(&op_msg(0, &body(&command)))).await?;
        println!("{answer:?}");
    }
    let there = stage.source.client().await?.database(DB).collection::<Document>("compressed");
    ensure!(there.count_documents(doc! {}).await? == 2, "mongod has not taken it");
    expect(&stage, before, [2, 0, 0]).await?;
    equal_but_for_dirty(&stage, 0).await
}

fn unacknowledged(mut command: RawDocumentBuf) -> RawDocumentBuf {
    command.append(cstr!("writeConcern"), rawdoc! {"w": 0});
    command.append(cstr!("$db"), DB);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drivers_bulk_of_20_000_documents() -> Result<()> {
    let stage = stage(Source::replica_set().await?).await?;
    let bulk = stage.dualsync.client().await?.database(DB).collection::<Document>("bulk");
    let before = ways(&stage).await?;
    bulk.insert_many((0..20_000).map(|n| doc! {"n": n, "text": "small"})).ordered(false).await?;
    expect(&stage, before, [1, 0, 0]).await?;
    bulk.update_many(doc! {"n": {"$lt": 10_000}}, doc! {"$inc": {"n": 1}}).await?;
    expect(&stage, before, [2, 0, 0]).await?;
    equal_but_for_dirty(&stage, 0).await
}
