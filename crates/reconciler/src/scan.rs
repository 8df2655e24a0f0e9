//! One scan of one namespace, from its beginning to its verdict.
//!
//! 1. what is under way on the source when it begins is waited for: it may be what made the namespace dirty
//! 2. a missing collection is created with the source's options; what only the target has goes when that is known
//!    to be meant
//! 3. indexes that the source does not have go: they could refuse documents
//! 4. documents, in ranges of `_id`; what differs is handed to the worker
//! 5. missing indexes
//! 6. the worker says whether it is clean, or became dirty meanwhile

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bson::raw::RawDocumentBuf;
use record::{Key, Namespace};
use replicator::plan::Scan;
use replicator::{
    Cause, Class, Documents, Drops, Ended, Expiry, Handed, NotNow, Reached, ServerError, Shared, Verdict,
};
use tracing::info;

use crate::documents::{Found, PAGE_DOCUMENTS, Page};
use crate::progress::Progress;
use crate::shape;
use crate::side::Side;

/// Both servers and the way to the worker.
pub(crate) struct Scanner<'a> {
    pub(crate) source: &'a Side,
    pub(crate) target: &'a Side,
    pub(crate) shared: &'a Shared,
    pub(crate) progress: &'a Progress,
    pub(crate) documents_per_second_max: u64,
    pub(crate) drops: Drops,
}

/// How a scan came out.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Clean; what can be said of its documents, where they were compared.
    Equal(Option<Verdict>),
    /// It became dirty meanwhile.
    Again,
    /// Not without a person; `scan` tells later whether something has changed.
    Held { scan: Scan, why: String },
}

/// Why a scan cannot go on now.
#[derive(Debug)]
pub(crate) enum Interrupt {
    /// A server is away.
    Away(ServerError),
    /// The worker cannot do what was asked, or was told to stop.
    Worker,
}

impl From<NotNow> for Interrupt {
    fn from(reason: NotNow) -> Interrupt {
        match reason {
            NotNow::Away => Interrupt::Worker,
            NotNow::Forbidden(error) => Interrupt::Away(error),
        }
    }
}

/// What may be done about documents that only the target has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extra {
    /// They were deleted on the source.
    Delete,
    /// Count first.
    Count,
    /// The source's collection is another one than was followed, or may have lost them: none may be deleted.
    Hold,
}

#[derive(Debug, Default)]
struct Pass {
    source: u64,
    target: u64,
    extra: u64,
    /// Some of them: all, when they are few.
    few: Vec<Key>,
    repaired: u64,
    unkeyed: u64,
}

impl Scanner<'_> {
    /// Compares `ns` and makes it equal. `cause`: what made it dirty.
    pub(crate) async fn scan(&self, ns: &Namespace, scan: Scan, cause: Cause) -> Result<Outcome, Interrupt> {
        if cause > Cause::Shape {
            self.wait_for_writes(ns).await?;
        }
        let held = |why: String| Ok(Outcome::Held { scan, why });
        let here = self.source.collection(ns).await.map_err(away)?;
        let there = self.target.collection(ns).await.map_err(away)?;
        let Some(here) = here else {
            if let Some(there) = there {
                let empty = there.kind == "collection" && self.is_empty(ns).await?;
                if cause == Cause::Shape || (self.shared.keeps(ns) && self.drops == Drops::Ignore) {
                    // Its drop comes, or is of no interest; or has come, and an index that was being made has made it anew.
                    if empty && self.drops == Drops::Replicate {
                        self.shared.drop_gone(ns).await?;
                    }
                    return self.end(ns, scan, Ended::default()).await;
                }
                let meant = cause == Cause::Dropped && !self.shared.keeps(ns);
                if !meant && !empty && there.kind != "view" {
                    return held(GONE.to_owned());
                }
                if !self.shared.drop_gone(ns).await? {
                    return Ok(Outcome::Again);
                }
            }
            shape::note_expiry(self.target, ns, None).await.map_err(away)?;
            return self.end(ns, scan, Ended::default()).await;
        };
        if let Err(why) = self.shape(ns, &here, there.as_ref(), cause).await? {
            return held(why);
        }
        if here.kind == "view" {
            let verdict = Some(self.progress.verdict(ns, 0));
            return self.end(ns, scan, Ended { uuid: None, verdict }).await;
        }
        if let Err(error) = shape::drop_indexes(self.source, self.target, ns).await {
            return self.unshaped(scan, error);
        }
        let indexes = self.source.indexes(ns).await.map_err(away)?;
        let expiry = Expiry::of(ns, &here.options, &indexes);
        shape::note_expiry(self.target, ns, expiry.as_ref()).await.map_err(away)?;
        let extra = match cause {
            _ if self.shared.keeps(ns) => Extra::Hold,
            Cause::Written | Cause::Dropped => Extra::Delete,
            _ if self.shared.is_another(ns, here.uuid.as_deref()) => Extra::Hold,
            _ => Extra::Count,
        };
        let repaired = match cause {
            // A unique index may have gone that refused them.
            Cause::Shape => self.hand_over(ns, self.shared.refused_keys(ns)).await.map(|()| 0)?,
            _ => match self.documents(ns, scan, &here, extra, expiry.as_ref()).await? {
                Ok(repaired) => repaired,
                Err(_) if self.shared.keeps(ns) && self.drops == Drops::Ignore => 0,
                Err(why) => return held(why),
            },
        };
        if let Err(error) = shape::create_indexes(self.source, self.target, ns).await {
            // What is just being replicated may stand in a unique index's way: not for long.
            return match error.code {
                Some(DUPLICATE_KEY) => Ok(Outcome::Again),
                _ => self.unshaped(scan, error),
            };
        }
        let verdict = (cause > Cause::Shape).then(|| self.progress.verdict(ns, repaired));
        self.end(ns, scan, Ended { uuid: here.uuid, verdict }).await
    }

    /// As its kind asks for; says how many were written, or why that must not go on.
    async fn documents(
        &self,
        ns: &Namespace,
        scan: Scan,
        here: &replicator::Collection,
        extra: Extra,
        expiry: Option<&Expiry>,
    ) -> Result<Result<u64, String>, Interrupt> {
        match here.kind.as_str() {
            "timeseries" => self.in_time(ns, here, extra).await,
            _ if here.is_capped() => self.in_order(ns, extra).await,
            _ => self.all_documents(ns, scan, extra, expiry).await,
        }
    }

    fn unshaped(&self, scan: Scan, error: ServerError) -> Result<Outcome, Interrupt> {
        match error.class {
            Class::Refused | Class::Identity => {
                Ok(Outcome::Held { scan, why: format!("its indexes cannot be made equal: {error}") })
            }
            _ => Err(away(error)),
        }
    }

    async fn end(&self, ns: &Namespace, scan: Scan, ended: Ended) -> Result<Outcome, Interrupt> {
        let verdict = ended.verdict.clone();
        match self.shared.end_scan(ns, scan, ended).await? {
            true => Ok(Outcome::Equal(verdict)),
            false => Ok(Outcome::Again),
        }
    }

    async fn is_empty(&self, ns: &Namespace) -> Result<bool, Interrupt> {
        Ok(self.target.count(ns).await.map_err(away)? == 0)
    }

    /// A write that could not be recorded has no mark to wait for: what mongod does now is waited for instead.
    async fn wait_for_writes(&self, ns: &Namespace) -> Result<(), Interrupt> {
        let mut before = self.source.writes_under_way(ns).await.map_err(away)?;
        let since = Instant::now();
        while !before.is_empty() && since.elapsed() < WRITES_WAIT_MAX {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let now: BTreeSet<String> = self.source.writes_under_way(ns).await.map_err(away)?;
            before = &before & &now;
        }
        Ok(())
    }

    /// Kind and options; creates what is missing. The inner error: why not.
    async fn shape(
        &self,
        ns: &Namespace,
        here: &replicator::Collection,
        there: Option<&replicator::Collection>,
        cause: Cause,
    ) -> Result<Result<(), String>, Interrupt> {
        let dropped = cause == Cause::Dropped && !self.shared.keeps(ns);
        let documents = if dropped { Documents::Drop } else { Documents::Keep };
        let mended = shape::options(self.target, ns, here, there, self.shared, documents).await;
        match mended {
            Ok(()) => Ok(Ok(())),
            Err(shape::Trouble::Held(why)) => Ok(Err(why)),
            Err(shape::Trouble::Server(error)) if error.class == Class::Refused => {
                Ok(Err(format!("the target refuses its options: {error}")))
            }
            Err(shape::Trouble::Server(error)) => Err(away(error)),
            Err(shape::Trouble::Worker) => Err(Interrupt::Worker),
        }
    }

    /// All documents; says how many were handed over, or why that must not go on.
    async fn all_documents(
        &self,
        ns: &Namespace,
        scan: Scan,
        extra: Extra,
        expiry: Option<&Expiry>,
    ) -> Result<Result<u64, String>, Interrupt> {
        let documents = self.source.count(ns).await.map_err(away)?;
        let reached = self.shared.reached(ns);
        if let Some(reached) = &reached {
            info!(%ns, compared = reached.source, "the comparison goes on where it was");
        }
        self.progress.resume(ns, reached.as_ref().map_or(0, |it| it.source), documents);
        let mut pass = self.pass(ns, scan, extra, expiry, reached).await?;
        let mut repaired = pass.repaired;
        if extra == Extra::Count && pass.extra > EXTRA_FEW {
            // What was just being deleted on the source has reached the target by then.
            self.wait_for_the_log().await;
            self.progress.begin(ns, documents);
            pass = self.pass(ns, scan, Extra::Count, expiry, None).await?;
            repaired += pass.repaired;
            if pass.extra > EXTRA_FEW && pass.extra * 100 > pass.target * EXTRA_PERCENT_MAX {
                let (extra, target) = (pass.extra, pass.target);
                return Ok(Err(format!("{extra} of {target} documents are on the target only, {EXTRA_WHY}")));
            }
            if pass.extra > EXTRA_FEW {
                self.progress.begin(ns, documents);
                pass = self.pass(ns, scan, Extra::Delete, expiry, None).await?;
                repaired += pass.repaired;
            }
        }
        if extra == Extra::Hold && pass.extra > 0 {
            return Ok(Err(format!("{} of {} documents {ANOTHER_WHY}", pass.extra, pass.target)));
        }
        repaired += pass.few.len() as u64;
        self.hand_over(ns, std::mem::take(&mut pass.few)).await?;
        if pass.unkeyed > 0 {
            return Ok(Err(format!("{} documents have no _id that could be asked for", pass.unkeyed)));
        }
        Ok(Ok(repaired))
    }

    /// Goes through both sides, from `reached` on.
    async fn pass(
        &self,
        ns: &Namespace,
        scan: Scan,
        extra: Extra,
        expiry: Option<&Expiry>,
        reached: Option<Reached>,
    ) -> Result<Pass, Interrupt> {
        let mut pass = Pass::default();
        let mut from = reached.as_ref().and_then(Reached::key);
        if let (Some(reached), true) = (&reached, from.is_some()) {
            (pass.source, pass.target) = (reached.source, reached.target);
        }
        let since = Instant::now();
        let mut compared = 0;
        let mut remembered = Instant::now();
        loop {
            let mut found = self.range(ns, from.clone()).await?;
            self.progress.compared(ns, found.source, found.differ.len() as u64 + found.extra_all);
            compared += found.source;
            let mut keys = found.differ;
            let all = found.extra.len() as u64 == found.extra_all;
            let mut again = extra == Extra::Delete && !all;
            if let (Extra::Count, Some(expiry)) = (extra, expiry) {
                // Expiry is a deletion that nobody sends: it is no loss.
                let expired = self.expired(ns, expiry, &found.extra).await?;
                found.extra.retain(|key| !expired.contains(key));
                found.extra_all -= expired.len() as u64;
                again = !all && !expired.is_empty();
                keys.extend(expired);
            }
            match extra {
                Extra::Delete => keys.extend(found.extra),
                Extra::Count if pass.extra <= EXTRA_FEW && !again => pass.few.extend(found.extra),
                Extra::Count | Extra::Hold => {}
            }
            pass.repaired += keys.len() as u64;
            self.hand_over(ns, keys).await?;
            self.pace(since, compared).await;
            if again {
                if self.shared.keeps(ns) {
                    return Err(Interrupt::Worker); // since a moment ago: none of them was deleted
                }
                continue; // the same range, with fewer of them
            }
            pass.source += found.source;
            pass.target += found.target;
            pass.extra += found.extra_all;
            if pass.extra > EXTRA_FEW {
                pass.few.clear();
            }
            pass.unkeyed += found.unkeyed;
            match found.next {
                Some(next) => {
                    // What is only counted so far would be forgotten.
                    let all_equal = extra == Extra::Delete || pass.extra == 0;
                    if all_equal && pass.unkeyed == 0 && remembered.elapsed() > REMEMBER_INTERVAL {
                        let reached = Reached::new(&next, pass.source, pass.target);
                        self.shared.set_reached(ns, scan, reached).await?;
                        remembered = Instant::now();
                    }
                    from = Some(next);
                }
                None => return Ok(pass),
            }
        }
    }

    /// Those of the target's documents that have expired by what expires on the source.
    async fn expired(
        &self,
        ns: &Namespace,
        expiry: &Expiry,
        keys: &[Key],
    ) -> Result<BTreeSet<Key>, Interrupt> {
        let mut expired = BTreeSet::new();
        if !keys.is_empty() {
            let filter = expiry.filter(self.source.now().await.map_err(away)?);
            for keys in keys.chunks(KEYS_PER_STEP) {
                expired.extend(self.target.matching(ns, keys, &filter).await.map_err(away)?);
            }
        }
        Ok(expired)
    }

    /// Compares one range. A server may be away for a while without everything beginning anew.
    async fn range(&self, ns: &Namespace, from: Option<RawDocumentBuf>) -> Result<Found, Interrupt> {
        let mut tries = 0;
        loop {
            let read = async {
                let page = Page::read(self.source, ns, from.clone(), PAGE_DOCUMENTS).await?;
                page.compare(self.target, ns).await
            };
            match read.await {
                Err(error)
                    if !matches!(error.class, Class::Refused | Class::Identity) && tries < TRIES_MAX =>
                {
                    tries += 1;
                    tokio::time::sleep(RETRY_WAIT * tries).await;
                }
                other => return other.map_err(away),
            }
        }
    }

    async fn hand_over(&self, ns: &Namespace, keys: Vec<Key>) -> Result<(), Interrupt> {
        for keys in keys.chunks(KEYS_PER_STEP) {
            // The worker's own waiting for a server is not ours to shorten: asked again when it is back.
            let mut tries = 0;
            let handed = loop {
                match self.shared.hand_over(ns, keys.to_vec()).await {
                    Err(NotNow::Away) if tries < TRIES_MAX => {
                        tries += 1;
                        tokio::time::sleep(RETRY_WAIT * tries).await;
                    }
                    other => break other?,
                }
            };
            if handed == Handed::NotFollowed {
                return Ok(()); // capped or time-series by now: the next scan finds out
            }
        }
        Ok(())
    }

    /// Not faster than allowed.
    pub(crate) async fn pace(&self, since: Instant, compared: u64) {
        let due = Duration::from_secs_f64(compared as f64 / self.documents_per_second_max.max(1) as f64);
        tokio::time::sleep(due.saturating_sub(since.elapsed())).await;
    }

    /// Until what is in the log now is on the target; not for ever.
    async fn wait_for_the_log(&self) {
        let since = Instant::now();
        let before = replicator::now_ms();
        while since.elapsed() < LOG_WAIT_MAX
            && self.shared.status().oldest_pending_ms.is_some_and(|oldest| oldest <= before)
        {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        info!(
            waited_ms = since.elapsed().as_millis(),
            "many documents are on the target only, counted again"
        );
    }
}

pub(crate) fn away(error: ServerError) -> Interrupt {
    Interrupt::Away(error)
}

/// Why documents that only the target has, so many of them, must stay there.
pub(crate) fn is_held(extra: Extra, only_there: u64, target: u64) -> Option<String> {
    let many = only_there > EXTRA_FEW && only_there * 100 > target * EXTRA_PERCENT_MAX;
    let why = match extra {
        Extra::Hold if only_there > 0 => ANOTHER_WHY.to_owned(),
        Extra::Count if many => format!("are on the target only, {EXTRA_WHY}"),
        _ => return None,
    };
    Some(format!("{only_there} of {target} documents {why}"))
}

/// "Duplicate key": documents that a unique index does not take.
const DUPLICATE_KEY: i32 = 11000;
/// Keys in one step of the worker.
const KEYS_PER_STEP: usize = 1_000;
/// So many documents that only the target has are deleted, whatever share they are.
const EXTRA_FEW: u64 = 1_000;
/// More than that, and more than this share of the target's: held.
const EXTRA_PERCENT_MAX: u64 = 50;
const EXTRA_WHY: &str = "which looks more like a loss than like a deletion: nothing of it was deleted";
const ANOTHER_WHY: &str = "are on the target only, and the source's collection was made anew while nobody saw it, or was put back to an earlier state: nothing was deleted";
const GONE: &str = "the source has no such collection, and nobody saw it dropped: the target's is kept";
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long a write may be under way before a scan begins all the same.
const WRITES_WAIT_MAX: Duration = Duration::from_secs(600);
/// Tries of one range, or of handing over: about twenty minutes; then the scan begins anew.
const TRIES_MAX: u32 = 50;
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// How often it is remembered how far a pass is.
const REMEMBER_INTERVAL: Duration = Duration::from_millis(500);
const LOG_WAIT_MAX: Duration = Duration::from_secs(60);
