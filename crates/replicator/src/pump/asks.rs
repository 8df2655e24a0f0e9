//! Carries out what the reconciler asks, one step at a time, between batches.

use std::collections::BTreeSet;

use bson::rawdoc;
use record::{Key, Namespace};
use tracing::info;

use super::Pump;
use crate::asks::{Answer, Ask, Documents, Ended, Handed, Made};
use crate::error::Class;
use crate::execute::Stall;
use crate::meet::Followed;
use crate::plan::{Converge, Scan};
use crate::state::{Cause, Dirty};
use crate::timeseries::Spanned;

/// Each of them would append what the others append as well.
const SEVERAL: &str = "several logs feed the target, which cannot be for a capped or time-series collection";

impl Pump {
    /// Who asked may be gone: what was done is done all the same. A right that is missing is told; on any other error nobody
    /// is answered, which says so.
    pub(super) async fn carry_out(&mut self, ask: Ask) -> Result<(), Stall> {
        match ask {
            Ask::Expand(answer) => tell(answer, self.expand().await),
            Ask::Begin(ns, answer) => {
                // What was learnt of it may be what has changed.
                self.executor.forget(|known| *known == ns);
                let cause = self.shared.state().cause(&ns);
                let begun = cause.map(|cause| (self.executor.planner().scan_begins(&ns), cause));
                tell(answer, Ok(begun))
            }
            Ask::Converge(ns, keys, answer) => {
                let handed = self.take_over(&ns, keys).await;
                self.save_state(); // dead letters
                tell(answer, handed)
            }
            Ask::Append(ns, documents, answer) => {
                let refused = match self.executor.joined {
                    true => Ok(Some(SEVERAL.to_owned())),
                    false => self.executor.append(&ns, &documents).await,
                };
                tell(answer, refused)
            }
            Ask::Span(ns, field, span, answer) => {
                let spanned = match self.executor.joined {
                    true => Ok(Spanned { refused: Some(SEVERAL.to_owned()), ..Spanned::default() }),
                    false => self.executor.make_span_equal(&ns, &field, span).await,
                };
                tell(answer, spanned)
            }
            Ask::Drop(ns, answer) => tell(answer, self.drop_gone(&ns).await),
            Ask::MakeAnew(ns, documents, answer) => tell(answer, self.make_anew(&ns, documents).await),
            Ask::Reached(ns, scan, reached, answer) => {
                if self.executor.planner().scan_begins(&ns) == scan {
                    self.shared.state().set_reached(&ns, reached);
                }
                tell(answer, Ok(()))
            }
            Ask::End(ns, scan, ended, answer) => tell(answer, self.end(&ns, scan, ended).await),
        }
    }

    async fn take_over(&mut self, ns: &Namespace, keys: Vec<Key>) -> Result<Handed, Stall> {
        match self.executor.prepare(ns).await? {
            Followed::No | Followed::View | Followed::InOrder | Followed::InTime(_) => {
                Ok(Handed::NotFollowed)
            }
            Followed::Yes => {
                self.executor.converge(ns, &Converge { keys, ..Converge::default() }).await?;
                Ok(Handed::Converged)
            }
        }
    }

    async fn drop_gone(&mut self, ns: &Namespace) -> Result<bool, Stall> {
        let is_gone = self.executor.source.collection(ns).await.map_err(Stall::Source)?.is_none();
        if !is_gone || self.shared.keeps(ns) {
            return Ok(false);
        }
        self.executor.same_source().await?;
        self.executor.remember_sent(self.log.head().0)?;
        self.shared.state().clear_reached(ns);
        self.save_state();
        self.executor.target.drop(ns).await.map_err(Stall::Target)?;
        self.executor.forget(|known| known == ns);
        self.clear_letters(ns);
        info!(%ns, "the collection is gone on the source, and was dropped on the target");
        Ok(true)
    }

    /// No document of `ns` can be refused: there are none.
    fn clear_letters(&self, ns: &Namespace) {
        let letters = self.shared.state().remove_dead_letters_of(ns);
        for key in letters {
            self.executor.planner().clear_dead(ns, &key);
        }
    }

    async fn make_anew(&mut self, ns: &Namespace, documents: Documents) -> Result<Made, Stall> {
        self.executor.remember_sent(self.log.head().0)?;
        self.shared.state().clear_reached(ns);
        self.save_state(); // a kill behind the drop must not bring it back
        let executor = &self.executor;
        executor.forget(|known| known == ns);
        let Some(here) = executor.source.collection(ns).await.map_err(Stall::Source)? else {
            return Ok(Made::Anew); // dropped meanwhile
        };
        if let Some(there) = executor.target.collection(ns).await.map_err(Stall::Target)? {
            let may_go = (documents == Documents::Drop && !self.shared.keeps(ns))
                || there.kind == "view"
                || executor
                    .target
                    .candidates(ns, &rawdoc! {}, None, None, 1)
                    .await
                    .map_err(Stall::Target)?
                    .is_empty();
            if !may_go {
                return Ok(Made::HasDocuments);
            }
            executor.same_source().await?;
            executor.target.drop(ns).await.map_err(Stall::Target)?;
        }
        match executor.target.create(ns, &here.options).await {
            Err(error) if error.class == Class::Refused => Ok(Made::Refused(error.to_string())),
            other => other.map(|()| Made::Anew).map_err(Stall::Target),
        }
    }

    /// First the cursor says that older entries are only converged, then the mark goes.
    async fn end(&mut self, ns: &Namespace, scan: Scan, ended: Ended) -> Result<bool, Stall> {
        // What has been passed over since the scan has read its last document.
        if self.executor.prepare(ns).await? == Followed::InOrder && !self.executor.append_tail(ns, 0).await? {
            self.executor.make_dirty_by(ns, "the target does not end as the source does", Cause::Written);
            return Ok(false);
        }
        let head = self.log.head().0;
        self.executor.remember_sent(head)?;
        let is_shape = self.shared.state().cause(ns) == Some(Cause::Shape);
        let mut planner = self.executor.planner();
        let clean = if is_shape { planner.shape_ended(ns, scan) } else { planner.scan_ended(ns, scan, head) };
        drop(planner);
        if !clean {
            return Ok(false);
        }
        self.executor.no_look_up().remove(ns);
        if ended.uuid.is_none() {
            self.clear_letters(ns);
        }
        let mut state = self.shared.state();
        state.clear_dirty(ns);
        state.set_uuid(ns, ended.uuid.as_deref());
        if let Some(verdict) = ended.verdict {
            state.set_verdict(ns, verdict);
        }
        drop(state);
        self.save_state();
        Ok(true)
    }

    /// Lists what there is on both sides, so that each namespace can be compared by itself. Says whether each is: a database
    /// that may not be listed stays dirty as a whole.
    async fn expand(&mut self) -> Result<bool, Stall> {
        let (everything, databases) = {
            let state = self.shared.state();
            let whole = |(ns, dirty): (Namespace, &Dirty)| ns.coll().is_empty().then(|| (ns, dirty.clone()));
            (state.everything_dirty().cloned(), state.dirty().filter_map(whole).collect::<Vec<_>>())
        };
        let (mut meant, mut unseen) = (Vec::new(), BTreeSet::new());
        let (source, target) = (&self.executor.source, &self.executor.target);
        if let Some(dirty) = &everything {
            let listing = source.namespaces().await.map_err(Stall::Source)?;
            unseen.extend(listing.forbidden.iter().map(|(db, _)| db.clone()));
            let mut there = self.listed(listing, Stall::Source);
            let listing = target.namespaces().await.map_err(Stall::Target)?;
            unseen.extend(listing.forbidden.iter().map(|(db, _)| db.clone()));
            there.extend(self.listed(listing, Stall::Target));
            meant.extend(there.into_iter().map(|ns| (ns, dirty.clone())));
        }
        for (db, dirty) in &databases {
            let there = [
                source.namespaces_of(db.db()).await.map_err(Stall::Source),
                target.namespaces_of(db.db()).await.map_err(Stall::Target),
            ];
            if let Some(stall) = there.iter().find_map(|it| it.as_ref().err().filter(|it| it.is_forbidden()))
            {
                self.executor.told_forbidden(db, stall);
                unseen.insert(db.clone());
            }
            let there = there.into_iter().filter(|it| !matches!(it, Err(stall) if stall.is_forbidden()));
            let there: Vec<Namespace> = there.collect::<Result<Vec<_>, _>>()?.concat();
            meant.extend(there.into_iter().map(|ns| (ns, dirty.clone())));
        }
        let head = self.log.head().0;
        meant.retain(|(ns, _)| (self.config.captures)(&self.config.filter, ns));
        for (ns, dirty) in meant {
            self.executor.planner().set_dirty(&ns);
            self.shared.state().set_dirty(&ns, dirty);
        }
        self.save_state();
        self.executor.remember_sent(head)?;
        unseen.retain(|db| (self.config.captures)(&self.config.filter, db));
        let mut planner = self.executor.planner();
        planner.each_is_dirty(head);
        unseen.iter().for_each(|db| planner.set_dirty(db));
        drop(planner);
        let mut state = self.shared.state();
        state.clear_everything_dirty();
        let seen = databases.iter().map(|(db, _)| db).filter(|db| !unseen.contains(db));
        seen.for_each(|db| state.clear_dirty(db));
        drop(state);
        self.save_state();
        Ok(unseen.is_empty())
    }
}

fn tell<T>(answer: Answer<T>, done: Result<T, Stall>) -> Result<(), Stall> {
    let told = match done {
        Ok(done) => Ok(done),
        Err(Stall::Source(error) | Stall::Target(error)) if error.is_forbidden() => Err(error),
        Err(stall) => return Err(stall),
    };
    let _ = answer.send(told);
    Ok(())
}
