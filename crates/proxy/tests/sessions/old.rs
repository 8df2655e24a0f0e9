//! Protocols from before OP_MSG: what only old servers take must not pass them unseen.

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use wire::{Flags, OpMsg};

use crate::stage::{End, Stage, capturing, id, next_id, passing, reply, request, request_with, until};

fn frame(opcode: i32, payload: &[u8]) -> Vec<u8> {
    let length = i32::try_from(16 + payload.len()).unwrap();
    [&[length, next_id(), 0, opcode].map(i32::to_le_bytes).concat(), payload].concat()
}

/// OP_INSERT: int32 flags; cstring namespace; documents.
fn insert() -> Vec<u8> {
    frame(2002, &[&[0; 4], &b"d.c\0"[..], rawdoc! { "_id": 1 }.as_bytes()].concat())
}

/// OP_QUERY: int32 flags; cstring namespace; int32 skip; int32 return; document.
fn query(body: &RawDocument) -> Vec<u8> {
    frame(2004, &[&[0; 4], &b"d.$cmd\0"[..], &[0; 4], &[0xff; 4], body.as_bytes()].concat())
}

/// OP_COMPRESSED with zstd.
fn packed(inner: &[u8]) -> Vec<u8> {
    crate::stage::compressed(inner)
}

fn writes() -> Vec<Vec<u8>> {
    let update = frame(2001, &[&[0; 4], &b"d.c\0"[..], &[0; 4], &[5, 0, 0, 0, 0], &[5, 0, 0, 0, 0]].concat());
    let delete = frame(2006, &[&[0; 4], &b"d.c\0"[..], &[0; 4], &[5, 0, 0, 0, 0]].concat());
    let command = rawdoc! { "insert": "c", "documents": [{ "_id": 1 }] };
    let wrapped = rawdoc! { "$query": command.clone() };
    let plain = vec![insert(), update, delete, query(&command), query(&wrapped)];
    plain.iter().map(|write| packed(write)).chain(plain.clone()).collect()
}

/// The peer answers our own hello as a server of this version.
async fn tells(peer: &mut End, wire_version: i32) {
    let hello = peer.frame().await;
    let body = OpMsg::parse(&hello).unwrap().body().to_owned();
    assert_eq!(body.get_i32("hello").unwrap(), 1);
    peer.send(&reply(&hello, &told(wire_version))).await;
}

fn told(wire_version: i32) -> RawDocumentBuf {
    rawdoc! { "minWireVersion": 0, "maxWireVersion": wire_version, "ok": 1.0 }
}

/// wire-facts 1.1: 6.0 closes on them and does nothing, or answers with an error.
#[tokio::test]
async fn a_server_that_refuses_old_writes_is_left_to_it() {
    let stage = capturing(|_| {}).await;
    for write in writes() {
        let (mut client, mut peer) = stage.connect().await;
        client.send(&write).await;
        tells(&mut peer, 17).await;
        peer.gets(&write).await;
        drop(peer);
        client.ends().await;
    }
    assert_eq!(stage.metric("dualsync_proxy_turned_away_total"), 0);
}

/// Servers before 6.0 would do them.
#[tokio::test]
async fn a_server_that_takes_old_writes_gets_none() {
    let stage = capturing(|_| {}).await;
    let ping = request(&rawdoc! { "ping": 1, "$db": "admin" });
    for (nth, write) in writes().iter().enumerate() {
        let (mut client, mut peer) = stage.connect().await;
        let hello = request(&rawdoc! { "hello": 1, "$db": "admin" });
        if nth % 2 == 0 {
            client.send(&hello).await;
            peer.gets(&hello).await;
            peer.send(&reply(&hello, &told(13))).await;
            client.frame().await;
        }
        client.send(&[&ping[..], write, &ping].concat()).await;
        peer.gets(&ping).await;
        peer.send(&reply(&ping, &rawdoc! { "ok": 1.0 })).await;
        assert_eq!(client.frame().await[8..12], id(&ping).to_le_bytes(), "what came before is answered");
        if nth % 2 == 1 {
            tells(&mut peer, 13).await;
        }
        assert!(peer.ends().await.is_empty(), "the write, or what came behind it, got through");
        drop(peer);
        client.ends().await;
    }
    assert_eq!(stage.metric("dualsync_proxy_turned_away_total"), writes().len() as u64);
    assert!(stage.kinds().is_empty() && stage.capture().take_missed().is_empty());
}

/// Reads are the server's to answer, and who captures nothing has nothing to miss.
#[tokio::test]
async fn all_else_passes() {
    let find = query(&rawdoc! { "find": "c" });
    let kill = frame(2007, &[0; 16]);
    let more = frame(2005, &[&[0; 4], &b"d.c\0"[..], &[0; 12]].concat());
    let sees = |stage: Stage, frames: Vec<Vec<u8>>| async move {
        for frame in frames {
            let (mut client, mut peer) = stage.connect().await;
            client.send(&frame).await;
            peer.gets(&frame).await;
        }
    };
    sees(capturing(|_| {}).await, vec![find, kill, more]).await;
    sees(passing(|_| {}).await, writes()).await;
}

/// An answer that never comes ends with the client, also behind a stream.
#[tokio::test]
async fn nobody_is_kept_waiting_for_an_old_write() {
    let stage = capturing(|_| {}).await;
    let hello = request_with(&rawdoc! { "hello": 1, "$db": "admin" }, Flags::EXHAUST_ALLOWED);
    let (mut client, mut peer) = stage.connect().await;
    client.send(&[&hello[..], &insert()].concat()).await;
    peer.gets(&hello).await;
    client.half_close().await;
    assert!(peer.ends().await.is_empty());
    drop((client, peer));
    until(|| stage.metric("dualsync_proxy_connections") == 0).await;
}
