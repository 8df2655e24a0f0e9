//! A small shop's traffic, seeded: what a real application writes, over the Rust driver.
//!
//! - collections `products`, `customers`, `orders`, `carts`, `sessions`, all addressed by `_id`; writes by predicate
//!   (about 2 %) go to collections of their own, `promotions…`, which nothing addresses by `_id`
//! - the same settings and seed give each client the same sequence of commands; how they interleave is up to chance
//! - some inserts repeat an `_id` on purpose: the server refuses these and the shop goes on
//! - run it once per database: it expects to find nothing there
//!
//! Not here: transactions, DDL, `w:0`, server-side time (`$currentDate`): each deserves a test of its own.

mod goods;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result};
use mongodb::Client;
use tokio::task::JoinSet;

use worker::Worker;

/// The traffic to make. `Shop { writes: 500, ..Shop::default() }.run(uri)`
#[derive(Clone, Debug)]
pub struct Shop {
    /// The database that it works in.
    pub database: String,
    /// Concurrent clients, each with connections of its own.
    pub clients: usize,
    /// Write commands, over all clients.
    pub writes: usize,
    /// Where all choices come from; it is part of every error.
    pub seed: u64,
    /// Whether clients meet on the same documents.
    pub keys: Keys,
    /// What a failed command means.
    pub on_error: OnError,
    /// Each client rests this long after each write.
    pub pause: Duration,
    /// Write commands done so far, for a progress display.
    pub done: Arc<AtomicU64>,
}

/// Whether clients meet on the same documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Each client has its own `_id`s, and its own collection for predicates.
    Disjoint,
    /// All clients work on the same documents, some of which are wanted more often.
    Shared,
}

/// What a failed command means. Refusals that the shop provokes itself are not failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The run fails.
    Stop,
    /// It is counted and the client goes on: for tests that kill something meanwhile.
    Count,
}

/// A kind of write command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the driver's call of that name, or a command of several statements")]
pub enum Kind {
    StockProducts,
    StockCustomers,
    Insert,
    InsertMany,
    InsertManyUnordered,
    Update,
    UpdatePush,
    Upsert,
    Replace,
    FindAndModify,
    FindAndRemove,
    Delete,
    BulkUpdate,
    BulkDelete,
    /// In turns an `insertMany`, an `updateMany` and a `deleteMany`; the last two are the writes by predicate.
    Promotion,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Write commands by kind, failed ones included.
    pub kinds: BTreeMap<Kind, u64>,
    /// Commands that read.
    pub reads: u64,
    /// Write commands that failed; what they did is unknown. Only with [`OnError::Count`].
    pub failed: u64,
}

impl Default for Shop {
    fn default() -> Shop {
        Shop {
            database: "shop".to_owned(),
            clients: 4,
            writes: 1000,
            seed: 1,
            keys: Keys::Shared,
            on_error: OnError::Stop,
            pause: Duration::ZERO,
            done: Arc::default(),
        }
    }
}

impl Shop {
    /// Makes the traffic through `uri` and returns when the last command was answered.
    pub async fn run(&self, uri: &str) -> Result<Tally> {
        let mut clients = JoinSet::new();
        for number in 0..self.clients {
            let client = Client::with_uri_str(uri).await.context("make a client")?;
            let share = self.writes / self.clients + usize::from(number < self.writes % self.clients);
            let worker = Worker::new(self.clone(), number, client.database(&self.database));
            clients.spawn(async move {
                let tally = worker.run(share).await;
                client.shutdown().immediate(true).await;
                tally
            });
        }
        let mut total = Tally::default();
        while let Some(ended) = clients.join_next().await {
            let tally = ended.context("a client's task")?;
            total.add(tally.with_context(|| format!("shop with seed {}", self.seed))?);
        }
        Ok(total)
    }
}

impl Tally {
    /// Write commands, failed ones included.
    pub fn writes(&self) -> u64 {
        self.kinds.values().sum()
    }

    fn add(&mut self, other: Tally) {
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        self.reads += other.reads;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} writes (", self.writes())?;
        for (index, (kind, count)) in self.kinds.iter().enumerate() {
            write!(f, "{}{kind:?} {count}", if index == 0 { "" } else { ", " })?;
        }
        write!(f, "), {} reads", self.reads)?;
        if self.failed > 0 { write!(f, ", {} of the writes failed", self.failed) } else { Ok(()) }
    }
}
