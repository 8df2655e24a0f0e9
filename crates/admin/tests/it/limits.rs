//! Bounds and ends: slow, large and many clients, orders whose client is gone, shutdown.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::common::{ADMIN, NOBODY, Running, loopback, read_reply, request, start, until};
use admin::{Config, Limits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_millis(200);

fn limited(limits: Limits) -> Config {
    Config { limits, ..loopback() }
}

/// What the server sends until it ends the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    let _ = read.expect("the server ends the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A connection that was served and stays open.
async fn answered(port: &Running) -> TcpStream {
    let mut stream = port.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok\n") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{answer:?}");
    }
    stream
}

#[tokio::test]
async fn a_slow_header_and_an_idle_connection_are_cut() {
    let port = start(limited(Limits { header_timeout: SOON, ..Limits::default() })).await;
    let cut = rest(port.send("GET /healthz HTTP/1.1\r\nHost:").await).await;
    assert!(!cut.contains("200 OK"), "{cut}");
    let kept_alive = rest(port.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await).await;
    assert!(kept_alive.contains("200 OK"), "{kept_alive}");
}

#[tokio::test]
async fn a_slow_body_gets_503_and_a_large_header_431() {
    let port = start(limited(Limits { request_timeout: SOON, ..Limits::default() })).await;
    let head = format!(
        "POST /api/sync/queue/clear HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {ADMIN}\r\n\
         Content-Length: 20\r\n\r\n{{"
    );
    let mut stream = port.send(&head).await;
    let reply = read_reply(&mut stream).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "TIMEOUT"));
    assert!(port.program.orders().is_empty());

    let header = "x".repeat(17 * 1024);
    let reply = rest(port.send(&format!("GET / HTTP/1.1\r\nHost: x\r\nX: {header}\r\n\r\n")).await).await;
    assert!(reply.starts_with("HTTP/1.1 431"), "{reply}");
}

#[tokio::test]
async fn at_the_bound_a_connection_waits_for_a_place() {
    let port = start(limited(Limits { connections_max: 1, ..Limits::default() })).await;
    let first = answered(&port).await;
    let mut second = port.send(&request("GET", "/healthz", NOBODY, "")).await;
    assert!(tokio::time::timeout(SOON, second.readable()).await.is_err(), "it must wait");
    drop(first);
    assert_eq!(read_reply(&mut second).await.status, 200, "and is served then");
}

#[tokio::test]
async fn a_stalled_reader_frees_its_place() {
    let limits = Limits {
        connections_max: 1,
        connection_life: SOON,
        header_timeout: SOON,
        request_timeout: SOON,
        ..Limits::default()
    };
    let port = start(limited(limits)).await;
    // Pages asked for and never read: the server's writes fill both socket buffers and stall.
    let mut greedy = TcpStream::connect(port.addr).await.unwrap();
    let ask = "GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let write = async { while greedy.write_all(ask.as_bytes()).await.is_ok() {} };
    let _ = tokio::time::timeout(SOON, write).await;
    assert_eq!(port.get("/healthz", NOBODY).await.status, 200);
}

#[tokio::test]
async fn an_order_outlives_its_client() {
    let port = start(loopback()).await;
    port.program.gated.store(true, Ordering::SeqCst);
    let stream =
        port.send(&request("POST", "/api/sync/worker/control", ADMIN, r#"{"action":"pause"}"#)).await;
    until("the order has begun", || port.program.at_gate.load(Ordering::SeqCst)).await;
    drop(stream);
    port.program.gate.notify_one();
    until("the order is carried out", || port.program.orders() == ["pause"]).await;
}

#[tokio::test]
async fn shutdown_lets_an_open_request_end_and_frees_the_port() {
    let port = start(loopback()).await;
    port.program.gated.store(true, Ordering::SeqCst);
    let idle = answered(&port).await;
    let order = request("POST", "/api/sync/worker/control", ADMIN, r#"{"action":"pause"}"#);
    let mut open = port.send(&order).await;
    until("the order has begun", || port.program.at_gate.load(Ordering::SeqCst)).await;

    port.shutdown.cancel();
    until("the port is closed", || std::net::TcpStream::connect(port.addr).is_err()).await;
    assert!(!port.task.is_finished(), "it waits for the order");
    port.program.gate.notify_one();
    assert_eq!(read_reply(&mut open).await.status, 200);
    tokio::time::timeout(Duration::from_secs(20), port.task).await.expect("it ends").unwrap();
    assert_eq!(rest(idle).await, "", "the idle connection was ended");
}
