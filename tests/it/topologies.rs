//! Drivers find what they would find without us: one server, a replica set behind one listener for each member, a load
//! balancer's service; and none of their connections goes past us.

mod bypass;
mod failover;
mod rollback;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc, rawdoc};
use futures_util::TryStreamExt as _;
use mongodb::error::ErrorKind;
use mongodb::options::{ClientOptions, ReadPreference, SelectionCriteria};
use mongodb::{Client, Collection};
use testkit::{Builder, Dualsync, Mongod, ReplicaSet, compare, wait_for};

use crate::bad_input::raw::{self, Socket, must};
use crate::support::{BIN, DRAIN_MAX, Source, Stage};

/// A replica set of three with a listener before some of its members, and a target.
struct Trio {
    // First, so that it is dropped before the servers: their going must not be what it complains of.
    dualsync: Dualsync,
    set: ReplicaSet,
    target: ReplicaSet,
}

impl Trio {
    /// With listeners before the first `listeners` members.
    async fn start(listeners: usize, change: impl FnOnce(Builder) -> Builder) -> Result<Trio> {
        let (set, target) = tokio::try_join!(ReplicaSet::start(3), ReplicaSet::start(1))?;
        let members: Vec<String> = set.members().iter().map(Mongod::address).take(listeners).collect();
        let builder = Dualsync::builder(BIN).local(set.uri()).atlas(target.uri()).members(members);
        let dualsync = change(builder).start().await?;
        Ok(Trio { dualsync, set, target })
    }

    /// A connection string with every listener and `replicaSet=`.
    fn uri(&self) -> String {
        format!("{}?replicaSet=rs", self.dualsync.uri())
    }

    async fn assert_equal(&self) -> Result<()> {
        self.dualsync.wait_drained(DRAIN_MAX).await?;
        let comparison = compare::databases(&self.set.client().await?, &self.target.client().await?).await?;
        ensure!(comparison.equal(), "source and target differ:\n{comparison}");
        let report = self.dualsync.report().await?;
        ensure!(report["namespaces"]["dirty"].as_array().is_some_and(Vec::is_empty), "{report:#}");
        Ok(())
    }
}

/// What the server at `address` tells a client that says hello.
async fn hello(address: &str) -> Result<Document> {
    must(&mut Socket::connect(address).await?, &rawdoc! {"hello": 1, "$db": "admin"}).await
}

fn texts(reply: &Document, field: &str) -> Result<Vec<String>> {
    let values = reply.get_array(field).with_context(|| format!("no {field} in {reply}"))?;
    Ok(values.iter().filter_map(|value| value.as_str().map(ToOwned::to_owned)).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_behind_three_listeners() -> Result<()> {
    let trio = Trio::start(3, |builder| builder).await?;
    let listeners = trio.dualsync.listeners();
    let primary = &listeners[trio.set.primary().await?];
    for (listener, member) in listeners.iter().zip(trio.set.members()) {
        let (through, direct) = (hello(listener).await?, hello(&member.address()).await?);
        ensure!(texts(&through, "hosts")? == listeners, "{through}");
        ensure!(through.get_str("me")? == listener && through.get_str("primary")? == primary, "{through}");
        // Nothing else: the same fields in the same order, and those that do not change are equal.
        let names = |reply: &Document| reply.keys().cloned().collect::<Vec<_>>();
        ensure!(names(&through) == names(&direct), "{through}\n{direct}");
        for name in
            ["setName", "setVersion", "electionId", "isWritablePrimary", "secondary", "maxWireVersion"]
        {
            ensure!(through.get(name) == direct.get(name), "{name}: {through}\n{direct}");
        }
    }

    // Every way to begin leads to the whole set.
    for uri in [trio.uri(), trio.dualsync.uri(), format!("mongodb://{}/?replicaSet=rs", listeners[1])] {
        let things: Collection<Document> =
            Client::with_uri_str(&uri).await?.database("trio").collection("things");
        things.insert_one(doc! {"by": &uri}).await?;
        let secondary = SelectionCriteria::ReadPreference(ReadPreference::Secondary { options: None });
        wait_for("a secondary to have it", DRAIN_MAX, async || {
            let seen = things.find_one(doc! {"by": &uri}).selection_criteria(secondary.clone()).await?;
            Ok(seen.map(drop))
        })
        .await?;
    }
    // And one with directConnection to that member, whatever it is.
    for (listener, member) in listeners.iter().zip(trio.set.members()) {
        let direct = |address: &str| format!("mongodb://{address}/?directConnection=true&retryWrites=false");
        let (here, there) = (direct(listener), direct(&member.address()));
        let outcome = async |uri: String, id: i32| -> Result<Option<i32>> {
            let things: Collection<Document> =
                Client::with_uri_str(uri).await?.database("trio").collection("direct");
            Ok(things.insert_one(doc! {"_id": id}).await.err().map(|error| match *error.kind {
                ErrorKind::Command(error) => error.code,
                _ => -1,
            }))
        };
        let (through, past) = (outcome(here, 1).await?, outcome(there, 1).await?);
        let expected = if listener == primary { (None, Some(-1)) } else { (Some(10107), Some(10107)) };
        ensure!((through, past) == expected, "{listener}: {through:?}, directly {past:?}");
    }
    silent_writes_on_a_secondary(&trio).await?;
    trio.assert_equal().await
}

/// wire-facts 3: `w: 0` on a member that is not primary closes the connection, and nothing is written.
async fn silent_writes_on_a_secondary(trio: &Trio) -> Result<()> {
    let primary = trio.set.primary().await?;
    let secondary = (primary + 1) % trio.set.members().len();
    let command =
        rawdoc! {"insert": "direct", "documents": [{"_id": 7}], "writeConcern": {"w": 0}, "$db": "trio"};
    let silent = raw::op_msg(raw::MORE_TO_COME, &raw::body(&command));
    let ping = raw::op_msg(0, &raw::body(&rawdoc! {"ping": 1, "$db": "admin"}));
    let bytes = [&ping[..], &silent, &ping].concat();
    let past = raw::answer(&trio.set.members()[secondary].address(), &bytes).await?;
    let through = raw::answer(&trio.dualsync.listeners()[secondary], &bytes).await?;
    ensure!(through == past, "{through:?}, directly {past:?}");
    let direct = trio.set.client().await?.database("trio").collection::<Document>("direct");
    ensure!(direct.find_one(doc! {"_id": 7}).await?.is_none(), "it was written");
    Ok(())
}

/// wire-facts 2.3: clients would go to it directly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_a_listener_is_hidden() -> Result<()> {
    // One of them spelled as nobody does it.
    let (set, target) = tokio::try_join!(ReplicaSet::start(3), ReplicaSet::start(1))?;
    let mut members: Vec<String> = set.members().iter().map(Mongod::address).collect();
    members.pop();
    let dualsync = Dualsync::builder(BIN)
        .local(set.uri())
        .atlas(target.uri())
        .members(members)
        .env("DUALSYNC_TELEMETRY_LEVEL", "info")
        .start()
        .await?;
    let listeners = dualsync.listeners();
    let primary = set.primary().await?;
    for listener in &listeners {
        let reply = hello(listener).await?;
        ensure!(texts(&reply, "hosts")? == listeners, "{reply}");
        let named = reply.get_str("primary").ok().map(ToOwned::to_owned);
        ensure!(named.as_ref() == listeners.get(primary), "{reply}");
    }
    Ok(())
}

/// A name that the set does not use would hide the member from clients of the other listeners.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_under_a_wrong_name_is_told() -> Result<()> {
    let (set, target) = tokio::try_join!(ReplicaSet::start(1), ReplicaSet::start(1))?;
    let wrong = set.members()[0].address().replace("127.0.0.1", "localhost");
    let dualsync = Dualsync::builder(BIN)
        .local(set.uri())
        .atlas(target.uri())
        .members([wrong.clone()])
        .expect_warning("the server calls itself otherwise than member says")
        .start()
        .await?;
    // This listener's own clients are well served all the same.
    let reply = hello(&dualsync.proxy_address()).await?;
    ensure!(texts(&reply, "hosts")? == dualsync.listeners(), "{reply}");
    let line = dualsync.wait_for_log("the server calls itself otherwise", DRAIN_MAX).await?;
    ensure!(line.contains(&wrong) && line.contains(&set.members()[0].address()), "{line}");
    Ok(())
}

/// An error is of the same kind, and says the same but for addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_strings_that_do_not_fit_fail_as_without_the_proxy() -> Result<()> {
    for (source, options) in [
        (Source::replica_set().await?, &["?replicaSet=other", "?directConnection=true&replicaSet=other"][..]),
        (Source::standalone().await?, &["?replicaSet=rs", "?loadBalanced=true"]),
    ] {
        let stage = Stage::start(source).await?;
        let direct = match &stage.source {
            Source::Standalone(mongod) => mongod.address(),
            Source::ReplicaSet(set) => set.members()[0].address(),
        };
        let proxy = stage.dualsync.proxy_address();
        for options in options {
            let failure = async |address: &str| -> Result<String> {
                let mut parsed = ClientOptions::parse(format!("mongodb://{address}/{options}")).await?;
                parsed.server_selection_timeout = Some(Duration::from_secs(1));
                let error = Client::with_options(parsed)?.database("x").run_command(doc! {"ping": 1}).await;
                let error = error.err().with_context(|| format!("{options} works at {address}"))?;
                Ok(steady(&error.to_string().replace(address, "SERVER")))
            };
            let (through, past) = tokio::try_join!(failure(&proxy), failure(&direct))?;
            println!("{options}: {through}");
            ensure!(through == past, "{options}: {through}\ndirectly: {past}");
        }
    }
    Ok(())
}

/// Without the times of a round trip.
fn steady(text: &str) -> String {
    text.split(", ").filter(|part| !part.contains("RTT")).collect::<Vec<_>>().join(", ")
}

/// wire-facts 2.3: transactions and retryable writes work, over one pool and without monitors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_set_as_a_load_balanced_service() -> Result<()> {
    let stage = Stage::start(Source::replica_set().await?).await?;
    let uri = format!("{}?loadBalanced=true", stage.dualsync.uri());
    let client = Client::with_uri_str(&uri).await?;
    let accounts: Collection<Document> = client.database("service").collection("accounts");
    accounts.insert_many((1..=3).map(|id| doc! {"_id": id, "n": 10})).await?;
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    accounts.update_one(doc! {"_id": 1}, doc! {"$inc": {"n": -5}}).session(&mut session).await?;
    accounts.update_one(doc! {"_id": 2}, doc! {"$inc": {"n": 5}}).session(&mut session).await?;
    session.commit_transaction().await?;
    let updated = accounts.find_one_and_delete(doc! {"_id": 3}).await?;
    ensure!(updated == Some(doc! {"_id": 3, "n": 10}), "{updated:?}");
    stage.assert_equal().await?;
    Ok(())
}

/// mongod itself counts who waits in a stream of hellos.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streamed_hellos_stay_streamed() -> Result<()> {
    let stage = Stage::start(Source::replica_set().await?).await?;
    let direct = stage.source.client().await?;
    let streams = async || -> Result<i32> {
        let status = direct.database("admin").run_command(doc! {"serverStatus": 1}).await?;
        let connections = status.get_document("connections")?;
        Ok(connections.get_i32("exhaustHello")? + connections.get_i32("exhaustIsMaster")?)
    };
    let status = async || -> Result<BTreeMap<String, f64>> { stage.dualsync.metrics().await };
    // Our own drivers' and the target's streams do not come and go.
    let before = wait_for("the streams that are there already", DRAIN_MAX, async || {
        let first = streams().await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok((streams().await? == first).then_some(first))
    })
    .await?;
    let client = stage.dualsync.client().await?;
    client.database("x").run_command(doc! {"ping": 1}).await?;
    wait_for("the client's stream", DRAIN_MAX, async || Ok((streams().await? == before + 1).then_some(())))
        .await?;
    ensure!(status().await?["dualsync_proxy_connections"] >= 2.0, "the monitor is not behind the proxy");
    Ok(())
}

/// What the driver compresses is captured like anything else, and mongod says that it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_compressor_is_used_and_read() -> Result<()> {
    let stage = Stage::start(Source::replica_set().await?).await?;
    let direct = stage.source.client().await?;
    for compressor in ["snappy", "zlib", "zstd"] {
        let used = async || -> Result<[i64; 2]> {
            let status = direct.database("admin").run_command(doc! {"serverStatus": 1}).await?;
            let one =
                status.get_document("network")?.get_document("compression")?.get_document(compressor)?;
            let bytes = |side: &str| Ok::<_, anyhow::Error>(one.get_document(side)?.get_i64("bytesIn")?);
            Ok([bytes("compressor")?, bytes("decompressor")?])
        };
        let before = used().await?;
        let uri = format!("{}?compressors={compressor}", stage.dualsync.uri());
        let client = Client::with_uri_str(uri).await?;
        let things: Collection<Document> = client.database("packed").collection(compressor);
        let text = "the same again and again ".repeat(200);
        things.insert_many((0..200).map(|id| doc! {"_id": id, "text": &text})).await?;
        things.update_one(doc! {"_id": 7}, doc! {"$set": {"text": "short"}}).await?;
        things.delete_one(doc! {"_id": 8}).await?;
        // Drivers add an _id; this one goes as it is.
        let raw = doc! {"insert": compressor, "documents": [{"n": 1, "text": &text}, {"_id": 900}]};
        client.database("packed").run_command(raw).await?;
        let mut session = client.start_session().await?;
        session.start_transaction().await?;
        things.insert_one(doc! {"_id": 1000, "text": &text}).session(&mut session).await?;
        session.commit_transaction().await?;
        let found: Vec<Document> = things.find(doc! {"text": &text}).await?.try_collect().await?;
        ensure!(found.len() == 200, "{compressor}");
        let after = used().await?;
        let grown = [after[0] - before[0], after[1] - before[1]];
        println!("{compressor}: {grown:?} bytes in replies, and in requests when packed");
        ensure!(grown[0] > 1_000_000 && grown[1] > 1_000, "{compressor} was not used: {grown:?}");
    }
    a_packed_stream(&stage).await?;
    stage.assert_equal().await?;
    stage.assert_followed().await?;
    Ok(())
}

/// wire-facts 3: an exhaust cursor's replies come without being asked for; compressed, they tell inside only whether
/// another one follows. A write behind them waits for the last one.
async fn a_packed_stream(stage: &Stage) -> Result<()> {
    let mut socket = Socket::connect(&stage.dualsync.proxy_address()).await?;
    let find = rawdoc! {"find": "zlib", "batchSize": 10, "$db": "packed"};
    let first = socket.ask(&find).await?;
    let id = first.get_document("cursor")?.get_i64("id")?;
    let more = rawdoc! {"getMore": id, "collection": "zlib", "batchSize": 10, "$db": "packed"};
    let more = raw::compressed(&raw::op_msg(raw::EXHAUST_ALLOWED, &raw::body(&more)));
    let insert = rawdoc! {"insert": "zlib", "documents": [{"_id": 2000}], "$db": "packed"};
    socket.send(&[more, raw::compressed(&raw::op_msg(0, &raw::body(&insert)))].concat()).await?;
    let mut batches = 0;
    loop {
        let frame = socket.reply_frame(DRAIN_MAX).await?;
        ensure!(frame[12..16] == raw::OP_COMPRESSED.to_le_bytes(), "not compressed");
        batches += 1;
        let inside = raw::inside(frame)?;
        if inside[16] & 2 == 0 {
            break;
        }
    }
    ensure!(batches >= 19, "{batches} batches");
    ensure!(socket.reply(DRAIN_MAX).await?.get_i32("n")? == 1, "the write behind the stream");
    Ok(())
}
