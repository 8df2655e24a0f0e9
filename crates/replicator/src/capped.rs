//! Capped collections: documents have an order, which only the source knows, and leave at the front by themselves.
//!
//! - an insert is no more than a reason to look: what the source has behind the target's last document is appended, in
//!   the source's own order, whatever order the replies came in. Asked twice, the second time finds nothing
//! - what has changed otherwise (an update, a deletion, a tail that is not found) is left to a full comparison
//! - while that is under way nothing is appended here but at its end, between two batches: by then every entry that was
//!   passed over has its document on the source
//!
//! The target holds the last documents of the same sequence under the same bounds, so it drops the same ones.

use std::collections::VecDeque;

use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::{cstr, rawdoc};
use mongodb::Client;
use record::{Namespace, Op, Touch};
use tracing::warn;

use crate::error::{Class, ServerError};
use crate::execute::{Executor, Stall, Tally};
use crate::plan::Unit;
use crate::server::{Concern, cursor, next};
use crate::shared::{Way, now_ms};
use crate::state::Cause;
use crate::target::Validation;

/// Documents that are looked through for the target's last one; beyond that a full comparison finds it.
const TAIL_DOCUMENTS_MAX: usize = 20_000;
const TAIL_BYTES_MAX: usize = 32 << 20;
/// One command of inserts.
const INSERT_DOCUMENTS_MAX: usize = 1_000;
const INSERT_BYTES_MAX: usize = 12 << 20;
/// What a cursor answers whose place has left at the front.
pub const POSITION_LOST: i32 = 136;

impl Executor {
    /// Brings the inserts of a capped collection to the target.
    pub(crate) async fn follow_in_order(
        &self,
        ns: &Namespace,
        queue: &mut VecDeque<Unit>,
        tally: &Tally,
    ) -> Result<(), Stall> {
        self.commands_over_all(ns, queue, tally).await?;
        if queue.is_empty() {
            return Ok(());
        }
        let entries = queue.iter().map(|unit| unit.entry);
        let inserts = queue.iter().all(is_insert);
        if !inserts {
            self.make_dirty_by(
                ns,
                "documents of a capped collection were changed or deleted",
                Cause::Written,
            );
        } else if !self.shared.state().is_dirty(ns) {
            if self.append_tail(ns, queue.len()).await? {
                tally.note(entries, Way::Converged);
                return Ok(());
            }
            let reason = "the end of the target's capped collection is not found on the source any more";
            self.make_dirty_by(ns, reason, Cause::Written);
        }
        tally.note(entries, Way::Dirty);
        Ok(())
    }

    /// Carries out what is over the collection itself, and leaves the statements over documents in the queue.
    pub(crate) async fn commands_over_all(
        &self,
        ns: &Namespace,
        queue: &mut VecDeque<Unit>,
        tally: &Tally,
    ) -> Result<(), Stall> {
        let all = |unit: &Unit| matches!(unit.effect().target.touch, Touch::Namespace | Touch::Database);
        for unit in queue.iter().filter(|unit| all(unit)) {
            let work = self.planner().next(ns, &VecDeque::from([unit.clone()]));
            self.execute(ns, work, tally).await?;
        }
        queue.retain(|unit| !all(unit));
        Ok(())
    }

    /// Appends what the source has behind the target's last document, of which about so many are expected. `false`: that
    /// document is not found there, or too far away, or the target refuses one.
    pub(crate) async fn append_tail(&self, ns: &Namespace, expected: usize) -> Result<bool, Stall> {
        let client = self.target.client().await.map_err(Stall::Target)?;
        let last = last(client, ns).await.map_err(Stall::Target)?;
        let concern = self.source.concern(None).await.map_err(Stall::Source)?;
        let tail = behind(self.source.client(), ns, last.as_ref(), &concern, expected).await;
        let Some(tail) = tail.map_err(Stall::Source)? else { return Ok(false) };
        Ok(self.append(ns, &tail).await?.is_none())
    }

    /// Inserts documents in this order; says why the target refuses one, which ends it.
    pub(crate) async fn append(
        &self,
        ns: &Namespace,
        documents: &[RawDocumentBuf],
    ) -> Result<Option<String>, Stall> {
        if documents.is_empty() {
            return Ok(None);
        }
        self.recent().note_whole(ns, now_ms());
        self.remember_sent(self.log.head().0)?;
        let mut start = 0;
        while start < documents.len() {
            let mut bytes = 0;
            let fits = |doc: &&RawDocumentBuf| {
                bytes += doc.as_bytes().len();
                bytes <= INSERT_BYTES_MAX
            };
            let most = &documents[start..documents.len().min(start + INSERT_DOCUMENTS_MAX)];
            let count = most.iter().take_while(fits).count().max(1);
            let command = || {
                let mut list = RawArrayBuf::new();
                documents[start..start + count].iter().for_each(|doc| list.push(doc.clone()));
                let mut command = rawdoc! {"insert": ns.coll(), "ordered": true};
                command.append(cstr!("documents"), list);
                command
            };
            let error = match self.target.write(ns, &command, Validation::Bypassed).await {
                Err(error) if error.class == Class::Refused => Some(error),
                Err(error) => return Err(Stall::Target(error)),
                Ok(reply) => {
                    reply.errors.first().map(|failed| ServerError::from_code(failed.code, &failed.message))
                }
            };
            match error {
                Some(error) if error.class != Class::Refused => return Err(Stall::Target(error)),
                Some(error) => {
                    warn!(%ns, %error, "the target refuses a document that is appended");
                    return Ok(Some(error.to_string()));
                }
                None => start += count,
            }
        }
        Ok(None)
    }
}

pub(crate) fn is_insert(unit: &Unit) -> bool {
    matches!(unit.effect().op, Some(Op::Insert(_)))
}

/// The last document in natural order.
async fn last(client: &Client, ns: &Namespace) -> Result<Option<RawDocumentBuf>, ServerError> {
    let find = rawdoc! {"find": ns.coll(), "sort": {"$natural": -1}, "limit": 1};
    next(&mut cursor(client, ns.db(), find).await?).await
}

/// The documents behind `last`, in order. `None`: it is not among the last ones, or the place in them was lost.
async fn behind(
    client: &Client,
    ns: &Namespace,
    last: Option<&RawDocumentBuf>,
    concern: &Concern,
    expected: usize,
) -> Result<Option<Vec<RawDocumentBuf>>, ServerError> {
    let mut find = rawdoc! {"find": ns.coll(), "sort": {"$natural": -1}};
    let batch = expected.saturating_add(1).min(INSERT_DOCUMENTS_MAX);
    find.append(cstr!("batchSize"), i64::try_from(batch).unwrap_or(101));
    concern.add_to(&mut find);
    let read = async {
        let mut cursor = cursor(client, ns.db(), find).await?;
        let (mut tail, mut bytes) = (Vec::new(), 0);
        while let Some(document) = next(&mut cursor).await? {
            if last.is_some_and(|last| last.as_bytes() == document.as_bytes()) {
                tail.reverse();
                return Ok(Some(tail));
            }
            bytes += document.as_bytes().len();
            if tail.len() == TAIL_DOCUMENTS_MAX || bytes > TAIL_BYTES_MAX {
                return Ok(None);
            }
            tail.push(document);
        }
        tail.reverse();
        Ok(last.is_none().then_some(tail))
    };
    match read.await {
        Err(ServerError { code: Some(POSITION_LOST), .. }) => Ok(None),
        other => other,
    }
}
