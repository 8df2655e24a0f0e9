//! The log's disk is full, really: a small file system of its own, and not one byte left on it.
//!
//! Needs a mount namespace. Where the host gives none, the test says so and fails; `DUALSYNC_NO_SMALL_DISK` leaves it out.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use bson::{Document, doc};
use mongodb::Client;
use testkit::net::Relay;
use testkit::{Dualsync, ReplicaSet, wait_for};

use super::{SOON, assert_equal_but_for_dirty, dirty, level, wait_for_level};
use crate::support::{BIN, DRAIN_MAX, NOT_COMPARED, Source, Stage};

/// Where the small disk is, for a test that runs on one.
pub(crate) const DISK: &str = "DUALSYNC_SMALL_DISK";

#[test]
fn the_disk_fills_while_clients_write() -> Result<()> {
    on_small_disk(8 << 20, "log::disk::clients_write_on_a_full_disk")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the_disk_fills_while_clients_write"]
async fn clients_write_on_a_full_disk() -> Result<()> {
    let disk = PathBuf::from(std::env::var_os(DISK).context("run by the_disk_fills_while_clients_write")?);
    let (source, target) = (Source::standalone().await?, ReplicaSet::start(1).await?);
    let relay = Relay::start(target.members()[0].address()).await?;
    let dualsync = Dualsync::builder(BIN)
        .local(source.uri())
        .atlas(relay.uri())
        .log_dir(disk.join("log"))
        .env(NOT_COMPARED.0, NOT_COMPARED.1)
        .expect_warning("the sync log is")
        .expect_warning("Atlas unavailable")
        .expect_warning("namespace is dirty")
        .expect_warning("cannot be saved")
        .expect_warning("writes are not recorded")
        .expect_warning("cannot be recorded yet")
        .start()
        .await?;
    let mut stage = Stage { source, target, dualsync };
    let quiet = stage.dualsync.client().await?.database("quiet").collection::<Document>("items");
    quiet.insert_many((0..100).map(|id| doc! {"_id": id, "n": 0})).await?;
    stage.dualsync.wait_drained(DRAIN_MAX).await?;

    relay.cut().await?;
    quiet.update_many(doc! {}, doc! {"$inc": {"n": 1}}).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..4)
        .map(|number| tokio::spawn(write(stage.dualsync.uri(), number, stop.clone(), written.clone())))
        .collect();
    wait_for("a nearly full log", DRAIN_MAX, async || {
        ensure!(clients.iter().all(|client| !client.is_finished()), "a client has ended");
        Ok((level(&stage.dualsync).await? == "keys-only").then_some(()))
    })
    .await?;
    take_space(&disk)?;
    wait_for_level(&stage.dualsync, "full").await?;
    let full_at = written.load(Ordering::Relaxed);
    wait_for("clients to go on writing", SOON, async || {
        ensure!(clients.iter().all(|client| !client.is_finished()), "a client has ended");
        Ok((written.load(Ordering::Relaxed) > full_at + 400).then_some(()))
    })
    .await?;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await??;
    }
    // The replicator takes over what could not be recorded when it comes round.
    let names = wait_for("something to be dirty", SOON, async || {
        let names = dirty(&stage.dualsync).await?;
        Ok((!names.is_empty()).then_some(names))
    })
    .await?;
    ensure!(names.iter().all(|name| name.starts_with("busy.")), "dirty: {names:?}");

    // Dead with no space to write a word: what is dirty is known all the same.
    stage.dualsync.kill()?;
    stage.dualsync.restart().await?;
    let after = dirty(&stage.dualsync).await?;
    ensure!(after.is_superset(&names), "{after:?} after a kill, {names:?} before");
    ensure!(after.iter().all(|name| name.starts_with("busy.")), "dirty: {after:?}");
    ensure!(level(&stage.dualsync).await? == "full");

    println!("{} rounds of writes, dirty: {after:?}", written.load(Ordering::Relaxed));
    // The target is back: the log empties, though nobody else gives back any space.
    relay.resume().await?;
    wait_for_level(&stage.dualsync, "normal").await?;
    fs::remove_file(disk.join("ballast"))?;
    assert_equal_but_for_dirty(&stage).await?;
    let after = dirty(&stage.dualsync).await?;
    ensure!(after.is_superset(&names) && after.iter().all(|name| name.starts_with("busy.")), "{after:?}");
    // And from now on everything is recorded again.
    let fresh = stage.dualsync.client().await?.database("fresh").collection::<Document>("items");
    fresh.insert_many((0..100).map(|id| doc! {"_id": id})).await?;
    assert_equal_but_for_dirty(&stage).await?;
    ensure!(!dirty(&stage.dualsync).await?.contains("fresh.items"));
    stage.mend().await?;
    Ok(())
}

/// Inserts, changes and deletes; every answer must be mongod's own.
async fn write(uri: String, number: i32, stop: Arc<AtomicBool>, written: Arc<AtomicU64>) -> Result<()> {
    let client = Client::with_uri_str(uri).await?;
    let items = client.database("busy").collection::<Document>(&format!("items{number}"));
    for id in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        items.insert_one(doc! {"_id": id, "x": "y".repeat(20_000)}).await.context("insert")?;
        let changed = items.update_one(doc! {"_id": id}, doc! {"$set": {"n": id}}).await.context("update")?;
        ensure!(changed.modified_count == 1, "{changed:?}");
        if id % 3 == 0 {
            let deleted = items.delete_one(doc! {"_id": id}).await.context("delete")?;
            ensure!(deleted.deleted_count == 1, "{deleted:?}");
        }
        // An error is mongod's own as well.
        let again = items.insert_one(doc! {"_id": "one", "x": 1}).await;
        ensure!(id == 0 || again.is_err_and(|error| error.to_string().contains("E11000")), "a duplicate");
        written.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Takes what space is left.
pub(crate) fn take_space(disk: &Path) -> Result<()> {
    let mut ballast = OpenOptions::new().append(true).create(true).open(disk.join("ballast"))?;
    while ballast.write(&[0; 4096]).is_ok() {}
    Ok(())
}

/// Runs an ignored test of this binary with a file system of so many bytes.
pub(crate) fn on_small_disk(bytes: u64, test: &str) -> Result<()> {
    if std::env::var_os("DUALSYNC_NO_SMALL_DISK").is_some() {
        println!("left out, as DUALSYNC_NO_SMALL_DISK asks: {test}");
        return Ok(());
    }
    let mount = tempfile::tempdir()?;
    let script = r#"mount -t tmpfs -o "size=$1,mode=0700" tmpfs "$2" || exit 99; shift 2; exec "$@""#;
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", &bytes.to_string()])
        .arg(mount.path())
        .arg(std::env::current_exe()?)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(DISK, mount.path())
        .status();
    match status.as_ref().map(std::process::ExitStatus::code) {
        Ok(Some(0)) => Ok(()),
        Ok(Some(1 | 99)) | Err(_) => bail!(
            "this host gives no mount namespace ({status:?}): run as root, or set DUALSYNC_NO_SMALL_DISK to go without"
        ),
        other => bail!("{test} failed on its small disk: {other:?}"),
    }
}
