//! Bytes pass as they came, and while they come.

use bson::rawdoc;
use wire::{
    Flags, OpMsg,
    hello::{Asked, Names, rewrite_reply},
};

use crate::stage::{
    capturing, id, passing, reply, reply_to, request, request_with, request_with_sequence, within,
};

const HELLO: &[u8] = include_bytes!("../../../wire/testdata/rs_hello_msg_request.bin");
const HELLO_REPLY: &[u8] = include_bytes!("../../../wire/testdata/rs_hello_msg_reply.bin");
const ISMASTER: &[u8] = include_bytes!("../../../wire/testdata/rs_ismaster_query_request.bin");
const ISMASTER_REPLY: &[u8] = include_bytes!("../../../wire/testdata/rs_ismaster_query_reply.bin");
const STREAM: &[u8] = include_bytes!("../../../wire/testdata/rs_hello_stream_request.bin");
const STREAM_REPLIES: [&[u8]; 3] = [
    include_bytes!("../../../wire/testdata/rs_hello_stream_reply_0.bin"),
    include_bytes!("../../../wire/testdata/rs_hello_stream_reply_1.bin"),
    include_bytes!("../../../wire/testdata/rs_hello_stream_reply_2.bin"),
];

/// What the client gets of a reply that leads to one listener.
fn rewritten(reply: &[u8], here: &str) -> Vec<u8> {
    rewrite_reply(reply, &Names::only(here), Asked::Members).unwrap().unwrap()
}

#[tokio::test]
async fn handshakes_are_rewritten_however_they_are_split() {
    let stage = passing(|_| {}).await;
    for (question, answer) in [(HELLO, HELLO_REPLY), (ISMASTER, ISMASTER_REPLY)] {
        let (mut client, mut peer) = stage.connect().await;
        for byte in question {
            client.send(&[*byte]).await;
        }
        peer.gets(question).await;
        for byte in answer {
            peer.send(&[*byte]).await;
        }
        client.gets(&rewritten(answer, &stage.address)).await;
    }
}

#[tokio::test]
async fn an_advertised_address_beats_the_dialled_one() {
    let stage = passing(|config| config.advertise = Some("db.example:27018".to_owned())).await;
    let (mut client, mut peer) = stage.connect().await;
    client.send(HELLO).await;
    peer.frame().await;
    peer.send(HELLO_REPLY).await;
    client.gets(&rewritten(HELLO_REPLY, "db.example:27018")).await;
}

#[tokio::test]
async fn a_streamed_hello_is_rewritten_in_every_reply() {
    //= first responseTo = request id, each next responseTo = requestID of the previous reply (wire-facts.md 2.2)
    let stage = passing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    client.send(STREAM).await;
    peer.gets(STREAM).await;
    for answer in STREAM_REPLIES {
        peer.send(answer).await;
        client.gets(&rewritten(answer, &stage.address)).await;
    }
}

#[tokio::test]
async fn what_needs_no_look_is_forwarded_while_it_arrives() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let find = request(&rawdoc! { "find": "c", "filter": { "text": "x".repeat(100_000) }, "$db": "d" });
    for part in find.chunks(find.len() / 3) {
        client.send(part).await;
        peer.gets(part).await;
    }
    let found = reply(&find, &rawdoc! { "cursor": { "firstBatch": ["y".repeat(100_000)] }, "ok": 1.0 });
    for part in found.chunks(found.len() / 3) {
        peer.send(part).await;
        client.gets(part).await;
    }
}

#[tokio::test]
async fn frames_we_do_not_know_are_carried() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let odd = |opcode: i32| [[20, 7, 0, opcode].map(i32::to_le_bytes).concat(), vec![1, 2, 3, 4]].concat();
    for opcode in [0, 1, 2003, 2004, 2005, 2010, 2012, 12345, -1] {
        client.send(&odd(opcode)).await;
        peer.gets(&odd(opcode)).await;
        if opcode == 2012 {
            // Compressed, and nobody knows what: a ping of ours tells when it has ended.
            let fence = peer.frame().await;
            peer.send(&reply(&fence, &rawdoc! { "ok": 1.0 })).await;
        }
        peer.send(&odd(opcode)).await;
        client.gets(&odd(opcode)).await;
    }
    // Unknown flag bits and section kinds, and a frame that ends before its flags.
    let command = rawdoc! { "insert": "c", "$db": "d" };
    let mut unknown_kind = request(&command);
    unknown_kind[20] = 9;
    for frame in [request_with(&command, Flags(1 << 7)), unknown_kind, odd(2013)[..].to_vec()] {
        client.send(&frame).await;
        peer.gets(&frame).await;
    }
}

#[tokio::test]
async fn any_split_of_any_frames_arrives_unchanged() {
    let stage = passing(|_| {}).await;
    for _ in 0..10 {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut there = Vec::new();
        let mut back = Vec::new();
        for _ in 0..random.usize(1..40) {
            let size = 1 << random.usize(0..17);
            let text: String = std::iter::repeat_with(|| random.alphanumeric()).take(size).collect();
            let asked = match random.u8(..3) {
                0 => request(&rawdoc! { "ping": 1, "x": text.as_str() }),
                1 => request_with(&rawdoc! { "insert": "c", "x": text.as_str() }, Flags::CHECKSUM_PRESENT),
                _ => request_with_sequence(&rawdoc! { "update": "c" }, &text, b"\x05\0\0\0\0", random.bool()),
            };
            back.extend(reply(&asked, &rawdoc! { "n": 1, "y": text }));
            there.extend(asked);
        }
        let (mut client, mut peer) = stage.connect().await;
        let (mut client_out, mut peer_out) = (random.fork(), random.fork());
        within(async {
            tokio::join!(
                dribble(&mut client, &there, &back, &mut client_out),
                dribble(&mut peer, &back, &there, &mut peer_out),
            )
        })
        .await;
    }
}

/// Sends `out` in random pieces while reading `expected`.
async fn dribble(end: &mut crate::stage::End, out: &[u8], expected: &[u8], random: &mut fastrand::Rng) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut read, mut write) = end.0.split();
    let sends = async {
        let mut rest = out;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(random.usize(1..=rest.len().min(50_000)));
            write.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
            rest = after;
        }
    };
    let mut got = vec![0; expected.len()];
    let (_, read) = tokio::join!(sends, read.read_exact(&mut got));
    read.unwrap();
    assert!(got == expected, "bytes changed on the way");
}

#[tokio::test]
async fn a_bad_length_goes_on_as_sixteen_bytes_and_nothing_more() {
    //= outside 16..48,000,000: connection closed without reply (wire-facts.md 1.1)
    let stage = passing(|_| {}).await;
    let header = |length: i32| [length, 9, 0, 2013].map(i32::to_le_bytes).concat();
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    for bad in [header(15), header(0), header(-5), header(48_000_001), header(i32::MAX), http.to_vec()] {
        let (mut client, mut peer) = stage.connect().await;
        let ping = request(&rawdoc! { "ping": 1, "$db": "admin" });
        client.send(&[&ping[..], &bad, b"more that nobody should see"].concat()).await;
        peer.gets(&ping).await;
        peer.gets(&bad[..16]).await;
        peer.gets_nothing().await;
        // What came before is answered; then mongod closes, perhaps with a text for browsers.
        let pong = reply(&ping, &rawdoc! { "ok": 1.0 });
        peer.send(&pong).await;
        peer.send(b"HTTP/1.0 200 OK\r\n\r\nIt looks like you are trying to access MongoDB").await;
        drop(peer);
        client.gets(&pong).await;
        assert!(client.ends().await.starts_with(b"HTTP/1.0 200 OK"));
    }
}

#[tokio::test]
async fn the_largest_frame_passes() {
    let stage = passing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let header = [48_000_000, 1, 0, 2013].map(i32::to_le_bytes).concat();
    let frame = [header, vec![0; 48_000_000 - 16]].concat();
    tokio::join!(client.send(&frame), peer.gets(&frame));
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_mongod_and_nobody_else() {
    let stage = passing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let find = request(&rawdoc! { "find": "c", "$db": "d" });
    client.send(&find).await;
    peer.gets(&find).await;
    let header = [48_000_000, 1, id(&find), 2013].map(i32::to_le_bytes).concat();
    let answer = [header, vec![7; 48_000_000 - 16]].concat();
    use tokio::io::AsyncWriteExt;
    let mut sent = 0;
    // Whatever fits into the kernel's buffers goes; the proxy itself takes 64 KiB.
    let stalled = std::time::Duration::from_millis(500);
    while let Ok(count) = tokio::time::timeout(stalled, peer.0.write(&answer[sent..])).await {
        sent += count.unwrap();
    }
    assert!(sent < 24_000_000, "{sent} bytes went into a client that reads nothing");

    let (mut other, mut other_peer) = stage.connect().await;
    other.send(&find).await;
    other_peer.gets(&find).await;

    tokio::join!(peer.send(&answer[sent..]), client.gets(&answer));
}

#[tokio::test]
async fn a_sequence_before_the_body_hides_no_name() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let document = rawdoc! { "_id": 1 };
    let insert = rawdoc! { "insert": "c", "$db": "d" };
    let insert = request_with_sequence(&insert, "documents", document.as_bytes(), true);
    client.send(&insert[..30]).await;
    client.send(&insert[30..]).await;
    peer.gets(&insert).await;
    assert_eq!(stage.kinds(), ["mark"]);
    let hello = rawdoc! { "hello": 1, "compression": ["brotli"], "$db": "admin" };
    let hello = request_with_sequence(&hello, "x", document.as_bytes(), true);
    client.send(&hello).await;
    let forwarded = peer.frame().await;
    assert!(OpMsg::parse(&forwarded).unwrap().body().get_array("compression").unwrap().is_empty());
    let answer = reply_to(id(&hello), &rawdoc! { "me": "a:1", "ok": 1.0 }, Flags::default());
    peer.send(&answer).await;
    client.gets(&rewritten(&answer, &stage.address)).await;
    let other = request_with_sequence(&rawdoc! { "ping": 1, "$db": "d" }, "x", document.as_bytes(), true);
    client.send(&other).await;
    peer.gets(&other).await;
}
