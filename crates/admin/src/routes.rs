//! The map of the port: which path leads where, and what it asks of the caller.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use prometheus::Registry;
use serde::Serialize;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::envelope::{Answer, Failure, Success};
use crate::shapes::{CaptureState, Connections, DeadLetters, HealthStatus, Queue, Report, Stats, Worker};
use crate::system::System;
use crate::{auth, counters, orders};

/// What every handler may look at.
pub(crate) struct Shared<S> {
    pub(crate) system: Arc<S>,
    pub(crate) registry: Registry,
    /// Connections and orders; the port closes when all of them have ended.
    pub(crate) tasks: TaskTracker,
}

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Shared<S> {
        Shared { system: self.system.clone(), registry: self.registry.clone(), tasks: self.tasks.clone() }
    }
}

/// Builds the whole port.
pub(crate) fn router<S: System>(config: &Arc<Config>, shared: Shared<S>) -> Router {
    let mut open = Router::new()
        .route("/", get(page))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready::<S>))
        .route("/api/sync/health", get(health::<S>));
    let mut guarded = Router::new()
        .route("/api/sync/report", get(report::<S>))
        .route("/api/sync/metrics", get(stats::<S>))
        .route("/api/sync/queue", get(queue::<S>))
        .route("/api/sync/queue/clear", post(orders::clear_queue::<S>))
        .route("/api/sync/worker", get(worker::<S>))
        .route("/api/sync/worker/control", post(orders::control::<S>))
        .route("/api/sync/worker/pace", post(orders::pace::<S>))
        .route("/api/sync/capture", get(capture::<S>))
        .route("/api/sync/capture/control", post(orders::capture::<S>))
        .route("/api/sync/filters", get(orders::filters::<S>).post(orders::set_filters::<S>))
        .route("/api/sync/connections", get(connections::<S>))
        .route("/api/sync/config", get(effective_config::<S>))
        .route("/api/sync/stats/reset", post(orders::reset_stats::<S>))
        .route(
            "/api/sync/full",
            get(orders::full_state::<S>).post(orders::full_start::<S>).delete(orders::full_cancel::<S>),
        )
        .route("/api/sync/deletes/confirm", post(orders::confirm_deletes::<S>))
        .route("/api/sync/dead-letters", get(dead_letters::<S>))
        .route("/api/sync/dead-letters/retry", post(orders::retry::<S>))
        .route("/api/sync/dead-letters/discard", post(orders::discard::<S>))
        .route("/api/sync/retry-failed", post(orders::retry_failed::<S>));

    // Beyond loopback the names of namespaces and figures of a business are nobody's but the operator's.
    let metrics = get(scrape::<S>);
    if config.on_loopback() {
        open = open.route("/metrics", metrics);
    } else {
        guarded = guarded.route("/metrics", metrics);
    }

    let request_timeout = config.limits.request_timeout;
    open.merge(guarded.route_layer(from_fn_with_state(config.clone(), auth::guard)))
        .method_not_allowed_fallback(wrong_method)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(config.limits.body_bytes_max))
        .layer(from_fn(move |request: Request, next: Next| async move {
            tokio::time::timeout(request_timeout, next.run(request))
                .await
                .unwrap_or_else(|_elapsed| too_slow().into_response())
        }))
        .layer(from_fn(protective_headers))
        .with_state(shared)
}

async fn page() -> Response {
    let mut response = Html(include_str!("page.html")).into_response();
    // The page loads nothing and talks to nobody but this port.
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

async fn ready<S: System>(State(shared): State<Shared<S>>) -> (StatusCode, String) {
    match shared.system.not_ready() {
        waiting if waiting.is_empty() => (StatusCode::OK, "ready\n".to_owned()),
        waiting => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", waiting.join(", "))),
    }
}

async fn scrape<S: System>(State(shared): State<Shared<S>>) -> Response {
    shared.system.before_scrape();
    match counters::text(&shared.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "encode metrics");
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be encoded; see the log\n")
                .into_response()
        }
    }
}

async fn health<S: System>(State(shared): State<Shared<S>>) -> Response {
    let health = shared.system.health().await;
    let status = match health.status {
        HealthStatus::Healthy | HealthStatus::Degraded => StatusCode::OK,
        HealthStatus::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Success(health)).into_response()
}

async fn report<S: System>(State(shared): State<Shared<S>>) -> Success<Report> {
    Success(shared.system.report().await)
}

#[derive(Serialize)]
struct Figures {
    #[serde(flatten)]
    stats: Stats,
    counters: serde_json::Value,
}

async fn stats<S: System>(State(shared): State<Shared<S>>) -> Success<Figures> {
    shared.system.before_scrape();
    Success(Figures { stats: shared.system.stats().await, counters: counters::json(&shared.registry) })
}

async fn queue<S: System>(State(shared): State<Shared<S>>) -> Success<Queue> {
    Success(shared.system.queue().await)
}

async fn worker<S: System>(State(shared): State<Shared<S>>) -> Success<Worker> {
    Success(shared.system.worker().await)
}

async fn capture<S: System>(State(shared): State<Shared<S>>) -> Success<CaptureState> {
    Success(shared.system.capture().await)
}

async fn connections<S: System>(State(shared): State<Shared<S>>) -> Success<Connections> {
    Success(shared.system.connections().await)
}

async fn effective_config<S: System>(State(shared): State<Shared<S>>) -> Success<serde_json::Value> {
    Success(shared.system.config())
}

async fn dead_letters<S: System>(
    State(shared): State<Shared<S>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answer<DeadLetters> {
    let limit = query.get("limit").map_or(Ok(LETTERS_DEFAULT), |text| text.parse());
    match limit {
        Ok(limit @ 1..=LETTERS_MAX) => Ok(Success(shared.system.dead_letters(limit).await)),
        _ => Err(Failure::bad_request("limit is not a number from 1 to 1000", "send ?limit=100")),
    }
}

async fn not_found() -> Failure {
    let action = "see the API page of the documentation for the endpoints";
    Failure::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is nothing here", action)
}

async fn wrong_method() -> Failure {
    let action = "the Allow header names the methods that are";
    Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "METHOD_NOT_ALLOWED",
        "this method is not available here",
        action,
    )
}

fn too_slow() -> Failure {
    let message = "no answer in time; an order goes on in the background";
    Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "TIMEOUT",
        message,
        "ask again, and look at /api/sync/worker",
    )
}

/// Answers are of this moment, for this caller, and of the type they say.
async fn protective_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Letters in one answer: 1000 of them stay well under a megabyte.
const LETTERS_MAX: usize = 1000;
const LETTERS_DEFAULT: usize = 100;
