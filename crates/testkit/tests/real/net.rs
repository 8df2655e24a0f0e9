use std::time::{Duration, Instant};

use bson::doc;
use mongodb::Client;
use testkit::Mongod;
use testkit::net::{Port, Relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::Result;

#[test]
fn ports_are_claimed_once() -> Result {
    let ports: Vec<Port> = (0..200).map(|_| Port::free()).collect::<anyhow::Result<_>>()?;
    let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), ports.len());
    Ok(())
}

/// A server that sends back what it gets.
async fn echo() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Ok(address)
}

#[tokio::test]
async fn bytes_flow_stall_and_flow_again() -> Result {
    let relay = Relay::start(echo().await?).await?;
    let mut stream = TcpStream::connect(relay.address()).await?;
    let mut buffer = [0; 4];
    stream.write_all(b"one ").await?;
    stream.read_exact(&mut buffer).await?;
    assert_eq!(&buffer, b"one ");

    relay.stall().await?;
    stream.write_all(b"two ").await?;
    let mut late = TcpStream::connect(relay.address()).await?;
    late.write_all(b"late").await?;
    assert!(timeout(Duration::from_millis(200), stream.read_exact(&mut buffer)).await.is_err());
    relay.resume().await?;
    stream.read_exact(&mut buffer).await?;
    assert_eq!(&buffer, b"two ");
    late.read_exact(&mut buffer).await?;
    assert_eq!(&buffer, b"late");
    Ok(())
}

#[tokio::test]
async fn a_cut_closes_and_refuses() -> Result {
    let relay = Relay::start(echo().await?).await?;
    let mut stream = TcpStream::connect(relay.address()).await?;
    stream.write_all(b"one ").await?;
    stream.read_exact(&mut [0; 4]).await?;
    relay.cut().await?;
    assert!(matches!(stream.read(&mut [0; 4]).await, Ok(0) | Err(_)));
    assert!(TcpStream::connect(relay.address()).await.is_err());
    relay.resume().await?;
    let mut stream = TcpStream::connect(relay.address()).await?;
    stream.write_all(b"back").await?;
    stream.read_exact(&mut [0; 4]).await?;
    let address = relay.address();
    drop(relay);
    assert!(matches!(stream.read(&mut [0; 4]).await, Ok(0) | Err(_)));
    assert!(TcpStream::connect(address).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_delayed_line_carries_as_much() -> Result {
    let relay = Relay::start_delayed(echo().await?, Duration::from_millis(25)).await?;
    let (mut from, mut to) = TcpStream::connect(relay.address()).await?.into_split();
    let began = Instant::now();
    let sending = tokio::spawn(async move {
        for _ in 0..100 {
            to.write_all(&[7; 64 << 10]).await?;
        }
        anyhow::Ok(to)
    });
    from.read_exact(&mut [0]).await?;
    let first = began.elapsed();
    assert!(first >= Duration::from_millis(50), "{first:?}");
    from.read_exact(&mut vec![0; 100 * (64 << 10) - 1]).await?;
    sending.await??;
    // 100 chunks one after the other would take five seconds.
    assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn what_is_swallowed_is_lost_and_its_connection_breaks() -> Result {
    let relay = Relay::start(echo().await?).await?;
    let mut stream = TcpStream::connect(relay.address()).await?;
    let mut other = TcpStream::connect(relay.address()).await?;
    let mut buffer = [0; 4];
    for stream in [&mut stream, &mut other] {
        stream.write_all(b"one ").await?;
        stream.read_exact(&mut buffer).await?;
    }
    relay.swallow().await?;
    stream.write_all(b"lost").await?;
    assert!(timeout(Duration::from_millis(200), stream.read_exact(&mut buffer)).await.is_err());
    relay.resume().await?;
    assert!(matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)));
    // Nothing was sent on this one: it never noticed.
    other.write_all(b"two ").await?;
    other.read_exact(&mut buffer).await?;
    assert_eq!(&buffer, b"two ");
    Ok(())
}

#[tokio::test]
async fn a_driver_comes_back_after_a_cut() -> Result {
    let mongod = Mongod::standalone().await?;
    let relay = Relay::start(mongod.address()).await?;
    let client = Client::with_uri_str(relay.uri() + "&serverSelectionTimeoutMS=100").await?;
    let ping = || async { client.database("admin").run_command(doc! { "ping": 1 }).await };
    ping().await?;
    relay.cut().await?;
    assert!(ping().await.is_err());
    relay.resume().await?;
    testkit::wait_for("the driver to come back", Duration::from_secs(30), async || Ok(ping().await.ok()))
        .await?;
    Ok(())
}
