//! A relay that writes down what passes, connection by connection.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use testkit::net::Port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What was said over one connection.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    pub requests: Vec<u8>,
    pub replies: Vec<u8>,
}

type Record = Arc<Mutex<Conversation>>;

/// A port that a tap will listen on.
pub struct Reserved(Port);

/// A running tap; it ends when it is dropped.
pub struct Tap {
    port: Port,
    records: Arc<Mutex<Vec<Record>>>,
    task: JoinHandle<()>,
}

impl Reserved {
    pub fn address(&self) -> String {
        self.0.address().to_string()
    }

    pub async fn forward_to(self, target: String) -> Result<Tap> {
        let Reserved(port) = self;
        let listener = TcpListener::bind(port.address()).await.context("bind a tap")?;
        let records: Arc<Mutex<Vec<Record>>> = Arc::default();
        let task = tokio::spawn(accept(listener, target, records.clone()));
        Ok(Tap { port, records, task })
    }
}

impl Tap {
    pub fn reserve() -> Result<Reserved> {
        Ok(Reserved(Port::free()?))
    }

    pub async fn start(target: String) -> Result<Tap> {
        Tap::reserve()?.forward_to(target).await
    }

    pub fn address(&self) -> String {
        self.port.address().to_string()
    }

    /// What was said up to now.
    pub fn conversations(&self) -> Vec<Conversation> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.iter().map(|record| record.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: String, records: Arc<Mutex<Vec<Record>>>) {
    while let Ok((client, _)) = listener.accept().await {
        let record = Record::default();
        records.lock().unwrap_or_else(PoisonError::into_inner).push(record.clone());
        let target = target.clone();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::join!(
                pump(from_client, to_server, |bytes| write(&record, |it| &mut it.requests, bytes)),
                pump(from_server, to_client, |bytes| write(&record, |it| &mut it.replies, bytes)),
            );
        });
    }
}

fn write(record: &Record, side: impl Fn(&mut Conversation) -> &mut Vec<u8>, bytes: &[u8]) {
    side(&mut record.lock().unwrap_or_else(PoisonError::into_inner)).extend_from_slice(bytes);
}

/// Moves bytes until one side ends, and hands that end on.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, note: impl Fn(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        note(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
