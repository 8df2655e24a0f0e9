//! Every endpoint over a real socket: who may ask, what comes back, in which envelope.

use std::sync::atomic::Ordering;

use crate::common::{self, ADMIN, NOBODY, READER, loopback, start};
use admin::{Admin, BindError, Config, Token};
use serde_json::{Value, json};

const OPEN: &[&str] = &["/", "/healthz", "/readyz", "/metrics", "/api/sync/health"];

/// What a read token may see.
const READS: &[&str] = &[
    "/api/sync/report",
    "/api/sync/metrics",
    "/api/sync/queue",
    "/api/sync/worker",
    "/api/sync/capture",
    "/api/sync/connections",
    "/api/sync/config",
    "/api/sync/full",
    "/api/sync/dead-letters",
];

/// Changes: method, path, body, status for the admin token.
const CHANGES: &[(&str, &str, &str, u16)] = &[
    ("POST", "/api/sync/capture/control", r#"{"action":"bypass"}"#, 200),
    ("POST", "/api/sync/capture/control", r#"{"action":"resume"}"#, 409),
    ("POST", "/api/sync/worker/control", r#"{"action":"pause"}"#, 200),
    ("POST", "/api/sync/worker/control", r#"{"action":"resume"}"#, 200),
    ("POST", "/api/sync/worker/control", r#"{"action":"resume"}"#, 409),
    ("POST", "/api/sync/worker/control", r#"{"action":"start"}"#, 500),
    ("POST", "/api/sync/worker/control", r#"{"action":"stop"}"#, 200),
    ("POST", "/api/sync/worker/pace", r#"{"lanes":3,"batchEntriesMax":100,"rateMax":0}"#, 200),
    ("POST", "/api/sync/worker/pace", "{}", 200),
    ("POST", "/api/sync/queue/clear", r#"{"confirm":"clear"}"#, 200),
    ("POST", "/api/sync/stats/reset", "", 200),
    ("POST", "/api/sync/full", "", 200),
    ("POST", "/api/sync/deletes/confirm", r#"{"namespaces":["shop.orders"]}"#, 200),
    ("DELETE", "/api/sync/full", "", 409),
    ("POST", "/api/sync/dead-letters/retry", r#"{"ids":["1"]}"#, 200),
    ("POST", "/api/sync/dead-letters/retry", r#"{"ids":["missing"]}"#, 404),
    ("POST", "/api/sync/dead-letters/discard", r#"{"all":true}"#, 200),
    ("POST", "/api/sync/retry-failed", "", 200),
];

#[tokio::test]
async fn who_may_ask_what() {
    let port = start(loopback()).await;
    for path in OPEN {
        for token in [NOBODY, "wrong", READER, ADMIN] {
            assert_eq!(port.get(path, token).await.status, 200, "{path} with {token:?}");
        }
    }
    for path in READS {
        for (token, status) in [(NOBODY, 401), ("wrong", 401), (READER, 200), (ADMIN, 200)] {
            let reply = port.get(path, token).await;
            assert_eq!(reply.status, status, "{path} with {token:?}");
            assert_eq!(reply.json()["success"], status == 200, "{path} with {token:?}");
            assert_eq!(
                reply.head.contains("www-authenticate: bearer"),
                status == 401,
                "{path}: {}",
                reply.head
            );
        }
    }
    for (method, path, body, done) in CHANGES {
        for (token, status) in [(NOBODY, 401), ("wrong", 401), (READER, 403), (ADMIN, *done)] {
            let reply = port.ask(method, path, token, body).await;
            assert_eq!(reply.status, status, "{method} {path} {body} with {token:?}: {}", reply.body);
            assert_eq!(reply.json()["success"], status == 200, "{path} with {token:?}");
            if status != 200 {
                let error = &reply.json()["error"];
                for field in ["code", "message", "action"] {
                    assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{path}: {error}");
                }
            }
        }
    }
    let carried_out = [
        "pause",
        "resume",
        "stop",
        "clear",
        "reset",
        "full",
        "confirm [\"shop.orders\"]",
        "retry Ids([\"1\"])",
        "discard All",
        "retry All",
    ];
    assert_eq!(port.program.orders(), carried_out, "only the admin's orders arrive, each once");
}

#[tokio::test]
async fn without_a_configured_token_nobody_enters() {
    let port = start(Config { token: None, read_token: None, ..loopback() }).await;
    for token in [NOBODY, ADMIN] {
        let reply = port.get("/api/sync/report", token).await;
        assert_eq!(
            (reply.status, reply.json()["error"]["action"].as_str()),
            (401, Some("set DUALSYNC_ADMIN_TOKEN"))
        );
    }
    let port = start(Config { token: Some(Token::new(String::new())), ..loopback() }).await;
    let bytes =
        "GET /api/sync/report HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer \r\n\r\n";
    let reply = common::read_reply(&mut port.send(bytes).await).await;
    assert_eq!(reply.status, 401, "an empty token opens nothing");
}

#[tokio::test]
async fn what_cannot_be_understood_is_answered_in_the_envelope() {
    let port = start(loopback()).await;
    let large = format!(r#"{{"confirm":"{}"}}"#, "x".repeat(65 * 1024));
    for (method, path, body, status, code) in [
        ("GET", "/api/sync/nothing", "", 404, "NOT_FOUND"),
        ("GET", "/nothing", "", 404, "NOT_FOUND"),
        ("POST", "/api/sync/report", "", 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", "/api/sync/health", "", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/api/sync/capture/control", r#"{"action":"fly"}"#, 400, "BAD_REQUEST"),
        ("POST", "/api/sync/worker/control", "", 400, "BAD_REQUEST"),
        ("POST", "/api/sync/worker/control", "{", 400, "BAD_REQUEST"),
        ("POST", "/api/sync/worker/pace", r#"{"lanes":0}"#, 400, "BAD_REQUEST"),
        ("POST", "/api/sync/worker/pace", r#"{"batchEntriesMax":1000000}"#, 400, "BAD_REQUEST"),
        ("POST", "/api/sync/worker/pace", r#"{"lane":1}"#, 400, "BAD_REQUEST"),
        ("POST", "/api/sync/worker/control", r#"{"action":"fly"}"#, 400, "BAD_REQUEST"),
        ("POST", "/api/sync/worker/control", r#"{"action":"stop","really":true}"#, 400, "BAD_REQUEST"),
        ("POST", "/api/sync/queue/clear", "{}", 400, "BAD_REQUEST"),
        ("POST", "/api/sync/queue/clear", r#"{"confirm":"yes"}"#, 400, "BAD_REQUEST"),
        ("POST", "/api/sync/queue/clear", &large, 413, "BODY_TOO_LARGE"),
        ("POST", "/api/sync/dead-letters/discard", "{}", 400, "BAD_REQUEST"),
        ("POST", "/api/sync/dead-letters/discard", r#"{"ids":[]}"#, 400, "BAD_REQUEST"),
        ("POST", "/api/sync/dead-letters/discard", r#"{"all":false}"#, 400, "BAD_REQUEST"),
        ("GET", "/api/sync/dead-letters?limit=0", "", 400, "BAD_REQUEST"),
        ("GET", "/api/sync/dead-letters?limit=many", "", 400, "BAD_REQUEST"),
    ] {
        let reply = port.ask(method, path, ADMIN, body).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{method} {path} {body:.40}");
        assert_eq!(reply.json()["success"], false);
        assert_eq!(reply.head.contains("\r\nallow: get"), status == 405, "{}", reply.head);
    }
    assert!(port.program.orders().is_empty());
}

#[tokio::test]
async fn the_report_has_the_promised_shape() {
    let port = start(loopback()).await;
    let expected = json!({
        "positions": { "appended": 40, "durable": 30, "applied": 20, "trimmed": 10 },
        "lag": { "entries": 3, "bytes": 400, "seconds": 1.5 },
        "log": {
            "level": "keys-only", "since": "1970-01-01T00:00:03Z", "fill": 0.93, "bound": "disk",
            "entriesWithoutStatements": 4, "unrecordedWrites": 0,
            "noted": { "everything": false, "namespaces": ["shop.orders"] },
        },
        "counts": {
            "captured": 30, "replayed": 18, "converged": 2, "dirty": 0, "failed": 1, "deadLetters": 1,
            "inDoubt": { "contention": 2 },
        },
        "namespaces": {
            "notCopiedYet": [{
                "namespace": "shop.orders", "reason": "had documents before", "since": "1970-01-01T00:00:01Z",
                "state": "waiting", "progress": null, "held": null,
            }],
            "dirty": [],
            "compared": [],
        },
        "notReplicated": { "createIndexes": 4 },
        "capture": { "state": "on", "passing": 0 },
        "log": {
            "level": "keys-only", "fill": 0.93, "bound": "disk", "since": "1970-01-01T00:00:03Z",
            "entriesWithoutStatements": 4, "unrecordedWrites": 0,
            "noted": { "everything": false, "namespaces": ["shop.orders"] },
        },
        "worker": {
            "state": "backing-off", "since": "1970-01-01T00:00:00Z", "attempt": 0, "nextTryMs": null,
            "lanes": 8, "batchEntriesMax": 1000, "rateMax": 0,
        },
        "lastSync": null,
        "averageSyncMs": null,
        "successRate": null,
        "lastTargetError": {
            "at": "1970-01-01T00:00:02Z", "code": 13, "message": "not allowed", "namespace": "shop.orders",
        },
        "warnings": ["a warning"],
        "recommendations": [
            { "code": "COPY_NAMESPACES", "text": "one namespace is not copied", "action": "copy it" },
        ],
    });
    assert_eq!(port.get("/api/sync/report", READER).await.json()["data"], expected);
}

#[tokio::test]
async fn the_other_reads_have_their_shapes() {
    let port = start(loopback()).await;
    for (path, pointer, expected) in [
        ("metrics", "/successRate", json!(0.95)),
        (
            "metrics",
            "/counters",
            json!({ "delay_seconds_count": 1, "delay_seconds_sum": 0.5, "entries_total{way=\"replayed\"}": 18 }),
        ),
        ("queue", "/level", json!("keys-only")),
        ("queue", "/oldestAgeMs", json!(1500)),
        ("queue", "/limits/minFreeBytes", json!(1 << 20)),
        ("worker", "/state", json!("running")),
        ("connections", "/atlas/state", json!("disconnected")),
        ("connections", "/local/serverVersion", json!("6.0.5")),
        ("config", "/admin/token", json!("***")),
        ("full", "/state", json!("idle")),
        ("dead-letters", "/total", json!(3)),
        ("dead-letters?limit=2", "/letters/1/id", json!("1")),
        ("dead-letters?limit=2", "/letters/2", Value::Null),
    ] {
        let data = port.get(&format!("/api/sync/{path}"), READER).await.json()["data"].clone();
        assert_eq!(
            data.pointer(pointer).cloned().unwrap_or_default(),
            expected,
            "{path} {pointer} in {data}"
        );
    }
}

#[tokio::test]
async fn health_is_503_only_when_unhealthy() {
    let port = start(loopback()).await;
    let reply = port.get("/api/sync/health", NOBODY).await;
    let data = &reply.json()["data"];
    assert_eq!((reply.status, data["status"].as_str()), (200, Some("degraded")));
    assert_eq!(data["checks"]["queueSize"], json!({ "status": "pass", "value": 7 }));
    assert_eq!(data["checks"]["syncLag"], json!({ "status": "warn", "value": 90_000 }));
    assert_eq!(data["checks"]["failureRate"], json!({ "status": "pass", "value": 0.0 }));
    assert_eq!(data["checks"]["atlasDatabase"], json!({ "status": "warn", "message": "away" }));
    assert_eq!(data["warnings"], json!([]));

    port.program.local_down.store(true, Ordering::SeqCst);
    let reply = port.get("/api/sync/health", NOBODY).await;
    assert_eq!((reply.status, reply.json()["data"]["status"].as_str()), (503, Some("unhealthy")));
    assert_eq!(reply.json()["success"], true, "the question was answered");
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let port = start(loopback()).await;
    port.program.log_closed.store(true, Ordering::SeqCst);
    let reply = port.get("/readyz", NOBODY).await;
    assert_eq!((reply.status, reply.body.as_str()), (503, "not ready: proxy, log\n"));
    assert_eq!(port.get("/healthz", NOBODY).await.body, "ok\n", "the process still turns");
}

#[tokio::test]
async fn metrics_are_fresh_text() {
    let port = start(loopback()).await;
    let reply = port.get("/metrics", NOBODY).await;
    assert!(reply.body.contains("entries_total{way=\"replayed\"} 18"), "{}", reply.body);
    assert!(reply.head.contains("content-type: text/plain; version=0.0.4"), "{}", reply.head);
    assert_eq!(port.program.scrapes.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn beyond_loopback_metrics_want_a_token_and_the_port_an_admin_token() {
    let everywhere = Config { listen: ([0, 0, 0, 0], 0).into(), ..loopback() };
    let port = start(everywhere.clone()).await;
    for (token, status) in [(NOBODY, 401), (READER, 200), (ADMIN, 200)] {
        assert_eq!(port.get("/metrics", token).await.status, status);
    }
    let program = port.program.clone();
    let refused =
        Admin::bind(Config { token: None, ..everywhere }, program.clone(), prometheus::Registry::new()).await;
    assert!(matches!(refused, Err(BindError::Unguarded { .. })), "{refused:?}");

    let taken =
        Admin::bind(Config { listen: port.addr, ..loopback() }, program, prometheus::Registry::new()).await;
    let text = taken.unwrap_err().to_string();
    assert!(text.contains(&port.addr.to_string()) && text.contains("choose a free port"), "{text}");
}

#[tokio::test]
async fn the_page_is_self_contained_and_answers_are_not_kept() {
    let port = start(loopback()).await;
    let reply = port.get("/", NOBODY).await;
    for address in ["http://", "https://", "innerHTML"] {
        assert!(!reply.body.contains(address), "the page mentions {address}");
    }
    for needed in ["content-security-policy: default-src 'none'", "cache-control: no-store", "nosniff"] {
        assert!(reply.head.contains(needed), "{}", reply.head);
    }
    assert!(!format!("{:?}", loopback()).contains(ADMIN), "a token shows in Debug");
}
