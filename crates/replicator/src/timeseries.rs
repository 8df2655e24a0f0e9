//! Time-series collections: measurements have no key, and may be there twice.
//!
//! - what is made equal is a span of time: both sides' measurements in it are compared as multisets, and those that the
//!   target lacks are inserted. Asked twice, the second time finds nothing; so an insert is no more than a reason to
//!   look at its time
//! - a measurement's bytes are compared with its fields in the order of their names: a server gives them back in an
//!   order that depends on what shares a bucket with it (seen on 6.0.5)
//! - what only the target has cannot be deleted one by one (before 7.0): counted, and left to a full comparison, which
//!   makes the collection anew
//!
//! Expiry runs on both sides: a measurement is never renewed.

use std::collections::{HashMap, VecDeque};

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use bson::{DateTime, cstr, rawdoc};
use mongodb::Client;
use record::{Namespace, Op};

use crate::error::ServerError;
use crate::execute::{Executor, Stall, Tally};
use crate::plan::Unit;
use crate::server::{Concern, cursor, next};
use crate::shared::Way;
use crate::state::Cause;

/// Measurements of one side that are held at a time; a span with more is cut in two.
const HELD_MAX: usize = 20_000;
const HELD_BYTES_MAX: usize = 16 << 20;
/// Inserts nearer to each other than this are looked at as one span.
const GAP_MS: i64 = 60_000;
/// Spans of one batch; with more of them a full comparison is no dearer.
const SPANS_MAX: usize = 50;

/// From a moment on, up to but not including another, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first millisecond.
    pub from: i64,
    /// The first one behind it.
    pub to: i64,
}

/// How a span came out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spanned {
    /// Measurements of the source.
    pub source: u64,
    /// Inserted on the target.
    pub inserted: u64,
    /// On the target only.
    pub extra: u64,
    /// Why the target refuses one.
    pub refused: Option<String>,
}

/// The field that holds a measurement's time.
pub fn time_field(options: &RawDocument) -> Option<&str> {
    options.get_document("timeseries").ok()?.get_str("timeField").ok()
}

/// The first or the last measurement's time in milliseconds since 1970.
pub async fn end_of_time(
    client: &Client,
    ns: &Namespace,
    field: &str,
    order: i32,
) -> Result<Option<i64>, ServerError> {
    let mut find = rawdoc! {"find": ns.coll(), "limit": 1};
    let mut sort = RawDocumentBuf::new();
    sort.append(key(field)?, order);
    find.append(cstr!("sort"), sort);
    let found = next(&mut cursor(client, ns.db(), find).await?).await?;
    Ok(found.and_then(|found| time_of(&found, field)))
}

impl Executor {
    /// Brings the inserts of a time-series collection to the target.
    pub(crate) async fn follow_in_time(
        &self,
        ns: &Namespace,
        field: &str,
        queue: &mut VecDeque<Unit>,
        tally: &Tally,
    ) -> Result<(), Stall> {
        self.commands_over_all(ns, queue, tally).await?;
        let entries = queue.iter().map(|unit| unit.entry);
        let Some(spans) = spans(queue, field) else {
            self.make_dirty_by(ns, "measurements were changed or deleted, or are far apart", Cause::Written);
            tally.note(entries, Way::Dirty);
            return Ok(());
        };
        for span in spans {
            if let Some(why) = self.make_span_equal(ns, field, span).await?.refused {
                self.make_dirty_by(ns, &format!("the target refuses a measurement: {why}"), Cause::Written);
                tally.note(entries, Way::Dirty);
                return Ok(());
            }
        }
        tally.note(entries, Way::Converged);
        Ok(())
    }

    /// Inserts what the target lacks of the source's measurements of a span.
    pub(crate) async fn make_span_equal(
        &self,
        ns: &Namespace,
        field: &str,
        span: Span,
    ) -> Result<Spanned, Stall> {
        let mut all = Spanned::default();
        let mut left = vec![span];
        while let Some(span) = left.pop() {
            let concern = self.source.concern(None).await.map_err(Stall::Source)?;
            let here = measurements(self.source.client(), ns, field, span, &concern).await;
            let there = match here.map_err(Stall::Source)? {
                None => None,
                Some(here) => {
                    let client = self.target.client().await.map_err(Stall::Target)?;
                    let there = measurements(client, ns, field, span, &Concern::none()).await;
                    there.map_err(Stall::Target)?.map(|there| (here, there))
                }
            };
            let Some((here, there)) = there else {
                let middle = span.from + (span.to - span.from) / 2;
                left.push(Span { from: middle, to: span.to });
                left.push(Span { from: span.from, to: middle });
                continue;
            };
            all.source += here.len() as u64;
            let (missing, extra) = differences(here, there);
            all.inserted += missing.len() as u64;
            all.extra += extra;
            all.refused = self.append(ns, &missing).await?;
            if all.refused.is_some() {
                break;
            }
        }
        Ok(all)
    }
}

/// What only the first has, and how many only the second has.
fn differences(here: Vec<RawDocumentBuf>, there: Vec<RawDocumentBuf>) -> (Vec<RawDocumentBuf>, u64) {
    let mut counted: HashMap<Vec<u8>, u64> = HashMap::new();
    there.iter().for_each(|doc| *counted.entry(by_name(doc)).or_default() += 1);
    let mut missing = Vec::new();
    for doc in here {
        match counted.get_mut(&by_name(&doc)) {
            Some(count) if *count > 0 => *count -= 1,
            _ => missing.push(doc),
        }
    }
    (missing, counted.values().sum())
}

/// The bytes of the document with its fields in the order of their names.
fn by_name(doc: &RawDocument) -> Vec<u8> {
    let mut fields: Vec<_> = doc.into_iter().flatten().collect();
    fields.sort_by_key(|(name, _)| *name);
    let mut sorted = RawDocumentBuf::new();
    fields.into_iter().for_each(|(name, value)| sorted.append(name, value));
    sorted.into_bytes()
}

/// The spans of the inserts; `None` where there is something else, or they lie too far apart.
fn spans(queue: &VecDeque<Unit>, field: &str) -> Option<Vec<Span>> {
    let time = |unit: &Unit| match &unit.effect().op {
        Some(Op::Insert(doc)) => time_of(doc, field),
        _ => None,
    };
    let mut times: Vec<i64> = queue.iter().map(time).collect::<Option<_>>()?;
    times.sort_unstable();
    let mut spans: Vec<Span> = Vec::new();
    for at in times {
        match spans.last_mut() {
            Some(span) if at <= span.to.saturating_add(GAP_MS) => span.to = at + 1,
            _ => spans.push(Span { from: at, to: at + 1 }),
        }
    }
    (spans.len() <= SPANS_MAX).then_some(spans)
}

fn time_of(doc: &RawDocument, field: &str) -> Option<i64> {
    match doc.get(field).ok()?? {
        RawBsonRef::DateTime(at) => Some(at.timestamp_millis()),
        _ => None,
    }
}

/// `None`: there are too many of them to be held, and the span can be cut.
async fn measurements(
    client: &Client,
    ns: &Namespace,
    field: &str,
    span: Span,
    concern: &Concern,
) -> Result<Option<Vec<RawDocumentBuf>>, ServerError> {
    let mut filter = RawDocumentBuf::new();
    let (from, to) = (DateTime::from_millis(span.from), DateTime::from_millis(span.to));
    filter.append(key(field)?, rawdoc! {"$gte": from, "$lt": to});
    let mut find = rawdoc! {"find": ns.coll(), "batchSize": 5_000};
    find.append(cstr!("filter"), filter);
    concern.add_to(&mut find);
    let mut cursor = cursor(client, ns.db(), find).await?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(doc) = next(&mut cursor).await? {
        bytes += doc.as_bytes().len();
        found.push(doc);
        if (found.len() > HELD_MAX || bytes > HELD_BYTES_MAX) && span.to - span.from > 1 {
            return Ok(None);
        }
    }
    Ok(Some(found))
}

fn key(field: &str) -> Result<bson::raw::CString, ServerError> {
    bson::raw::CString::try_from(field).map_err(|error| ServerError::from_code(9, &error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_compared_as_a_multiset_whatever_the_order_of_their_fields() {
        let here = vec![rawdoc! {"t": 1, "v": 2}, rawdoc! {"t": 1, "v": 2}, rawdoc! {"t": 2}];
        let there = vec![rawdoc! {"v": 2, "t": 1}, rawdoc! {"t": 2}, rawdoc! {"t": 3}, rawdoc! {"t": 2}];
        assert_eq!(differences(here, there), (vec![rawdoc! {"t": 1, "v": 2}], 2));
        assert_eq!(differences(vec![rawdoc! {"t": 1_i64}], vec![rawdoc! {"t": 1}]).1, 1, "types count");
    }
}
