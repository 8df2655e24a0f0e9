//! What is recorded when the log is nearly full, full, or fails; and that nobody but the log notices.

use bson::rawdoc;
use record::{Doubt, Namespace, Record};
use synclog::Level;

use crate::stage::{End, Stage, capturing, reply, request, until};

fn update() -> Vec<u8> {
    request(
        &rawdoc! { "update": "c", "updates": [{ "q": { "_id": 1 }, "u": { "$set": { "x": 1 } } }], "$db": "d" },
    )
}

fn updated() -> bson::RawDocumentBuf {
    rawdoc! { "n": 1, "nModified": 1, "ok": 1.0 }
}

async fn ask(client: &mut End, peer: &mut End) -> Vec<u8> {
    let update = update();
    client.send(&update).await;
    peer.gets(&update).await;
    reply(&update, &updated())
}

async fn answer(client: &mut End, peer: &mut End, answer: &[u8]) {
    peer.send(answer).await;
    client.gets(answer).await;
}

fn last_entry(stage: &Stage) -> record::Entry {
    let Some(Record::Entry(entry)) = stage.records().pop() else { panic!("an entry is last") };
    entry
}

#[tokio::test]
async fn statements_are_kept_below_90_percent_and_what_was_touched_above() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    for (level, keeps) in
        [(Level::Normal, true), (Level::Warning, true), (Level::Tight, false), (Level::Normal, true)]
    {
        stage.set_level(level);
        let told = ask(&mut client, &mut peer).await;
        answer(&mut client, &mut peer, &told).await;
        let entry = last_entry(&stage);
        assert_eq!(entry.effects[0].op.is_some(), keeps, "{level:?}");
        assert_eq!(entry.doubt, (!keeps).then_some(Doubt::NotKept), "{level:?}");
    }
    assert_eq!(stage.capture().counters().touches_only, 1);
    assert!(stage.capture().take_missed().is_empty());
}

#[tokio::test]
async fn a_full_log_takes_no_marks_and_the_end_of_a_write_is_its_miss() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    // This one has its mark already: it gets its entry, so that the log can shrink.
    let told = ask(&mut client, &mut peer).await;
    stage.set_level(Level::Full);
    answer(&mut client, &mut peer, &told).await;
    assert_eq!(stage.kinds(), ["mark", "entry"]);
    assert_eq!(last_entry(&stage).doubt, Some(Doubt::NotKept));
    assert!(stage.capture().take_missed().is_empty());

    let told = ask(&mut client, &mut peer).await;
    assert_eq!(stage.noted(), ["d.c"], "before it reaches mongod");
    assert!(stage.capture().take_missed().is_empty(), "not before its end");
    assert_eq!(stage.capture().unrecorded().under_way, 1);
    answer(&mut client, &mut peer, &told).await;
    assert_eq!(stage.capture().take_missed().namespaces, [Namespace::new("d", "c")]);
    assert_eq!(stage.capture().unrecorded().under_way, 0);
    assert_eq!(stage.kinds(), ["mark", "entry"]);

    stage.set_level(Level::Normal);
    let told = ask(&mut client, &mut peer).await;
    answer(&mut client, &mut peer, &told).await;
    assert_eq!(stage.kinds(), ["mark", "entry", "mark", "entry"]);
    assert!(stage.capture().take_missed().is_empty());
}

#[tokio::test]
async fn an_orphan_of_a_full_log_is_missed_when_somebody_has_seen_its_end() {
    let mut stage = capturing(|_| {}).await;
    stage.set_level(Level::Full);
    let (mut client, mut peer) = stage.connect().await;
    ask(&mut client, &mut peer).await;
    drop(peer);
    client.ends().await;
    let orphan = stage.orphan().await;
    assert_eq!(orphan.mark, None);
    assert!(stage.capture().take_missed().is_empty());
    drop(orphan);
    assert_eq!(stage.capture().take_missed().namespaces, [Namespace::new("d", "c")]);
}

/// While its mark is open, nothing behind it is deleted: it gets its end as soon as the log takes records again.
#[tokio::test]
async fn a_mark_whose_entry_found_no_room_gets_its_end_later() {
    let stage = capturing(|_| {}).await;
    let (mut client, mut peer) = stage.connect().await;
    let told = ask(&mut client, &mut peer).await;
    stage.set_disk_full(true);
    answer(&mut client, &mut peer, &told).await;
    assert_eq!(stage.kinds(), ["mark"]);
    assert_eq!(stage.capture().take_missed().namespaces, [Namespace::new("d", "c")]);
    // And a write without a mark.
    let told = ask(&mut client, &mut peer).await;
    answer(&mut client, &mut peer, &told).await;
    assert_eq!(stage.capture().take_missed().namespaces, [Namespace::new("d", "c")]);
    stage.set_disk_full(false);
    until(|| stage.kinds() == ["mark", "entry"]).await;
    let entry = last_entry(&stage);
    assert_eq!((entry.mark, entry.doubt), (1, Some(Doubt::NotKept)));
    assert_eq!(entry.effects[0].target.touch, record::Touch::Namespace);
}

/// One write waits in the system for a device that does not answer; the others go on without the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_device_that_hangs_stops_one_write_and_not_the_others() {
    let stage = capturing(|_| {}).await;
    let (mut stuck, mut stuck_peer) = stage.connect().await;
    let (mut client, mut peer) = stage.connect().await;
    stage.set_disk_hangs(true);
    let held = update();
    stuck.send(&held).await;
    until(|| stage.disk_has_hung()).await;
    for _ in 0..3 {
        let told = ask(&mut client, &mut peer).await;
        answer(&mut client, &mut peer, &told).await;
    }
    assert_eq!(stage.capture().take_missed().namespaces, [Namespace::new("d", "c")]);
    stage.set_disk_hangs(false);
    stuck_peer.gets(&held).await;
    answer(&mut stuck, &mut stuck_peer, &reply(&held, &updated())).await;
    // At once, or a little later, if the log counted as hanging for one moment more.
    until(|| stage.kinds() == ["mark", "entry"]).await;
}
