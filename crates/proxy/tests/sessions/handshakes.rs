//! What a hello changes for the rest of a session, and what it tells of other listeners.

use bson::{RawDocumentBuf, oid::ObjectId, rawdoc};
use proxy::{Address, Member};
use record::{Record, Touch};
use tokio::net::TcpStream;
use wire::{Flags, OpMsg};

use crate::stage::{End, Stage, beside, capturing, passing, reply, reply_to, request, until};

/// Says hello; the client's reply to the server's `told`.
async fn hello(
    client: &mut End,
    peer: &mut End,
    asked: &RawDocumentBuf,
    told: &RawDocumentBuf,
) -> RawDocumentBuf {
    let asked = request(asked);
    client.send(&asked).await;
    peer.gets(&asked).await;
    peer.send(&reply(&asked, told)).await;
    OpMsg::parse(&client.frame().await).unwrap().body().to_owned()
}

/// Its addresses, if there are any, would lead the client past us.
#[tokio::test]
async fn a_reply_that_cannot_be_read_reaches_nobody() {
    let stage = passing(|_| {}).await;
    let told = rawdoc! { "hosts": ["db1:27017"], "me": "db1:27017", "ok": 1.0 };
    let asked = request(&rawdoc! { "hello": 1, "$db": "admin" });
    let damaged = |at: usize, value: u8| {
        let mut frame = reply(&asked, &told);
        frame[at] = value;
        frame
    };
    let long = reply(&asked, &rawdoc! { "hosts": ["db1:27017"], "x": "y".repeat(70_000), "ok": 1.0 });
    let replies = [damaged(16, 1), damaged(17, 1), damaged(21, 9), damaged(12, 9), long];
    for reply in &replies {
        let (mut client, mut peer) = stage.connect().await;
        client.send(&asked).await;
        peer.gets(&asked).await;
        peer.send(&reply[..1_000.min(reply.len())]).await;
        assert!(client.ends().await.is_empty());
    }
    assert_eq!(stage.metric("dualsync_proxy_hellos_unread_total"), replies.len() as u64);
}

/// wire-facts 1.3: how large a document may be, the server's hello says.
#[tokio::test]
async fn no_id_is_added_where_the_server_would_not_take_it() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let insert = request(&rawdoc! { "insert": "c", "documents": [{ "x": "y".repeat(1_000) }], "$db": "d" });
    for (limit, grows) in [(1_020, false), (1_100, true)] {
        let told = rawdoc! { "maxBsonObjectSize": limit, "maxMessageSizeBytes": 100_000, "ok": 1.0 };
        hello(&mut client, &mut peer, &rawdoc! { "hello": 1, "$db": "admin" }, &told).await;
        client.send(&insert).await;
        assert_eq!(peer.frame().await.len() > insert.len(), grows, "{limit}");
        peer.send(&reply(&insert, &rawdoc! { "n": 1, "ok": 1.0 })).await;
        client.frame().await;
    }
}

/// wire-facts 2.3 (7): one listener per member, every member named.
#[tokio::test]
async fn members_of_other_listeners_are_named() {
    let other = |member: &str, listen: &str, advertise: Option<&str>| Member {
        address: Address::parse(member).unwrap(),
        listen: listen.parse().unwrap(),
        advertise: advertise.map(str::to_owned),
    };
    let stage = passing(|config| {
        config.member = Address::parse("DB1");
        config.others = vec![other("db2", "0.0.0.0:5", None), other("db3:9", "[::1]:6", Some("p.example:6"))];
    })
    .await;
    let (mut client, mut peer) = stage.connect().await;
    let told = rawdoc! {
        "hosts": ["db1:27017", "DB2:27017", "db3:9", "db4:27017"], "primary": "db3:9", "me": "db1:27017", "ok": 1.0,
    };
    let heard = hello(&mut client, &mut peer, &rawdoc! { "hello": 1, "$db": "admin" }, &told).await;
    let here = stage.address.as_str();
    let expected = rawdoc! {
        "hosts": [here, "127.0.0.1:5", "p.example:6"], "primary": "p.example:6", "me": here, "ok": 1.0,
    };
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn only_who_asks_for_a_service_gets_one() {
    let stage = passing(|config| config.advertise = Some("p:1".to_owned())).await;
    let process = ObjectId::new();
    let told =
        rawdoc! { "me": "a:1", "setName": "rs", "topologyVersion": { "processId": process }, "ok": 1.0 };
    for (asked, expected) in [
        (rawdoc! { "hello": 1, "loadBalanced": true, "$db": "admin" }, Some(process)),
        (rawdoc! { "hello": 1, "loadBalanced": false, "$db": "admin" }, None),
        (rawdoc! { "hello": 1, "$db": "admin" }, None),
    ] {
        let (mut client, mut peer) = stage.connect().await;
        let heard = hello(&mut client, &mut peer, &asked, &told).await;
        assert_eq!(heard.get_object_id("serviceId").ok(), expected, "{asked:?}");
    }
}

/// A frame of `length` bytes.
fn frame(length: i32, name: &str) -> Vec<u8> {
    let command = bson::doc! { name: "c", "$db": "d" };
    let mut frame = request(&RawDocumentBuf::try_from(&command).unwrap());
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame.resize(usize::try_from(length).unwrap(), 0);
    frame
}

/// wire-facts 1.3: 48,000,000 bytes at every server that we know. One that says otherwise is believed.
#[tokio::test]
async fn the_servers_own_limit_counts() {
    let asked = rawdoc! { "hello": 1, "$db": "admin" };
    let told = |bytes: i32| rawdoc! { "maxMessageSizeBytes": bytes, "ok": 1.0 };
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    hello(&mut client, &mut peer, &asked, &told(100_000)).await;
    let (fits, too_long) = (frame(100_000, "find"), frame(100_001, "find"));
    client.send(&fits).await;
    peer.gets(&fits).await;
    client.send(&too_long[..50]).await;
    peer.gets(&too_long[..16]).await;
    peer.gets_nothing().await;

    // Beyond what we can read it passes, and its namespace is all that is known of it.
    let (mut client, mut peer) = stage.connect().await;
    hello(&mut client, &mut peer, &asked, &told(50_000_000)).await;
    for (name, recorded) in [("find", 0), ("update", 2), ("insert", 4)] {
        let long = frame(48_000_001, name);
        tokio::join!(client.send(&long), peer.gets(&long));
        let to = i32::from_le_bytes(long[4..8].try_into().unwrap());
        peer.send(&reply_to(to, &rawdoc! { "n": 1, "ok": 1.0 }, Flags::default())).await;
        client.frame().await;
        assert_eq!(stage.kinds().len(), recorded, "{name}");
    }
    for record in stage.records() {
        let Record::Entry(entry) = record else { continue };
        assert_eq!(entry.effects[0].target.touch, Touch::Namespace);
    }
    // Nonsense is not believed.
    hello(&mut client, &mut peer, &asked, &told(0)).await;
    hello(&mut client, &mut peer, &asked, &told(-1)).await;
}

#[tokio::test]
async fn listeners_beside_each_other_share_their_bounds() {
    let stage: Stage = beside(|config| config.connections_max = 2).await;
    let second = stage.second.clone().unwrap();
    let (one, _one_peer) = stage.connect().await;
    let (_two, _two_peer) = stage.connect_to(&second).await;
    for address in [&stage.address, &second] {
        let mut third = End(TcpStream::connect(address).await.unwrap());
        assert!(third.ends().await.is_empty());
    }
    assert_eq!(stage.metric("dualsync_proxy_connections"), 2);
    assert_eq!(stage.metric("dualsync_proxy_refused_total"), 2);
    drop((one, _one_peer));
    until(|| stage.metric("dualsync_proxy_connections") == 1).await;
    stage.connect_to(&second).await;
}
