//! Marks before, entries after, and nothing that a client could notice.

use bson::{oid::ObjectId, rawdoc};
use record::{Doubt, Record};
use wire::{Flags, OpMsg};

use crate::stage::{
    capturing, compressed, id, reply, reply_to, request, request_with, request_with_sequence, until,
};

fn update() -> bson::RawDocumentBuf {
    rawdoc! { "update": "c", "updates": [{ "q": { "_id": 1 }, "u": { "$set": { "x": 1 } } }], "$db": "d" }
}

fn updated() -> bson::RawDocumentBuf {
    rawdoc! { "n": 1, "nModified": 1, "ok": 1.0 }
}

#[tokio::test]
async fn only_the_last_byte_of_an_update_waits_for_its_mark() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let update = request(&update());
    let (front, last) = update.split_at(update.len() - 1);
    client.send(&front[..50]).await;
    peer.gets(&front[..50]).await;
    client.send(&front[50..]).await;
    peer.gets(&front[50..]).await;
    assert!(stage.kinds().is_empty());
    client.send(last).await;
    peer.gets(last).await;
    assert_eq!(stage.kinds(), ["mark"]);

    let answer = reply(&update, &updated());
    peer.send(&answer[..20]).await;
    client.gets_nothing().await;
    peer.send(&answer[20..]).await;
    client.gets(&answer).await;
    assert_eq!(stage.kinds(), ["mark", "entry"]);
}

#[tokio::test]
async fn an_insert_is_held_and_gets_its_id() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let document = rawdoc! { "x": 1 };
    let insert = request_with_sequence(
        &rawdoc! { "insert": "c", "$db": "d" },
        "documents",
        document.as_bytes(),
        false,
    );
    client.send(&insert[..insert.len() - 1]).await;
    peer.gets_nothing().await;
    client.send(&insert[insert.len() - 1..]).await;
    let forwarded = peer.frame().await;
    assert_eq!(id(&forwarded), id(&insert));
    let msg = OpMsg::parse(&forwarded).unwrap();
    let sent = msg.sequences().next().unwrap().documents().next().unwrap();
    let _: ObjectId = sent.get_object_id("_id").unwrap();
    assert_eq!(sent.get_i32("x").unwrap(), 1);
    let answer = reply(&insert, &rawdoc! { "n": 1, "ok": 1.0 });
    peer.send(&answer).await;
    client.gets(&answer).await;
    assert_eq!(stage.kinds(), ["mark", "entry"]);
}

#[tokio::test]
async fn a_write_that_asks_for_the_disk_is_on_it_when_it_is_acknowledged() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let mut body = update();
    body.append(bson::raw::cstr!("writeConcern"), rawdoc! { "j": true });
    let update = request(&body);
    client.send(&update).await;
    peer.gets(&update).await;
    let answer = reply(&update, &updated());
    peer.send(&answer).await;
    client.gets(&answer).await;
    assert_eq!(stage.log().durable(), stage.log().head());
}

#[tokio::test]
async fn a_write_without_a_reply_is_fenced() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let silent = request_with(&update(), Flags::MORE_TO_COME);
    for nth in 1..=2 {
        client.send(&silent).await;
        if nth == 1 {
            peer.fenced().await; // whether this client may write at all is asked once
        }
        peer.gets(&silent).await;
        let fence = peer.fence().await;
        assert_eq!(stage.kinds().last(), Some(&"mark"));
        peer.send(&reply(&fence, &rawdoc! { "ok": 1.0 })).await;
        stage.records_reach(2 * nth).await;
        let Some(Record::Entry(entry)) = stage.records().pop() else { panic!("no entry") };
        assert_eq!(entry.doubt, Some(Doubt::Unacknowledged));
    }
    // The client never hears of it.
    let ping = request(&rawdoc! { "ping": 1, "$db": "admin" });
    client.send(&ping).await;
    peer.gets(&ping).await;
    let pong = reply(&ping, &rawdoc! { "ok": 1.0 });
    peer.send(&pong).await;
    client.gets(&pong).await;
}

#[tokio::test]
async fn the_clients_own_next_request_is_a_fence_as_well() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let silent = request_with(&update(), Flags::MORE_TO_COME);
    let ping = request(&rawdoc! { "ping": 1, "$db": "admin" });
    let both = [silent, ping.clone()].concat();
    client.send(&both).await;
    peer.fenced().await;
    peer.gets(&both).await;
    peer.gets_nothing().await;
    peer.send(&reply(&ping, &rawdoc! { "ok": 1.0 })).await;
    client.frame().await;
    assert_eq!(stage.kinds(), ["mark", "entry"]);
}

#[tokio::test]
async fn no_write_and_no_fence_is_sent_into_a_stream() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let more = rawdoc! { "getMore": 5_i64, "collection": "c", "$db": "d" };
    let more = request_with(&more, Flags::EXHAUST_ALLOWED);
    let silent = request_with(&update(), Flags::MORE_TO_COME);
    client.send(&[&more[..], &silent].concat()).await;
    peer.gets(&more).await;
    let first = reply_to(id(&more), &rawdoc! { "ok": 1.0 }, Flags::MORE_TO_COME);
    peer.send(&first).await;
    client.gets(&first).await;
    peer.gets_nothing().await;
    assert!(stage.kinds().is_empty(), "mongod would not get to it: no mark stays open");
    let last = reply_to(id(&first), &rawdoc! { "ok": 1.0 }, Flags::default());
    peer.send(&last).await;
    client.gets(&last).await;
    peer.fence().await;
    peer.gets(&silent).await;
    peer.fence().await;
}

/// wire-facts 3: `w: 0` while nobody is logged in is dropped without a word. Whatever a stranger tries, and however it
/// goes away, nothing has to be compared for it.
#[tokio::test]
async fn a_stranger_makes_nothing_dirty() {
    let mut stage = capturing(|_| {}).await;
    let unauthorized = refused("command refreshSessions requires authentication");
    let silent = |body: &bson::RawDocument| request_with(body, Flags::MORE_TO_COME);
    let writes = [
        silent(&update()),
        silent(&rawdoc! { "drop": "c", "$db": "d" }),
        silent(&rawdoc! { "dropDatabase": 1, "$db": "d" }),
        silent(&rawdoc! { "applyOps": [{ "op": "d", "ns": "d.c", "o": { "_id": 1 } }], "$db": "admin" }),
        silent(&rawdoc! { "noSuchCommand": 1, "$db": "d" }),
    ];
    let ping = request(&rawdoc! { "ping": 1, "$db": "admin" });
    let (mut marks, mut ends) = (0, [&[][..], &ping, &ping[..40], &[0; 16]].into_iter().cycle());
    for write in writes.iter().flat_map(|write| std::iter::repeat_n(write, 4)) {
        let (mut client, mut peer) = stage.connect().await;
        let end = ends.next().unwrap();
        client.send(&[&compressed(write), &write[..], end].concat()).await;
        let fence = peer.fence().await;
        peer.gets(&compressed(write)).await;
        peer.gets(write).await;
        peer.send(&reply(&fence, &unauthorized)).await;
        if end == ping {
            peer.gets(&ping).await;
            client.gets_nothing().await;
            peer.send(&reply(&ping, &rawdoc! { "ok": 1.0 })).await;
        } else if end.is_empty() {
            let fence = peer.fence().await;
            peer.send(&reply(&fence, &unauthorized)).await;
        }
        client.half_close().await;
        drop(peer);
        client.ends().await;
        marks = stage.kinds().iter().filter(|kind| **kind == "mark").count();
    }
    drop(stage.connect().await);
    until(|| stage.metric("dualsync_proxy_connections") == 0).await;
    assert_eq!(stage.kinds().iter().filter(|kind| **kind == "closed").count(), marks);
    assert!(marks >= 16 && !stage.kinds().contains(&"entry"), "{:?}", stage.kinds());
    assert!(stage.capture().take_missed().is_empty() && !stage.has_orphan());
}

/// 13, Unauthorized, as `refreshSessions` is answered.
fn refused(why: &str) -> bson::RawDocumentBuf {
    rawdoc! { "ok": 0.0, "errmsg": why, "code": 13, "codeName": "Unauthorized" }
}

/// Servers before 6.0 let several users log in on one connection, and refuse it their `refreshSessions`.
#[tokio::test]
async fn several_users_are_no_strangers() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let silent = request_with(&update(), Flags::MORE_TO_COME);
    client.send(&silent).await;
    for gets in [&silent[..], &[]] {
        let fence = peer.fence().await;
        peer.send(&reply(&fence, &refused("too many users are authenticated"))).await;
        peer.gets(gets).await;
    }
    stage.records_reach(2).await;
    assert_eq!(stage.kinds(), ["mark", "entry"]);
}

/// What comes in between may have been a login, or the end of one.
#[tokio::test]
async fn whoever_may_have_logged_in_is_no_stranger() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let unauthorized = refused("command refreshSessions requires authentication");
    let login = rawdoc! { "saslContinue": 1, "payload": "", "conversationId": 1, "$db": "admin" };
    let silent = request_with(&update(), Flags::MORE_TO_COME);
    client.send(&silent).await;
    let fence = peer.fence().await;
    peer.gets(&silent).await;
    let second = peer.fence().await;
    peer.send(&[reply(&fence, &unauthorized), reply(&second, &unauthorized)].concat()).await;
    stage.records_reach(2).await;
    for (nth, login) in [request(&login), request_with(&login, Flags::MORE_TO_COME)].iter().enumerate() {
        client.send(&[&login[..], &silent].concat()).await;
        peer.gets(login).await;
        let fence = peer.fence().await;
        peer.gets(&silent).await;
        let second = peer.fence().await;
        peer.send(&[reply(&fence, &unauthorized), reply(&second, &unauthorized)].concat()).await;
        stage.records_reach(2 * nth as u64 + 4).await;
    }
    client.send(&[&request_with(&login, Flags::MORE_TO_COME)[..], &silent].concat()).await;
    peer.frame().await;
    peer.fenced().await;
    peer.gets(&silent).await;
    // Somebody else has dropped the user meanwhile.
    let fence = peer.fence().await;
    peer.send(&reply(&fence, &unauthorized)).await;
    stage.records_reach(8).await;
    assert_eq!(stage.kinds(), ["mark", "closed", "mark", "closed", "mark", "closed", "mark", "entry"]);
}

/// wire-facts 2.2: mongod may wait with a hello as long as the client likes, and ends it when the client goes.
#[tokio::test]
async fn a_write_behind_a_hello_waits_until_the_client_goes() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let hello = request(&rawdoc! { "hello": 1, "maxAwaitTimeMS": 1_000_000_000, "$db": "admin" });
    let update = request(&update());
    client.send(&[&hello[..], &update].concat()).await;
    peer.gets(&hello).await;
    peer.gets_nothing().await;
    assert!(stage.kinds().is_empty());
    client.half_close().await;
    peer.gets(&update).await;
    assert!(peer.ends().await.is_empty(), "mongod sees that the client has gone");
    assert_eq!(stage.kinds(), ["mark"]);
    peer.send(&[reply(&hello, &rawdoc! { "ok": 1.0 }), reply(&update, &updated())].concat()).await;
    drop(peer);
    client.ends().await;
    assert_eq!(stage.kinds(), ["mark", "entry"]);
}

/// Whatever a client breaks off in, its session ends, and so do the writes before it.
#[tokio::test]
async fn a_request_broken_off_behind_a_silent_write_keeps_nothing_open() {
    let mut stage = capturing(|_| {}).await;
    let silent = request_with(&update(), Flags::MORE_TO_COME);
    let ping = request(&rawdoc! { "ping": 1, "$db": "admin" });
    let insert = request(&rawdoc! { "insert": "c", "documents": [{ "_id": 1 }], "$db": "d" });
    let mut records = 0;
    for broken in [&[][..], &ping[..10], &ping[..50], &silent[..50], &insert[..50]] {
        let (mut client, mut peer) = stage.connect().await;
        client.send(&[&silent, broken].concat()).await;
        client.half_close().await;
        peer.fenced().await;
        peer.gets(&silent).await;
        peer.fenced().await;
        assert!(peer.ends().await.len() <= broken.len());
        drop(peer);
        assert!(client.ends().await.is_empty());
        records += 2;
        stage.records_reach(records).await;
        assert_eq!(stage.kinds()[records as usize - 2..], ["mark", "entry"]);
    }
    // Where no fence could be sent in time, mongod's end of the connection tells.
    let (mut client, mut peer) = stage.connect().await;
    let find = request(&rawdoc! { "find": "c", "filter": { "x": "y".repeat(100) }, "$db": "d" });
    client.send(&find[..100]).await;
    peer.gets(&find[..100]).await;
    client.send(&find[100..]).await;
    client.send(&[&silent[..], &insert[..50]].concat()).await;
    peer.gets(&find[100..]).await;
    peer.fence().await;
    peer.gets(&silent).await;
    drop(peer);
    client.ends().await;
    assert_eq!(stage.orphan().await.mark, Some(records + 1));
    drop(client);
    until(|| stage.metric("dualsync_proxy_connections") == 0).await;
}

/// Stalled requests must not take the room from everybody for ever.
#[tokio::test]
async fn a_stalled_request_gives_its_room_up() {
    let stage = capturing(|config| {
        config.held_bytes_max = 128 * 1024;
        config.held_patience = std::time::Duration::from_millis(100);
    })
    .await;
    let (mut slow, mut slow_peer) = stage.connect().await;
    let pad = "y".repeat(100_000);
    let document = rawdoc! { "_id": 1, "x": &pad[..] };
    let stalled = rawdoc! { "insert": "stalled", "$db": "d" };
    let stalled = request_with_sequence(&stalled, "documents", document.as_bytes(), false);
    slow.send(&stalled[..80_000]).await;
    slow_peer.gets_nothing().await; // until it has had its time
    // Small writes need no room of others.
    let (mut client, mut peer) = stage.connect().await;
    let small = request(&update());
    client.send(&small).await;
    peer.gets(&small).await;
    let answer = reply(&small, &updated());
    peer.send(&answer).await;
    client.gets(&answer).await;
    let big = &pad[..50_000];
    let insert = request(&rawdoc! { "insert": "c", "$db": "d", "documents": [{ "_id": 2, "x": big }] });
    client.send(&insert).await;
    peer.gets(&insert).await;
    let answer = reply(&insert, &rawdoc! { "n": 1, "ok": 1.0 });
    peer.send(&answer).await;
    client.gets(&answer).await;
    let seen = |record: &&Record| matches!(record, Record::Entry(entry) if entry.doubt.is_none());
    assert_eq!(stage.records().iter().filter(seen).count(), 2);
    // The other goes on unseen, and counts for nothing unless it becomes whole.
    slow_peer.gets(&stalled[..80_000]).await;
    slow.half_close().await;
    assert!(slow_peer.ends().await.is_empty());
    drop(slow_peer);
    slow.ends().await;
    until(|| stage.metric("dualsync_proxy_connections") == 1).await;
    let mut kinds = stage.kinds();
    assert_eq!(kinds.pop(), Some("closed"), "of the mark that it got when it went on");
    kinds.sort_unstable();
    assert_eq!(kinds, ["entry", "entry", "mark", "mark", "mark"]);
    assert!(stage.capture().take_missed().is_empty());
}

/// In a runtime with several threads, long work lets the others go elsewhere (`watch::apart`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_insert_is_followed_on_any_runtime() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let pad = "y".repeat(2_000_000);
    let insert = request(&rawdoc! { "insert": "c", "$db": "d", "documents": [{ "_id": 1, "x": &pad[..] }] });
    for silent in [false, true] {
        let mut insert = insert.clone();
        insert[16] = u8::from(silent) << 1;
        let gets = async {
            if silent {
                peer.fenced().await;
            }
            peer.gets(&insert).await;
        };
        tokio::join!(client.send(&insert), gets);
        let fence = if silent { peer.fence().await } else { insert };
        let answer = reply(&fence, &rawdoc! { "n": 1, "ok": 1.0 });
        peer.send(&answer).await;
        if !silent {
            client.gets(&answer).await;
        }
    }
    stage.records_reach(4).await;
    assert_eq!(stage.kinds(), ["mark", "entry", "mark", "entry"]);
}

#[tokio::test]
async fn a_client_that_is_gone_leaves_an_entry() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let update = request(&update());
    client.send(&update).await;
    peer.gets(&update).await;
    client.0.set_zero_linger().unwrap();
    drop(client);
    // The client's reset must be seen before the reply comes: mongod would not be told of it before.
    peer.gets_nothing().await;
    peer.send(&reply(&update, &updated())).await;
    stage.records_reach(2).await;
    assert_eq!(stage.kinds(), ["mark", "entry"]);
    assert!(peer.ends().await.is_empty());
}

#[tokio::test]
async fn a_reply_that_never_comes_makes_an_orphan() {
    let mut stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let update = request(&update());
    client.send(&update).await;
    peer.gets(&update).await;
    let via = peer.0.peer_addr().unwrap().to_string();
    // Half a reply is none.
    peer.send(&reply(&update, &updated())[..30]).await;
    drop(peer);
    client.ends().await;
    let orphan = stage.orphan().await;
    assert_eq!((orphan.mark, orphan.mark_record.via), (Some(1), via));
    assert_eq!(stage.kinds(), ["mark"]);
}

#[tokio::test]
async fn a_write_that_finds_no_room_passes_and_is_told() {
    let stage = capturing(|config| config.held_bytes_max = 64 * 1024).await;
    let (mut client, mut peer) = stage.connect().await;
    let large = rawdoc! { "q": { "_id": 1 }, "u": { "$set": { "x": "y".repeat(100_000) } } };
    for name in ["update", "insert"] {
        let mut body = bson::RawDocumentBuf::new();
        body.append(bson::raw::CString::try_from(name).unwrap(), "c");
        body.append(bson::raw::cstr!("$db"), "d");
        let field = if name == "update" { "updates" } else { "documents" };
        let write = request_with_sequence(&body, field, large.as_bytes(), false);
        tokio::join!(client.send(&write), peer.gets(&write));
        assert_eq!(stage.kinds().last(), Some(&"mark"));
        let answer = reply(&write, &updated());
        peer.send(&answer).await;
        client.gets(&answer).await;
        let Some(Record::Entry(entry)) = stage.records().pop() else { panic!("no entry") };
        assert!(entry.doubt.is_some());
        assert_eq!(entry.effects[0].target.touch, record::Touch::Namespace);
    }
}

#[tokio::test]
async fn a_reply_that_finds_no_room_passes_and_its_write_is_in_doubt() {
    let stage = capturing(|config| config.held_bytes_max = 64 * 1024).await;
    let (mut client, mut peer) = stage.connect().await;
    let change =
        request(&rawdoc! { "findAndModify": "c", "query": { "_id": 1 }, "remove": true, "$db": "d" });
    client.send(&change).await;
    peer.gets(&change).await;
    let answer = reply(&change, &rawdoc! { "value": { "_id": 1, "x": "y".repeat(200_000) }, "ok": 1.0 });
    tokio::join!(peer.send(&answer), client.gets(&answer));
    let Some(Record::Entry(entry)) = stage.records().pop() else { panic!("no entry") };
    assert_eq!(entry.doubt, Some(Doubt::Unacknowledged));
}

/// wire-facts 1.4: mongod takes what it never said it would, and closes on what it cannot inflate.
#[tokio::test]
async fn a_compressed_request_is_followed() {
    let mut stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let plain =
        request(&rawdoc! { "insert": "c", "documents": [{ "_id": 1, "x": "y".repeat(99) }], "$db": "d" });
    let insert = compressed(&plain);
    client.send(&insert[..40]).await;
    peer.gets_nothing().await;
    client.send(&insert[40..]).await;
    peer.gets(&insert).await;
    assert_eq!(stage.kinds(), ["mark"]);
    let answer = compressed(&reply(&plain, &rawdoc! { "n": 1, "ok": 1.0 }));
    peer.send(&answer).await;
    client.gets(&answer).await;
    let Some(Record::Entry(entry)) = stage.records().pop() else { panic!("no entry") };
    assert_eq!((entry.doubt, entry.effects[0].n), (None, 1));
    let mut broken = insert.clone();
    broken.truncate(insert.len() - 3);
    broken[0] -= 3;
    client.send(&broken).await;
    peer.gets(&broken).await;
    drop(peer);
    client.ends().await;
    drop(client);
    until(|| stage.metric("dualsync_proxy_connections") == 0).await;
    assert!(stage.capture().take_missed().is_empty());
    // Its mark names nothing, and waits for its end only.
    let orphan = stage.orphan().await;
    assert!(orphan.mark_record.targets.is_empty() && orphan.unmarked.is_none());
}

#[tokio::test]
async fn many_pipelined_writes_are_matched_in_order() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    // All with the same request id: the order alone tells whose reply it is.
    let mut update = request(&update());
    update[4..8].copy_from_slice(&0_i32.to_le_bytes());
    let answer = reply_to(0, &updated(), Flags::default());
    let count = 3000;
    let sends = async {
        for _ in 0..count {
            client.send(&update).await;
        }
        for _ in 0..count {
            client.gets(&answer).await;
        }
    };
    let answers = async {
        for _ in 0..count {
            peer.gets(&update).await;
            peer.send(&answer).await;
        }
    };
    tokio::join!(sends, answers);
    until(|| stage.log().head().0 == 2 * count + 1).await;
    let entries = stage.records().iter().filter(|record| matches!(record, Record::Entry(_))).count() as u64;
    assert_eq!(entries, count);
}

#[tokio::test]
async fn silent_writes_without_end_are_fenced_on_the_way() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let silent = request_with(&update(), Flags::MORE_TO_COME);
    let count = 3000;
    let sends = async {
        for _ in 0..count {
            client.send(&silent).await;
        }
    };
    let answers = async {
        let mut fences = 0;
        loop {
            tokio::select! {
                frame = peer.frame() => if frame != silent {
                    fences += 1;
                    peer.send(&reply(&frame, &rawdoc! { "ok": 1.0 })).await;
                },
                () = stage.records_reach(2 * count) => break,
            }
        }
        fences
    };
    let (_, fences) = tokio::join!(sends, answers);
    assert!(fences >= 3, "{fences} fences for {count} writes");
}

#[tokio::test]
async fn a_log_that_takes_nothing_stops_nobody() {
    let stage = capturing(|_| {}).await;
    stage.log().close().unwrap();
    let (mut client, mut peer) = stage.connect().await;
    for _ in 0..3 {
        let update = request(&update());
        client.send(&update).await;
        peer.gets(&update).await;
        let answer = reply(&update, &updated());
        peer.send(&answer).await;
        client.gets(&answer).await;
    }
    let missed = stage.capture().take_missed();
    assert_eq!(missed.namespaces, [record::Namespace::new("d", "c")]);
    assert!(!missed.everything);
}

#[tokio::test]
async fn damaged_frames_hurt_nobody() {
    let stage = capturing(|_| {}).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut damage = |frame: &mut Vec<u8>| {
        for _ in 0..random.usize(1..4) {
            let at = random.usize(16..frame.len());
            frame[at] = random.u8(..);
        }
    };
    for _ in 0..200 {
        let (mut client, mut peer) = stage.connect().await;
        let document = rawdoc! { "_id": 1, "x": [1, { "y": "z" }] };
        let mut asked = request_with_sequence(
            &rawdoc! { "insert": "c", "$db": "d" },
            "documents",
            document.as_bytes(),
            false,
        );
        let mut answer =
            reply(&asked, &rawdoc! { "n": 0, "writeErrors": [{ "index": 0, "code": 2 }], "ok": 1.0 });
        damage(&mut asked);
        damage(&mut answer);
        client.send(&asked).await;
        client.half_close().await;
        peer.send(&answer).await;
        peer.half_close().await;
        tokio::join!(client.ends(), peer.ends());
    }
    drop(stage.connect().await);
    until(|| stage.metric("dualsync_proxy_connections") == 0).await;
    assert_eq!(stage.metric("dualsync_proxy_sessions_died_total"), 0, "a session panicked");
}
