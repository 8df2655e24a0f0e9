//! Listeners that serve clients only while mongod keeps strangers out: is the mongod that a session is with the one that
//! was asked?

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{RawDocumentBuf, rawdoc};
use tokio::io::AsyncReadExt;
use wire::OpMsg;

use crate::stage::{End, Stage, passing, reply, request};

/// The keeper's line, which asks who this is and whether it takes commands from anybody.
async fn asked(stage: &Stage, process: ObjectId, is_open: bool) -> End {
    let mut line = stage.accept().await;
    says_hello(&mut line, process).await;
    let command = line.frame().await;
    assert!(OpMsg::parse(&command).unwrap().body().get_i32("listDatabases").is_ok());
    let refused =
        rawdoc! { "ok": 0.0, "code": 13, "errmsg": "command listDatabases requires authentication" };
    line.send(&reply(
        &command,
        &if is_open {
            rawdoc! { "ok": 1.0 }
        } else {
            refused
        },
    ))
    .await;
    line
}

async fn says_hello(peer: &mut End, process: ObjectId) {
    let hello = peer.frame().await;
    assert!(OpMsg::parse(&hello).unwrap().body().get_i32("hello").is_ok());
    peer.send(&reply(&hello, &told(process))).await;
}

fn told(process: ObjectId) -> RawDocumentBuf {
    let version = rawdoc! { "processId": process, "counter": 0_i64 };
    rawdoc! { "maxWireVersion": 17, "topologyVersion": version, "ok": 1.0 }
}

#[tokio::test]
async fn what_was_learnt_holds_for_the_process_that_was_asked() {
    let find = request(&rawdoc! { "find": "c", "$db": "d" });
    let hello = request(&rawdoc! { "hello": 1, "$db": "admin" });
    for (says, is_open) in [(false, false), (true, false), (false, true), (true, true)] {
        let stage = passing(|config| config.guarded = true).await;
        let (first, second) = (ObjectId::new(), ObjectId::new());
        let _line = asked(&stage, first, false).await;
        // A mongod has come back that the keeper does not know of yet.
        let (mut client, mut peer) = stage.connect().await;
        if says {
            client.send(&hello).await;
            peer.gets(&hello).await;
            let answer = reply(&hello, &told(second));
            peer.send(&answer).await;
            client.gets(&answer).await;
        }
        client.send(&find).await;
        if !says {
            says_hello(&mut peer, second).await;
        }
        let _again = asked(&stage, second, is_open).await;
        if is_open {
            assert!(peer.ends().await.is_empty(), "nothing of it reaches mongod");
            drop(peer);
            assert!(client.ends().await.is_empty());
        } else {
            peer.gets(&find).await;
        }
    }
}

/// One that does not answer for minutes, as under load or stopped, is the same all the same.
#[tokio::test]
async fn a_slow_mongod_stays_known() {
    let stage = passing(|config| config.guarded = true).await;
    let process = ObjectId::new();
    let mut line = asked(&stage, process, false).await;
    tokio::time::pause();
    let mut ping = [0; 16];
    line.0.read_exact(&mut ping).await.unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    tokio::time::resume();
    let (mut client, mut peer) = stage.connect().await;
    let ping = request(&rawdoc! { "ping": 1, "$db": "admin" });
    client.send(&ping).await;
    says_hello(&mut peer, process).await;
    peer.gets(&ping).await;
}
