//! What needs a full comparison, why, and what may be deleted by it.

use record::Namespace;
use serde::{Deserialize, Serialize};

use super::{Reached, State};

/// What made a namespace dirty, as far as it tells whether documents may be missing on the source by intention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// A captured command over options or indexes: documents are followed, and need no comparison.
    Shape,
    /// Nothing: a comparison was asked for. Any other cause replaces it.
    Asked,
    /// A captured write: what is missing was deleted by it, or may have been.
    Written,
    /// Nothing that we saw: what is missing on the source may have been lost there. A write that comes as well explains
    /// no more than itself.
    #[default]
    Unknown,
    /// A captured command that may have dropped or renamed the collection.
    Dropped,
}

/// Whether documents may have been lost on the source, so that none is deleted by following.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// No.
    #[default]
    No,
    /// As long as no captured command explains that the collection is gone, or is another one.
    Unexplained,
    /// Until a person confirms it, or a captured command drops the collection.
    Lost,
}

/// Why a namespace needs a full comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dirty {
    /// For a person.
    pub reason: String,
    /// Milliseconds since 1970.
    pub since_ms: u64,
    /// It had documents before dualsync came, or the target had.
    pub not_copied_yet: bool,
    /// The most telling of all that made it dirty.
    #[serde(default)]
    pub cause: Cause,
    /// Whether its documents may have been lost on the source.
    #[serde(default)]
    pub keep: Keep,
    /// How far its comparison is.
    #[serde(default)]
    pub reached: Option<Reached>,
}

impl Dirty {
    /// Dirty from now on.
    pub fn new(reason: &str, cause: Cause, now_ms: u64) -> Dirty {
        let (reason, keep) = (reason.to_owned(), Keep::No);
        Dirty { reason, since_ms: now_ms, not_copied_yet: false, cause, keep, reached: None }
    }
}

impl State {
    /// The dirty namespaces.
    pub fn dirty(&self) -> impl Iterator<Item = (Namespace, &Dirty)> {
        self.content.dirty.iter().map(|(name, dirty)| (Namespace::parse(name), dirty))
    }

    /// Set when nothing can be trusted without a full comparison.
    pub fn everything_dirty(&self) -> Option<&Dirty> {
        self.content.everything_dirty.as_ref()
    }

    /// Whether `ns`, its database or everything is dirty.
    pub fn is_dirty(&self, ns: &Namespace) -> bool {
        let dirty = &self.content.dirty;
        dirty.get(ns.as_str()).is_some_and(|dirty| dirty.cause > Cause::Shape)
            || dirty.contains_key(ns.db())
            || self.content.everything_dirty.is_some()
    }

    /// What has made `ns` dirty by itself, if it is.
    pub fn cause(&self, ns: &Namespace) -> Option<Cause> {
        self.content.dirty.get(ns.as_str()).map(|dirty| dirty.cause)
    }

    /// Whether no document of `ns` may be deleted by following.
    pub fn keeps(&self, ns: &Namespace) -> bool {
        self.content.dirty.get(ns.as_str()).is_some_and(|dirty| dirty.keep != Keep::No)
    }

    /// Makes `ns` dirty; says whether it was not before. What it was dirty for already stays the reason, but the
    /// more telling cause counts.
    pub fn set_dirty(&mut self, ns: &Namespace, dirty: Dirty) -> bool {
        if let Some(known) = self.content.dirty.get_mut(ns.as_str()) {
            self.changed |= known.cause < dirty.cause || known.keep != dirty.keep;
            if dirty.cause > Cause::Shape {
                self.changed |= known.reached.take().is_some();
            }
            let keep = if dirty.cause == Cause::Dropped { Keep::No } else { known.keep.max(dirty.keep) };
            let first = known.cause == Cause::Shape && dirty.cause > Cause::Shape;
            if known.cause <= Cause::Asked && known.cause < dirty.cause {
                *known = dirty;
            } else {
                known.cause = known.cause.max(dirty.cause);
            }
            known.keep = keep;
            return first;
        }
        self.content.dirty.insert(ns.as_str().to_owned(), dirty);
        self.changed = true;
        true
    }

    /// Makes everything dirty; says whether it was not before.
    pub fn set_everything_dirty(&mut self, dirty: Dirty) -> bool {
        let known = self.content.everything_dirty.as_ref();
        let new = known.is_none_or(|known| known.cause < dirty.cause);
        if new {
            self.content.everything_dirty = Some(dirty);
            self.changed = true;
        }
        new
    }

    /// `ns` has been compared as a whole, or was expanded into its collections.
    pub fn clear_dirty(&mut self, ns: &Namespace) {
        self.changed |= self.content.dirty.remove(ns.as_str()).is_some();
    }

    /// Each namespace has been made dirty by itself.
    pub fn clear_everything_dirty(&mut self) {
        self.changed |= self.content.everything_dirty.take().is_some();
    }

    /// A captured command may have made the source's collection of this name anew, or those of this database: which ones
    /// they are now is not known, and that they are others is no wonder any more.
    pub fn may_be_anew(&mut self, ns: &Namespace) {
        let content = &mut self.content;
        let before = content.uuids.len();
        if ns.coll().is_empty() {
            content.uuids.retain(|name, _| Namespace::parse(name).db() != ns.db());
        } else {
            content.uuids.remove(ns.as_str());
        }
        self.changed |= content.uuids.len() != before;
        for (name, dirty) in &mut content.dirty {
            let name = Namespace::parse(name);
            let meant = name == *ns || (ns.coll().is_empty() && name.db() == ns.db());
            if meant && dirty.keep == Keep::Unexplained {
                dirty.keep = Keep::No;
                self.changed = true;
            }
        }
    }
}
