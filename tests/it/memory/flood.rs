//! Requests that are small on the wire and large to look at, from many connections at once: `proxy.held_bytes_max` bounds
//! what they take.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::raw::RawDocumentBuf;
use bson::rawdoc;
use testkit::Builder;
use tokio::task::JoinSet;

use super::{memory_kib, resident_kib};
use crate::bad_input::raw::{OP_COMPRESSED, Socket, body, frame, op_msg, sequence};
use crate::support::{Source, Stage};

/// What zstd makes a few KiB of: documents of 16 MB, with and without an `_id`, and half a million tiny ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_requests_take_no_more_than_they_may() -> Result<()> {
    let paused = |builder: Builder| builder.env("DUALSYNC_PROXY_HELD_BYTES_MAX", "128MiB");
    let stage = Stage::start_with(Source::standalone().await?, paused).await?;
    let order = serde_json::json!({ "action": "pause" });
    stage.dualsync.admin_post("/api/sync/worker/control", &order).await?;
    let before = resident_kib(stage.dualsync.pid())?;

    let requests = (0..CLIENTS).map(request).collect::<Result<Vec<_>>>()?;
    let mut clients = JoinSet::new();
    for (client, request) in requests.into_iter().enumerate() {
        let address = stage.dualsync.proxy_address();
        clients.spawn(async move {
            let mut socket = Socket::connect(&address).await?;
            socket.send(&request).await?;
            socket.reply(REPLY_MAX).await.with_context(|| format!("client {client}"))
        });
    }
    let mut inserted = 0;
    while let Some(reply) = clients.join_next().await {
        let reply = reply??;
        if reply.get_f64("ok")? == 1.0 {
            inserted += 1;
        }
    }
    let peak = memory_kib(stage.dualsync.pid(), "VmHWM:")?;
    println!("{before} KiB before, {peak} KiB at most, {inserted} of {CLIENTS} inserted");
    ensure!(inserted == CLIENTS - CLIENTS.div_ceil(KINDS), "{inserted} were inserted");
    ensure!(peak <= before + (BOUND_MIB + SLACK_MIB) * 1024, "{peak} KiB, {before} KiB before");
    // They waited for each other: nothing passed unseen.
    let report = stage.dualsync.report().await?;
    ensure!(report["namespaces"]["dirty"].as_array().is_some_and(Vec::is_empty), "dirty: {report:#}");
    Ok(())
}

/// One compressed insert.
fn request(client: usize) -> Result<Vec<u8>> {
    let documents = match client % KINDS {
        0 => vec![RawDocumentBuf::new(); 500_000],
        1 => vec![rawdoc! { "text": "x".repeat(16_000_000) }],
        _ => vec![rawdoc! { "_id": i32::try_from(client)?, "text": "x".repeat(16_000_000) }],
    };
    let command = rawdoc! { "insert": "flood", "$db": "memory" };
    let plain = op_msg(0, &[body(&command), sequence("documents", &documents, 0)].concat());
    zstd_compressed(&plain)
}

fn zstd_compressed(plain: &[u8]) -> Result<Vec<u8>> {
    let (head, bytes) = plain.split_at(16);
    let length = i32::try_from(bytes.len())?.to_le_bytes();
    let packed = zstd::bulk::compress(bytes, 1)?;
    Ok(frame(OP_COMPRESSED, &[&head[12..], &length, &[3], &packed].concat()))
}

const CLIENTS: usize = 12;
const KINDS: usize = 3;
const BOUND_MIB: usize = 128;
/// Threads' stacks, what the allocator keeps, the log's index.
const SLACK_MIB: usize = 64;
const REPLY_MAX: Duration = Duration::from_secs(60);
