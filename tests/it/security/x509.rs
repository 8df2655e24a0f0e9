//! Certificates as users: whoever logs in through the proxy must not become dualsync.

use anyhow::{Result, ensure};
use bson::doc;
use testkit::mongod::Options;
use testkit::tls::{Authority, Identity};
use testkit::{Builder, Dualsync, Mongod};

use super::{run_python, used_by_rust};
use crate::startup::{QUICK, refused};
use crate::support::{BIN, Source, Stage};

/// Prints nothing when the login comes out as expected: `in` or `out`.
const LOGIN: &str = "
import sys, pymongo
uri, expected = sys.argv[1:]
try:
    client = pymongo.MongoClient(uri, serverSelectionTimeoutMS=5000)
    users = client.admin.command('connectionStatus')['authInfo']['authenticatedUsers']
    got = 'in' if users else 'out'
except pymongo.errors.OperationFailure as error:
    got = 'out' if error.code in (11, 18) else repr(error)
assert got == expected, got
";

fn subject(name: &str) -> String {
    format!("O=tests of {name},CN={name}")
}

/// A mongod that wants TLS and users, of whom each of `names` logs in by a certificate.
async fn mongod_with(ca: &Authority, names: &[&str], more: &[&str]) -> Result<Mongod> {
    let server = ca.identity("mongod")?;
    let (key_file, ca_file) =
        (server.cert_key_file.display().to_string(), ca.ca_file().display().to_string());
    let mut args = vec![
        "--auth",
        "--tlsMode",
        "requireTLS",
        "--tlsCertificateKeyFile",
        &key_file,
        "--tlsCAFile",
        &ca_file,
    ];
    args.extend(more);
    let args = args.into_iter().map(str::to_owned).collect();
    let plain = ca.identity_for("nobody", &["localhost"])?;
    let uri_options =
        format!("tls=true&tlsCAFile={ca_file}&tlsCertificateKeyFile={}", plain.cert_key_file.display());
    let mut mongod = Mongod::launch(Options { args, uri_options, ..Options::default() }).await?;
    mongod.create_root("first").await?;
    let external = mongod.client().await?.database("$external");
    for name in names {
        let create = doc! { "createUser": subject(name), "roles": [{ "role": "root", "db": "admin" }] };
        external.run_command(create).await?;
    }
    Ok(mongod)
}

fn as_user(address: &str, ca: &Authority, identity: &Identity) -> String {
    let (ca_file, key_file) = (ca.ca_file(), &identity.cert_key_file);
    format!(
        "mongodb://{address}/?directConnection=true&tls=true&tlsCAFile={}&tlsCertificateKeyFile={}&authMechanism=MONGODB-X509",
        ca_file.display(),
        key_file.display()
    )
}

fn listening(builder: Builder, identity: &Identity) -> Builder {
    builder
        .env("DUALSYNC_PROXY_TLS_CERT_FILE", &identity.cert_file)
        .env("DUALSYNC_PROXY_TLS_KEY_FILE", &identity.key_file)
}

//= MONGODB-X509: identity = client certificate of the TLS session to mongod (wire-facts.md 8)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_becomes_dualsync_by_its_certificate() -> Result<()> {
    let ca = Authority::new()?;
    let (own, client, proxy) = (ca.identity("dualsync")?, ca.identity("client")?, ca.identity("proxy")?);
    let none_needed = "--tlsAllowConnectionsWithoutCertificates";
    let mongod = mongod_with(&ca, &["dualsync", "client"], &[none_needed]).await?;
    let address = mongod.address();
    let direct = as_user(&address, &ca, &client);
    run_python(LOGIN, &[&direct, "in"]).await?;
    // dualsync's own user is its certificate's, for its own connections, and said so or not.
    let by_name = as_user(&address, &ca, &own);
    let by_password = by_name.replace("&authMechanism=MONGODB-X509", "").replace("//", "//root:first@");
    let stage =
        Stage::start_with(Source::Standalone(mongod), |builder| listening(builder.local(by_name), &proxy))
            .await?;
    used_by_rust_as_root(&stage.dualsync, &ca).await?;
    stage.assert_equal().await?;
    stage.assert_followed().await?;
    let through = as_user(&stage.dualsync.proxy_address(), &ca, &client);
    run_python(LOGIN, &[&through, "out"]).await?;
    let other = listening(Dualsync::builder(BIN).local(by_password), &proxy)
        .expect_warning("a secret stands in the configuration file")
        .start()
        .await?;
    run_python(LOGIN, &[&as_user(&other.proxy_address(), &ca, &client), "out"]).await
}

async fn used_by_rust_as_root(dualsync: &Dualsync, ca: &Authority) -> Result<()> {
    let ca_file = ca.ca_file();
    let options = format!("tls=true&tlsCAFile={}", ca_file.display());
    used_by_rust(&format!("mongodb://root:first@{}/?{options}", dualsync.proxy_address()), "things").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_clients_is_one_of_its_own() -> Result<()> {
    let ca = Authority::new()?;
    let (own, clients, proxy) = (ca.identity("dualsync")?, ca.identity("clients")?, ca.identity("proxy")?);
    // It wants a certificate of everybody.
    let mongod = mongod_with(&ca, &["dualsync", "clients"], &[]).await?;
    let uri = as_user(&mongod.address(), &ca, &own);
    let start = || listening(Dualsync::builder(BIN).local(uri.clone()), &proxy);
    let without =
        start().expect_warning("mongod closes connections before it answers anything").start().await?;
    let nobody =
        format!("{}&serverSelectionTimeoutMS=1500", as_user(&without.proxy_address(), &ca, &clients));
    ensure!(run_python(LOGIN, &[&nobody, "in"]).await.is_err(), "it got through without a certificate");
    without.wait_for_log("local.clients_cert_key_file", QUICK).await?;
    drop(without);

    let with =
        |identity: &Identity| start().env("DUALSYNC_LOCAL_CLIENTS_CERT_KEY_FILE", &identity.cert_key_file);
    let told = with(&clients).expect_warning("is a user of the local mongod").start().await?;
    let line = told.wait_for_log("is a user of the local mongod", QUICK).await?;
    ensure!(line.contains("CN=clients"), "{line}");
    run_python(LOGIN, &[&as_user(&told.proxy_address(), &ca, &clients), "in"]).await?;
    drop(told);

    let fine = with(&ca.identity("nobody-at-all")?).start().await?;
    used_by_rust_as_root(&fine, &ca).await?;
    run_python(LOGIN, &[&as_user(&fine.proxy_address(), &ca, &clients), "out"]).await?;
    refused(
        "no TLS",
        Dualsync::builder(BIN)
            .local("mongodb://127.0.0.1:1/")
            .env("DUALSYNC_LOCAL_CLIENTS_CERT_KEY_FILE", &own.cert_key_file),
        2,
        &["local.clients_cert_key_file", "tls=true"],
    )
    .await
}
