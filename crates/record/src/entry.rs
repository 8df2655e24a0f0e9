//! Marks and entries: the two things that capture says about a write.

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Timestamp, rawdoc};

use crate::{Key, Namespace};

/// A write is about to be forwarded. In the log before its last byte leaves for mongod.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// What the write may touch, if its outcome never comes. A write whose documents the server names itself
    /// (an upsert without a pinned `_id`) says [`Touch::Namespace`].
    pub targets: Vec<Target>,
    /// Our end of the connection to mongod (`ip:port`): an orphan is in flight until mongod has lost it.
    pub via: String,
    /// In a transaction, which outlives its connection (`wire-facts.md` section 7).
    pub in_transaction: bool,
    /// The collections that it names may be gone by it.
    pub drops: bool,
    /// Wall clock in milliseconds since 1970: information, never order.
    pub at_ms: u64,
}

/// A captured write with its outcome. In the log before the client's acknowledgement leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Position of the mark that this entry ends.
    pub mark: u64,
    /// Why replaying is not known to have the same effect; `None`: certain.
    pub doubt: Option<Doubt>,
    /// The effects are those of one transaction: sent again, if at all, in one transaction.
    pub atomic: bool,
    /// The statements that took effect, or may have.
    pub effects: Vec<Effect>,
    /// The source's own time of the write, from a replica set.
    pub operation_time: Option<Timestamp>,
    /// Wall clock in milliseconds since 1970 when the reply was read.
    pub at_ms: u64,
}

/// One statement of a write.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    /// What it touched.
    pub target: Target,
    /// The statement, for replaying. Absent when it is not known or not kept.
    pub op: Option<Op>,
    /// Documents that it matched, inserted or deleted on the source; meaningful for certain entries only.
    /// 0: the reply had a total only, in which this statement may have a part.
    pub n: u32,
    /// Documents that it modified; unknown with `n`. A keyed update with `n` 1 and `modified` 0 has inserted.
    pub modified: u32,
}

/// Where a write landed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The namespace; a whole database for [`Touch::Database`].
    pub ns: Namespace,
    /// What in it.
    pub touch: Touch,
}

impl Target {
    /// The target `touch` in `ns`.
    pub fn new(ns: Namespace, touch: Touch) -> Target {
        Target { ns, touch }
    }
}

/// At least what may have changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Touch {
    /// The document with this `_id`.
    Key(Key),
    /// The documents that this filter matches.
    Predicate(Predicate),
    /// Any document of the namespace.
    Namespace,
    /// Any document of the database.
    Database,
}

/// A pure function of one document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Predicate {
    /// As in the command.
    pub filter: Raw,
    /// The statement's own collation.
    pub collation: Option<Raw>,
    /// The command's `let`.
    pub variables: Option<Raw>,
}

/// A raw document that can be compared and hashed by its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw(pub RawDocumentBuf);
impl Eq for Raw {}
impl std::hash::Hash for Raw {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.as_bytes().hash(state);
    }
}

/// A statement as it can be sent again.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// The document, with its `_id`.
    Insert(RawDocumentBuf),
    /// `{q, u, multi?, upsert?, collation?, arrayFilters?}`, as in the `update` command.
    Update(RawDocumentBuf),
    /// `{q, limit, collation?}`, as in the `delete` command.
    Delete(RawDocumentBuf),
    /// A command over whole collections, as [`Over::statement`] writes it.
    Over(RawDocumentBuf),
}

/// A command over whole collections, seen from the one that is gone by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// It was dropped.
    Drop,
    /// The database was dropped.
    DropDatabase,
    /// It has this name now, and whatever had it before is gone.
    Rename(Namespace),
}

impl Op {
    /// The statement, whatever it is.
    pub fn document(&self) -> &RawDocument {
        match self {
            Op::Insert(document) | Op::Update(document) | Op::Delete(document) | Op::Over(document) => {
                document
            }
        }
    }
}

impl Over {
    /// `{drop: 1}`, `{dropDatabase: 1}` or `{rename: "db.coll"}`.
    pub fn statement(&self) -> RawDocumentBuf {
        match self {
            Over::Drop => rawdoc! {"drop": 1},
            Over::DropDatabase => rawdoc! {"dropDatabase": 1},
            Over::Rename(to) => rawdoc! {"rename": to.as_str()},
        }
    }

    /// What such a statement says; `None`: it is none.
    pub fn read(statement: &RawDocument) -> Option<Over> {
        let (name, value) = statement.iter().next()?.ok()?;
        match name.as_str() {
            "drop" => Some(Over::Drop),
            "dropDatabase" => Some(Over::DropDatabase),
            "rename" => Some(Over::Rename(Namespace::parse(value.as_str()?))),
            _ => None,
        }
    }
}

macro_rules! doubts {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)+) => {
        /// Why a write is in doubt: a closed set, also a label of metrics.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Doubt { $($(#[$doc])* $name,)+ }
        impl Doubt {
            /// Every reason.
            pub const ALL: &'static [Doubt] = &[$(Doubt::$name,)+];
            /// Its name in the log, in metrics and in the report.
            pub fn code(self) -> &'static str { match self { $(Doubt::$name => $code,)+ } }
        }
    };
}
doubts! {
    /// Another write that may touch the same document was in flight at the same time.
    Contended = "contended",
    /// One document by a filter that does not name `_id`: which one is the server's choice.
    Predicate = "predicate",
    /// An operator or variable whose value is not in the command (`$currentDate`, `$$NOW`, `$rand`, …).
    NonDeterministic = "non_deterministic",
    /// The statement has a collation of its own or uses `let`.
    Context = "context",
    /// A `multi` statement failed; it may have changed documents all the same.
    MultiFailed = "multi_failed",
    /// The command failed in a way that may have applied part of it.
    CommandFailed = "command_failed",
    /// Part of a batch had no effect, the reply does not say which, and a statement of it is over many documents.
    PartOfBatch = "part_of_batch",
    /// No reply comes: `w:0`.
    Unacknowledged = "unacknowledged",
    /// The reply calls it a retry of an earlier write.
    Retried = "retried",
    /// The reply hides which document it was.
    HiddenId = "hidden_id",
    /// Part of a transaction.
    Transaction = "transaction",
    /// The reply never came.
    Orphan = "orphan",
    /// A command that is followed by namespace only.
    Coarse = "coarse",
    /// The same, and no document is changed by it: `create`, `collMod`, and the commands over indexes.
    Shape = "shape",
    /// The same, and the collections that it names may be gone by it: `drop`, `dropDatabase`, `renameCollection`.
    Dropped = "dropped",
    /// The log was too full to keep its statements, or took no record of it when it ended.
    NotKept = "not_kept",
}

impl Doubt {
    /// The reason with this code.
    pub fn from_code(code: &str) -> Option<Doubt> {
        Doubt::ALL.iter().copied().find(|doubt| doubt.code() == code)
    }
}
