//! Which replies with `ok: 0` say that nothing was applied (`wire-facts.md` 5.3). Whatever is in no list here may have
//! been applied in part.

use bson::raw::RawDocument;

use super::Job;
use crate::read::{field, integer};

/// Which `ok: 0` replies say that a command which is followed by namespace did nothing (`wire-facts.md` 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusals {
    /// Few: `$merge` fails midway with almost any code.
    Aggregate,
    /// Those, and that there is no such collection.
    Several,
    /// Those, and whatever blames the request: one change, or a batch that could not be read.
    Single,
    /// The same. What the command names may be gone by it.
    Drop,
    /// The same, and what is wrong with options or indexes: they are changed as a whole or not at all.
    Shape,
}

impl Job {
    /// Whether this `ok: 0` says that nothing was applied (`wire-facts.md` 5.3).
    pub(crate) fn was_refused(&self, body: &RawDocument) -> bool {
        let Some(code) = integer(body, "code") else { return false };
        if BEFORE_ANYTHING.contains(&code) {
            return true;
        }
        let of_request = BEFORE_STATEMENTS.contains(&code) || (40_400..40_500).contains(&code);
        match self {
            //= findAndModify, any ok:0: a single document, atomic
            Job::FindAndModify { .. } => true,
            Job::Batch(batch) => {
                let lone = batch.statements.len() == 1 && batch.statements.iter().all(|each| !each.many);
                of_request || lone && AT_ENTRY.contains(&code)
            }
            Job::Bulk(bulk) => of_request || bulk.is_single() && AT_ENTRY.contains(&code),
            //= applyOps says with `ok: 0` how far it came (wire-facts.md section 4)
            Job::Coarse { .. } | Job::Anywhere(_) if field(body, "applied").is_some() => false,
            Job::Coarse { refusals, .. } | Job::Anywhere(refusals) => match refusals {
                Refusals::Aggregate => false,
                Refusals::Several => ABSENT.contains(&code),
                Refusals::Single | Refusals::Drop => ABSENT.contains(&code) || of_request,
                Refusals::Shape => ABSENT.contains(&code) || OF_SHAPE.contains(&code) || of_request,
            },
            Job::Unreadable | Job::Packed => UNREADABLE.contains(&code),
            Job::End(_) | Job::NotReplicated(_) => false,
        }
    }
}

/// Checked before anything runs, whatever the command (`wire-facts.md` 5.3): unauthorized, authentication failed,
/// illegal operation, no such cursor, no such command, older or no such transaction, not in a transaction, no such
/// API version, not in this one, not in OP_QUERY, overload, field twice, missing or unknown, no `$db`,
/// `txnNumber` where none may be, a namespace that transactions may not touch.
const BEFORE_ANYTHING: &[i64] =
    &[13, 18, 20, 43, 59, 225, 251, 263, 322, 323, 352, 462, 40_413, 40_414, 40_415, 40_571, 50_768, 50_791];
/// A message that the server could not read (all seen on 6.0.5): a section that is longer than the rest; BSON that
/// lies about its length; two bodies; a sequence twice, also in the body; a section kind; no body; no room for a
/// checksum.
const UNREADABLE: &[i64] = &[15, 22, 40_430, 40_431, 40_432, 40_433, 40_587, 51_252];
/// Checked before a batch runs; in the middle of one they come as `writeErrors`. A `$merge` fails midway with them, also
/// with 10334: a document that it makes up is too large, as a body may be.
/// 10065: an object was expected, 4886600: `apiStrict` without a version, 5916400: no buckets (seen on 6.0.5).
const BEFORE_STATEMENTS: &[i64] =
    &[2, 9, 14, 16, 72, 73, 117, 166, 10_065, 10_334, 40_587, 4_886_600, 5_916_400];
/// Of one statement, before it looks at any document: a variable that is not defined, many documents with a
/// `txnNumber`, a view (all seen on 6.0.5). A wrong operator's 2 and 9 may also come midway.
pub(crate) const BEFORE_DOCUMENTS: &[i64] = &[72, 166, 17_276];
/// A collection that a command over collections needs is not there, or is there already.
const ABSENT: &[i64] = &[26, 48];
/// `createIndexes`: documents that clash, or cannot be indexed; options that clash (`wire-facts.md` 5.3: the indexes are
/// unchanged). `dropIndexes`: there is none of this name.
const OF_SHAPE: &[i64] = &[11_000, 27, 67, 68, 85, 86, 171, 197];
/// Write conflict, and not primary at entry: nothing, for one statement over one document.
const AT_ENTRY: &[i64] = &[112, 10_107, 13_435, 13_436];
