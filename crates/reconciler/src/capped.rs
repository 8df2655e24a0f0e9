//! One scan of a capped collection: both sides in natural order, side by side.
//!
//! - the target's documents in front of the source's first one have left there: they leave on the target as well when
//!   others come
//! - from there on each must be the source's next one, byte for byte; what the source has behind the target's last one
//!   is appended, in order
//! - anything else (changed or deleted in the middle, another order, older documents that stay): made anew as a whole

use std::time::Instant;

use bson::raw::RawDocumentBuf;
use mongodb::Cursor;
use record::Namespace;
use replicator::{Documents, Made, POSITION_LOST, ServerError, next};

use crate::scan::{Extra, Interrupt, Scanner, away, is_held};

/// How a pass over both sides came out.
enum Pass {
    /// The target has the source's documents in their order, and so many older ones in front.
    InOrder { older: u64, appended: u64 },
    /// It has others, or not in that order: of so many documents.
    Different { target: u64 },
}

impl Scanner<'_> {
    /// Makes the target's documents those of the source, in order; says how many were written, or why that must not
    /// be.
    pub(crate) async fn in_order(
        &self,
        ns: &Namespace,
        extra: Extra,
    ) -> Result<Result<u64, String>, Interrupt> {
        let documents = self.source.count(ns).await.map_err(away)?;
        let before = self.target.count(ns).await.map_err(away)?;
        let (mut repaired, mut anew) = (0, 0);
        for _ in 0..PASSES_MAX {
            self.progress.begin(ns, documents);
            let (older, target) = match self.side_by_side(ns, extra).await {
                Err(Interrupt::Away(ServerError { code: Some(POSITION_LOST), .. })) => continue,
                Err(error) => return Err(error),
                Ok(Err(refused)) => return Ok(Err(refused)),
                Ok(Ok(Pass::InOrder { older: 0, appended })) => return Ok(Ok(repaired + appended)),
                // Perhaps they have left by now.
                Ok(Ok(Pass::InOrder { older, appended })) if appended > 0 => {
                    repaired += appended;
                    (older, None)
                }
                Ok(Ok(Pass::InOrder { older, .. })) => (older, Some(documents + older)),
                Ok(Ok(Pass::Different { .. })) if extra == Extra::Hold => {
                    return Ok(Err(OTHERS.to_owned()));
                }
                Ok(Ok(Pass::Different { target })) => (target.saturating_sub(documents), Some(target)),
            };
            let Some(target) = target else { continue };
            if let Some(why) = is_held(extra, older, target.max(before)) {
                return Ok(Err(why));
            }
            anew += 1;
            if anew > ANEW_MAX {
                return Ok(Err(DO_NOT_FIT.to_owned()));
            }
            match self.shared.make_anew(ns, Documents::Drop).await? {
                Made::Anew => {}
                Made::HasDocuments => return Ok(Err(OTHERS.to_owned())), // kept since a moment ago
                Made::Refused(why) => return Ok(Err(format!("the target refuses its options: {why}"))),
            }
        }
        // Documents leave the source faster than they are read: what comes now makes it dirty again.
        Err(Interrupt::Worker)
    }

    async fn side_by_side(&self, ns: &Namespace, extra: Extra) -> Result<Result<Pass, String>, Interrupt> {
        let mut here = self.source.in_order(ns).await.map_err(away)?;
        let mut there = self.target.in_order(ns).await.map_err(away)?;
        let (mut older, mut target) = (0, 0);
        let mut ours = next(&mut here).await.map_err(away)?;
        let mut theirs = next(&mut there).await.map_err(away)?;
        while let Some(document) = &theirs {
            if ours.as_ref().is_some_and(|first| same(first, document)) {
                break;
            }
            older += 1;
            theirs = next(&mut there).await.map_err(away)?;
        }
        // What is appended pushes them out, which may be the only copy.
        if extra == Extra::Hold && older > 0 {
            return Ok(Ok(Pass::Different { target: self.count(ns).await? }));
        }
        let since = Instant::now();
        let mut compared = 0;
        loop {
            match (&ours, &theirs) {
                (Some(one), Some(other)) if same(one, other) => {}
                (_, None) => break,
                (_, Some(_)) => return Ok(Ok(Pass::Different { target: self.count(ns).await? })),
            }
            (compared, target) = (compared + 1, target + 1);
            if compared % LOOK_EVERY == 0 {
                self.progress.compared(ns, LOOK_EVERY, 0);
                self.pace(since, compared).await;
            }
            ours = next(&mut here).await.map_err(away)?;
            theirs = next(&mut there).await.map_err(away)?;
        }
        self.progress.compared(ns, compared % LOOK_EVERY, 0);
        Ok(match self.append_rest(ns, ours, &mut here, since, compared).await? {
            // Its `_id` is there already: older than the source's first one, it is not.
            Err(_) if older > 0 => Ok(Pass::Different { target: older + target }),
            Err(why) => Err(format!("the target refuses a document: {why}")),
            Ok(0) if older > 0 && target == 0 => Ok(Pass::Different { target: older }),
            Ok(appended) => Ok(Pass::InOrder { older, appended }),
        })
    }

    /// Appends what is left of the source's documents; the inner error: the target's.
    async fn append_rest(
        &self,
        ns: &Namespace,
        first: Option<RawDocumentBuf>,
        rest: &mut Cursor<RawDocumentBuf>,
        since: Instant,
        mut compared: u64,
    ) -> Result<Result<u64, String>, Interrupt> {
        let mut coming = first;
        let mut appended = 0;
        while coming.is_some() {
            let (mut portion, mut bytes) = (Vec::new(), 0);
            while let Some(document) = coming.take() {
                bytes += document.as_bytes().len();
                portion.push(document);
                coming = next(rest).await.map_err(away)?;
                if portion.len() == PORTION_DOCUMENTS || bytes > PORTION_BYTES {
                    break;
                }
            }
            let count = portion.len() as u64;
            if let Some(why) = self.shared.append(ns, portion).await? {
                return Ok(Err(why));
            }
            (appended, compared) = (appended + count, compared + count);
            self.progress.compared(ns, count, count);
            self.pace(since, compared).await;
        }
        Ok(Ok(appended))
    }

    async fn count(&self, ns: &Namespace) -> Result<u64, Interrupt> {
        self.target.count(ns).await.map_err(away)
    }
}

fn same(one: &RawDocumentBuf, other: &RawDocumentBuf) -> bool {
    one.as_bytes() == other.as_bytes()
}

/// A comparison, the rest appended, made anew, compared again, and one for what came between.
const PASSES_MAX: u32 = 5;
/// Once made anew it has the source's documents, unless it drops some of them.
const ANEW_MAX: u32 = 2;
/// Documents that have grown since they were inserted may take more than the collection's size.
const DO_NOT_FIT: &str =
    "the source's documents, inserted in their order, do not stay in a capped collection of the same size";
/// Of a capped collection on the target that may not be made anew.
const OTHERS: &str = "the target has other documents, or in another order, and none of them may be deleted";
/// Documents between two looks at the pace.
const LOOK_EVERY: u64 = 1_000;
/// In one step of the worker.
const PORTION_DOCUMENTS: usize = 1_000;
const PORTION_BYTES: usize = 12 << 20;
