//! Which logs feed the target, as the target itself remembers it: one document in `__dualsync.feeds`.
//!
//! - a log feeds the target alone, or is one of several that were all told to join
//! - each claim puts a new token in the place of the last one; the log's own file knows the token before the target
//!   does. A log whose file does not know the target's token is an older copy of the one that feeds it
//! - the document is changed as a whole and only in the version that was read, so of two claims one fails
//! - a log that is replaced stays listed as such: should it come back, it is refused
//! - a log in the folder of another one replaces it by itself, once that one has not been seen for [`SEEN_AGO_MIN`]: two
//!   machines may be called the same, and have their logs in folders of the same name. One that was stopped by an order
//!   lives without being seen: it is replaced by name only
//!
//! Pure, but for [`Target::feeds`] and [`Target::set_feeds`]; when to claim: `pump/fencing.rs`.

use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::{DateTime, rawdoc};
use record::Namespace;
use serde::{Deserialize, Serialize};

use crate::error::ServerError;
use crate::target::{OWN_DATABASE, Target, Validation};

/// Logs that are listed; beyond that the ones replaced longest ago are forgotten. About 300 bytes each.
const LOGS_MAX: usize = 100;
/// A log that was not seen for so long does not feed the target any more: while it runs it is seen every minute, also
/// while it is paused or its source is away.
const SEEN_AGO_MIN: Duration = Duration::from_secs(180);
/// The document's `_id`.
const ID: &str = "logs";
/// A unique index stood in the way: somebody else was first.
const DUPLICATE_KEY: i32 = 11000;

/// How this log feeds its target.
#[derive(Debug, Clone)]
pub struct Feeding {
    /// Host and folder.
    pub place: String,
    /// One of several, all of which only converge.
    pub join: bool,
    /// The log whose place this one takes; its own id where this folder is an older copy.
    pub take_over: Option<String>,
}

/// The target's list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feeds {
    /// Counts changes.
    pub version: i64,
    /// Those that feed the target, and those that were replaced.
    pub logs: Vec<Feed>,
}

/// One log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    /// The log's id.
    pub id: String,
    /// How often it was claimed.
    pub epoch: i64,
    /// The last claim's.
    pub token: String,
    /// Told to be one of several.
    pub join: bool,
    /// What the target had before is known to this log.
    pub looked: bool,
    /// Host and folder.
    pub place: String,
    /// The first claim.
    pub since: DateTime,
    /// The last claim, or look at the list since.
    pub seen: DateTime,
    /// An order has stopped it: it goes on capturing, and comes back.
    #[serde(default)]
    pub stopped: bool,
    /// The log that took its place.
    pub replaced_by: Option<String>,
}

/// The tokens by which a log knows itself on the target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// On the target, as far as known.
    pub last: Option<String>,
    /// Perhaps there by now.
    pub next: Option<String>,
    /// The version of the list that `next` belongs to.
    #[serde(default)]
    pub next_version: i64,
}

impl Tokens {
    /// Whether this file has made that claim.
    pub fn has(&self, token: &str) -> bool {
        [&self.last, &self.next].into_iter().flatten().any(|own| own == token)
    }

    /// The token for a claim that makes this version of the list: that of an earlier one which would have made the same and
    /// may still land, or a new one.
    pub fn next_for(&self, version: i64) -> String {
        let pending = self.next.as_ref().filter(|_| self.next_version == version);
        let new = || format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        pending.cloned().unwrap_or_else(new)
    }
}

/// Who claims.
#[derive(Debug)]
pub struct Claimant<'a> {
    pub id: &'a str,
    pub feeding: &'a Feeding,
    /// `None`: the file that knew them was lost, which has made everything dirty.
    pub tokens: Option<&'a Tokens>,
    /// Whether this process has fed the target: then it takes nobody's place.
    pub has_fed: bool,
}

/// A claim that can be made.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    /// The list as it will be.
    pub feeds: Feeds,
    pub token: String,
    /// Whether what the target had before is known.
    pub looked: bool,
    /// What this log knows, and what it misses, vouches for nothing: everything is to be compared.
    pub compare_all: bool,
    /// Logs whose place it takes: the last of their commands must have landed.
    pub replaced: Vec<String>,
}

/// Why this log must not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another one does.
    #[error("the target is fed by another log, {}: stop one of the two; if that one is gone for good, set sync.take_over = {:?} here; if both are to feed it, set sync.join = true for both", describe(.0), .0.id)]
    Another(Box<Feed>),
    /// Told to join one that was not told.
    #[error("the target is fed by another log alone, {}: set sync.join = true for that one as well and restart it; if it is gone for good, set sync.take_over = {:?} here", describe(.0), .0.id)]
    NotJoined(Box<Feed>),
    /// One that had the same folder fed it until a moment ago.
    #[error("the target is fed by another log with the same host name and folder, {}: if that one was lost, this one takes its place when it was not seen for {} s, or at once with sync.take_over = {:?} here; if it runs (machines or containers of the same name), stop one of the two, or let each have a host name or a log.dir of its own", describe(.0), SEEN_AGO_MIN.as_secs(), .0.id)]
    SeenLately(Box<Feed>),
    /// One that had the same folder was stopped by an order, for any time.
    #[error("the target is fed by another log with the same host name and folder, {}, which an order has stopped: start it again, and let each have a host name or a log.dir of its own; if it is gone for good, set sync.take_over = {:?} here", describe(.0), .0.id)]
    Stopped(Box<Feed>),
    /// The folder is a copy from earlier, or the same log runs elsewhere.
    #[error("this folder is an older copy of the log that feeds the target, {}: stop the other one if it runs, and put its folder here; if that one is gone for good, set sync.take_over = {:?} here, and everything is compared", describe(.0), .0.id)]
    Older(Box<Feed>),
    /// It was replaced.
    #[error(
        "this log was replaced by log {by:?}, which feeds the target now: stop one of the two; to feed it with this one again, set sync.take_over = {by:?} here"
    )]
    Replaced {
        /// The log that did it.
        by: String,
    },
}

fn describe(feed: &Feed) -> String {
    let time = |at: DateTime| at.try_to_rfc3339_string().unwrap_or_default();
    format!(
        "{} (epoch {}) in {}, since {}, last seen {}",
        feed.id,
        feed.epoch,
        feed.place,
        time(feed.since),
        time(feed.seen)
    )
}

impl Feed {
    /// Whether it may be at work still. A time that is to come was told by another clock.
    fn seen_lately(&self, now: DateTime) -> bool {
        now.checked_duration_since(self.seen).is_none_or(|ago| ago < SEEN_AGO_MIN)
    }
}

/// What the list becomes when this log claims the target, or why it must not. `now` is the target's, which all logs share.
pub fn claim(feeds: &Feeds, claimant: &Claimant<'_>, token: String, now: DateTime) -> Result<Claim, Refused> {
    let Claimant { id, feeding, tokens, has_fed } = *claimant;
    let mut next = feeds.clone();
    next.version += 1;
    let take_over = feeding.take_over.as_deref().filter(|_| !has_fed);
    let mut replaced = Vec::new();
    let own = feeds.logs.iter().find(|feed| feed.id == id).cloned();
    let came_back = own.as_ref().and_then(|own| own.replaced_by.clone());
    if let Some(by) = &came_back
        && take_over != Some(by)
    {
        return Err(Refused::Replaced { by: by.clone() });
    }
    for other in next.logs.iter_mut().filter(|feed| feed.id != id && feed.replaced_by.is_none()) {
        let same_place = other.place == feeding.place && !has_fed;
        let is_gone = same_place && !other.stopped && !other.seen_lately(now);
        if take_over == Some(&other.id) || is_gone {
            other.replaced_by = Some(id.to_owned());
            replaced.push(other.id.clone());
        } else if same_place && other.stopped {
            return Err(Refused::Stopped(Box::new(other.clone())));
        } else if same_place {
            return Err(Refused::SeenLately(Box::new(other.clone())));
        } else if !feeding.join {
            return Err(Refused::Another(Box::new(other.clone())));
        } else if !other.join {
            return Err(Refused::NotJoined(Box::new(other.clone())));
        }
    }
    let known = own.as_ref().is_none_or(|own| tokens.is_none_or(|tokens| tokens.has(&own.token)));
    let is_older = !known && take_over == Some(id);
    if let (false, false, Some(own)) = (known, is_older, &own) {
        return Err(Refused::Older(Box::new(own.clone())));
    }
    let looked = own.as_ref().is_some_and(|own| own.looked);
    next.logs.retain(|feed| feed.id != id);
    next.logs.push(Feed {
        id: id.to_owned(),
        epoch: own.as_ref().map_or(0, |own| own.epoch) + 1,
        token: token.clone(),
        join: feeding.join,
        looked,
        place: feeding.place.clone(),
        since: own.map_or(now, |own| own.since),
        seen: now,
        stopped: false,
        replaced_by: None,
    });
    while next.logs.len() > LOGS_MAX {
        let Some(oldest) = next.logs.iter().position(|feed| feed.replaced_by.is_some()) else { break };
        next.logs.remove(oldest);
    }
    // What another log had not brought to the target yet, nobody will bring.
    let compare_all = is_older || came_back.is_some() || !replaced.is_empty();
    Ok(Claim { feeds: next, token, looked, compare_all, replaced })
}

/// The list after this log has been seen, working or stopped. `None`: it does not feed the target, so it is nobody's concern.
pub fn seen(feeds: &Feeds, id: &str, tokens: &Tokens, stopped: bool, now: DateTime) -> Option<Feeds> {
    let mut next = feeds.clone();
    next.version += 1;
    let own = next.logs.iter_mut().find(|feed| feed.id == id)?;
    if own.replaced_by.is_some() || !tokens.has(&own.token) {
        return None;
    }
    (own.seen, own.stopped) = (now, stopped);
    Some(next)
}

impl Target {
    /// The list; empty on a target that nothing has fed.
    pub async fn feeds(&self) -> Result<Feeds, ServerError> {
        let found = self.find_own(&namespace(), &rawdoc! {"_id": ID}).await?;
        let read = found.map(|doc| bson::deserialize_from_slice(doc.as_bytes())).transpose();
        read.map(Option::unwrap_or_default)
            .map_err(|error| ServerError::from_code(9, &format!("__dualsync.feeds cannot be read: {error}")))
    }

    /// Replaces the version before this one; `false`: somebody else has changed it meanwhile.
    pub async fn set_feeds(&self, feeds: &Feeds) -> Result<bool, ServerError> {
        let unreadable = |error: bson::error::Error| ServerError::from_code(9, &error.to_string());
        let mut doc = rawdoc! {"_id": ID};
        for field in &RawDocumentBuf::try_from(&bson::serialize_to_document(feeds).map_err(unreadable)?)
            .map_err(unreadable)?
        {
            let (name, value) = field.map_err(unreadable)?;
            doc.append(name, value);
        }
        let command = rawdoc! {"update": "feeds", "updates": [
            {"q": {"_id": ID, "version": feeds.version - 1}, "u": doc, "upsert": feeds.version == 1},
        ]};
        let reply = self.write(&namespace(), &|| command.clone(), Validation::Asked).await?;
        match reply.errors.first() {
            None => Ok(reply.n == 1),
            Some(error) if error.code == DUPLICATE_KEY => Ok(false),
            Some(error) => Err(ServerError::from_code(error.code, &error.message)),
        }
    }
}

fn namespace() -> Namespace {
    Namespace::new(OWN_DATABASE, "feeds")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log in its folder.
    struct Log {
        id: &'static str,
        feeding: Feeding,
        tokens: Option<Tokens>,
        has_fed: bool,
    }

    fn log(id: &'static str) -> Log {
        let feeding = Feeding { place: format!("host:/{id}"), join: false, take_over: None };
        Log { id, feeding, tokens: Some(Tokens::default()), has_fed: false }
    }

    impl Log {
        /// Claims, and forgets the answer where `crash`es say so.
        fn claim(&mut self, feeds: &mut Feeds) -> Result<Claim, Refused> {
            let claim = self.begin(feeds, 0)?;
            *feeds = claim.feeds.clone();
            self.tokens = Some(Tokens { last: Some(claim.token.clone()), ..Tokens::default() });
            Ok(claim)
        }

        /// Begins a claim, of which nobody knows whether it lands.
        fn begin(&mut self, feeds: &Feeds, now_s: i64) -> Result<Claim, Refused> {
            let Log { id, feeding, tokens, has_fed } = self;
            let claimant = Claimant { id, feeding, tokens: tokens.as_ref(), has_fed: *has_fed };
            let version = feeds.version + 1;
            let token = tokens.clone().unwrap_or_default().next_for(version);
            let claim = claim(feeds, &claimant, token, DateTime::from_millis(now_s * 1000))?;
            let last = feeds.logs.iter().find(|feed| feed.id == *id).map(|feed| feed.token.clone());
            *tokens = Some(Tokens { last, next: Some(claim.token.clone()), next_version: version });
            Ok(claim)
        }
    }

    #[test]
    fn a_log_goes_on_over_crashes_at_any_moment() {
        let (mut feeds, mut a) = (Feeds::default(), log("a"));
        a.claim(&mut feeds).unwrap();
        for reached_the_target in [false, true] {
            // Its file knows the next token, and then it dies.
            let begun = a.begin(&feeds, 0).unwrap();
            if reached_the_target {
                feeds = begun.feeds;
            }
            assert!(!a.claim(&mut feeds).unwrap().compare_all);
        }
        assert_eq!(feeds.logs[0].epoch, 4);
    }

    #[test]
    fn whichever_of_several_claims_lands_the_log_knows_it() {
        for landed in 0..3 {
            let (mut feeds, mut a) = (Feeds::default(), log("a"));
            a.claim(&mut feeds).unwrap();
            // None of them is answered, and each is read before any of them lands.
            let claims: Vec<Claim> = (0..3).map(|_| a.begin(&feeds, 0).unwrap()).collect();
            let mut feeds = claims[landed].feeds.clone();
            a.claim(&mut feeds).unwrap();
        }
    }

    #[test]
    fn another_log_is_refused_until_it_replaces_or_both_join() {
        let (mut feeds, mut a, mut b) = (Feeds::default(), log("a"), log("b"));
        a.claim(&mut feeds).unwrap();
        assert!(matches!(b.claim(&mut feeds), Err(Refused::Another(feed)) if feed.id == "a"));
        b.feeding.join = true;
        assert!(matches!(b.claim(&mut feeds), Err(Refused::NotJoined(_))));
        a.feeding.join = true;
        a.claim(&mut feeds).unwrap();
        b.claim(&mut feeds).unwrap();
        a.feeding.join = false;
        assert!(matches!(a.claim(&mut feeds), Err(Refused::Another(feed)) if feed.id == "b"));

        a.feeding.take_over = Some("b".to_owned());
        assert_eq!(a.claim(&mut feeds).unwrap().replaced, ["b"]);
        assert_eq!(b.claim(&mut feeds), Err(Refused::Replaced { by: "a".to_owned() }));
        b.feeding.take_over = Some("a".to_owned());
        assert!(b.claim(&mut feeds).unwrap().compare_all, "what it missed meanwhile is on the target");
    }

    #[test]
    fn an_older_copy_is_refused_until_somebody_says_that_it_is_all_there_is() {
        let (mut feeds, mut a) = (Feeds::default(), log("a"));
        a.claim(&mut feeds).unwrap();
        let mut copy = Log { tokens: a.tokens.clone(), ..log("a") };
        a.claim(&mut feeds).unwrap();
        assert!(matches!(copy.claim(&mut feeds), Err(Refused::Older(_))));
        copy.feeding.take_over = Some("a".to_owned());
        assert!(copy.claim(&mut feeds).unwrap().compare_all);
        // The other one, should it run, notices.
        a.has_fed = true;
        assert!(matches!(a.claim(&mut feeds), Err(Refused::Older(_))));
        // A lost file has made everything dirty: that is enough.
        let mut lost = Log { tokens: None, ..log("a") };
        lost.claim(&mut feeds).unwrap();
    }

    #[test]
    fn a_log_that_was_lost_is_replaced_by_the_one_in_its_folder_when_it_is_seen_no_more() {
        let (mut feeds, mut a, mut b) = (Feeds::default(), log("a"), log("b"));
        a.claim(&mut feeds).unwrap();
        b.feeding.place.clone_from(&a.feeding.place);
        let lately = |result: Result<Claim, Refused>| {
            assert!(matches!(result, Err(Refused::SeenLately(feed)) if feed.id == "a"));
        };
        lately(b.begin(&feeds, 100));
        // As it seems by a clock that is behind.
        lately(b.begin(&feeds, -100));
        b.feeding.join = true;
        lately(b.begin(&feeds, 100));
        b.feeding.join = false;
        let claim = b.begin(&feeds, 180).unwrap();
        assert_eq!((claim.replaced, claim.looked, claim.compare_all), (vec!["a".to_owned()], false, true));
        // The same log never waits, nor does one that is told.
        assert!(a.begin(&feeds, 1).is_ok());
        b.feeding.take_over = Some("a".to_owned());
        assert!(b.begin(&feeds, 1).is_ok());
    }

    #[test]
    fn a_log_that_waits_is_seen_and_one_that_is_stopped_is_replaced_by_name_only() {
        let (mut feeds, mut a, mut b) = (Feeds::default(), log("a"), log("b"));
        a.claim(&mut feeds).unwrap();
        b.feeding.place.clone_from(&a.feeding.place);
        let tokens = a.tokens.clone().unwrap();
        let at = |seconds: i64| DateTime::from_millis(seconds * 1000);
        // Paused, or without its source, for as long as it likes.
        let waits = seen(&feeds, "a", &tokens, false, at(1_000)).unwrap();
        assert!(matches!(b.begin(&waits, 1_100), Err(Refused::SeenLately(_))));
        assert!(b.begin(&waits, 1_180).is_ok());
        let stopped = seen(&waits, "a", &tokens, true, at(1_000)).unwrap();
        assert!(matches!(b.begin(&stopped, 100_000), Err(Refused::Stopped(feed)) if feed.id == "a"));
        // Who comes back is not stopped any more.
        let again = a.begin(&stopped, 100_000).unwrap().feeds;
        assert!(!again.logs[0].stopped);
        b.feeding.take_over = Some("a".to_owned());
        let taken = b.begin(&stopped, 100_000).unwrap().feeds;
        // One that was replaced, never was there, or is an older copy, says nothing.
        assert_eq!(seen(&taken, "a", &tokens, false, at(100_001)), None);
        assert_eq!(seen(&feeds, "c", &tokens, false, at(1)), None);
        assert_eq!(seen(&feeds, "a", &Tokens::default(), false, at(1)), None);
    }

    #[test]
    fn the_list_stays_small() {
        let mut feeds = Feeds::default();
        for n in 0..3 * LOGS_MAX {
            let mut next = Log { id: Box::leak(n.to_string().into_boxed_str()), ..log("x") };
            feeds = next.begin(&feeds, 1_000 * n as i64).unwrap().feeds;
        }
        assert_eq!(feeds.logs.len(), LOGS_MAX);
    }
}
