//! TLS on either side of the proxy, with real servers and drivers.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::doc;
use mongodb::Client;
use testkit::mongod::Options;
use testkit::tls::{Authority, Identity};
use testkit::{Builder, Dualsync, Mongod, wait_for};

use super::{TEST_COMMANDS, killed_under_an_update, run_python, used_by_python, used_by_rust};
use crate::startup::{QUICK, refused};
use crate::support::{BIN, Source, Stage};

/// With which the proxy takes TLS.
fn server(builder: Builder, identity: &Identity) -> Builder {
    builder
        .env("DUALSYNC_PROXY_TLS_CERT_FILE", &identity.cert_file)
        .env("DUALSYNC_PROXY_TLS_KEY_FILE", &identity.key_file)
}

fn over_tls(dualsync: &Dualsync, ca_file: &Path, more: &str) -> String {
    let ca_file = ca_file.display();
    format!("mongodb://{}/?tls=true&tlsCAFile={ca_file}{more}", dualsync.proxy_address())
}

async fn mongod_with_tls(ca: &Authority, identity: &Identity, more: &[&str]) -> Result<Mongod> {
    let key_file = identity.cert_key_file.display().to_string();
    let ca_file = ca.ca_file().display().to_string();
    let mut args =
        vec!["--tlsMode", "requireTLS", "--tlsCertificateKeyFile", &key_file, "--tlsCAFile", &ca_file];
    args.extend(more);
    let args = args.into_iter().map(str::to_owned).collect();
    // mongod is asked with a certificate whether it is there.
    let uri_options = format!("tls=true&tlsCAFile={ca_file}&tlsCertificateKeyFile={key_file}");
    Mongod::launch(Options { args, uri_options, ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_speak_tls_and_everything_is_followed() -> Result<()> {
    let ca = Authority::new()?;
    // It wants a certificate of every connection, dualsync's own reads and clients' alike.
    let source = Source::Standalone(mongod_with_tls(&ca, &ca.identity("mongod")?, &[]).await?);
    let (identity, clients) = (ca.identity("proxy")?, ca.identity("clients")?);
    let shown = ("DUALSYNC_LOCAL_CLIENTS_CERT_KEY_FILE", &clients.cert_key_file);
    let stage = Stage::start_with(source, |builder| server(builder, &identity).env(shown.0, shown.1)).await?;
    used_by_rust(&over_tls(&stage.dualsync, &ca.ca_file(), ""), "rust").await?;
    used_by_python(&over_tls(&stage.dualsync, &ca.ca_file(), ""), "python").await?;
    let documents = stage.assert_equal().await?.documents();
    ensure!(documents == 200, "{documents} documents");
    stage.assert_followed().await?;
    let metrics = stage.dualsync.metrics().await?;
    let served = metrics.get("dualsync_proxy_delay_seconds_count{direction=\"to_server\"}").copied();
    ensure!(served.is_some_and(|count| count > 10.0), "no delay is measured: {served:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_a_reply_is_looked_for_over_tls() -> Result<()> {
    let ca = Authority::new()?;
    let none_needed = "--tlsAllowConnectionsWithoutCertificates";
    let args = [&TEST_COMMANDS[..], &[none_needed]].concat();
    let mongod = mongod_with_tls(&ca, &ca.identity("mongod")?, &args).await?;
    let mut stage = Stage::start(Source::Standalone(mongod)).await?;
    killed_under_an_update(&mut stage).await?;
    stage.dualsync.wait_for_log("has ended on the source", QUICK).await?;
    stage.assert_equal().await?;
    let report = stage.dualsync.report().await?;
    ensure!(
        report["namespaces"]["dirty"].as_array().is_some_and(Vec::is_empty),
        "it lost sight of it: {report:#}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_show_a_certificate_where_one_is_asked_for() -> Result<()> {
    let ca = Authority::new()?;
    let (identity, client) = (ca.identity("proxy")?, ca.identity("client")?);
    let elsewhere = Authority::new()?;
    let stranger = elsewhere.identity("stranger")?;
    let mongod = Mongod::standalone().await?;
    let dualsync = server(Dualsync::builder(BIN).local(mongod.uri()), &identity)
        .env("DUALSYNC_PROXY_TLS_CLIENT_CA_FILE", ca.ca_file())
        .expect_warning("its TLS handshake failed")
        .start()
        .await?;
    let with = |identity: &Identity| format!("&tlsCertificateKeyFile={}", identity.cert_key_file.display());
    let short = "&serverSelectionTimeoutMS=1500";
    used_by_rust(&over_tls(&dualsync, &ca.ca_file(), &with(&client)), "rust").await?;
    used_by_python(&over_tls(&dualsync, &ca.ca_file(), &with(&client)), "python").await?;
    for more in [String::new(), with(&stranger)] {
        let uri = over_tls(&dualsync, &ca.ca_file(), &format!("{short}{more}"));
        ensure!(used_by_rust(&uri, "nobody").await.is_err(), "it was let in: {more}");
    }
    let log = dualsync.wait_for_log("its TLS handshake failed", QUICK).await?;
    ensure!(log.contains("WARN"), "{log}");
    let refused = dualsync.metrics().await?["dualsync_proxy_turned_away_total{reason=\"tls_handshake\"}"];
    ensure!(refused >= 2.0, "{refused} handshakes failed");
    let lines = dualsync.log_lines();
    let said = lines.iter().filter(|line| line.contains("WARN") && line.contains("handshake")).count();
    ensure!(said == 1, "it was said {said} times");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_exchanged_while_it_runs() -> Result<()> {
    let (old, new) = (Authority::new()?, Authority::new()?);
    let identity = old.identity("proxy")?;
    let mongod = Mongod::standalone().await?;
    let dualsync = server(Dualsync::builder(BIN).local(mongod.uri()), &identity)
        .expect_warning("its TLS handshake failed")
        .expect_warning("the old certificate stays in use")
        .start()
        .await?;
    let kept = Client::with_uri_str(over_tls(&dualsync, &old.ca_file(), "")).await?;
    kept.database("admin").run_command(doc! { "ping": 1 }).await?;
    let hangup = || {
        let pid = dualsync.pid().context("it runs")?.to_string();
        let status = std::process::Command::new("kill").args(["-HUP", &pid]).status()?;
        ensure!(status.success(), "kill -HUP {pid}");
        Ok(())
    };
    fs::write(&identity.cert_file, "nonsense")?;
    hangup()?;
    dualsync.wait_for_log("the old certificate stays in use", QUICK).await?;
    used_by_rust(&over_tls(&dualsync, &old.ca_file(), ""), "old").await?;
    let fresh = new.identity("proxy")?;
    fs::copy(&fresh.cert_file, &identity.cert_file)?;
    fs::copy(&fresh.key_file, &identity.key_file)?;
    hangup()?;
    dualsync.wait_for_log("certificate and key are read again", QUICK).await?;
    used_by_rust(&over_tls(&dualsync, &new.ca_file(), ""), "new").await?;
    kept.database("admin").run_command(doc! { "ping": 1 }).await.context("what was open stays open")?;
    let late = over_tls(&dualsync, &old.ca_file(), "&serverSelectionTimeoutMS=1500");
    ensure!(used_by_rust(&late, "late").await.is_err(), "the old CA is still good");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_will_not_do_are_named_with_the_mend() -> Result<()> {
    let ca = Authority::new()?;
    let (identity, other) = (ca.identity("proxy")?, ca.identity("other")?);
    let local = "mongodb://127.0.0.1:1/";
    let start = |cert: &Path, key: &Path| {
        Dualsync::builder(BIN)
            .local(local)
            .env("DUALSYNC_PROXY_TLS_CERT_FILE", cert)
            .env("DUALSYNC_PROXY_TLS_KEY_FILE", key)
    };
    let none = ca.folder().join("none.pem");
    let name = none.display().to_string();
    let (cert, key) = (&identity.cert_file, &identity.key_file);
    refused("no file", start(&none, key), 1, &["proxy.tls_cert_file", &name, "cannot be read"]).await?;
    refused("no key file", start(cert, &none), 1, &["proxy.tls_key_file", &name]).await?;
    refused("a key as certificate", start(key, key), 1, &["proxy.tls_cert_file", "no certificate", "BEGIN"])
        .await?;
    refused("a certificate as key", start(cert, cert), 1, &["proxy.tls_key_file", "no private key"]).await?;
    refused("another's key", start(cert, &other.key_file), 1, &["proxy.tls_key_file", "does not go with"])
        .await?;
    let encrypted = ca.folder().join("encrypted.pem");
    fs::write(
        &encrypted,
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIE\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )?;
    refused("encrypted", start(cert, &encrypted), 1, &["proxy.tls_key_file", "encrypted", "openssl pkey"])
        .await?;
    let alone = Dualsync::builder(BIN).local(local).env("DUALSYNC_PROXY_TLS_KEY_FILE", key);
    refused("a key alone", alone, 2, &["proxy.tls_key_file", "proxy.tls_cert_file"]).await?;
    let with_uri = |options: &str| Dualsync::builder(BIN).local(format!("{local}?{options}"));
    refused("no CA", with_uri(&format!("tls=true&tlsCAFile={name}")), 1, &["tlsCAFile", &name]).await?;
    let not_a_ca = key.display().to_string();
    refused(
        "no CA in it",
        with_uri(&format!("tls=true&tlsCAFile={not_a_ca}")),
        1,
        &["tlsCAFile", "no certificate"],
    )
    .await?;
    refused(
        "names",
        with_uri("tls=true&tlsAllowInvalidHostnames=true"),
        2,
        &["local.uri", "tlsAllowInvalidHostnames", "tlsAllowInvalidCertificates"],
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_has_expired_is_spoken_of() -> Result<()> {
    let ca = Authority::new()?;
    let identity = ca.expired_identity("old")?;
    let mongod = Mongod::standalone().await?;
    let dualsync = server(Dualsync::builder(BIN).local(mongod.uri()), &identity)
        .expect_warning("has expired")
        .expect_warning("its TLS handshake failed")
        .start()
        .await?;
    dualsync.wait_for_log("has expired", QUICK).await?;
    let checked = over_tls(&dualsync, &ca.ca_file(), "&serverSelectionTimeoutMS=1500");
    ensure!(used_by_rust(&checked, "checked").await.is_err(), "the driver took it");
    used_by_rust(&over_tls(&dualsync, &ca.ca_file(), "&tlsAllowInvalidCertificates=true"), "unchecked").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_plain_do_not_meet() -> Result<()> {
    let ca = Authority::new()?;
    let identity = ca.identity("proxy")?;
    // A mongod that takes both would shake hands with a TLS client through a plain proxy, unseen.
    let key_file = ca.identity("mongod")?.cert_key_file.display().to_string();
    let args = [
        "--tlsMode",
        "preferTLS",
        "--tlsCertificateKeyFile",
        &key_file,
        "--tlsAllowConnectionsWithoutCertificates",
    ];
    let ca_file = ca.ca_file().display().to_string();
    let args = args.iter().map(|it| (*it).to_owned()).chain(["--tlsCAFile".to_owned(), ca_file]).collect();
    let mongod = Mongod::launch(Options { args, ..Options::default() }).await?;

    let plain = Dualsync::builder(BIN)
        .local(mongod.uri())
        .expect_warning("it speaks TLS, and this port does not")
        .start()
        .await?;
    let uri = over_tls(&plain, &ca.ca_file(), "&serverSelectionTimeoutMS=1500");
    ensure!(used_by_rust(&uri, "past").await.is_err(), "a TLS client got through to mongod");
    plain.wait_for_log("proxy.tls_cert_file", QUICK).await?;
    used_by_rust(&plain.uri(), "plain").await?;

    let tls = server(Dualsync::builder(BIN).local(mongod.uri()), &identity)
        .expect_warning("it does not speak TLS, and this port wants it")
        .start()
        .await?;
    let uri = format!("{}?serverSelectionTimeoutMS=1500", tls.uri());
    ensure!(used_by_rust(&uri, "in-the-clear").await.is_err(), "a plain client was let in");
    let mut socket = TcpStream::connect(tls.proxy_address())?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.write_all(&[0x40, 0, 0, 0])?;
    ensure!(matches!(socket.read(&mut [0; 64]), Ok(0) | Err(_)), "it answers in the clear");
    let turned_away = tls.metrics().await?["dualsync_proxy_turned_away_total{reason=\"plain_on_tls\"}"];
    ensure!(turned_away >= 2.0, "{turned_away} were turned away");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mongod_of_another_name_or_ca_is_not_talked_to() -> Result<()> {
    let ca = Authority::new()?;
    let identity = ca.identity_for("mongod", &["127.0.0.1"])?;
    let mongod = mongod_with_tls(&ca, &identity, &["--tlsAllowConnectionsWithoutCertificates"]).await?;
    let other = Authority::new()?;
    let port = mongod.address().replace("127.0.0.1:", "");
    for (host, ca_file, reason) in
        [("127.0.0.1", other.ca_file(), "UnknownIssuer"), ("localhost", ca.ca_file(), "not valid for name")]
    {
        let uri = format!("mongodb://{host}:{port}/?tls=true&tlsCAFile={}", ca_file.display());
        let dualsync =
            Dualsync::builder(BIN).local(uri).expect_warning("mongod is not reachable").start().await?;
        let through = format!("{}?serverSelectionTimeoutMS=1500", dualsync.uri());
        ensure!(used_by_rust(&through, "nobody").await.is_err(), "{host} was trusted");
        let line = dualsync.wait_for_log("mongod is not reachable", QUICK).await?;
        ensure!(line.contains(reason), "no reason: {line}");
    }
    let uri = format!("mongodb://localhost:{port}/?tls=true&tlsAllowInvalidCertificates=true");
    let dualsync =
        Dualsync::builder(BIN).local(uri).expect_warning("tlsAllowInvalidCertificates").start().await?;
    used_by_rust(&dualsync.uri(), "unchecked").await
}

/// wire-facts 2.3 (6): a set answers with the names of the horizon that SNI asks for. That is dualsync's SNI: clients are
/// led back to it whatever they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_horizon_is_the_one_that_dualsync_asks_for() -> Result<()> {
    let ca = Authority::new()?;
    let key_file = ca.identity("mongod")?.cert_key_file.display().to_string();
    let ca_file = ca.ca_file().display().to_string();
    let none_needed = "--tlsAllowConnectionsWithoutCertificates";
    let args = [
        "--tlsMode",
        "requireTLS",
        "--tlsCertificateKeyFile",
        &key_file,
        "--tlsCAFile",
        &ca_file,
        none_needed,
    ];
    let mongod = Mongod::launch(Options {
        args: args.map(str::to_owned).to_vec(),
        repl_set: Some("rs".to_owned()),
        uri_options: format!("tls=true&tlsCAFile={ca_file}"),
        ..Options::default()
    })
    .await?;
    let admin = mongod.client().await?.database("admin");
    let member = doc! { "_id": 0, "host": mongod.address(), "horizons": { "outside": "localhost:27999" } };
    admin.run_command(doc! { "replSetInitiate": { "_id": "rs", "members": [member] } }).await?;
    wait_for("a primary", QUICK, async || {
        let hello = admin.run_command(doc! { "hello": 1 }).await?;
        Ok(hello.get_bool("isWritablePrimary")?.then_some(()))
    })
    .await?;
    let local = mongod.uri().replace("127.0.0.1", "localhost");
    let dualsync = Dualsync::builder(BIN).local(&local).start().await?;
    run_python(HORIZON, &[&local, &dualsync.proxy_address()]).await
}

const HORIZON: &str = "
import sys, pymongo
direct, proxy = sys.argv[1:]
told = pymongo.MongoClient(direct).admin.command('hello')
assert (told['me'], told['hosts']) == ('localhost:27999', ['localhost:27999']), told
client = pymongo.MongoClient(f'mongodb://{proxy}/?replicaSet=rs', serverSelectionTimeoutMS=10000)
client.shop.things.insert_one({'_id': 1})
told = client.admin.command('hello')
assert (told['me'], told['hosts'], told['primary']) == (proxy, [proxy], proxy), told
host, port = proxy.split(':')
assert client.nodes == {(host, int(port))}, client.nodes
";
