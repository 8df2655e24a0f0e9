//! What real drivers say arrives byte for byte, and so does what they are answered: both sides of the proxy are recorded
//! and compared. `docs/transparency.md` lists what differs, and nothing else may.

mod equal;
mod tap;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, cstr, doc, rawdoc};
use futures_util::TryStreamExt as _;
use mongodb::Client;
use testkit::{Dualsync, ReplicaSet, python, wait_for};

use crate::bad_input::raw::{CHECKSUM_PRESENT, Socket, body, compressed, frame, op_msg, sequence};
use crate::support::{BIN, Source};
use equal::{Difference, compare};
use tap::Tap;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_standalone() -> Result<()> {
    let found = both_sides(Source::standalone().await?).await?;
    let expected = [Difference::IdAdded, Difference::Fence, Difference::Compressors];
    ensure!(found.keys().copied().eq(expected), "{found:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_replica_set() -> Result<()> {
    let found = both_sides(Source::replica_set().await?).await?;
    let expected = [
        Difference::Addresses,
        Difference::IdAdded,
        Difference::Fence,
        Difference::Compressors,
        Difference::Service,
    ];
    ensure!(found.keys().copied().eq(expected), "{found:?}");
    Ok(())
}

/// Lets drivers talk through two recorders, one on each side of the proxy. What differed, and how often.
async fn both_sides(source: Source) -> Result<BTreeMap<Difference, usize>> {
    let (server, kind) = match &source {
        Source::Standalone(mongod) => (mongod.address(), "standalone"),
        Source::ReplicaSet(set) => (set.members()[0].address(), "replica set"),
    };
    let target = ReplicaSet::start(1).await?;
    let behind = Tap::start(server).await?;
    let before = Tap::reserve()?;
    let dualsync = Dualsync::builder(BIN)
        .local(format!("mongodb://{}/?directConnection=true", behind.address()))
        .atlas(target.uri())
        .env("DUALSYNC_PROXY_ADVERTISE", before.address())
        // Collections that come and go are not this test's matter.
        .expect_warning("namespace is dirty")
        .expect_warning("collection dropped")
        .start()
        .await?;
    let before = before.forward_to(dualsync.proxy_address()).await?;
    let address = before.address();

    pymongo(&address, kind).await?;
    rust(&address, kind).await?;
    by_hand(&address).await?;

    let mut last = None;
    let found = wait_for("both sides to say the same", Duration::from_secs(10), async || {
        match compare(&before.conversations(), &behind.conversations()) {
            Ok(found) => Ok(Some(found)),
            Err(error) => {
                last = Some(error);
                Ok(None)
            }
        }
    })
    .await;
    let found = found.with_context(|| format!("the last difference: {last:?}"))?;
    println!("{kind}: {found:?}");
    Ok(found)
}

async fn pymongo(address: &str, kind: &str) -> Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/transparency/traffic.py");
    let mut command = tokio::process::Command::new(python::interpreter()?);
    let output = command.args(["-I", script, address, kind]).kill_on_drop(true).output().await?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "the script failed:\n{out}\n{err}");
    Ok(())
}

async fn rust(address: &str, kind: &str) -> Result<()> {
    let mut options = vec!["compressors=zstd,snappy"];
    if kind == "replica set" {
        options.push("loadBalanced=true");
    }
    for option in options {
        let client = Client::with_uri_str(format!("mongodb://{address}/?{option}")).await?;
        let things = client.database("bytes").collection::<Document>("rust");
        things.insert_many((0..100).map(|n| doc! {"n": n, "text": "x".repeat(2_000)})).await?;
        things.update_many(doc! {"n": {"$lt": 50}}, doc! {"$set": {"text": "short"}}).await?;
        // It must be gone before the client waits for what it has open.
        let read: Vec<Document> = things.find(doc! {}).batch_size(10).await?.try_collect().await?;
        ensure!(read.len() == 100, "{} documents", read.len());
        things.delete_many(doc! {}).await?;
        client.shutdown().await;
    }
    Ok(())
}

/// What drivers do not do, or not all of them.
async fn by_hand(address: &str) -> Result<()> {
    let mut socket = Socket::connect(address).await?;
    let document = rawdoc! {"n": 1};
    let insert = rawdoc! {"insert": "hand", "$db": "bytes"};
    // OP_QUERY: flags, namespace, skip, return, query.
    let ismaster = rawdoc! {"ismaster": 1, "helloOk": true, "compression": ["zlib", "brotli"]};
    let query = [&[0; 4][..], b"admin.$cmd\0", &[0; 4], &[0xff; 4], ismaster.as_bytes()].concat();
    socket.send(&frame(2004, &query)).await?;
    let both = [sequence("documents", &[document.clone(), rawdoc! {"_id": 5}], 0), body(&insert)].concat();
    socket.send(&op_msg(0, &both)).await?;
    socket.send(&compressed(&op_msg(0, &body(&with(&insert, &document))))).await?;
    // With checksums: one that is right, on a frame that stays and on one that changes.
    for checked in [rawdoc! {"ping": 1, "$db": "admin"}, with(&insert, &document)] {
        socket
            .send(&checksummed(&op_msg(CHECKSUM_PRESENT, &[&body(&checked)[..], &[0; 4]].concat())))
            .await?;
    }
    socket.send(&op_msg(0, &body(&rawdoc! {"nonsense": 1, "$db": "bytes"}))).await?;
    socket.end().await?;
    // A wrong one is mongod's to refuse.
    let mut socket = Socket::connect(address).await?;
    socket.send(&op_msg(CHECKSUM_PRESENT, &[&body(&with(&insert, &document))[..], &[0; 4]].concat())).await?;
    socket.end().await?;
    Ok(())
}

fn with(command: &bson::raw::RawDocument, document: &bson::raw::RawDocument) -> bson::raw::RawDocumentBuf {
    let mut command = command.to_owned();
    let mut documents = bson::raw::RawArrayBuf::new();
    documents.push(document);
    command.append(cstr!("documents"), documents);
    command
}

/// CRC-32C of all but the last four bytes, bit by bit.
fn checksummed(frame: &[u8]) -> Vec<u8> {
    let (covered, _) = frame.split_at(frame.len() - 4);
    let crc = covered.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    });
    [covered, &(!crc).to_le_bytes()].concat()
}
