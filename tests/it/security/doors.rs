//! How many may connect, what a client that does not read costs, and how it all ends.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use testkit::mongod::Options;
use testkit::{Dualsync, Mongod, wait_for};

use super::{TEST_COMMANDS, slow_update};
use crate::startup::{Folder, QUICK};
use crate::support::{BIN, Source, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_leave_files_for_the_log() -> Result<()> {
    let folder = Folder::new()?;
    let script = folder.path("few-files");
    fs::write(&script, format!("#!/bin/sh\nulimit -n 300\nexec {BIN} \"$@\"\n"))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700))?;
    let source = Mongod::standalone().await?;
    let dualsync = Dualsync::builder(&script)
        .local(source.uri())
        .env("DUALSYNC_PROXY_CONNECTIONS_MAX", "500")
        .expect_warning("is lowered to what the limit on open files allows")
        .expect_warning("proxy.connections_max is reached")
        .start()
        .await?;
    let line = dualsync.wait_for_log("is lowered", QUICK).await?;
    ensure!(line.contains("wanted=500 fit=75"), "{line}");
    let sockets: Vec<TcpStream> =
        (0..90).map(|_| TcpStream::connect(dualsync.proxy_address())).collect::<Result<_, _>>()?;
    wait_for("those too many to be turned away", QUICK, async || {
        Ok((dualsync.metrics().await?["dualsync_proxy_refused_total"] == 15.0).then_some(()))
    })
    .await?;
    drop(sockets);
    super::used_by_rust(&dualsync.uri(), "afterwards").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_costs_no_memory() -> Result<()> {
    let stage = Stage::start(Source::standalone().await?).await?;
    let big = stage.source.client().await?.database("shop").collection::<Document>("big");
    for id in 0..4 {
        big.insert_one(doc! { "_id": id, "text": "x".repeat(15_000_000) }).await?;
    }
    let pid = stage.dualsync.pid().context("it runs")?;
    let before = resident_bytes(pid)?;
    // Twenty clients ask for 15 MB three times over and read nothing.
    let body = bson::serialize_to_vec(&doc! { "find": "big", "filter": { "_id": 1 }, "$db": "shop" })?;
    let length = i32::try_from(21 + body.len())?;
    let mut frame: Vec<u8> = [length, 1, 0, 2013, 0].iter().flat_map(|field| field.to_le_bytes()).collect();
    frame.push(0);
    frame.extend(&body);
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = TcpStream::connect(stage.dualsync.proxy_address())?;
        client.write_all(&frame.repeat(3))?;
        clients.push(client);
    }
    // Until nothing moves any more.
    let mut last = (0.0, Instant::now());
    wait_for("the replies to be stuck", QUICK, async || {
        let now = stage.dualsync.metrics().await?["dualsync_proxy_bytes_total{direction=\"to_client\"}"];
        if now > last.0 {
            last = (now, Instant::now());
        }
        Ok((now > 0.0 && last.1.elapsed() > Duration::from_secs(1)).then_some(()))
    })
    .await?;
    let grown = resident_bytes(pid)?.saturating_sub(before);
    ensure!(grown < 40 << 20, "{grown} bytes more for twenty clients that do not read");
    // Nobody else suffers, and what was held back is whole.
    super::used_by_rust(&stage.dualsync.uri(), "others").await?;
    let mut first = clients.remove(0);
    first.set_read_timeout(Some(QUICK))?;
    let mut reply = vec![0; 15_000_000 * 3];
    first.read_exact(&mut reply)?;
    Ok(())
}

fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_waits_for_writes_and_not_for_who_listens() -> Result<()> {
    let set = testkit::ReplicaSet::start_with(1, &TEST_COMMANDS).await?;
    let mut stage = Stage::start(Source::ReplicaSet(set)).await?;
    // A change stream waits on mongod, the driver's monitor on a streamed hello.
    let client = stage.dualsync.client().await?;
    let mut changes = client.database("shop").collection::<Document>("others").watch().await?;
    let listening = tokio::spawn(async move { changes.next_if_any().await });
    let update = slow_update(&stage, 1_500).await?;
    let began = Instant::now();
    ensure!(stage.dualsync.terminate().await?.success(), "it ends in order");
    ensure!(began.elapsed() < Duration::from_secs(8), "somebody was waited for: {:?}", began.elapsed());
    ensure!(update.await??.modified_count == 1, "the update's reply was owed");
    listening.abort();
    stage.dualsync.restart().await?;
    stage.assert_equal().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once() -> Result<()> {
    let args = TEST_COMMANDS.map(str::to_owned).to_vec();
    let mongod = Mongod::launch(Options { args, ..Options::default() }).await?;
    let mut stage = Stage::start_with(Source::Standalone(mongod), |builder| {
        builder.expect_warning("told to end a second time")
    })
    .await?;
    let update = slow_update(&stage, 6_000).await?;
    let pid = stage.dualsync.pid().context("it runs")?.to_string();
    let signal = std::process::Command::new("kill").args(["-TERM", &pid]).status()?;
    ensure!(signal.success(), "kill -TERM {pid}");
    stage.dualsync.wait_for_log("SIGTERM: ending in order", QUICK).await?;
    let began = Instant::now();
    let status = stage.dualsync.terminate().await?;
    ensure!(
        status.code() == Some(1) && began.elapsed() < Duration::from_secs(3),
        "{status} after {:?}",
        began.elapsed()
    );
    ensure!(update.await?.is_err(), "its reply came all the same");
    // As after a kill: the write is found by its mark.
    stage.dualsync.restart().await?;
    stage.dualsync.wait_for_log("has ended on the source", QUICK).await?;
    stage.assert_equal().await?;
    Ok(())
}
