//! TLS as a stream: half-closing, backpressure, time.

use std::{path::Path, sync::Arc, time::Duration};

use bson::rawdoc;
use proxy::{ServerTls, ServerTlsFiles, UpstreamTls, UpstreamTlsFiles};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};

use crate::stage::{End, Stage, capturing, passing, reply, request, until, within};

/// A certificate that is its own CA, in one file with its key.
fn certificate() -> (TempDir, std::path::PathBuf) {
    let folder = TempDir::new().unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1", "localhost"].map(str::to_owned)).unwrap();
    let file = folder.path().join("both.pem");
    std::fs::write(&file, params.self_signed(&key).unwrap().pem() + &key.serialize_pem()).unwrap();
    (folder, file)
}

fn server_tls(file: &Path) -> Arc<ServerTls> {
    let files = ServerTlsFiles { cert_file: file.to_owned(), key_file: None, client_ca_file: None };
    Arc::new(ServerTls::load(files).unwrap())
}

type Secure = tokio_rustls::client::TlsStream<TcpStream>;

async fn client(address: &str, file: &Path, version: &'static rustls::SupportedProtocolVersion) -> Secure {
    client_of("127.0.0.1", address, file, version).await
}

async fn client_of(
    host: &'static str,
    address: &str,
    file: &Path,
    version: &'static rustls::SupportedProtocolVersion,
) -> Secure {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(host).unwrap();
    within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap()
}

async fn connect(
    stage: &Stage,
    file: &Path,
    version: &'static rustls::SupportedProtocolVersion,
) -> (Secure, End) {
    let client = client(&stage.address, file, version).await;
    (client, stage.accept().await)
}

/// A client compares names: what it is told to dial has to be in our certificate.
#[tokio::test]
async fn a_client_is_told_the_name_that_it_has_found_in_the_certificate() {
    let (_folder, file) = certificate();
    let stage = passing(|config| config.tls = Some(server_tls(&file))).await;
    let port = stage.address.rsplit(':').next().unwrap();
    for (host, version) in [("localhost", &TLS13), ("localhost", &TLS12), ("127.0.0.1", &TLS13)] {
        let mut client = client_of(host, &stage.address, &file, version).await;
        let mut peer = stage.accept().await;
        let hello = request(&rawdoc! { "hello": 1, "$db": "admin" });
        client.write_all(&hello).await.unwrap();
        peer.gets(&hello).await;
        peer.send(&reply(&hello, &rawdoc! { "hosts": ["db1:27017"], "me": "db1:27017", "ok": 1.0 })).await;
        let here = format!("{host}:{port}");
        let expected = reply(&hello, &rawdoc! { "hosts": [here.as_str()], "me": here.as_str(), "ok": 1.0 });
        let mut heard = vec![0; expected.len()];
        within(client.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard[16..], expected[16..], "{host}");
    }
}

fn ping() -> Vec<u8> {
    request(&rawdoc! { "ping": 1, "$db": "admin" })
}

#[tokio::test]
async fn a_half_closed_client_still_gets_its_reply_over_tls() {
    let (_folder, file) = certificate();
    let stage = capturing(|config| config.tls = Some(server_tls(&file))).await;
    for version in [&TLS13, &TLS12] {
        let (mut client, mut peer) = connect(&stage, &file, version).await;
        let ping = ping();
        client.write_all(&ping).await.unwrap();
        client.shutdown().await.unwrap();
        peer.gets(&ping).await;
        assert!(peer.ends().await.is_empty(), "mongod sees the half close");
        let pong = reply(&ping, &rawdoc! { "ok": 1.0 });
        peer.send(&pong).await;
        drop(peer);
        let mut got = Vec::new();
        // Without a close_notify of ours this would be an error.
        within(client.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got, pong, "{version:?}");
    }
}

#[tokio::test]
async fn a_long_reply_waits_for_its_client_over_tls() {
    let (_folder, file) = certificate();
    let stage = passing(|config| config.tls = Some(server_tls(&file))).await;
    let (mut client, mut peer) = connect(&stage, &file, &TLS13).await;
    let ping = ping();
    client.write_all(&ping).await.unwrap();
    peer.gets(&ping).await;
    let long = reply(&ping, &rawdoc! { "ok": 1.0, "text": "x".repeat(40_000_000) });
    let mut taken = 0;
    let sending = async {
        for part in long.chunks(64 * 1024) {
            peer.0.write_all(part).await.unwrap();
            taken += part.len();
        }
    };
    let early = tokio::time::timeout(Duration::from_millis(500), sending).await;
    // What the sockets' buffers take on either side, and little more.
    assert!(early.is_err() && taken < 20_000_000, "{taken} bytes were taken though the client does not read");
    drop(peer);
    let mut got = Vec::new();
    let _ = within(client.read_to_end(&mut got)).await;
    assert!(!got.is_empty() && long.starts_with(&got), "what came is not what was sent");
}

#[tokio::test]
async fn many_large_frames_pass_both_ways_over_tls() {
    let (_folder, file) = certificate();
    let stage = capturing(|config| config.tls = Some(server_tls(&file))).await;
    let (client, peer) = connect(&stage, &file, &TLS13).await;
    let (mut from, mut to) = tokio::io::split(client);
    let (mut peer_from, mut peer_to) = tokio::io::split(peer.0);
    let asked: Vec<Vec<u8>> = (0..20)
        .map(|n| request(&rawdoc! { "aggregate": 1, "comment": "x".repeat(300_000 + n), "$db": "d" }))
        .collect();
    let asking = async {
        for frame in &asked {
            to.write_all(frame).await.unwrap();
        }
        to.flush().await.unwrap();
    };
    let answering = async {
        for frame in &asked {
            let mut got = vec![0; frame.len()];
            peer_from.read_exact(&mut got).await.unwrap();
            assert!(got == *frame);
            peer_to.write_all(&reply(frame, &rawdoc! { "text": "y".repeat(500_000) })).await.unwrap();
        }
    };
    let reading = async {
        for _ in &asked {
            let mut head = [0; 4];
            from.read_exact(&mut head).await.unwrap();
            let mut rest = vec![0; usize::try_from(i32::from_le_bytes(head)).unwrap() - 4];
            from.read_exact(&mut rest).await.unwrap();
        }
    };
    within(async { tokio::join!(asking, answering, reading) }).await;
}

#[tokio::test]
async fn mongod_sees_a_half_close_over_tls() {
    let (_folder, file) = certificate();
    let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = peer.local_addr().unwrap().to_string();
    let files = UpstreamTlsFiles { ca_file: Some(file.clone()), ..UpstreamTlsFiles::default() };
    let tls = UpstreamTls::load("127.0.0.1", &files).unwrap();
    let stage = capturing(|config| {
        config.upstream.address = address.into();
        config.upstream.tls = Some(tls);
    })
    .await;
    let chain = vec![CertificateDer::from_pem_file(&file).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&file).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let mut client = End(TcpStream::connect(&stage.address).await.unwrap());
    let (accepted, _) = within(peer.accept()).await.unwrap();
    let mut peer = within(TlsAcceptor::from(Arc::new(config)).accept(accepted)).await.unwrap();
    assert_eq!(peer.get_ref().1.server_name(), None, "an address is no name for SNI");

    let ping = ping();
    client.send(&ping).await;
    client.half_close().await;
    let mut got = Vec::new();
    within(peer.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, ping, "the request, and a clean end");
    let pong = reply(&ping, &rawdoc! { "ok": 1.0 });
    peer.write_all(&pong).await.unwrap();
    peer.shutdown().await.unwrap();
    client.gets(&pong).await;
    assert!(client.ends().await.is_empty());
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let (_folder, file) = certificate();
    let stage = capturing(|config| {
        config.tls = Some(server_tls(&file));
        config.handshake_timeout = Duration::from_millis(300);
    })
    .await;
    let mut silent = End(TcpStream::connect(&stage.address).await.unwrap());
    assert!(silent.ends().await.is_empty());
    let mut halfway = End(TcpStream::connect(&stage.address).await.unwrap());
    halfway.send(b"\x16\x03\x01\x02\x00\x01").await;
    halfway.ends().await;
    let shaken = client(&stage.address, &file, &TLS13).await;
    // mongod has been dialled for this one only, and it says nothing either.
    let _peer = stage.accept().await;
    until(|| stage.metric("dualsync_proxy_turned_away_total") == 3).await;
    drop(shaken);
}
