//! Starts that must not happen: the status, the key, and what to do, in the output.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use testkit::{Builder, Dualsync, Mongod, ReplicaSet};

use super::{Folder, QUICK, refused};
use crate::support::{BIN, Source, Stage};

/// Settings that would do if both servers were there.
fn builder() -> Builder {
    Dualsync::builder(BIN).local("mongodb://127.0.0.1:1/").atlas("mongodb://127.0.0.1:2/")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_settings_are_named_all_at_once() -> Result<()> {
    for uri in [
        "127.0.0.1:27017",
        "http://127.0.0.1:27017/",
        "mongodb://",
        "mongodb://127.0.0.1:99999/",
        "mongodb://127.0.0.1:27017/?nonsense",
    ] {
        refused(uri, builder().local(uri), 2, &["local.uri"]).await?;
        refused(uri, builder().atlas(uri), 2, &["atlas.uri"]).await?;
    }
    refused("two servers", builder().local("mongodb://a:1,b:2/"), 2, &["local.uri", "one server"]).await?;
    refused(
        "the same server twice",
        builder().atlas("mongodb://localhost:1/"),
        2,
        &["atlas.uri", "local.uri"],
    )
    .await?;
    refused("no target", Dualsync::builder(BIN).env("SYNC_ENABLED", "true"), 2, &["MONGODB_ATLAS_URI"])
        .await?;
    refused("an unknown flag", builder().arg("--frobnicate"), 2, &["--frobnicate"]).await?;
    refused(
        "an old and a new name that differ",
        builder().env("SYNC_BATCH_SIZE", "7").env("DUALSYNC_SYNC_BATCH_ENTRIES_MAX", "8"),
        2,
        &["SYNC_BATCH_SIZE", "sync.batch_entries_max"],
    )
    .await?;
    refused(
        "many at once",
        builder()
            .local("nonsense")
            .env("DUALSYNC_SYNC_BATCH_ENTRIES_MAX", "0")
            .env("DUALSYNC_LOG_DURABILITY", "sometimes")
            .env("DUALSYNC_PROXY_LISTEN", "nowhere")
            .env("DUALSYNC_ADMIN_TOKEN", "two words")
            .env("SYNC_WORKER_INTERVAL", "soon"),
        2,
        &[
            "6 errors",
            "local.uri",
            "sync.batch_entries_max",
            "log.durability",
            "proxy.listen",
            "admin.token",
            "sync.idle_wait",
            "journal",
        ],
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_config_checks_and_does_nothing_else() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.path("proxy.toml");
    let check = |text: &str| {
        let written = fs::write(&file, text);
        let builder = Dualsync::builder(BIN).config(&file).log_dir(folder.path("log")).arg("check-config");
        written.map(|()| builder)
    };
    refused("good", check("[sync]\nexclude = [\"*.sessions\"]\n")?, 0, &["exclude", "*.sessions", "[log]"])
        .await?;
    refused("an unknown key", check("[sync]\nbacth_size = 5\n")?, 2, &["bacth_size"]).await?;
    refused("an unknown section", check("[snyc]\n")?, 2, &["snyc"]).await?;
    refused("no TOML", check("[sync\n")?, 2, &["proxy.toml"]).await?;
    refused(
        "the wrong type",
        check("[sync]\nmax_retries = \"often\"\n")?,
        2,
        &["sync.max_retries", "1 to 10"],
    )
    .await?;
    refused(
        "no file",
        Dualsync::builder(BIN).config(folder.path("none.toml")).arg("check-config"),
        2,
        &["none.toml"],
    )
    .await?;
    ensure!(!folder.path("log").exists(), "check-config has made the log's folder");
    // The file that we ship is all defaults.
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/proxy.toml");
    refused("proxy.toml", Dualsync::builder(BIN).config(shipped).arg("check-config"), 0, &["16GiB"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_that_are_taken_are_named_with_their_key() -> Result<()> {
    let mongod = Mongod::standalone().await?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let address = taken.local_addr()?.to_string();
    let proxy = || Dualsync::builder(BIN).local(mongod.uri());
    refused("the proxy's", proxy().proxy_port(port), 1, &[&address, "proxy.listen"]).await?;
    refused("the admin's", proxy().env("DUALSYNC_ADMIN_LISTEN", &address), 1, &[&address, "admin.listen"])
        .await?;
    let elsewhere = proxy()
        .env("DUALSYNC_PROXY_LISTEN", "192.0.2.1:27018")
        .env("DUALSYNC_PROXY_ALLOW_UNAUTHENTICATED_REMOTE", "true");
    refused("not ours", elsewhere, 1, &["192.0.2.1:27018", "proxy.listen", "of this host"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_folder_that_will_not_do_is_named_with_the_mend() -> Result<()> {
    let mongod = Mongod::standalone().await?;
    let folder = Folder::new()?;
    let with = |log_dir: &std::path::Path| {
        Dualsync::builder(BIN).local(mongod.uri()).atlas("mongodb://127.0.0.1:2/").log_dir(log_dir)
    };
    let wide = folder.path("wide");
    fs::create_dir(&wide)?;
    fs::set_permissions(&wide, fs::Permissions::from_mode(0o755))?;
    let mend = format!("chmod 700 {}", wide.display());
    refused("a folder that all may read", with(&wide), 1, &[&mend, "0755"]).await?;

    let file = folder.path("file");
    fs::write(&file, "")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let name = file.display().to_string();
    refused("a file", with(&file), 1, &[&name, "log.dir"]).await?;
    refused("below a file", with(&file.join("log")), 1, &[&name, "log.dir"]).await?;
    // Nobody may write there, root neither.
    refused("not to be written", with("/proc/dualsync".as_ref()), 1, &["/proc/dualsync", "log.dir"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_process_on_a_folder_is_told_who_has_it() -> Result<()> {
    let stage = Stage::start(Source::standalone().await?).await?;
    let pid = format!("process {}", stage.dualsync.pid().unwrap_or_default());
    let second = Dualsync::builder(BIN).local(stage.source.uri()).atlas(stage.target.uri());
    refused("the second", second.log_dir(stage.dualsync.log_dir()), 1, &[&pid, "in use"]).await?;
    stage.assert_equal().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_the_source_is_refused() -> Result<()> {
    // Other names for one server, so that only asking it can tell.
    let set = ReplicaSet::start(1).await?;
    let port = set.members()[0].address().replace("127.0.0.1:", "");
    let dualsync = Dualsync::builder(BIN)
        .local(set.members()[0].uri())
        .atlas(format!("mongodb://127.1:{port}/?directConnection=true"))
        .expect_warning("refused: check the credentials")
        .start()
        .await?;
    let orders = dualsync.client().await?.database("shop").collection::<bson::Document>("orders");
    orders.insert_one(bson::doc! {"_id": 1}).await?;
    dualsync.wait_for_log("same server", QUICK).await?;
    ensure!(dualsync.report().await?["lag"]["entries"] == 1, "it replicates into itself");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_door_to_the_world_is_refused() -> Result<()> {
    let mongod = Mongod::standalone().await?;
    let remote = || Dualsync::builder(BIN).local(mongod.uri()).env("DUALSYNC_PROXY_LISTEN", "0.0.0.0:0");
    let key = "proxy.allow_unauthenticated_remote";
    refused("proxy", remote(), 1, &["0.0.0.0:0", "authentication", key]).await?;
    refused("IPv6", remote().env("DUALSYNC_PROXY_LISTEN", "[::]:0"), 1, &[key]).await?;
    let admin =
        remote().env("DUALSYNC_PROXY_LISTEN", "127.0.0.1:0").env("DUALSYNC_ADMIN_LISTEN", "0.0.0.0:0");
    refused(
        "admin without a token",
        admin.env("DUALSYNC_ADMIN_TOKEN", ""),
        2,
        &["admin.listen", "DUALSYNC_ADMIN_TOKEN"],
    )
    .await?;
    let allowed = remote()
        .env("DUALSYNC_PROXY_ALLOW_UNAUTHENTICATED_REMOTE", "true")
        .expect_warning(key)
        .start()
        .await?;
    let said = allowed.log_lines().iter().filter(|line| line.contains("WARN") && line.contains(key)).count();
    ensure!(said > 0, "not a word about the open door");
    Ok(())
}
