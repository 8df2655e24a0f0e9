//! A listener that others than this host reach serves them only while mongod itself keeps strangers out.
//!
//! - mongod is asked whenever it (re)appears: it may come back without `--auth`, or empty. A line to it stays open, and its
//!   end tells that what was learnt is over; nobody comes in until it has been asked again
//! - whoever is turned away is told why, in answer to the first request
//! - a session that was let in stays: it is with the mongod that was asked

use std::{future::Future, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::sleep, time::timeout};
use tracing::{debug, error, info};

use crate::{line::Line, upstream::Upstream};

/// Whether clients are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// mongod has not been asked since it was away.
    Unknown,
    /// mongod wants to know who they are.
    Open,
    /// mongod would take commands from anybody.
    Shut,
}

/// What a listener's keeper has found.
#[derive(Debug, Clone)]
pub struct Gate(watch::Receiver<Entry>);

/// Asks mongod, until it is dropped.
pub(crate) struct Keeper(JoinHandle<()>);

impl Gate {
    /// Its state now.
    pub fn entry(&self) -> Entry {
        *self.0.borrow()
    }

    /// A gate that is not known to be open yet, and what finds out.
    pub(crate) fn new(upstream: Upstream) -> (Gate, impl Future<Output = ()> + Send + 'static) {
        let (sender, receiver) = watch::channel(Entry::Unknown);
        (Gate(receiver), keep(upstream, sender))
    }

    /// Returns when clients may come in; else why not.
    pub(crate) async fn pass(&self) -> Result<(), &'static str> {
        let mut entry = self.0.clone();
        let known = timeout(KNOWN_MAX, entry.wait_for(|entry| *entry != Entry::Unknown)).await;
        match known.map(|entry| entry.map(|entry| *entry)) {
            Ok(Ok(Entry::Open)) => Ok(()),
            Ok(Ok(Entry::Shut)) => Err(SHUT),
            _ => Err(UNKNOWN),
        }
    }
}

impl Keeper {
    pub(crate) fn start(keeping: impl Future<Output = ()> + Send + 'static) -> Keeper {
        Keeper(tokio::spawn(keeping))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep(upstream: Upstream, entry: watch::Sender<Entry>) {
    loop {
        match ask(&upstream).await {
            Ok((line, false)) => {
                if entry.send_replace(Entry::Open) == Entry::Shut {
                    info!("mongod wants authentication again: clients are let in");
                }
                line.ended().await;
                entry.send_replace(Entry::Unknown);
            }
            Ok((_, true)) => {
                if entry.send_replace(Entry::Shut) != Entry::Shut {
                    error!(
                        "{SHUT}: clients are turned away. Switch authentication on in mongod and create a user; docs/security.md names other ways"
                    );
                }
                sleep(RETRY).await;
            }
            Err(error) => {
                debug!(%error, "mongod cannot be asked whether it wants authentication");
                entry.send_if_modified(|entry| {
                    *entry != Entry::Shut && std::mem::replace(entry, Entry::Unknown) != Entry::Unknown
                });
                sleep(RETRY).await;
            }
        }
    }
}

async fn ask(upstream: &Upstream) -> std::io::Result<(Line, bool)> {
    let mut line = Line::open(upstream).await?;
    let is_open = line.is_open().await?;
    Ok((line, is_open))
}

/// How long a client waits until mongod has been asked.
const KNOWN_MAX: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);
const SHUT: &str =
    "dualsync is reachable from other hosts, and the mongod behind it takes commands without authentication";
const UNKNOWN: &str = "dualsync is reachable from other hosts, and does not know yet whether the mongod behind it wants authentication";
