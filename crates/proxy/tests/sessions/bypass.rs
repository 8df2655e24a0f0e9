//! Capture taken out of the way while clients are served.

use bson::rawdoc;
use wire::Flags;

use crate::stage::{capturing, reply, request, request_with, until};

#[tokio::test]
async fn what_is_bypassed_flows_untouched_and_what_was_begun_ends_captured() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let update = request(&rawdoc! { "update": "c", "updates": [{ "q": { "_id": 1 }, "u": {} }], "$db": "d" });
    client.send(&update).await;
    peer.gets(&update).await;
    stage.bypass().turn_on();
    let done = reply(&update, &rawdoc! { "n": 1, "nModified": 1, "ok": 1.0 });
    peer.send(&done).await;
    client.gets(&done).await;
    assert_eq!(stage.kinds(), ["mark", "entry"], "it had been captured");

    // No `_id` is added, nothing waits for the whole frame, and the reply is not held.
    let insert = request(&rawdoc! { "insert": "c", "documents": [{ "a": 1 }], "$db": "d" });
    let (front, back) = insert.split_at(60);
    client.send(front).await;
    peer.gets(front).await;
    client.send(back).await;
    peer.gets(back).await;
    let done = reply(&insert, &rawdoc! { "n": 1, "ok": 1.0 });
    let (front, back) = done.split_at(30);
    peer.send(front).await;
    client.gets(front).await;
    peer.send(back).await;
    client.gets(back).await;
    until(|| stage.bypass().is_quiet()).await;
    assert_eq!(stage.kinds().len(), 2, "it was recorded");

    // A write without a reply is not fenced, and has ended when the next one is answered.
    let silent = request_with(
        &rawdoc! { "delete": "c", "deletes": [{ "q": {}, "limit": 0 }], "$db": "d" },
        Flags::MORE_TO_COME,
    );
    client.send(&silent).await;
    peer.gets(&silent).await;
    peer.gets_nothing().await;
    stage.bypass().turn_off();
    assert!(!stage.bypass().is_quiet());
    let update = request(&rawdoc! { "update": "c", "updates": [{ "q": { "_id": 1 }, "u": {} }], "$db": "d" });
    client.send(&update).await;
    peer.gets(&update).await;
    let done = reply(&update, &rawdoc! { "n": 1, "nModified": 1, "ok": 1.0 });
    peer.send(&done).await;
    client.gets(&done).await;
    until(|| stage.bypass().is_quiet()).await;
    assert_eq!(stage.kinds(), ["mark", "entry", "mark", "entry"], "capture is back");
}

#[tokio::test]
async fn a_bypassed_write_whose_end_nobody_saw_may_still_be_at_work() {
    let stage = capturing(|_| {}).await;
    stage.bypass().turn_on();
    let (mut client, mut peer) = stage.connect().await;
    let delete = request(&rawdoc! { "delete": "c", "deletes": [{ "q": {}, "limit": 0 }], "$db": "d" });
    client.send(&delete).await;
    peer.gets(&delete).await;
    drop(peer);
    client.ends().await;
    drop(client);
    until(|| stage.bypass().passing() == 0).await;
    assert!(!stage.bypass().is_quiet());
    assert!(stage.kinds().is_empty());
}
