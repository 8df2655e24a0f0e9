//! One scan of a time-series collection: span by span of its time, from the first measurement on either side to the
//! last. The worker reads both sides and inserts what is missing, since measurements have no key that it could be told.
//!
//! What only the target has cannot be deleted by itself: the collection is made anew then, where that is allowed.

use std::time::Instant;

use record::Namespace;
use replicator::{Collection, Documents, Made, Span, integer, now_ms, time_field};

use crate::scan::{Extra, Interrupt, Scanner, away, is_held};

struct Pass {
    repaired: u64,
    extra: u64,
    target: u64,
}

impl Scanner<'_> {
    /// Makes the target's measurements those of the source; says how many were written, or why that must not be.
    pub(crate) async fn in_time(
        &self,
        ns: &Namespace,
        here: &Collection,
        extra: Extra,
    ) -> Result<Result<u64, String>, Interrupt> {
        let Some(field) = time_field(&here.options) else {
            return Ok(Err("its options do not name the field of its time".to_owned()));
        };
        let first = match self.spans(ns, here, field).await? {
            Ok(pass) if pass.extra == 0 => return Ok(Ok(pass.repaired)),
            other => other,
        };
        let found = match first {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        if let Some(why) = is_held(extra, found.extra, found.target) {
            return Ok(Err(why));
        }
        match self.shared.make_anew(ns, Documents::Drop).await? {
            Made::Anew => {}
            Made::HasDocuments => return Err(Interrupt::Worker), // kept since a moment ago
            Made::Refused(why) => return Ok(Err(format!("the target refuses its options: {why}"))),
        }
        Ok(self.spans(ns, here, field).await?.map(|pass| found.repaired + pass.repaired))
    }

    /// The inner error: why the target refuses a measurement.
    async fn spans(
        &self,
        ns: &Namespace,
        here: &Collection,
        field: &str,
    ) -> Result<Result<Pass, String>, Interrupt> {
        let mut pass = Pass { repaired: 0, extra: 0, target: 0 };
        let documents = self.source.count(ns).await.map_err(away)?;
        self.progress.begin(ns, documents);
        let Some(all) = self.time_of_all(ns, field).await? else { return Ok(Ok(pass)) };
        let mut from = all.from.max(expired_before(here));
        let (mut length, mut compared) = (SPAN_FIRST_MS, 0);
        let since = Instant::now();
        while from < all.to {
            let span = Span { from, to: from.saturating_add(length).min(all.to) };
            let spanned = self.shared.make_span_equal(ns, field, span).await?;
            if let Some(why) = spanned.refused {
                return Ok(Err(format!("the target refuses a measurement: {why}")));
            }
            self.progress.compared(ns, spanned.source, spanned.inserted + spanned.extra);
            pass.repaired += spanned.inserted;
            pass.extra += spanned.extra;
            pass.target += spanned.source - spanned.inserted.min(spanned.source) + spanned.extra;
            compared += spanned.source;
            self.pace(since, compared).await;
            from = span.to;
            length = match spanned.source + spanned.extra {
                few if few < SPAN_FEW => length.saturating_mul(4),
                many if many > SPAN_MANY => (length / 4).max(1),
                _ => length,
            };
        }
        Ok(Ok(pass))
    }

    /// From the first measurement of either side to behind the last.
    async fn time_of_all(&self, ns: &Namespace, field: &str) -> Result<Option<Span>, Interrupt> {
        let mut ends = Vec::new();
        for side in [self.source, self.target] {
            for order in [1, -1] {
                ends.extend(side.end_of_time(ns, field, order).await.map_err(away)?);
            }
        }
        let (Some(from), Some(last)) = (ends.iter().min(), ends.iter().max()) else { return Ok(None) };
        Ok(Some(Span { from: *from, to: last.saturating_add(1) }))
    }
}

/// What is older expires, on both sides, each at its own time.
fn expired_before(here: &Collection) -> i64 {
    let seconds = here.options.get("expireAfterSeconds").ok().flatten();
    let seconds = seconds.and_then(|value| bson::Bson::try_from(value).ok());
    match integer(seconds.as_ref()) {
        0 => i64::MIN,
        seconds => i64::try_from(now_ms()).unwrap_or(i64::MAX).saturating_sub(seconds.saturating_mul(1_000)),
    }
}

const SPAN_FIRST_MS: i64 = 60_000;
/// Measurements of one step: longer spans below, shorter ones above.
const SPAN_FEW: u64 = 500;
const SPAN_MANY: u64 = 4_000;
