//! A real replica set of one or three members on this machine.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::Client;
use tokio::time::timeout;

use crate::mongod::{Mongod, Options};
use crate::wait_for;

/// A replica set with a primary that commits majority writes. All members end when it is dropped.
#[derive(Debug)]
pub struct ReplicaSet {
    members: Vec<Mongod>,
}

impl ReplicaSet {
    /// Starts and initiates `n` members (1 or 3) and waits for a primary whose majority write is confirmed.
    pub async fn start(n: usize) -> Result<ReplicaSet> {
        ReplicaSet::start_with(n, &[]).await
    }

    /// The same with more arguments for every member's command line.
    pub async fn start_with(n: usize, args: &[&str]) -> Result<ReplicaSet> {
        ensure!(n == 1 || n == 3, "a replica set here has 1 or 3 members, not {n}");
        let mut members = Vec::with_capacity(n);
        for _ in 0..n {
            let args = args.iter().map(|&arg| arg.to_owned()).collect();
            let options = Options { repl_set: Some(NAME.to_owned()), args, ..Options::default() };
            members.push(Mongod::launch(options).await?);
        }
        let set = ReplicaSet { members };
        set.initiate().await.context("initiate the replica set")?;
        set.wait_for_primary().await?;
        Ok(set)
    }

    /// A connection string with every member and `replicaSet=`.
    pub fn uri(&self) -> String {
        let addresses: Vec<String> = self.members.iter().map(Mongod::address).collect();
        format!("mongodb://{}/?replicaSet={NAME}", addresses.join(","))
    }

    /// A new client of the whole set. It belongs to the calling runtime.
    pub async fn client(&self) -> Result<Client> {
        Client::with_uri_str(self.uri()).await.context("make a client")
    }

    /// The members, in the order of their addresses in [`ReplicaSet::uri`].
    pub fn members(&self) -> &[Mongod] {
        &self.members
    }

    /// The members, to stop, kill, pause and start them one by one.
    pub fn members_mut(&mut self) -> &mut [Mongod] {
        &mut self.members
    }

    /// Stops every member in order and keeps their data.
    pub async fn stop(&mut self) -> Result<()> {
        for member in &mut self.members {
            member.stop().await?;
        }
        Ok(())
    }

    /// Kills every member (SIGKILL) and keeps their data as a crash would leave them.
    pub fn kill(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(Mongod::kill)
    }

    /// Starts every member that does not run, and waits for a primary.
    pub async fn resume(&mut self) -> Result<()> {
        for member in &mut self.members {
            member.start().await?;
        }
        self.wait_for_primary().await
    }

    /// The index of the member that is primary now.
    pub async fn primary(&self) -> Result<usize> {
        wait_for("a primary", ELECTION_MAX, async || self.find_primary().await).await
    }

    /// Makes the primary step down and waits until a primary takes majority writes again (with one member: itself).
    pub async fn step_down(&self) -> Result<()> {
        let primary = self.members[self.primary().await?].client().await?;
        let command = doc! { "replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 2, "force": true };
        primary.database("admin").run_command(command).await.context("step the primary down")?;
        primary.shutdown().immediate(true).await;
        self.wait_for_primary().await
    }

    /// Waits until a write through the whole set's URI is majority-committed. It leaves a note in the oplog and
    /// nothing in any database.
    pub async fn wait_for_primary(&self) -> Result<()> {
        self.primary().await?;
        let client = self.client().await?;
        let note = doc! {
            "appendOplogNote": 1, "data": { "testkit": "majority?" },
            "writeConcern": { "w": "majority", "wtimeout": 5000 },
        };
        wait_for("a majority-committed write", ELECTION_MAX, async || {
            let answer = client.database("admin").run_command(note.clone()).await;
            Ok(answer.ok().filter(|answer| !answer.contains_key("writeConcernError")))
        })
        .await?;
        client.shutdown().immediate(true).await;
        Ok(())
    }

    async fn initiate(&self) -> Result<()> {
        let members: Vec<Document> = (0..)
            .zip(&self.members)
            .map(|(id, member): (i32, _)| doc! { "_id": id, "host": member.address() })
            .collect();
        let config = doc! {
            "_id": NAME, "members": members,
            // Elections in about a second instead of ten; a set on one machine hears of a death at once.
            "settings": { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200 },
        };
        let client = self.members[0].client().await?;
        client.database("admin").run_command(doc! { "replSetInitiate": config }).await?;
        client.shutdown().immediate(true).await;
        Ok(())
    }

    async fn find_primary(&self) -> Result<Option<usize>> {
        for (index, member) in self.members.iter().enumerate() {
            if member.pid().is_none() {
                continue;
            }
            let client = member.client().await?;
            let admin = client.database("admin");
            // A paused member never answers; the others must still be asked.
            let hello = timeout(HELLO_MAX, admin.run_command(doc! { "hello": 1 })).await;
            client.shutdown().immediate(true).await;
            if matches!(hello, Ok(Ok(hello)) if hello.get_bool("isWritablePrimary").unwrap_or(false)) {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }
}

const NAME: &str = "rs";
const HELLO_MAX: Duration = Duration::from_secs(2);
const ELECTION_MAX: Duration = Duration::from_secs(60);
