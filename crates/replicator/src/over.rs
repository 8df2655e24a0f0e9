//! Commands over whole collections, carried out in the log's order: `drop`, `dropDatabase`, `renameCollection`.
//!
//! - a collection that the source does not have any more is dropped, whatever is known of it: that is a state of the source
//! - what cannot be seen there any more, since the name was taken again or is another one now, is sent again only when the
//!   target's collection is as the source's was just before: certain, not dirty, nothing ahead, nothing perhaps sent before
//! - else a comparison makes it good. A rename that the source shows is then carried out all the same, so that only what
//!   differs is copied
//!
//! Each is a barrier for its whole batch: nothing else is under way. A scan under way learns that it has not seen it.

use record::{Entry, Namespace, Op, Over};
use tracing::{info, warn};

use crate::error::{Class, ServerError, UNAUTHORIZED};
use crate::execute::{Drops, Executor, Stall};
use crate::server::Collection;
use crate::shared::now_ms;

/// Whether this is a command over whole collections.
pub fn is_over(entry: &Entry) -> bool {
    over(entry).is_some()
}

fn over(entry: &Entry) -> Option<(&Namespace, Over)> {
    entry.effects.iter().find_map(|effect| match &effect.op {
        Some(Op::Over(statement)) => Some((&effect.target.ns, Over::read(statement)?)),
        _ => None,
    })
}

/// Whether it is like any that the first insert makes, as far as options cannot be changed.
fn is_plain(collection: &Collection) -> bool {
    let has = |option| !matches!(collection.options.get(option), Ok(None));
    let special = collection.is_capped() || collection.has_collation() || has("clusteredIndex");
    collection.kind == "collection" && !special
}

impl Executor {
    /// Does what the command did; `false`: what it names is left to a comparison.
    pub async fn follow_over(
        &self,
        entry: &Entry,
        captures: &(dyn Fn(&Namespace) -> bool + Sync),
    ) -> Result<bool, Stall> {
        let Some((ns, over)) = over(entry) else { return Ok(false) };
        // Several logs have no common order; what is kept is none of our business.
        if self.joined || self.drops != Drops::Replicate {
            return Ok(false);
        }
        // Excluded since it was captured: what the target has of it stays, and what a rename replaced is compared.
        if !ns.coll().is_empty() && !captures(ns) {
            return Ok(over == Over::Drop);
        }
        let certain = Some(entry.mark).filter(|_| entry.doubt.is_none());
        match over {
            Over::Drop => self.drop_now(ns, certain).await,
            Over::DropDatabase => self.drop_database_now(ns, certain, captures).await,
            Over::Rename(to) if captures(&to) => {
                self.rename_now(ns, &to, entry.mark, certain.is_some()).await
            }
            Over::Rename(_) => self.drop_now(ns, certain).await,
        }
    }

    /// `certain`: the command's mark, when nothing else was under way with it.
    async fn drop_now(&self, ns: &Namespace, certain: Option<u64>) -> Result<bool, Stall> {
        if self.shared.state().is_dirty(ns) {
            return Ok(false);
        }
        let is_gone = self.source.collection(ns).await.map_err(Stall::Source)?.is_none();
        let head = self.log.head().0;
        if !is_gone && !certain.is_some_and(|mark| self.planner().is_exact(ns, mark)) {
            return Ok(false);
        }
        self.same_source().await?;
        self.remember_sent(head)?;
        self.recent().note_whole(ns, now_ms());
        if !self.allowed(ns, self.target.drop(ns).await)? {
            return Ok(false);
        }
        self.target.forget_expiry(ns).await.map_err(Stall::Target)?;
        self.has_gone(ns, is_gone.then_some(head));
        info!(%ns, "the collection was dropped, as on the source");
        Ok(true)
    }

    async fn drop_database_now(
        &self,
        database: &Namespace,
        certain: Option<u64>,
        captures: &(dyn Fn(&Namespace) -> bool + Sync),
    ) -> Result<bool, Stall> {
        if self.shared.state().is_dirty(database) {
            return Ok(false);
        }
        let mut there = self.target.namespaces_of(database.db()).await.map_err(Stall::Target)?;
        there.retain(|ns| captures(ns));
        let mut all = true;
        for ns in &there {
            all &= self.drop_now(ns, certain).await?;
        }
        self.shared.state().may_be_anew(database);
        self.forget(|known| known.db() == database.db());
        Ok(all)
    }

    /// Only collections without options that cannot be changed are renamed: the target's may still be without them.
    async fn rename_now(
        &self,
        from: &Namespace,
        to: &Namespace,
        mark: u64,
        certain: bool,
    ) -> Result<bool, Stall> {
        let (exact, unsent) = {
            let planner = self.planner();
            let exact = certain && planner.is_exact(from, mark) && planner.is_exact(to, mark);
            (exact, planner.is_unsent(mark))
        };
        let known = self.shared.state().uuid(from).map(ToOwned::to_owned);
        let source_from = self.source.collection(from).await.map_err(Stall::Source)?;
        let source_to = self.source.collection(to).await.map_err(Stall::Source)?;
        let target_from = self.target.collection(from).await.map_err(Stall::Target)?;
        let target_to = self.target.collection(to).await.map_err(Stall::Target)?;
        let all = [&source_from, &source_to, &target_from, &target_to];
        // One that is not there any more was renamed or dropped since, by a command that is still to come.
        if !all.into_iter().flatten().all(is_plain) {
            return Ok(false);
        }
        let there = target_from.is_some();
        // Within a database a collection keeps it.
        let seen = known.is_some() && known == source_to.and_then(|it| it.uuid);
        let kept = self.shared.keeps(from) || self.shared.keeps(to);
        // Sent a second time it would put what has taken the old name since over what was renamed.
        if !exact && (!seen || !unsent || kept || !there) {
            return Ok(false);
        }
        self.same_source().await?;
        self.remember_sent(self.log.head().0)?;
        for ns in [from, to] {
            self.recent().note_whole(ns, now_ms());
        }
        // One without documents may not be there yet.
        let done = if there { self.target.rename(from, to).await } else { self.target.drop(to).await };
        if !self.allowed(from, done)? {
            return Ok(false);
        }
        self.target.forget_expiry(from).await.map_err(Stall::Target)?;
        for ns in [from, to] {
            self.has_gone(ns, None);
        }
        if seen {
            self.shared.state().set_uuid(to, known.as_deref());
        }
        self.make_misshapen(to); // what expires, and an index whose building was broken off
        info!(%from, %to, "the collection was renamed, as on the source");
        Ok(exact)
    }

    /// Forgets what was known of a collection that is not there any more under its name.
    fn has_gone(&self, ns: &Namespace, head: Option<u64>) {
        self.forget(|known| known == ns);
        let mut state = self.shared.state();
        state.remove_dead_letters_of(ns);
        state.set_uuid(ns, None);
        drop(state);
        self.planner().is_gone(ns, head);
    }

    /// Whether the target did it; what it refuses is no outage.
    fn allowed(&self, ns: &Namespace, done: Result<(), ServerError>) -> Result<bool, Stall> {
        match done {
            Ok(()) => Ok(true),
            Err(error) if error.class == Class::Refused || error.code == Some(UNAUTHORIZED) => {
                warn!(%ns, %error, "the target refuses a command over the collection, which is compared instead");
                Ok(false)
            }
            Err(error) => Err(Stall::Target(error)),
        }
    }
}
