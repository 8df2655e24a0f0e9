//! A listener that others than this host reach serves them only while mongod itself keeps strangers out.
//!
//! - mongod is asked whenever it (re)appears: it may come back without `--auth`, or empty. A line to it stays open, and its
//!   end tells that what was learnt is over; nobody comes in until it has been asked again
//! - as long as the line stands, it is the same process, and what was learnt holds, however slow it answers
//! - what was learnt holds for that process only: a session's first command waits until the hello on its own connection
//!   has told that it is with that one
//! - whoever is turned away is told why, in answer to the first request
//! - a session that was let in stays: it is with the mongod that was asked

use std::{future::Future, sync::Arc, time::Duration};

use bson::oid::ObjectId;
use tokio::{
    select,
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
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
pub struct Gate {
    known: watch::Receiver<Known>,
    /// Somebody has met another process.
    again: Arc<Notify>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    entry: Entry,
    /// Of which process; `None`: it does not say.
    process: Option<ObjectId>,
}

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// mongod would take commands from anybody.
    Open,
    /// It could not be asked in time.
    Unknown,
}

/// Asks mongod, until it is dropped.
pub(crate) struct Keeper(JoinHandle<()>);

impl Gate {
    /// Its state now.
    pub fn entry(&self) -> Entry {
        self.known.borrow().entry
    }

    /// A gate that is not known to be open yet, and what finds out.
    pub(crate) fn new(upstream: Upstream) -> (Gate, impl Future<Output = ()> + Send + 'static) {
        let (sender, known) = watch::channel(Known { entry: Entry::Unknown, process: None });
        let again = Arc::new(Notify::new());
        (Gate { known, again: again.clone() }, keep(upstream, sender, again))
    }

    /// Returns when clients may come in; else why not.
    pub(crate) async fn pass(&self) -> Result<(), Denied> {
        self.pass_when(|_| true).await
    }

    /// The same for a client whose connection is with this process; `None`: it does not say.
    pub(crate) async fn pass_to(&self, process: Option<ObjectId>) -> Result<(), Denied> {
        let is_it = |known: &Known| known.process.is_none() || process.is_none() || known.process == process;
        if !is_it(&self.known.borrow()) {
            self.again.notify_one();
        }
        self.pass_when(is_it).await
    }

    async fn pass_when(&self, is_it: impl Fn(&Known) -> bool) -> Result<(), Denied> {
        let mut known = self.known.clone();
        let known = timeout(KNOWN_MAX, known.wait_for(|it| it.entry != Entry::Unknown && is_it(it))).await;
        match known.map(|known| known.map(|known| known.entry)) {
            Ok(Ok(Entry::Open)) => Ok(()),
            Ok(Ok(Entry::Shut)) => Err(Denied::Open),
            _ => Err(Denied::Unknown),
        }
    }
}

impl Denied {
    pub(crate) fn why(self) -> &'static str {
        match self {
            Denied::Open => SHUT,
            Denied::Unknown => UNKNOWN,
        }
    }

    /// The error's code and its name: one that is for good, or one that drivers come back after.
    pub(crate) fn code(self) -> (i32, &'static str) {
        match self {
            Denied::Open => (13, "Unauthorized"),
            Denied::Unknown => (91, "ShutdownInProgress"),
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

async fn keep(upstream: Upstream, known: watch::Sender<Known>, again: Arc<Notify>) {
    const UNKNOWN: Known = Known { entry: Entry::Unknown, process: None };
    loop {
        match ask(&upstream).await {
            Ok((line, process, false)) => {
                let before = known.send_replace(Known { entry: Entry::Open, process });
                if before.entry == Entry::Shut {
                    info!("mongod wants authentication again: clients are let in");
                }
                select! {
                    () = line.ended() => {
                        known.send_replace(UNKNOWN);
                    }
                    () = again.notified() => {}
                }
            }
            Ok((_, process, true)) => {
                let before = known.send_replace(Known { entry: Entry::Shut, process });
                if before.entry != Entry::Shut {
                    error!(
                        "{SHUT}: clients are turned away. Switch authentication on in mongod and create a user; docs/security.md names other ways"
                    );
                }
                sleep(RETRY).await;
            }
            Err(error) => {
                debug!(%error, "mongod cannot be asked whether it wants authentication");
                known.send_if_modified(|known| {
                    known.entry != Entry::Shut && std::mem::replace(known, UNKNOWN) != UNKNOWN
                });
                sleep(RETRY).await;
            }
        }
    }
}

/// A line to mongod, the process that is at its other end, and whether it takes commands from anybody.
async fn ask(upstream: &Upstream) -> std::io::Result<(Line, Option<ObjectId>, bool)> {
    let mut line = Line::open(upstream).await?;
    let process = line.process().await?;
    let is_open = line.is_open().await?;
    Ok((line, process, is_open))
}

/// How long a client waits until mongod has been asked: as long as drivers wait for a connection, at the least.
const KNOWN_MAX: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
const SHUT: &str =
    "dualsync is reachable from other hosts, and the mongod behind it takes commands without authentication";
const UNKNOWN: &str = "dualsync is reachable from other hosts, and does not know yet whether the mongod behind it wants authentication";
