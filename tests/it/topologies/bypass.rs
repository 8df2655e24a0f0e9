//! A driver that goes past us does so in silence (`wire-facts.md` 2.3), so mongod itself is asked who is connected.

use std::collections::HashSet;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::Client;
use testkit::{Mongod, python, wait_for};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::Trio;
use crate::support::{DRAIN_MAX, Source, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_goes_past_us() -> Result<()> {
    let trio = Trio::start(3, |builder| builder).await?;
    let pid = trio.dualsync.pid().context("it runs")?;
    let with_name = |uri: String, name: &str| format!("{uri}&appName={name}");

    let rust = Client::with_uri_str(with_name(trio.uri(), "rust")).await?;
    let work = (0..20).map(|id| {
        let things = rust.database("bypass").collection::<Document>("things");
        async move { things.insert_one(doc! {"_id": id}).await }
    });
    futures_util::future::try_join_all(work).await?;
    let python = Paused::start(&with_name(trio.uri(), "python")).await?;
    for name in ["rust", "python"] {
        for member in trio.set.members() {
            // A monitor at least, on each member.
            let seen = wait_for("its connections", DRAIN_MAX, async || {
                let peers = peers(member, name).await?;
                Ok((!peers.is_empty()).then_some(peers))
            })
            .await?;
            let ours = sockets_of(pid)?;
            let strangers: Vec<_> = seen.iter().filter(|peer| !ours.contains(*peer)).collect();
            println!("{name} has {} connections to {}", seen.len(), member.address());
            ensure!(strangers.is_empty(), "{name} goes past us: {strangers:?}");
        }
    }
    // That this test sees those that do.
    let direct = Client::with_uri_str(with_name(trio.set.uri(), "direct")).await?;
    direct.database("bypass").run_command(doc! {"ping": 1}).await?;
    let seen = peers(&trio.set.members()[trio.set.primary().await?], "direct").await?;
    ensure!(!seen.is_empty() && seen.is_disjoint(&sockets_of(pid)?), "{seen:?} are not seen as strangers");
    python.end().await
}

/// A single member, found by its one listener with no option at all: the easiest to lose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_goes_past_us_to_a_single_member() -> Result<()> {
    let stage = Stage::start(Source::replica_set().await?).await?;
    let Source::ReplicaSet(set) = &stage.source else { unreachable!() };
    let python = Paused::start(&format!("{}?appName=python", stage.dualsync.uri())).await?;
    let rust = Client::with_uri_str(format!("{}?appName=rust", stage.dualsync.uri())).await?;
    rust.database("bypass").run_command(doc! {"ping": 1}).await?;
    for name in ["rust", "python"] {
        let seen = peers(&set.members()[0], name).await?;
        let ours = sockets_of(stage.dualsync.pid().context("it runs")?)?;
        ensure!(seen.len() >= 2 && seen.is_subset(&ours), "{name}: {seen:?}");
    }
    python.end().await
}

/// The far ends of the connections that `member` has with the application of this name.
async fn peers(member: &Mongod, name: &str) -> Result<HashSet<String>> {
    let client = member.client().await?;
    let pipeline = [
        doc! {"$currentOp": {"allUsers": true, "idleConnections": true}},
        doc! {"$match": {"clientMetadata.application.name": name}},
        doc! {"$project": {"client": 1}},
    ];
    let mut found = client.database("admin").aggregate(pipeline).await?;
    let mut peers = HashSet::new();
    while found.advance().await? {
        peers.insert(found.deserialize_current()?.get_str("client")?.to_owned());
    }
    client.shutdown().immediate(true).await;
    Ok(peers)
}

/// The near ends of all IPv4 connections of a process, as Linux lists them.
fn sockets_of(pid: u32) -> Result<HashSet<String>> {
    let mut inodes = HashSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // It may be closed meanwhile.
        let Ok(link) = std::fs::read_link(entry?.path()) else { continue };
        let link = link.to_string_lossy().into_owned();
        inodes
            .extend(link.strip_prefix("socket:[").and_then(|it| it.strip_suffix(']')).map(ToOwned::to_owned));
    }
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let mut ends = HashSet::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(local), Some(inode)) = (fields.get(1), fields.get(9)) else { continue };
        if !inodes.contains(*inode) {
            continue;
        }
        let (ip, port) = local.split_once(':').context("no port")?;
        let ip = std::net::Ipv4Addr::from(u32::from_str_radix(ip, 16)?.to_le_bytes());
        ends.insert(format!("{ip}:{}", u16::from_str_radix(port, 16)?));
    }
    Ok(ends)
}

/// A PyMongo that has worked and stays connected.
struct Paused(tokio::process::Child);

impl Paused {
    async fn start(uri: &str) -> Result<Paused> {
        let mut child = tokio::process::Command::new(python::interpreter()?)
            .args(["-I", "-c", SCRIPT, uri])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("it has a pipe")?;
        let mut line = String::new();
        tokio::time::timeout(Duration::from_secs(30), BufReader::new(stdout).read_line(&mut line)).await??;
        ensure!(line == "ready\n", "the script says {line:?}");
        Ok(Paused(child))
    }

    async fn end(mut self) -> Result<()> {
        self.0.stdin.take().context("it has a pipe")?.write_all(b"\n").await?;
        ensure!(self.0.wait().await?.success(), "the script failed");
        Ok(())
    }
}

const SCRIPT: &str = "
import sys
from concurrent.futures import ThreadPoolExecutor
from pymongo import MongoClient, ReadPreference
client = MongoClient(sys.argv[1])
things = client.bypass.python
with ThreadPoolExecutor(10) as pool:
    list(pool.map(lambda i: things.insert_one({'_id': i}), range(50)))
    near = things.with_options(read_preference=ReadPreference.NEAREST)
    list(pool.map(lambda i: near.find_one({'_id': i}), range(50)))
print('ready', flush=True)
sys.stdin.readline()
client.close()
";
