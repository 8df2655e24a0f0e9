//! Meeting a namespace: is it one that can be followed, is it the one that was followed, is it there on the target.

use std::sync::PoisonError;

use bson::raw::{RawBson, RawDocumentBuf};
use record::Namespace;
use tracing::warn;

use crate::error::Class;
use crate::execute::{Executor, Stall};
use crate::shared::now_ms;
use crate::state::Keep;
use crate::timeseries::time_field;

/// How a namespace's documents are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// By `_id`.
    Yes,
    /// Capped: by its end (`capped.rs`).
    InOrder,
    /// Time-series: by spans of this field (`timeseries.rs`).
    InTime(String),
    /// Capped or time-series, and several logs feed the target: not at all.
    No,
    /// A view has its name, here or there: documents of a collection that had it, or has it now, are left to a full comparison.
    View,
}

impl Executor {
    /// What was learnt of these namespaces is not certain any more: they are looked at again.
    pub fn forget(&self, which: impl Fn(&Namespace) -> bool) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|ns, _| !which(ns));
    }

    fn remember(&self, ns: &Namespace, followed: Followed) -> Followed {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(ns.clone(), followed.clone());
        followed
    }

    /// Looks at a namespace that is met for the first time: creates it on the target with the source's options.
    pub async fn prepare(&self, ns: &Namespace) -> Result<Followed, Stall> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(ns).cloned();
        if let Some(followed) = known {
            return Ok(followed);
        }
        if ns.coll().is_empty() {
            return Ok(Followed::Yes); // a whole database: only ever made dirty
        }
        let Some(here) = self.source.collection(ns).await.map_err(Stall::Source)? else {
            return Ok(Followed::Yes); // dropped meanwhile: its keys will be found gone
        };
        if here.kind == "view" {
            return Ok(Followed::View);
        }
        let followed = match time_field(&here.options) {
            _ if self.joined && (here.kind != "collection" || here.is_capped()) => {
                let reason =
                    "capped and time-series collections are not followed while several logs feed the target";
                self.make_dirty(ns, reason);
                return Ok(self.remember(ns, Followed::No));
            }
            Some(field) => Followed::InTime(field.to_owned()),
            None if here.is_capped() => Followed::InOrder,
            None => Followed::Yes,
        };
        self.recognise(ns, here.uuid.as_deref());
        if here.has_collation() {
            self.planner().set_collated(ns);
        }
        match self.target.collection(ns).await.map_err(Stall::Target)? {
            None => {
                self.recent().note_made(ns, now_ms());
                match self.target.create(ns, &here.options).await {
                    Err(error) if error.class == Class::Refused => {
                        warn!(%ns, %error, "target refuses the collection's options");
                        self.make_dirty(ns, "the target refuses the collection's options");
                    }
                    other => other.map_err(Stall::Target)?,
                }
            }
            Some(there) if there.kind == "view" => return Ok(Followed::View),
            Some(there)
                if there.options.get_document("collation").ok()
                    != here.options.get_document("collation").ok() =>
            {
                self.make_dirty(ns, "the target's collection has another collation");
            }
            Some(there)
                if ["capped", "size", "max", "timeseries"].iter().any(|name| {
                    let value =
                        |options: &RawDocumentBuf| options.get(name).ok().flatten().map(RawBson::from);
                    value(&there.options) != value(&here.options)
                }) =>
            {
                self.make_dirty(ns, "the target's collection is of another kind or size");
            }
            Some(_) => {}
        }
        Ok(self.remember(ns, followed))
    }

    /// Another collection under a name that is followed, and no captured command made it so: the source's disk may have
    /// been lost, or the collection was dropped behind our back.
    fn recognise(&self, ns: &Namespace, uuid: Option<&str>) {
        let dirty = self.shared.state().is_dirty(ns);
        let another = self.shared.is_another(ns, uuid);
        match (dirty, another) {
            (true, _) => {} // its scan will tell
            // Unless it is seen in what the log still holds.
            (false, true) => {
                let reason = "the source's collection was made anew, and nobody saw it";
                self.keep(ns, reason, Keep::Unexplained);
            }
            (false, false) => self.shared.state().set_uuid(ns, uuid),
        }
    }
}
