//! The commands that are recorded: every shape of wire facts 5.2 and 5.3 that a server shows without being forced to.

mod collections;
mod documents;
mod sessions;

use bson::{Document, doc};

use collections::{refusals, shapes, writers};
use documents::{deletes, finds, inserts, updates};
use sessions::{encrypted, sessions, transactions};

/// Where a case is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Servers {
    Standalone,
    ReplicaSet,
    Both,
}

/// Commands on a fresh database.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) servers: Servers,
    pub(super) before: Vec<Document>,
    pub(super) commands: Vec<Document>,
}

pub(super) fn all() -> Vec<Case> {
    let standalone = [updates(), deletes(), shapes(), writers()].map(|cases| on(Servers::Standalone, cases));
    let replica_set = [sessions(), transactions(), encrypted()].map(|cases| on(Servers::ReplicaSet, cases));
    let both = [inserts(), finds(), refusals()];
    both.into_iter().chain(standalone).chain(replica_set).flatten().collect()
}

fn case(name: &'static str, before: Vec<Document>, commands: Vec<Document>) -> Case {
    Case { name, servers: Servers::Both, before, commands }
}

fn on(servers: Servers, cases: Vec<Case>) -> Vec<Case> {
    cases.into_iter().map(|case| Case { servers, ..case }).collect()
}

/// `_id` and `n` are 1, 2, 3; `s` is a text.
fn three() -> Vec<Document> {
    let documents: Vec<Document> = (1..=3).map(|id| doc! {"_id": id, "n": id, "s": "text"}).collect();
    vec![doc! {"insert": "items", "documents": documents}]
}

fn insert(documents: Vec<Document>) -> Document {
    doc! {"insert": "items", "documents": documents}
}

fn update(updates: Vec<Document>) -> Document {
    doc! {"update": "items", "updates": updates}
}

fn delete(deletes: Vec<Document>) -> Document {
    doc! {"delete": "items", "deletes": deletes}
}

fn find(fields: Document) -> Document {
    with(doc! {"findAndModify": "items"}, fields)
}

fn with(mut command: Document, fields: Document) -> Document {
    command.extend(fields);
    command
}
