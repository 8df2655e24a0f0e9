//! Which of the target's documents a statement in doubt may have touched: those that its filter finds there.
//!
//! - one query for many filters of one collation and `let`; where it is refused, they are asked for in smaller parts
//! - a filter that the source cannot even read has changed nothing there: it is passed over
//! - a filter that only the target refuses, or takes too long over, or that finds too much, leaves its namespace to a full
//!   comparison, and until that has ended none of its filters is looked up again

use std::collections::{HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};

use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::{cstr, rawdoc};
use record::{Key, Namespace, Predicate, Raw};
use tracing::{debug, warn};

use crate::error::{Class, ServerError};
use crate::execute::{Executor, Stall};
use crate::state::Cause;
use crate::target::TIME_LIMIT_EXCEEDED;

/// Predicates that one query asks for.
const PREDICATES_PER_QUERY: usize = 200;
/// Documents that predicates may find before the namespace is left to a full comparison: about 10 MiB of keys.
const CANDIDATES_MAX: usize = 100_000;

/// How filters are read, beside their own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Context<'a> {
    collation: Option<&'a Raw>,
    variables: Option<&'a Raw>,
}

/// What one query found.
enum Found {
    Keys(Vec<Key>),
    /// The target refuses it.
    Refused(ServerError),
    /// It has not come to an end.
    TooLong,
}

impl Executor {
    /// The keys of the target's documents that any predicate matches. `None`: the namespace has become dirty.
    pub(crate) async fn candidates(
        &self,
        ns: &Namespace,
        predicates: &[Predicate],
    ) -> Result<Option<Vec<Key>>, Stall> {
        if predicates.is_empty() {
            return Ok(Some(Vec::new()));
        }
        if self.no_look_up().contains(ns) {
            self.make_dirty_by(ns, "its statements in doubt are not looked up any more", Cause::Written);
            return Ok(None);
        }
        let mut groups: HashMap<Context<'_>, Vec<&Raw>> = HashMap::new();
        for predicate in predicates {
            let context =
                Context { collation: predicate.collation.as_ref(), variables: predicate.variables.as_ref() };
            let group = groups.entry(context).or_default();
            if !group.contains(&&predicate.filter) {
                group.push(&predicate.filter);
            }
        }
        let mut keys = Vec::new();
        for (context, filters) in &groups {
            let mut parts: Vec<&[&Raw]> = filters.chunks(PREDICATES_PER_QUERY).collect();
            while let Some(filters) = parts.pop() {
                match self.found_by(ns, filters, *context).await? {
                    Found::Keys(found) => keys.extend(found),
                    Found::Refused(_) if filters.len() > 1 => {
                        let (some, others) = filters.split_at(filters.len() / 2);
                        parts.extend([some, others]);
                    }
                    Found::Refused(error) if self.source_reads(ns, filters, *context).await? => {
                        warn!(%ns, %error, "target refuses a filter, the namespace needs a full comparison");
                        return Ok(self.not_looked_up(ns, "the target refuses a filter that the source took"));
                    }
                    Found::Refused(error) => {
                        debug!(%ns, %error, "a filter that no server takes changes nothing")
                    }
                    Found::TooLong => {
                        return Ok(self.not_looked_up(ns, "the target takes too long over a filter"));
                    }
                }
                if keys.len() > CANDIDATES_MAX {
                    let reason = "a statement in doubt may have touched too many documents";
                    return Ok(self.not_looked_up(ns, reason));
                }
            }
        }
        Ok(Some(keys))
    }

    async fn found_by(&self, ns: &Namespace, filters: &[&Raw], context: Context<'_>) -> Result<Found, Stall> {
        let _lane = self.lanes.take().await?;
        let (collation, variables) = (context.collation.map(|it| &it.0), context.variables.map(|it| &it.0));
        let filter = any_of(filters);
        match self.target.candidates(ns, &filter, collation, variables, CANDIDATES_MAX + 1).await {
            Ok(found) => Ok(Found::Keys(found.iter().filter_map(|id| Key::of(id)).collect())),
            Err(error) if error.class == Class::Refused => Ok(Found::Refused(error)),
            Err(error) if error.code == Some(TIME_LIMIT_EXCEEDED) => Ok(Found::TooLong),
            Err(error) => self.lanes.close(Err(Stall::Target(error))),
        }
    }

    /// Whether the source makes sense of the filter. It is explained, not run: one that fails over some document may have
    /// changed others before.
    async fn source_reads(
        &self,
        ns: &Namespace,
        filters: &[&Raw],
        context: Context<'_>,
    ) -> Result<bool, Stall> {
        let mut find = rawdoc! {"find": ns.coll()};
        find.append(cstr!("filter"), any_of(filters));
        for (name, value) in [(cstr!("collation"), context.collation), (cstr!("let"), context.variables)] {
            if let Some(value) = value {
                find.append(name, value.0.as_ref());
            }
        }
        match self.source.explain(ns, find).await {
            Ok(()) => Ok(true),
            Err(error) if error.class == Class::Refused => Ok(false),
            Err(error) => self.lanes.close(Err(Stall::Source(error))),
        }
    }

    fn not_looked_up(&self, ns: &Namespace, reason: &str) -> Option<Vec<Key>> {
        self.no_look_up().insert(ns.clone());
        self.make_dirty_by(ns, reason, Cause::Written);
        None
    }

    /// Dirty namespaces whose predicates are not looked up.
    pub(crate) fn no_look_up(&self) -> MutexGuard<'_, HashSet<Namespace>> {
        self.no_look_up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn any_of(filters: &[&Raw]) -> RawDocumentBuf {
    if let [one] = filters {
        return one.0.clone();
    }
    let mut any = RawArrayBuf::new();
    for filter in filters {
        any.push(filter.0.as_ref());
    }
    let mut filter = RawDocumentBuf::new();
    filter.append(cstr!("$or"), any);
    filter
}
