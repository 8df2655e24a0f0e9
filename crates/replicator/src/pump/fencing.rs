//! The claim on the target: made before anything is written, looked at with every probe, made anew every minute. A log that
//! is paused, or whose source is away, is seen as often; one that is stopped says so.
//!
//! Our own file knows the next token before the target does; a crash in between leaves one that is known either way.

use std::time::{Duration, Instant};

use bson::DateTime;
use tracing::{debug, error, info};

use super::Pump;
use crate::error::{Class, ServerError};
use crate::execute::Stall;
use crate::feeds::{self, Claim, Claimant, Refused, Tokens};
use crate::remember::Saved;

/// An older copy of the log's folder is found out when the claim was made anew since it was taken.
const CLAIM_INTERVAL: Duration = Duration::from_secs(60);
/// Claims in a row that find the list changed by somebody else.
const CLAIM_TRIES: u32 = 10;

/// What a claim has told.
#[derive(Debug)]
pub(super) struct Claimed {
    /// What the target had before is known.
    pub(super) looked: bool,
    /// Logs whose place was taken: their last command must have landed before anything is sent.
    pub(super) replaced: Vec<String>,
}

impl Pump {
    /// Makes this log one that feeds the target, or learns why it must not be.
    pub(super) async fn claim(&mut self) -> Result<Claimed, Stall> {
        let hello = self.executor.target.hello().await.map_err(Stall::Target)?;
        let now = hello.get_datetime("localTime").copied().unwrap_or_else(|_| DateTime::now());
        for _ in 0..CLAIM_TRIES {
            let feeds = self.executor.target.feeds().await.map_err(Stall::Target)?;
            let tokens = self.shared.state().tokens().cloned();
            let claimant = Claimant {
                id: &self.config.log_id,
                feeding: &self.config.feeding,
                tokens: tokens.as_ref(),
                has_fed: self.claimed.is_some(),
            };
            let version = feeds.version + 1;
            let token = tokens.clone().unwrap_or_default().next_for(version);
            let claim = feeds::claim(&feeds, &claimant, token, now).map_err(Stall::Fenced)?;
            if claim.compare_all {
                self.everything_dirty("this log took the place of another one, or of a later copy of itself");
            }
            let there = feeds.logs.iter().find(|feed| feed.id == self.config.log_id);
            let last = there.map(|feed| feed.token.clone());
            let next = Tokens { last, next: Some(claim.token.clone()), next_version: version };
            self.shared.state().set_tokens(Some(next));
            if self.executor.save_state() != Saved::Here {
                self.shared.state().set_tokens(tokens);
                return self
                    .unsaved_claim(&claim, there.is_some_and(|feed| feed.join == self.config.feeding.join));
            }
            if self.executor.target.set_feeds(&claim.feeds).await.map_err(Stall::Target)? {
                self.shared.state().set_tokens(Some(Tokens { last: Some(claim.token), ..Tokens::default() }));
                return Ok(self.claimed_now(claim.looked, claim.replaced));
            }
        }
        Err(busy())
    }

    /// On a full disk the claim that is there goes on to hold.
    fn unsaved_claim(&mut self, claim: &Claim, holds: bool) -> Result<Claimed, Stall> {
        if holds && claim.replaced.is_empty() && !claim.compare_all {
            return Ok(self.claimed_now(claim.looked, Vec::new()));
        }
        let message = "the claim on the target cannot be saved: check the disk and the rights of log.dir";
        Err(Stall::Target(ServerError { class: Class::NotSent, code: None, message: message.to_owned() }))
    }

    fn claimed_now(&mut self, looked: bool, replaced: Vec<String>) -> Claimed {
        if self.claimed.replace(Instant::now()).is_none() {
            info!(
                log = self.config.log_id,
                join = self.config.feeding.join,
                ?replaced,
                "this log feeds the target"
            );
        }
        self.told_stopped = false;
        self.shared.status_mut().refused = None;
        Claimed { looked, replaced }
    }

    /// Whether nobody else has claimed the target since.
    pub(super) async fn still_feeds(&mut self) -> Result<(), Stall> {
        if !self.claimed.is_some_and(recent) {
            return self.claim().await.map(drop);
        }
        let feeds = self.executor.target.feeds().await.map_err(Stall::Target)?;
        let own = feeds.logs.iter().find(|feed| feed.id == self.config.log_id);
        let known = self.shared.state().tokens().cloned().unwrap_or_default();
        match own {
            Some(own) if own.replaced_by.is_none() && known.has(&own.token) => Ok(()),
            Some(_) => self.claim().await.map(drop),
            None => Err(Stall::Target(ServerError {
                class: Class::NotSent,
                code: None,
                message: "the target does not know this log any more: it was emptied, or is another one"
                    .to_owned(),
            })),
        }
    }

    /// While nothing is sent: every minute others learn that this log lives, or, once, that it was stopped. What goes wrong is
    /// met again when there is something to send.
    pub(super) async fn be_seen(&mut self, stopped: bool) {
        if stopped && self.claimed.is_none() {
            return; // it was stopped before this start, and told so then: a stopped worker connects to nothing
        }
        let told = self.told_stopped == stopped && (stopped || self.claimed.is_some_and(recent));
        if told || self.seen.is_some_and(|(at, as_stopped)| as_stopped == stopped && recent(at)) {
            return;
        }
        self.seen = Some((Instant::now(), stopped));
        match self.say_seen(stopped).await {
            Ok(()) => self.told_stopped = stopped,
            Err(error) => {
                debug!(%error, stopped, "the list of logs that feed the target could not be changed")
            }
        }
    }

    async fn say_seen(&self, stopped: bool) -> Result<(), ServerError> {
        let target = &self.executor.target;
        let now = target.hello().await?.get_datetime("localTime").copied();
        let tokens = self.shared.state().tokens().cloned().unwrap_or_default();
        for _ in 0..CLAIM_TRIES {
            let now = now.clone().unwrap_or_else(|_| DateTime::now());
            let next = feeds::seen(&target.feeds().await?, &self.config.log_id, &tokens, stopped, now);
            let Some(next) = next else { return Ok(()) };
            if target.set_feeds(&next).await? {
                return Ok(());
            }
        }
        Ok(()) // others change it all the time; again in a minute
    }

    /// What the target had before is known from now on.
    pub(super) async fn remember_looked(&mut self) -> Result<(), Stall> {
        for _ in 0..CLAIM_TRIES {
            let mut feeds = self.executor.target.feeds().await.map_err(Stall::Target)?;
            feeds.version += 1;
            let own = feeds.logs.iter_mut().find(|feed| feed.id == self.config.log_id);
            own.into_iter().for_each(|feed| feed.looked = true);
            if self.executor.target.set_feeds(&feeds).await.map_err(Stall::Target)? {
                return Ok(());
            }
        }
        Err(busy())
    }

    /// Shows why nothing is sent; says it once.
    pub(super) fn refused(&mut self, refused: &Refused) {
        let text = refused.to_string();
        self.shared.count_stall("target");
        let mut status = self.shared.status_mut();
        status.set_activity(crate::shared::Activity::WaitingForTarget);
        status.target.connected = false;
        if status.refused.replace(text.clone()).is_none() {
            error!("nothing is sent to the target: {text}");
        }
    }
}

fn recent(at: Instant) -> bool {
    at.elapsed() < CLAIM_INTERVAL
}

fn busy() -> Stall {
    let message = "the list of logs that feed the target changes all the time".to_owned();
    Stall::Target(ServerError { class: Class::NotSent, code: None, message })
}
