//! One client of the shop: what it writes, and to which documents.

use std::ops::Range;
use std::sync::atomic::Ordering;

use anyhow::{Result, bail};
use bson::{Document, doc};
use fastrand::Rng;
use mongodb::action::Action;
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{Acknowledgment, ReturnDocument, WriteConcern};
use mongodb::{Collection, Database};

use super::goods;
use super::{Keys, Kind, OnError, Shop, Tally};

/// One client of the shop.
pub(super) struct Worker {
    shop: Shop,
    number: usize,
    rng: Rng,
    db: Database,
    /// Orders, sessions and promotions that this client has made.
    orders: u64,
    sessions: u64,
    promotions: u64,
}

impl Worker {
    pub(super) fn new(shop: Shop, number: usize, db: Database) -> Worker {
        let rng = Rng::with_seed(shop.seed.wrapping_mul(1000).wrapping_add(number as u64));
        Worker { shop, number, rng, db, orders: 0, sessions: 0, promotions: 0 }
    }

    pub(super) async fn run(mut self, writes: usize) -> Result<Tally> {
        let mut tally = Tally::default();
        for turn in 0..writes {
            let kind = match turn {
                0 => Kind::StockProducts,
                1 => Kind::StockCustomers,
                _ => self.draw(),
            };
            let outcome = self.write(kind).await;
            *tally.kinds.entry(kind).or_default() += 1;
            self.shop.done.fetch_add(1, Ordering::Relaxed);
            match (outcome, self.shop.on_error) {
                (Ok(()), _) => {}
                (Err(_), OnError::Count) => tally.failed += 1,
                (Err(error), OnError::Stop) => bail!("client {}, {kind:?}: {error}", self.number),
            }
            if self.rng.u8(0..4) == 0 {
                let id = goods::product_id(self.any());
                let read = self.collection("products").find_one(doc! { "_id": id }).await;
                tally.reads += u64::from(read.is_ok());
            }
            if !self.shop.pause.is_zero() {
                tokio::time::sleep(self.shop.pause).await;
            }
        }
        Ok(tally)
    }

    fn draw(&mut self) -> Kind {
        let mut point = self.rng.u32(0..MIX.iter().map(|(_, share)| share).sum());
        for (kind, share) in MIX {
            if point < share {
                return kind;
            }
            point -= share;
        }
        MIX[0].0
    }

    async fn write(&mut self, kind: Kind) -> Result<(), Error> {
        match kind {
            Kind::StockProducts => {
                let all: Vec<Document> =
                    self.own().map(|index| goods::product(&mut self.rng, index)).collect();
                self.insert_new("products", all).await?;
            }
            Kind::StockCustomers => {
                let all: Vec<Document> =
                    self.own().map(|index| goods::customer(&mut self.rng, index)).collect();
                self.insert_new("customers", all).await?;
            }
            Kind::Insert => {
                let order = self.new_order();
                let orders = self.collection("orders");
                // One in 25 wants to be on disk before it is acknowledged.
                let concern = (self.rng.u8(0..25) == 0)
                    .then(|| WriteConcern::builder().w(Acknowledgment::Nodes(1)).journal(true).build());
                orders
                    .insert_one(order)
                    .optional(concern, |insert, concern| insert.write_concern(concern))
                    .await?;
            }
            Kind::InsertMany => {
                let orders: Vec<Document> = (0..self.rng.usize(3..9)).map(|_| self.new_order()).collect();
                self.collection("orders").insert_many(orders).await?;
            }
            Kind::InsertManyUnordered => self.insert_sessions().await?,
            Kind::Update => {
                let id = goods::product_id(self.any());
                let bought = self.rng.i32(1..5);
                let change = doc! {
                    "$inc": { "stock": -bought, "sold": i64::from(bought) },
                    "$set": { "last.order": goods::date(&mut self.rng), "last.by": self.number as i32 },
                };
                self.collection("products").update_one(doc! { "_id": id }, change).await?;
            }
            Kind::UpdatePush => {
                let id = goods::customer_id(self.any());
                let visit = doc! { "at": goods::date(&mut self.rng), "page": goods::word(&mut self.rng) };
                let change = doc! {
                    "$push": { "seen": { "$each": [visit], "$slice": -5 } },
                    "$inc": { "visits": 1 },
                };
                self.collection("customers").update_one(doc! { "_id": id }, change).await?;
            }
            Kind::Upsert => {
                let id = goods::cart_id(self.any());
                let change = doc! {
                    "$push": { "lines": goods::line(&mut self.rng) },
                    "$set": { "changed": goods::date(&mut self.rng) },
                    "$setOnInsert": { "opened": goods::date(&mut self.rng) },
                };
                self.collection("carts").update_one(doc! { "_id": id }, change).upsert(true).await?;
            }
            Kind::Replace => {
                let index = self.any();
                let customer = goods::customer(&mut self.rng, index);
                let by_id = doc! { "_id": goods::customer_id(index) };
                self.collection("customers").replace_one(by_id, customer).upsert(true).await?;
            }
            Kind::FindAndModify => {
                let by_id = doc! { "_id": self.some_order() };
                let change =
                    doc! { "$set": { "status": "paid" }, "$push": { "history": goods::word(&mut self.rng) } };
                let orders = self.collection("orders");
                orders.find_one_and_update(by_id, change).return_document(ReturnDocument::After).await?;
            }
            Kind::FindAndRemove => {
                let by_id = doc! { "_id": goods::cart_id(self.any()) };
                self.collection("carts").find_one_and_delete(by_id).await?;
            }
            Kind::Delete => match self.rng.bool() {
                true => {
                    let by_id = doc! { "_id": self.some_order() };
                    self.collection("orders").delete_one(by_id).await?;
                }
                false => {
                    let by_id = doc! { "_id": self.some_session() };
                    self.collection("sessions").delete_one(by_id).await?;
                }
            },
            Kind::BulkUpdate => self.bulk().await?,
            Kind::BulkDelete => {
                let deletes: Vec<Document> =
                    (0..3).map(|_| doc! { "q": { "_id": self.some_order() }, "limit": 1 }).collect();
                self.db
                    .run_command(doc! { "delete": "orders", "deletes": deletes, "ordered": false })
                    .await?;
            }
            Kind::Promotion => self.promote().await?,
        }
        Ok(())
    }

    /// Several updates and an upsert in one command, each by `_id`.
    async fn bulk(&mut self) -> Result<(), Error> {
        let mut updates: Vec<Document> = (0..self.rng.usize(2..6))
            .map(|_| {
                let by_id = doc! { "_id": goods::product_id(self.any()) };
                doc! { "q": by_id, "u": { "$set": { "tags": [goods::word(&mut self.rng)] }, "$inc": { "stock": 10 } } }
            })
            .collect();
        let index = self.any();
        let product = goods::product(&mut self.rng, index);
        updates.push(doc! { "q": { "_id": goods::product_id(index) }, "u": product, "upsert": true });
        let ordered = self.rng.bool();
        self.db.run_command(doc! { "update": "products", "updates": updates, "ordered": ordered }).await?;
        Ok(())
    }

    /// A few new sessions, unordered; sometimes one that exists already, which the server refuses alone.
    async fn insert_sessions(&mut self) -> Result<(), Error> {
        let mut sessions: Vec<Document> = (0..self.rng.usize(2..6))
            .map(|_| {
                self.sessions += 1;
                goods::session(&mut self.rng, goods::session_id(self.number, self.sessions))
            })
            .collect();
        if self.rng.u8(0..4) == 0 {
            let again = sessions[0].clone();
            sessions.insert(1, again);
        }
        self.insert_new("sessions", sessions).await
    }

    /// Unordered; documents that exist already are refused one by one. Shared shelves may have been filled by upserts
    /// of others before their owner comes to stock them.
    async fn insert_new(&self, collection: &str, documents: Vec<Document>) -> Result<(), Error> {
        match self.collection(collection).insert_many(documents).ordered(false).await {
            Err(error) if !only_duplicates(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// In turns: some promotions, a change of those that match, an end of those that match.
    async fn promote(&mut self) -> Result<(), Error> {
        let promotions = match self.shop.keys {
            Keys::Disjoint => self.collection(&format!("promotions{}", self.number)),
            Keys::Shared => self.collection("promotions"),
        };
        let turn = self.promotions;
        let round = (turn / 3) as i64;
        self.promotions += 1;
        let ours = doc! { "client": self.number as i32, "round": round };
        match turn % 3 {
            0 => {
                let client = self.number as i32;
                let new = |n: i32| {
                    doc! {
                        "_id": format!("{client}/{round}/{n}"), "client": client, "round": round, "percent": n * 10,
                    }
                };
                promotions.insert_many((1..=6).map(new)).await?;
            }
            1 => {
                let mut cheap = ours;
                cheap.insert("percent", doc! { "$lte": 30 });
                promotions
                    .update_many(cheap, doc! { "$mul": { "percent": 2 }, "$set": { "again": true } })
                    .await?;
            }
            _ => {
                let mut over = ours;
                over.insert("percent", doc! { "$gte": 50 });
                promotions.delete_many(over).await?;
            }
        }
        Ok(())
    }

    fn collection(&self, name: &str) -> Collection<Document> {
        self.db.collection(name)
    }

    /// The products, customers and carts that this client puts on the shelves.
    fn own(&self) -> Range<u64> {
        let first = self.number as u64 * INDEXES_PER_CLIENT;
        first..first + INDEXES_PER_CLIENT
    }

    /// One of those that this client works on; where they are shared, low ones twice as often.
    fn any(&mut self) -> u64 {
        match self.shop.keys {
            Keys::Disjoint => self.rng.u64(self.own()),
            Keys::Shared => {
                let all = self.shop.clients as u64 * INDEXES_PER_CLIENT;
                self.rng.u64(0..all).min(self.rng.u64(0..all))
            }
        }
    }

    fn new_order(&mut self) -> Document {
        self.orders += 1;
        let customer = self.any();
        goods::order(&mut self.rng, goods::order_id(self.number, self.orders), customer)
    }

    /// An order that was most probably made, and may be gone again.
    fn some_order(&mut self) -> Document {
        goods::order_id(self.some_client(), self.rng.u64(0..=self.orders))
    }

    fn some_session(&mut self) -> bson::Binary {
        goods::session_id(self.some_client(), self.rng.u64(0..=self.sessions))
    }

    fn some_client(&mut self) -> usize {
        match self.shop.keys {
            Keys::Disjoint => self.number,
            Keys::Shared => self.rng.usize(0..self.shop.clients),
        }
    }
}

fn only_duplicates(error: &Error) -> bool {
    let ErrorKind::InsertMany(failed) = error.kind.as_ref() else { return false };
    failed.write_concern_error.is_none()
        && failed.write_errors.iter().flatten().all(|refused| refused.code == DUPLICATE_KEY)
}

/// What is written how often, in percent. Two of three promotions are writes by predicate.
const MIX: [(Kind, u32); 13] = [
    (Kind::Insert, 20),
    (Kind::InsertMany, 4),
    (Kind::InsertManyUnordered, 5),
    (Kind::Update, 19),
    (Kind::UpdatePush, 8),
    (Kind::Upsert, 14),
    (Kind::Replace, 4),
    (Kind::FindAndModify, 7),
    (Kind::FindAndRemove, 3),
    (Kind::Delete, 6),
    (Kind::BulkDelete, 2),
    (Kind::BulkUpdate, 5),
    (Kind::Promotion, 3),
];
const INDEXES_PER_CLIENT: u64 = 100;
const DUPLICATE_KEY: i32 = 11000;
