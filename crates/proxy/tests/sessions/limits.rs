//! How long a client may take.

use std::time::Duration;

use bson::{rawdoc, spec::BinarySubtype};
use tokio::time::sleep;
use wire::Flags;

use crate::stage::{End, Stage, capturing, id, reply, reply_to, request, request_with, until};

const SHORT: Duration = Duration::from_millis(300);

fn ping() -> Vec<u8> {
    request(&rawdoc! { "ping": 1, "$db": "admin" })
}

/// A request and its reply: from here on the client is a known one.
async fn greeted(stage: &Stage) -> (End, End) {
    let (mut client, mut peer) = stage.connect().await;
    round(&mut client, &mut peer).await;
    (client, peer)
}

async fn round(client: &mut End, peer: &mut End) {
    let ping = ping();
    client.send(&ping).await;
    peer.gets(&ping).await;
    let pong = reply(&ping, &rawdoc! { "ok": 1.0 });
    peer.send(&pong).await;
    client.gets(&pong).await;
}

async fn turned_away(stage: &Stage, count: u64) {
    until(|| stage.metric("dualsync_proxy_turned_away_total") == count).await;
}

#[tokio::test]
async fn a_client_must_say_something_and_may_then_be_silent() {
    let stage = capturing(|config| config.handshake_timeout = SHORT).await;
    let (mut silent, mut peer) = stage.connect().await;
    assert!(silent.ends().await.is_empty());
    assert!(peer.ends().await.is_empty());
    turned_away(&stage, 1).await;

    // One byte at a time is nothing either: the first request is due as a whole.
    let (mut slow, _peer) = stage.connect().await;
    let ping = ping();
    for byte in &ping[..6] {
        slow.send(&[*byte]).await;
        sleep(SHORT / 10).await;
    }
    assert!(slow.ends().await.is_empty());
    turned_away(&stage, 2).await;

    let (mut client, mut peer) = greeted(&stage).await;
    sleep(SHORT * 2).await;
    round(&mut client, &mut peer).await;
}

#[tokio::test]
async fn a_frame_that_does_not_go_on_ends_its_client() {
    let stage = capturing(|config| config.frame_timeout = SHORT).await;
    for body in [
        rawdoc! { "insert": "c", "documents": [{}], "$db": "d" },
        rawdoc! { "update": "c", "updates": [], "$db": "d" },
        rawdoc! { "find": "c", "filter": {}, "$db": "d" },
    ] {
        let (mut client, mut peer) = greeted(&stage).await;
        let begun = request(&body);
        client.send(&begun[..begun.len() - 1]).await;
        assert!(peer.ends().await.len() < begun.len(), "mongod gets no more of it, and an end");
        drop(peer);
        assert!(client.ends().await.is_empty());
    }
    turned_away(&stage, 3).await;
    assert!(stage.kinds().is_empty(), "nothing was written");
}

#[tokio::test]
async fn a_slow_line_is_fine() {
    let stage = capturing(|config| config.frame_timeout = SHORT).await;
    let payload = bson::Binary { subtype: BinarySubtype::Generic, bytes: vec![7; 60_000] };
    for body in [
        rawdoc! { "insert": "c", "documents": [{ "_id": 1, "x": payload.clone() }], "$db": "d" },
        rawdoc! { "aggregate": 1, "comment": payload.clone(), "$db": "d" },
    ] {
        let (mut client, mut peer) = greeted(&stage).await;
        let slow = request(&body);
        let sending = async {
            for part in slow.chunks(6_000) {
                client.send(part).await;
                sleep(SHORT / 3).await;
            }
        };
        tokio::join!(sending, peer.gets(&slow));
    }
    assert_eq!(stage.metric("dualsync_proxy_turned_away_total"), 0);
}

#[tokio::test]
async fn what_mongod_takes_is_not_the_clients_time() {
    let stage = capturing(|config| {
        config.frame_timeout = SHORT;
        config.idle_timeout = SHORT;
    })
    .await;
    let (mut client, mut peer) = greeted(&stage).await;
    let update = request(&rawdoc! { "update": "c", "updates": [{ "q": { "_id": 1 }, "u": {} }], "$db": "d" });
    client.send(&update).await;
    peer.gets(&update).await;
    sleep(SHORT * 2).await;
    let done = reply(&update, &rawdoc! { "n": 1, "nModified": 1, "ok": 1.0 });
    peer.send(&done).await;
    client.gets(&done).await;

    // A write behind a stream waits for its turn, whole, for as long as the stream takes.
    let hello = request_with(&rawdoc! { "hello": 1, "$db": "admin" }, Flags::EXHAUST_ALLOWED);
    client.send(&hello).await;
    peer.gets(&hello).await;
    let update = request(&rawdoc! { "update": "c", "updates": [{ "q": { "_id": 1 }, "u": {} }], "$db": "d" });
    client.send(&update).await;
    sleep(SHORT * 2).await;
    let last = reply_to(id(&hello), &rawdoc! { "ok": 1.0 }, Flags::default());
    peer.send(&last).await;
    client.gets(&last).await;
    peer.gets(&update).await;
}

#[tokio::test]
async fn a_silent_client_is_ended_where_that_is_asked_for() {
    let stage = capturing(|config| config.idle_timeout = SHORT).await;
    let (mut idle, _peer) = greeted(&stage).await;
    let (mut monitor, mut monitor_peer) = greeted(&stage).await;
    let hello = request_with(&rawdoc! { "hello": 1, "$db": "admin" }, Flags::EXHAUST_ALLOWED);
    monitor.send(&hello).await;
    monitor_peer.gets(&hello).await;
    let mut previous = id(&hello);
    let started = tokio::time::Instant::now();
    while started.elapsed() < SHORT * 2 {
        let streamed = reply_to(previous, &rawdoc! { "ok": 1.0 }, Flags::MORE_TO_COME);
        previous = id(&streamed);
        monitor_peer.send(&streamed).await;
        monitor.gets(&streamed).await;
        sleep(SHORT / 5).await;
    }
    assert!(idle.ends().await.is_empty(), "it was silent");
    turned_away(&stage, 1).await;
    monitor.gets_nothing().await;
}
