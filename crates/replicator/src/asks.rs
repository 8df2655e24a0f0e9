//! What the reconciler asks of the worker. It writes no document itself: each of these is a step of the worker's
//! own, between two of its others, so that nothing stands between a reading and its writing (design: ownership).
//!
//! An answer is an error when a server went away meanwhile: ask again. While the worker is paused or stopped, and
//! while it waits for a server, answers wait as well.

use bson::raw::RawDocumentBuf;
use record::{Key, Namespace};
use tokio::sync::oneshot;

use crate::error::ServerError;
use crate::plan::Scan;
use crate::shared::Shared;
use crate::state::{Cause, Reached, Verdict};
use crate::timeseries::{Span, Spanned};

/// Why the worker has not done it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotNow {
    /// A server is away, or the worker has ended.
    #[error("the worker could not do it now")]
    Away,
    /// A right is missing, of this namespace as far as anybody knows: others may go on.
    #[error("a right is missing: {0}")]
    Forbidden(ServerError),
}

/// What became of keys that were handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// They are equal, or in the dead letters.
    Converged,
    /// The namespace's documents cannot be converged: capped or time-series.
    NotFollowed,
}

/// What becomes of the documents of a collection that should be made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Documents {
    /// A collection that has any is left as it is.
    Keep,
    /// They go with it: the source's collection was dropped, too.
    Drop,
}

/// Whether a collection was made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// It was, or is not needed any more.
    Anew,
    /// It was left as it is.
    HasDocuments,
    /// The target refuses it: its words.
    Refused(String),
}

/// To whom it is told; the error: a right is missing.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, ServerError>>;

/// What a scan has found.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    /// Names the source's collection; `None`: there is none, or it has no name of its own.
    pub uuid: Option<String>,
    /// `None`: its documents were not compared.
    pub verdict: Option<Verdict>,
}

pub(crate) enum Ask {
    Expand(Answer<bool>),
    Begin(Namespace, Answer<Option<(Scan, Cause)>>),
    Converge(Namespace, Vec<Key>, Answer<Handed>),
    /// Of a capped or time-series collection; answers why the target refuses one.
    Append(Namespace, Vec<RawDocumentBuf>, Answer<Option<String>>),
    Span(Namespace, String, Span, Answer<Spanned>),
    Drop(Namespace, Answer<bool>),
    MakeAnew(Namespace, Documents, Answer<Made>),
    Reached(Namespace, Scan, Reached, Answer<()>),
    End(Namespace, Scan, Ended, Answer<bool>),
}

impl Shared {
    /// Makes dirty each namespace that a dirty database, or everything dirty, may mean, one by one. `false`: some of
    /// them may not be listed, and stay.
    pub async fn expand(&self) -> Result<bool, NotNow> {
        self.ask(Ask::Expand).await
    }

    /// A comparison of `ns` begins: nothing of it has been read yet. With it what has made it dirty until then: what does
    /// so later starts another scan. `None`: it is not dirty any more.
    pub async fn begin_scan(&self, ns: &Namespace) -> Result<Option<(Scan, Cause)>, NotNow> {
        self.ask(|answer| Ask::Begin(ns.clone(), answer)).await
    }

    /// Makes these documents equal. At most about a thousand at a time: live writes wait meanwhile.
    pub async fn hand_over(&self, ns: &Namespace, keys: Vec<Key>) -> Result<Handed, NotNow> {
        self.ask(|answer| Ask::Converge(ns.clone(), keys, answer)).await
    }

    /// Inserts documents into a capped collection, in this order; says why the target refuses one. At most about a
    /// thousand at a time, and only within a scan, which is what keeps others from appending.
    pub async fn append(
        &self,
        ns: &Namespace,
        documents: Vec<RawDocumentBuf>,
    ) -> Result<Option<String>, NotNow> {
        self.ask(|answer| Ask::Append(ns.clone(), documents, answer)).await
    }

    /// Inserts what the target lacks of a time-series collection's measurements of a span; `field` holds their time.
    pub async fn make_span_equal(&self, ns: &Namespace, field: &str, span: Span) -> Result<Spanned, NotNow> {
        self.ask(|answer| Ask::Span(ns.clone(), field.to_owned(), span, answer)).await
    }

    /// Drops the target's collection if the source has none of that name; says whether it did.
    pub async fn drop_gone(&self, ns: &Namespace) -> Result<bool, NotNow> {
        self.ask(|answer| Ask::Drop(ns.clone(), answer)).await
    }

    /// Creates the target's collection or view with the source's options, instead of what is there. All its documents
    /// must be compared after that, within the same scan.
    pub async fn make_anew(&self, ns: &Namespace, documents: Documents) -> Result<Made, NotNow> {
        self.ask(|answer| Ask::MakeAnew(ns.clone(), documents, answer)).await
    }

    /// Every difference that the scan found has been handed over. Says whether `ns` is clean; else it became dirty
    /// meanwhile.
    pub async fn end_scan(&self, ns: &Namespace, scan: Scan, ended: Ended) -> Result<bool, NotNow> {
        self.ask(|answer| Ask::End(ns.clone(), scan, ended, answer)).await
    }

    /// The keys of `ns` that are in the dead letters.
    pub fn refused_keys(&self, ns: &Namespace) -> Vec<Key> {
        let letters = self.dead_letters();
        letters.iter().filter(|letter| letter.namespace == ns.as_str()).filter_map(|it| it.key()).collect()
    }

    /// Whether no document of `ns` may be deleted by following.
    pub fn keeps(&self, ns: &Namespace) -> bool {
        self.state().keeps(ns)
    }

    /// Whether the source's collection of this name is another one than was followed before.
    pub fn is_another(&self, ns: &Namespace, uuid: Option<&str>) -> bool {
        let state = self.state();
        uuid.is_some() && state.uuid(ns).is_some_and(|known| Some(known) != uuid)
    }
}
