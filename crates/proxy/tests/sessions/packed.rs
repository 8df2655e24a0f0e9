//! OP_COMPRESSED: what is inside decides how a request travels, and its own bytes are what is forwarded.

use bson::{RawDocumentBuf, rawdoc};
use record::Record;
use wire::{Flags, OpMsg};

use crate::stage::{
    End, Stage, capturing, compressed, id, passing, reply, reply_to, request, request_with, until,
};

/// wire-facts 1.4: drivers do not compress a hello, and the server answers one that is.
#[tokio::test]
async fn a_hello_is_rewritten() {
    for stage in [passing(|_| {}).await, capturing(|_| {}).await] {
        let (mut client, mut peer) = stage.connect().await;
        let hello = request_with(&rawdoc! { "hello": 1, "$db": "admin" }, Flags::EXHAUST_ALLOWED);
        client.send(&compressed(&hello)).await;
        peer.gets(&compressed(&hello)).await;
        let mut to = id(&hello);
        for more in [Flags::MORE_TO_COME, Flags::MORE_TO_COME, Flags::default()] {
            let told = reply_to(to, &rawdoc! { "hosts": ["a:1", "b:2"], "me": "a:1", "ok": 1.0 }, more);
            to = id(&told);
            peer.send(&compressed(&told)).await;
            let heard = client.frame().await;
            let heard = OpMsg::parse(&heard).unwrap();
            let here = stage.address.as_str();
            assert_eq!(heard.body(), rawdoc! { "hosts": [here], "me": here, "ok": 1.0 }.as_ref());
            assert_eq!((heard.header.request_id, heard.flags), (to, more));
        }
        // The stream has ended: a write waits for nothing.
        let insert = request(&rawdoc! { "insert": "c", "documents": [{ "_id": 1 }], "$db": "d" });
        client.send(&insert).await;
        peer.gets(&insert).await;
    }
}

/// A session keeps a list of requests that wait for a reply. These never get one, and nothing else is sent.
#[tokio::test]
async fn silent_requests_without_end_stop_nobody() {
    for (stage, captures) in [(passing(|_| {}).await, false), (capturing(|_| {}).await, true)] {
        let (mut client, mut peer) = stage.connect().await;
        for size in [10, 100_000] {
            let text: String = std::iter::repeat_with(fastrand::alphanumeric).take(size).collect();
            for name in ["find", "unknownOnThisServer"] {
                let command = bson::doc! { name: "c", "text": text.as_str(), "$db": "local" };
                let silent = request_with(&RawDocumentBuf::try_from(&command).unwrap(), Flags::MORE_TO_COME);
                let silent = compressed(&silent);
                for nth in 0..(if size == 10 { 1_100 } else { 20 }) {
                    client.send(&silent).await;
                    if captures && name == "unknownOnThisServer" && (size, nth) == (10, 0) {
                        peer.fenced().await; // it could write
                    }
                    peer.gets(&silent).await;
                }
            }
        }
        let ping = request(&rawdoc! { "ping": 1, "$db": "admin" });
        client.send(&ping).await;
        peer.gets(&ping).await;
    }
}

/// mongod reads nothing behind a stream: no mark may wait there with the write.
#[tokio::test]
async fn no_write_is_sent_into_a_stream() {
    for packs in [false, true] {
        let packed = |frame: Vec<u8>| if packs { compressed(&frame) } else { frame };
        let stage = capturing(|_| {}).await;
        let (mut client, mut peer) = stage.connect().await;
        let more = rawdoc! { "getMore": 7_i64, "collection": "c", "$db": "d" };
        let more = packed(request_with(&more, Flags::EXHAUST_ALLOWED));
        client.send(&more).await;
        peer.gets(&more).await;
        // A compressed reply tells inside only that another one follows.
        let mut to = id(&more);
        for size in [10, 100_000] {
            let batch = reply_to(to, &rawdoc! { "x": "y".repeat(size), "ok": 1.0 }, Flags::MORE_TO_COME);
            to = id(&batch);
            let batch = packed(batch);
            tokio::join!(peer.send(&batch), client.gets(&batch));
        }
        let insert = request(&rawdoc! { "insert": "c", "documents": [{ "_id": 1 }], "$db": "d" });
        let insert = compressed(&insert);
        client.send(&insert).await;
        peer.gets_nothing().await;
        assert!(stage.kinds().is_empty());
        let last = packed(reply_to(to, &rawdoc! { "ok": 1.0 }, Flags::default()));
        peer.send(&last).await;
        client.gets(&last).await;
        peer.gets(&insert).await;
        assert_eq!(stage.kinds(), ["mark"]);
    }
}

#[tokio::test]
async fn a_silent_write_is_fenced() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let insert =
        rawdoc! { "insert": "c", "documents": [{ "_id": 1 }], "writeConcern": { "w": 0 }, "$db": "d" };
    let insert = compressed(&request_with(&insert, Flags::MORE_TO_COME));
    client.send(&insert).await;
    peer.fenced().await;
    peer.gets(&insert).await;
    peer.fenced().await;
    stage.records_reach(2).await;
    assert_eq!(stage.kinds(), ["mark", "entry"]);
    client.gets_nothing().await;
}

/// Nobody knows whether what is not looked into gets a reply: one is taken, and none is waited for.
#[tokio::test]
async fn what_is_not_looked_into_may_get_no_reply() {
    let noise: String = std::iter::repeat_with(fastrand::alphanumeric).take(100_000).collect();
    let insert = rawdoc! { "insert": "c", "documents": [{ "_id": 1, "x": &noise[..] }], "$db": "d" };
    for captures in [true, false] {
        for silent in [true, false] {
            let flags = if silent { Flags::MORE_TO_COME } else { Flags::default() };
            let no_room = compressed(&request_with(&insert, flags));
            let mut lies = compressed(&request_with(&insert, flags));
            lies[20] += 1;
            let bound = |config: &mut proxy::Config| config.held_bytes_max = 64 * 1024;
            let stage = if captures { capturing(bound).await } else { passing(bound).await };
            let roomy = if captures { capturing(|_| {}).await } else { passing(|_| {}).await };
            for (stage, frame) in [(stage, no_room), (roomy, lies)] {
                let (mut client, mut peer) = stage.connect().await;
                // Twice with one id: the fence tells whose reply it is.
                for _ in 0..2 {
                    tokio::join!(client.send(&frame), peer.gets(&frame));
                    let fence = peer.fence().await;
                    if !silent {
                        let answer = reply(&frame, &rawdoc! { "n": 1, "ok": 1.0 });
                        peer.send(&answer).await;
                        client.gets(&answer).await;
                    }
                    peer.send(&reply(&fence, &rawdoc! { "ok": 1.0 })).await;
                    client.gets_nothing().await;
                }
                drop(client);
                peer.ends().await;
                drop(peer);
                until(|| stage.metric("dualsync_proxy_connections") == 0).await;
                assert!(
                    !captures || stage.capture().take_missed().everything,
                    "it may have written anywhere"
                );
            }
        }
    }
}

/// Room is taken for what is here: a size that is only announced takes none from others.
#[tokio::test]
async fn announced_sizes_take_no_room() {
    let stage = capturing(|config| config.held_bytes_max = 128 * 1024).await;
    let mut strangers = Vec::new();
    for _ in 0..5 {
        let (mut stranger, peer) = stage.connect().await;
        let frame = compressed(&request(&rawdoc! { "find": "c", "x": "y".repeat(60_000), "$db": "d" }));
        stranger.send(&frame[..25]).await;
        strangers.push((stranger, peer));
    }
    for (_, peer) in &mut strangers {
        peer.gets_nothing().await; // the sizes have been read
    }
    let (mut client, mut peer) = stage.connect().await;
    let pad = "y".repeat(50_000);
    let insert = request(&rawdoc! { "insert": "c", "documents": [{ "_id": 1, "x": &pad[..] }], "$db": "d" });
    client.send(&insert).await;
    peer.gets(&insert).await;
    one_is_inserted(&stage, &mut client, &mut peer, &insert).await;
}

/// The peer says so, the client hears it, and there is a certain entry of it.
async fn one_is_inserted(stage: &Stage, client: &mut End, peer: &mut End, insert: &[u8]) {
    let answer = reply(insert, &rawdoc! { "n": 1, "ok": 1.0 });
    peer.send(&answer).await;
    client.gets(&answer).await;
    let Some(Record::Entry(entry)) = stage.records().pop() else { panic!("no entry") };
    assert_eq!((entry.doubt, entry.effects[0].n), (None, 1));
}

#[tokio::test]
async fn a_missing_id_is_added_and_all_else_stays_packed() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let read = compressed(&request(&rawdoc! { "find": "c", "$db": "d" }));
    client.send(&read).await;
    peer.gets(&read).await;
    let found = reply(&read, &rawdoc! { "cursor": { "firstBatch": ["y".repeat(100_000)] }, "ok": 1.0 });
    for part in compressed(&found).chunks(20) {
        peer.send(part).await;
        client.gets(part).await;
    }
    let insert = request(&rawdoc! { "insert": "c", "documents": [{ "n": 1 }], "$db": "d" });
    client.send(&compressed(&insert)).await;
    let forwarded = peer.frame().await;
    let documents = OpMsg::parse(&forwarded).unwrap().body().get_array("documents").unwrap().to_owned();
    let document = documents.into_iter().next().unwrap().unwrap().as_document().unwrap().to_owned();
    assert!(document.get_object_id("_id").is_ok() && document.get_i32("n").ok() == Some(1), "{document:?}");
    one_is_inserted(&stage, &mut client, &mut peer, &insert).await;
}

/// wire-facts 1.4: closed by the server; nothing is run.
#[tokio::test]
async fn what_cannot_be_inflated_goes_on_as_it_is() {
    for stage in [passing(|_| {}).await, capturing(|_| {}).await] {
        let insert =
            compressed(&request(&rawdoc! { "insert": "c", "documents": [{ "_id": 1 }], "$db": "d" }));
        let twice = compressed(&insert);
        let (mut lies, mut unknown) = (insert.clone(), insert.clone());
        lies[20] += 1;
        unknown[24] = 9;
        for frame in [lies, unknown, twice, insert[..20].to_vec()] {
            let mut frame = frame;
            let length = i32::try_from(frame.len()).unwrap();
            frame[..4].copy_from_slice(&length.to_le_bytes());
            let (mut client, mut peer) = stage.connect().await;
            client.send(&frame).await;
            peer.gets(&frame).await;
            drop(peer);
            client.ends().await;
        }
    }
}
