//! Unix sockets on either side.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::mongod::Options;
use testkit::{Dualsync, Mongod, wait_for};

use super::{TEST_COMMANDS, in_uri, killed_under_an_update, used_by_python, used_by_rust};
use crate::startup::{Folder, QUICK, refused};
use crate::support::{BIN, Source, Stage};

async fn mongod_with_socket() -> Result<(Source, String)> {
    let mongod = Mongod::launch(Options {
        unix_socket: true,
        args: TEST_COMMANDS.map(str::to_owned).to_vec(),
        ..Options::default()
    })
    .await?;
    let uri = mongod.uri_at(&in_uri(&mongod.unix_socket()));
    Ok((Source::Standalone(mongod), uri))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_on_both_sides_and_everything_is_followed() -> Result<()> {
    let folder = Folder::new()?;
    let socket = folder.path("proxy.sock");
    // What a dead program left is no hindrance.
    drop(UnixListener::bind(&socket)?);
    let (source, uri) = mongod_with_socket().await?;
    let listen = format!("unix:{}", socket.display());
    let mut stage =
        Stage::start_with(source, |builder| builder.local(uri).env("DUALSYNC_PROXY_LISTEN", &listen)).await?;
    let mode = fs::metadata(&socket)?.permissions().mode() & 0o777;
    ensure!(mode == 0o700, "{mode:o}");
    let through = format!("mongodb://{}/", in_uri(&socket));
    used_by_rust(&through, "rust").await?;
    used_by_python(&through, "python").await?;
    let documents = stage.assert_equal().await?.documents();
    ensure!(documents == 200, "{documents} documents");
    stage.assert_followed().await?;

    let second = Dualsync::builder(BIN)
        .local("mongodb://127.0.0.1:1/")
        .env("DUALSYNC_PROXY_LISTEN", socket.display().to_string());
    refused("a second one", second, 1, &["in use", "proxy.listen"]).await?;
    ensure!(stage.dualsync.terminate().await?.success(), "it ends in order");
    ensure!(!socket.exists(), "its socket is left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_outcome_nobody_can_see_is_compared_later() -> Result<()> {
    let (source, uri) = mongod_with_socket().await?;
    let mut stage = Stage::start_with(source, |builder| {
        builder.local(uri).expect_warning("its namespaces are dirty").expect_warning("namespace is dirty")
    })
    .await?;
    killed_under_an_update(&mut stage).await?;
    stage.dualsync.wait_for_log("its namespaces are dirty", QUICK).await?;
    wait_for("the namespace to be compared", Duration::from_secs(60), async || {
        let report = stage.dualsync.report().await?;
        Ok(report["namespaces"]["compared"].to_string().contains("shop.things").then_some(()))
    })
    .await?;
    stage.assert_equal().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_that_will_not_do_are_named() -> Result<()> {
    let folder = Folder::new()?;
    let start = |listen: String| {
        Dualsync::builder(BIN).local("mongodb://127.0.0.1:1/").env("DUALSYNC_PROXY_LISTEN", listen)
    };
    let file = folder.path("file");
    fs::write(&file, "precious")?;
    refused("a file", start(file.display().to_string()), 1, &["no socket", "proxy.listen"]).await?;
    ensure!(fs::read_to_string(&file)? == "precious", "a file was taken for a dead socket");
    let nowhere = folder.path("none/proxy.sock").display().to_string();
    refused("no folder", start(nowhere.clone()), 1, &[&nowhere, "proxy.listen"]).await?;
    let long = format!("/tmp/{}.sock", "x".repeat(200));
    refused("too long", start(long.clone()), 1, &[&long, "proxy.listen"]).await?;
    refused("relative", start("unix:proxy.sock".to_owned()), 2, &["proxy.listen", "unix:/run"]).await?;
    let wide = start(folder.path("s.sock").display().to_string()).env("DUALSYNC_PROXY_SOCKET_MODE", "8");
    refused("no mode", wide, 2, &["proxy.socket_mode", "octal"]).await?;

    let socket = folder.path("open.sock");
    let mongod = Mongod::standalone().await?;
    let _open = Dualsync::builder(BIN)
        .local(mongod.uri())
        .env("DUALSYNC_PROXY_LISTEN", socket.display().to_string())
        .env("DUALSYNC_PROXY_SOCKET_MODE", "0770")
        .start()
        .await?;
    let file = fs::metadata(&socket)?;
    ensure!(file.file_type().is_socket() && file.permissions().mode() & 0o777 == 0o770, "{file:?}");
    Ok(())
}
