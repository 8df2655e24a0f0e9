//! How sessions begin, end, and are refused.

use std::time::Duration;

use bson::rawdoc;
use proxy::{BindError, Config, Listener, Metrics, Upstream};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use wire::Flags;

use crate::stage::{End, capturing, id, passing, reply, reply_to, request, request_with, until, within};

fn ping() -> Vec<u8> {
    request(&rawdoc! { "ping": 1, "$db": "admin" })
}

#[tokio::test]
async fn a_half_closed_client_still_gets_its_reply() {
    //= client half-closes (FIN) after sending: reply is still delivered (wire-facts.md 3)
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let ping = ping();
    client.send(&ping).await;
    client.half_close().await;
    peer.gets(&ping).await;
    assert!(peer.ends().await.is_empty(), "mongod sees the half close");
    let pong = reply(&ping, &rawdoc! { "ok": 1.0 });
    peer.send(&pong).await;
    drop(peer);
    client.gets(&pong).await;
    assert!(client.ends().await.is_empty());
}

#[tokio::test]
async fn a_truncated_request_is_not_completed() {
    let stage = capturing(|_| {}).await;
    for body in [rawdoc! { "insert": "c", "$db": "d" }, rawdoc! { "update": "c", "$db": "d" }] {
        let (mut client, mut peer) = stage.connect().await;
        let write = request(&body);
        client.send(&write[..write.len() - 1]).await;
        client.half_close().await;
        assert!(peer.ends().await.len() < write.len());
        drop(peer);
        client.ends().await;
    }
    assert!(stage.kinds().is_empty());
}

#[tokio::test]
async fn a_peer_that_closes_closes_the_client() {
    let stage = passing(|_| {}).await;
    let (mut client, peer) = stage.connect().await;
    drop(peer);
    assert!(client.ends().await.is_empty());
    drop(client);
    until(|| stage.metric("dualsync_proxy_connections") == 0).await;
    assert_eq!(stage.metric("dualsync_proxy_connections_total"), 1);
}

#[tokio::test]
async fn an_unreachable_mongod_closes_clients_and_is_counted() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let stage = passing(|config| config.upstream.address = address.into()).await;
    for count in 1..=3 {
        let mut client = End(TcpStream::connect(&stage.address).await.unwrap());
        assert!(client.ends().await.is_empty());
        until(|| stage.metric("dualsync_proxy_upstream_errors_total") == count).await;
    }
}

#[tokio::test]
async fn one_client_too_many_is_turned_away() {
    let stage = passing(|config| config.connections_max = 1).await;
    let (client, peer) = stage.connect().await;
    let mut second = End(TcpStream::connect(&stage.address).await.unwrap());
    assert!(second.ends().await.is_empty());
    assert_eq!(stage.metric("dualsync_proxy_refused_total"), 1);
    drop((client, peer));
    until(|| stage.metric("dualsync_proxy_connections") == 0).await;
    let (mut third, mut peer) = stage.connect().await;
    let ping = ping();
    third.send(&ping).await;
    peer.gets(&ping).await;
}

#[tokio::test]
async fn a_drain_ends_idle_sessions_and_waits_for_owed_replies() {
    let stage = capturing(|_| {}).await;
    let (mut idle, mut idle_peer) = stage.connect().await;
    let (mut busy, mut busy_peer) = stage.connect().await;
    let update = request(&rawdoc! { "update": "c", "updates": [{ "q": { "_id": 1 }, "u": {} }], "$db": "d" });
    busy.send(&update).await;
    busy_peer.gets(&update).await;
    let (mut monitor, mut monitor_peer) = stage.connect().await;
    let hello = request_with(&rawdoc! { "hello": 1, "$db": "admin" }, Flags::EXHAUST_ALLOWED);
    monitor.send(&hello).await;
    monitor_peer.gets(&hello).await;
    let answer = reply_to(id(&hello), &rawdoc! { "ok": 1.0 }, Flags::MORE_TO_COME);
    monitor_peer.send(&answer).await;
    monitor.gets(&answer).await;

    stage.stop.cancel();
    assert!(idle.ends().await.is_empty());
    idle_peer.ends().await;
    assert!(monitor.ends().await.is_empty(), "a stream is not owed");
    drop((idle, monitor));
    busy.gets_nothing().await;
    assert!(TcpStream::connect(&stage.address).await.is_err(), "the port is closed");
    assert!(!stage.running.is_finished());
    let answer = reply(&update, &rawdoc! { "n": 1, "nModified": 1, "ok": 1.0 });
    busy_peer.send(&answer).await;
    busy.gets(&answer).await;
    assert!(busy.ends().await.is_empty());
    drop(busy);
    assert_eq!(stage.kinds(), ["mark", "entry"]);
    within(stage.running).await.unwrap();
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_mongod_that_is_not_there_yet() {
    // Its queue is full: more connections are neither taken nor refused.
    let mongod = TcpSocket::new_v4().unwrap();
    mongod.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mongod = mongod.listen(0).unwrap();
    let address = mongod.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(queued) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queue.push(queued.unwrap());
    }
    let stage = passing(|config| {
        config.upstream = Upstream::plain(address.to_string());
        config.upstream.connect_timeout = Duration::from_secs(60);
    })
    .await;
    let mut client = End(TcpStream::connect(&stage.address).await.unwrap());
    until(|| stage.metric("dualsync_proxy_sessions") == 1).await;
    stage.stop.cancel();
    client.ends().await;
    within(stage.running).await.unwrap();
}

#[tokio::test]
async fn a_drain_has_a_deadline() {
    let mut stage = capturing(|config| config.drain_timeout = Duration::from_millis(200)).await;
    let (mut client, mut peer) = stage.connect().await;
    let delete =
        request(&rawdoc! { "delete": "c", "deletes": [{ "q": { "_id": 1 }, "limit": 1 }], "$db": "d" });
    client.send(&delete).await;
    peer.gets(&delete).await;
    stage.stop.cancel();
    assert!(client.ends().await.is_empty());
    drop(client);
    assert_eq!(stage.orphan().await.mark, Some(1));
    within(stage.running).await.unwrap();
}

#[tokio::test]
async fn addresses_that_cannot_be_bound_say_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let try_listen = async |listen: String| {
        let config = Config { listen: listen.into(), ..Config::new() };
        Listener::bind(config, None, metrics.clone()).await.err().expect("it must not bind")
    };
    let in_use = try_listen(taken.local_addr().unwrap().to_string()).await;
    assert!(matches!(in_use, BindError::InUse { .. }), "{in_use}");
    for nonsense in ["", "nowhere", "127.0.0.1", "127.0.0.1:99999", "203.0.113.1:1"] {
        let error = try_listen(nonsense.to_owned()).await;
        assert!(matches!(error, BindError::Address { .. }), "{nonsense}: {error}");
    }
}
