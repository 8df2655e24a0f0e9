//! Finding both servers, and what to do when one of them goes away.
//!
//! - on the first run, whatever there is on either side is *not copied yet*
//! - nothing is written before no command of an earlier generation can land any more
//! - a server that is away is tried again after 1, 5, 15, 30, then every 60 s; nothing is dropped

use std::time::{Duration, Instant};

use record::Namespace;
use tracing::{error, info, warn};

use super::{Pump, Step};
use crate::error::{Class, ServerError};
use crate::execute::{Lanes, Stall};
use crate::server::Listing;
use crate::shared::{Activity, Link, Status, now_ms};
use crate::state::{Cause, Dirty};

/// Waits after an error, in seconds; the last one is repeated.
const BACKOFF_SECONDS: [u64; 5] = [1, 5, 15, 30, 60];
/// Both servers are asked at least this often, also when there is nothing to do.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBE_INTERVAL_ALARMED: Duration = Duration::from_millis(500);

impl Pump {
    /// Makes sure of both servers: what had documents before is dirty, no late command can land.
    pub(super) async fn connect(&mut self) -> Result<(), Stall> {
        if self.connected {
            return Ok(());
        }
        self.shared.status_mut().set_activity(Activity::Connecting);
        let here = self.executor.source.hello().await.map_err(Stall::Source)?;
        let version = self.executor.source.version().await.map_err(Stall::Source)?;
        self.look_at_source().await.map_err(Stall::Source)?;
        self.link_up(&here, version, |status| &mut status.source, "local connected");
        let hello = self.executor.target.hello().await.map_err(Stall::Target)?;
        if process(&here).is_some() && process(&here) == process(&hello) {
            return Err(Stall::Target(ServerError {
                class: Class::Identity,
                code: None,
                message: "atlas.uri and local.uri lead to the same server: nothing is replicated to itself"
                    .to_owned(),
            }));
        }
        let version = self.executor.target.version().await.map_err(Stall::Target)?;
        let claimed = self.claim().await?;
        self.executor.target.fence(&claimed.replaced).await.map_err(Stall::Target)?;
        self.look_at_target(claimed.looked).await?;
        self.link_up(&hello, version, |status| &mut status.target, "Atlas connected (backup)");
        let knows_transactions = hello.contains_key("setName") || hello.contains_key("msg");
        self.executor.planner().set_transactions(knows_transactions);
        // Another server may answer under the same address.
        self.executor.forget(|_| true);
        self.notice_restart(&here).await?;
        self.connected = true;
        self.probed = Instant::now();
        Ok(())
    }

    /// Notices when a server goes away although nothing is asked of it, and when the source was started anew.
    pub(super) async fn probe(&mut self) -> Result<(), Stall> {
        // A write without a reply tells that somebody may have gone.
        let orphans = self.shared.status().orphans > 0;
        if self.probed.elapsed() >= if orphans { PROBE_INTERVAL_ALARMED } else { PROBE_INTERVAL } {
            let here = self.executor.source.hello().await.map_err(Stall::Source)?;
            self.notice_restart(&here).await?;
            self.still_feeds().await?;
            self.probed = Instant::now();
        }
        Ok(())
    }

    fn link_up(
        &self,
        hello: &bson::Document,
        version: String,
        link: fn(&mut Status) -> &mut Link,
        words: &'static str,
    ) {
        let mut status = self.shared.status_mut();
        let link = link(&mut status);
        link.topology = hello.get_str("setName").unwrap_or("standalone").to_owned();
        link.version = version;
        if !link.connected {
            link.connected = true;
            link.since_ms = now_ms();
            info!(topology = %link.topology, version = %link.version, "{words}");
        }
    }

    /// On the first run: the source's collections and views are not on the target.
    pub(crate) async fn look_at_source(&mut self) -> Result<(), ServerError> {
        let seen = self.shared.state().source_seen();
        let filter = self.shared.state().filter().clone();
        if seen && filter == self.config.filter {
            return Ok(());
        }
        let listing = self.executor.source.namespaces().await?;
        let mut there = self.listed(listing, Stall::Source);
        if seen {
            there.retain(|ns| !(self.config.captures)(&filter, ns));
            self.not_copied_yet(there, "was excluded before");
        } else {
            self.not_copied_yet(there, "was there before dualsync came");
        }
        let mut state = self.shared.state();
        state.set_source_seen();
        state.set_filter(&self.config.filter);
        Ok(())
    }

    /// On the first run against this target: its collections and views may differ from the source's.
    async fn look_at_target(&mut self, fed_before: bool) -> Result<(), Stall> {
        let seen = self.shared.state().target_seen();
        if seen && fed_before {
            return Ok(());
        }
        let listing = self.executor.target.namespaces().await.map_err(Stall::Target)?;
        let there = self.listed(listing, Stall::Target);
        self.not_copied_yet(there, "the target had it before dualsync came");
        if seen {
            // Another target than before, or one that was emptied: nothing of what was applied is on it.
            let listing = self.executor.source.namespaces().await.map_err(Stall::Source)?;
            let here = self.listed(listing, Stall::Source);
            self.not_copied_yet(here, "the target is not the one that was fed before");
        }
        self.save_state();
        // Only now, so that whatever fails before makes us look again.
        self.remember_looked().await?;
        self.shared.state().set_target_seen();
        self.save_state();
        Ok(())
    }

    /// What a server has. A database that is captured and may not be listed is dirty, and nothing else waits for it.
    pub(super) fn listed<T>(&self, listing: Listing<T>, stall: fn(ServerError) -> Stall) -> T {
        for (db, error) in listing.forbidden {
            if (self.config.captures)(&self.config.filter, &db) {
                self.executor.told_forbidden(&db, &stall(error));
            }
        }
        listing.found
    }

    pub(super) fn not_copied_yet(&mut self, namespaces: Vec<Namespace>, reason: &str) {
        for ns in namespaces.into_iter().filter(|ns| (self.config.captures)(&self.config.filter, ns)) {
            self.executor.planner().set_dirty(&ns);
            let dirty = Dirty { not_copied_yet: true, ..Dirty::new(reason, Cause::Unknown, now_ms()) };
            if self.shared.state().set_dirty(&ns, dirty) {
                info!(%ns, reason, "namespace is not copied yet");
            }
        }
        self.save_state();
    }

    pub(super) async fn stalled(&mut self, stall: Stall) -> Step {
        let wait = BACKOFF_SECONDS[self.failures.min(BACKOFF_SECONDS.len() - 1)];
        self.failures += 1;
        match &stall {
            Stall::Source(error) => {
                self.lost(error, "source", Activity::WaitingForSource);
                // Without the source the target is not claimed, for however long.
                self.be_seen(false).await;
            }
            Stall::Target(error) => self.lost(error, "target", Activity::WaitingForTarget),
            Stall::Fenced(refused) => self.refused(refused),
            Stall::Log(error) => error!(%error, "nothing is sent while the checkpoint cannot be stored"),
            Stall::Beside => {} // what it was beside has been told
        }
        self.pace.failed();
        self.executor.lanes = Lanes::new(self.pace.lanes());
        self.connected = false;
        // Part of the batch may be on the target, whichever server failed: it is not replayed a second time.
        let sent = self.executor.checkpoint().sent;
        self.executor.planner().unknown_outcome(sent);
        let may_land = match &stall {
            Stall::Target(error) => error.may_land(),
            Stall::Fenced(_) => true,
            Stall::Source(_) | Stall::Log(_) | Stall::Beside => false,
        };
        if may_land {
            // What was sent may still land: new connections, and nothing is written until the old ones are gone.
            self.executor.target.renew().await;
        }
        let wait_ms = wait * fastrand::u64(900..=1100);
        let mut status = self.shared.status_mut();
        status.attempt = u32::try_from(self.failures).unwrap_or(u32::MAX);
        status.next_try_ms = Some(now_ms() + wait_ms);
        Step::Wait(Duration::from_millis(wait_ms))
    }

    /// Shows that a server is away; says it once.
    fn lost(&mut self, error: &ServerError, server: &'static str, activity: Activity) {
        self.shared.count_stall(server);
        let oldest_ms = self.feed().oldest_ms();
        let first = {
            let mut status = self.shared.status_mut();
            status.set_activity(activity);
            status.oldest_pending_ms = oldest_ms;
            let link = if server == "source" { &mut status.source } else { &mut status.target };
            let first = link.connected || link.last_error.is_none();
            link.since_ms = if first { now_ms() } else { link.since_ms };
            link.connected = false;
            link.last_error = Some((error.to_string(), now_ms()));
            first
        };
        let queued = self.config.pending.entries();
        let newly_refused = error.class == Class::Identity && self.last_class != Some(Class::Identity);
        self.last_class = Some(error.class);
        match (server, error.class) {
            _ if !first && !newly_refused => {}
            (_, Class::Identity) => {
                error!(%error, server, "refused: check the credentials and rights in the configuration");
            }
            ("target", _) => warn!(%error, "Atlas unavailable, {queued} operations queued"),
            _ => warn!(%error, "local mongod unavailable: check that it runs and local.uri"),
        }
    }

    /// Closes the target, which has been told.
    pub(super) async fn stop(&mut self) {
        let before = self.seen;
        self.be_seen(true).await;
        if self.connected || self.seen != before {
            self.connected = false;
            self.executor.target.renew().await;
            self.shared.status_mut().target.connected = false;
        }
    }
}

/// Names the server process: two connections to one server show the same.
fn process(hello: &bson::Document) -> Option<bson::oid::ObjectId> {
    hello.get_document("topologyVersion").ok()?.get_object_id("processId").ok()
}
