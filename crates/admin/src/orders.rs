//! The endpoints that change something. Each order runs to its end, whether or not its client waits for it.

use std::future::Future;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde::Deserialize;

use crate::envelope::{Answer, Failure, Success, body};
use crate::routes::Shared;
use crate::shapes::{Affected, CaptureState, Cleared, Filters, Full, Stats, Worker};
use crate::system::{Action, CaptureAction, Letters, Pace, Refusal, SetFilters, System};

type Body = Result<Bytes, BytesRejection>;

/// `POST /api/sync/worker/control`.
pub(crate) async fn control<S: System>(State(shared): State<Shared<S>>, bytes: Body) -> Answer<Worker> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        action: Action,
    }
    let Order { action } = body(bytes, r#"{"action":"start|stop|pause|resume"}"#)?;
    let system = shared.system.clone();
    carry_out(&shared, "worker control", async move { system.control(action).await }).await
}

/// `POST /api/sync/worker/pace`. The bounds are those of the settings.
pub(crate) async fn pace<S: System>(State(shared): State<Shared<S>>, bytes: Body) -> Answer<Worker> {
    let pace: Pace = body(bytes, r#"{"lanes":8,"batchEntriesMax":50000,"rateMax":0}, or some of them"#)?;
    let fits = pace.lanes.is_none_or(|lanes| (1..=64).contains(&lanes))
        && pace.batch_entries_max.is_none_or(|entries| (1..=100_000).contains(&entries))
        && pace.rate_max.is_none_or(|rate| rate <= 10_000_000);
    if !fits {
        let action = "lanes: 1 to 64, batchEntriesMax: 1 to 100000, rateMax: 0 to 10000000";
        return Err(Failure::bad_request("a number is out of bounds", action));
    }
    let system = shared.system.clone();
    carry_out(&shared, "worker pace", async move { system.set_pace(pace).await }).await
}

/// `POST /api/sync/capture/control`.
pub(crate) async fn capture<S: System>(State(shared): State<Shared<S>>, bytes: Body) -> Answer<CaptureState> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        action: CaptureAction,
    }
    let Order { action } = body(bytes, r#"{"action":"bypass|resume"}"#)?;
    let system = shared.system.clone();
    carry_out(&shared, "capture control", async move { system.control_capture(action).await }).await
}

/// `GET /api/sync/filters`.
pub(crate) async fn filters<S: System>(State(shared): State<Shared<S>>) -> Success<Filters> {
    Success(shared.system.filters().await)
}

/// `POST /api/sync/filters`.
pub(crate) async fn set_filters<S: System>(State(shared): State<Shared<S>>, bytes: Body) -> Answer<Filters> {
    let to: SetFilters = body(bytes, r#"{"include":["db.coll"],"exclude":["db.*"]}, or one of them"#)?;
    let system = shared.system.clone();
    carry_out(&shared, "filters", async move { system.set_filters(to).await }).await
}

/// `POST /api/sync/queue/clear`.
pub(crate) async fn clear_queue<S: System>(State(shared): State<Shared<S>>, bytes: Body) -> Answer<Cleared> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        confirm: String,
    }
    let Order { confirm } = body(bytes, r#"{"confirm":"clear"}"#)?;
    if confirm != "clear" {
        return Err(Failure::bad_request("clearing was not confirmed", r#"send {"confirm":"clear"}"#));
    }
    let system = shared.system.clone();
    carry_out(&shared, "clear queue", async move { system.clear_queue().await }).await
}

/// `POST /api/sync/stats/reset`.
pub(crate) async fn reset_stats<S: System>(State(shared): State<Shared<S>>) -> Answer<Stats> {
    let system = shared.system.clone();
    carry_out(&shared, "reset stats", async move { Ok(system.reset_stats().await) }).await
}

/// `POST /api/sync/dead-letters/retry`.
pub(crate) async fn retry<S: System>(State(shared): State<Shared<S>>, bytes: Body) -> Answer<Affected> {
    let letters = letters(bytes)?;
    let system = shared.system.clone();
    carry_out(&shared, "retry dead letters", async move { system.retry(letters).await }).await
}

/// `POST /api/sync/retry-failed`: retry all, no body wanted.
pub(crate) async fn retry_failed<S: System>(State(shared): State<Shared<S>>) -> Answer<Affected> {
    let system = shared.system.clone();
    carry_out(&shared, "retry dead letters", async move { system.retry(Letters::All).await }).await
}

/// `POST /api/sync/dead-letters/discard`.
pub(crate) async fn discard<S: System>(State(shared): State<Shared<S>>, bytes: Body) -> Answer<Affected> {
    let letters = letters(bytes)?;
    let system = shared.system.clone();
    carry_out(&shared, "discard dead letters", async move { system.discard(letters).await }).await
}

/// `GET /api/sync/full`.
pub(crate) async fn full_state<S: System>(State(shared): State<Shared<S>>) -> Success<Full> {
    Success(shared.system.full().await)
}

/// `POST /api/sync/full`.
pub(crate) async fn full_start<S: System>(State(shared): State<Shared<S>>) -> Answer<Full> {
    let system = shared.system.clone();
    carry_out(&shared, "full comparison", async move { system.start_full().await }).await
}

/// `DELETE /api/sync/full`.
pub(crate) async fn full_cancel<S: System>(State(shared): State<Shared<S>>) -> Answer<Full> {
    let system = shared.system.clone();
    carry_out(&shared, "stop full comparison", async move { system.stop_full().await }).await
}

/// `POST /api/sync/deletes/confirm`.
pub(crate) async fn confirm_deletes<S: System>(
    State(shared): State<Shared<S>>,
    bytes: Body,
) -> Answer<Affected> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        namespaces: Vec<String>,
    }
    let expected = r#"{"namespaces":["db.coll"]}"#;
    let Order { namespaces } = body(bytes, expected)?;
    if namespaces.is_empty() {
        return Err(Failure::bad_request("no namespace is named", format!("send {expected}")));
    }
    let system = shared.system.clone();
    carry_out(&shared, "confirm deletes", async move { system.confirm_deletes(namespaces).await }).await
}

fn letters(bytes: Body) -> Result<Letters, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Order {
        Ids(Vec<String>),
        All(bool),
    }
    let expected = r#"{"ids":["…"]} or {"all":true}"#;
    match body(bytes, expected)? {
        Order::All(true) => Ok(Letters::All),
        Order::Ids(ids) if !ids.is_empty() => Ok(Letters::Ids(ids)),
        Order::All(false) | Order::Ids(_) => {
            Err(Failure::bad_request("no dead letter is named", format!("send {expected}")))
        }
    }
}

/// Runs an order as a task of its own, so that a client that hangs up does not leave it half done.
async fn carry_out<S: System, T: Send + 'static>(
    shared: &Shared<S>,
    order: &'static str,
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Answer<T> {
    let task = shared.tasks.spawn(async move {
        let outcome = work.await;
        match &outcome {
            Ok(_) => tracing::info!(order, "admin order carried out"),
            Err(refusal) => tracing::info!(order, %refusal, "admin order refused"),
        }
        outcome
    });
    match task.await {
        Ok(outcome) => Ok(Success(outcome?)),
        Err(error) => {
            tracing::error!(order, %error, "admin order died");
            let action = "look into the log of dualsync; the order may be half done";
            Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "DIED", "the order died on its way", action))
        }
    }
}
