//! What comparisons have found: how each came out, and how far one is that is under way.

use bson::raw::RawDocumentBuf;
use record::Namespace;
use serde::{Deserialize, Serialize};

use super::letters::{from_hex, to_hex};
use super::{Cause, State};
use crate::plan::Scan;
use crate::shared::Shared;

/// Verdicts that are kept; beyond that the oldest go.
const VERDICTS_MAX: usize = 1_000;

/// How a comparison came out that found both sides equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Documents of the source.
    pub documents: u64,
    /// Documents that were handed to the replicator, and are equal since.
    pub repaired: u64,
    /// Milliseconds since 1970: equal as of then, but for what waits in the log.
    pub equal_as_of_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// How far a comparison is: all documents before `key` are equal, and the target has none there that the source has
/// not. True until the namespace becomes dirty again, over restarts too: until then its entries are only converged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// `{_id: …}` as raw BSON, in hexadecimal.
    key: String,
    /// Documents of the source before it.
    pub source: u64,
    /// And of the target.
    pub target: u64,
}

impl Reached {
    /// `key`: an index bound, `{_id: …}`.
    pub fn new(key: &RawDocumentBuf, source: u64, target: u64) -> Reached {
        Reached { key: to_hex(key.as_bytes()), source, target }
    }

    /// From where to go on.
    pub fn key(&self) -> Option<RawDocumentBuf> {
        RawDocumentBuf::from_bytes(from_hex(&self.key)?).ok()
    }
}

impl State {
    /// How far the comparison of `ns` is.
    pub fn reached(&self, ns: &Namespace) -> Option<&Reached> {
        self.content.dirty.get(ns.as_str()).and_then(|dirty| dirty.reached.as_ref())
    }

    /// Remembers that.
    pub fn set_reached(&mut self, ns: &Namespace, reached: Reached) {
        if let Some(dirty) = self.content.dirty.get_mut(ns.as_str()).filter(|it| it.cause > Cause::Shape) {
            dirty.reached = Some(reached);
            self.changed = true;
        }
    }

    /// Forgets that: what was compared goes.
    pub(crate) fn clear_reached(&mut self, ns: &Namespace) {
        if let Some(dirty) = self.content.dirty.get_mut(ns.as_str()) {
            self.changed |= dirty.reached.take().is_some();
        }
    }

    /// Remembers how a comparison of `ns` came out.
    pub fn set_verdict(&mut self, ns: &Namespace, verdict: Verdict) {
        let verdicts = &mut self.content.compared;
        if verdicts.len() >= VERDICTS_MAX
            && let Some(oldest) =
                verdicts.iter().min_by_key(|(_, it)| it.equal_as_of_ms).map(|(ns, _)| ns.clone())
        {
            verdicts.remove(&oldest);
        }
        verdicts.insert(ns.as_str().to_owned(), verdict);
        self.changed = true;
    }
}

impl Shared {
    /// How the last comparison of each namespace came out that ended well.
    pub fn verdicts(&self) -> Vec<(String, Verdict)> {
        self.state().content.compared.iter().map(|(ns, verdict)| (ns.clone(), verdict.clone())).collect()
    }

    /// From where an earlier comparison of `ns` can be taken up.
    pub fn reached(&self, ns: &Namespace) -> Option<Reached> {
        self.state().reached(ns).cloned()
    }

    /// Remembers how far a comparison is, unless its namespace has become dirty meanwhile.
    pub async fn set_reached(
        &self,
        ns: &Namespace,
        scan: Scan,
        reached: Reached,
    ) -> Result<(), crate::NotNow> {
        self.ask(|answer| crate::asks::Ask::Reached(ns.clone(), scan, reached, answer)).await
    }
}
