//! What the replicator must remember beside the log: what it was told, what it has seen of both servers, what is dirty
//! (`dirty.rs`), what was refused (`letters.rs`).
//!
//! Kept in one file (`file.rs`), which is written before the cursor passes the entries that made it change. Lost or
//! unreadable: everything is dirty.

mod compared;
mod dirty;
mod file;
mod letters;

use std::path::PathBuf;

use record::Namespace;
use serde::{Deserialize, Serialize};

use crate::feeds::Tokens;
use crate::tuning::Retuned;

pub use compared::{Reached, Verdict};
pub use dirty::{Cause, Dirty, Keep};
use file::Content;
pub use letters::DeadLetter;

/// What the worker was told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// Follow.
    #[default]
    Running,
    /// Keep connections, apply nothing.
    Paused,
    /// Close the target.
    Stopped,
}

/// Whether writes pass without being captured, because somebody wants it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Bypass {
    /// No.
    #[default]
    Off,
    /// By an order, which holds over restarts.
    On,
    /// Capture is back, and what passed before may still be at work on the source.
    Ending,
    /// By the configuration.
    Configured,
}

/// Which namespaces are captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Filter {
    /// `sync.include`.
    pub include: Vec<String>,
    /// `sync.exclude`.
    pub exclude: Vec<String>,
}

/// The remembered state; changes reach the disk with [`State::save`].
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    content: Content,
    changed: bool,
}

impl State {
    /// What the worker was told.
    pub fn desired(&self) -> Desired {
        self.content.desired
    }

    /// Remembers what the worker is told.
    pub fn set_desired(&mut self, desired: Desired) {
        self.changed |= self.content.desired != desired;
        self.content.desired = desired;
    }

    /// What was ordered beside the configuration.
    pub fn retuned(&self) -> Retuned {
        self.content.retuned
    }

    /// Remembers what was ordered beside the configuration.
    pub fn set_retuned(&mut self, retuned: Retuned) {
        self.changed |= self.content.retuned != retuned;
        self.content.retuned = retuned;
    }

    /// Whether capture is out of the way.
    pub fn bypass(&self) -> Bypass {
        self.content.bypass
    }

    /// Remembers whether capture is out of the way.
    pub fn set_bypass(&mut self, bypass: Bypass) {
        self.changed |= self.content.bypass != bypass;
        self.content.bypass = bypass;
    }

    /// Whether the source has been looked at for documents from before.
    pub fn source_seen(&self) -> bool {
        self.content.source_seen
    }

    /// The source has been looked at.
    pub fn set_source_seen(&mut self) {
        self.content.source_seen = true;
        self.changed = true;
    }

    /// What was captured before.
    pub fn filter(&self) -> &Filter {
        &self.content.filter
    }

    /// Remembers what is captured from now on.
    pub fn set_filter(&mut self, filter: &Filter) {
        self.changed |= self.content.filter != *filter;
        self.content.filter.clone_from(filter);
    }

    /// What was ordered to be captured, beside the configuration.
    pub fn ordered_filter(&self) -> Option<&Filter> {
        self.content.ordered_filter.as_ref()
    }

    /// Remembers that.
    pub fn set_ordered_filter(&mut self, filter: Option<Filter>) {
        self.changed |= self.content.ordered_filter != filter;
        self.content.ordered_filter = filter;
    }

    /// Whether the target has been looked at for documents from before.
    pub fn target_seen(&self) -> bool {
        self.content.target_seen
    }

    /// The target has been looked at.
    pub fn set_target_seen(&mut self) {
        self.content.target_seen = true;
        self.changed = true;
    }

    /// The source's collection of this name that is followed; `None` before it was first met.
    pub fn uuid(&self, ns: &Namespace) -> Option<&str> {
        self.content.uuids.get(ns.as_str()).map(String::as_str)
    }

    /// Follows this collection under its name from now on; `None`: there is none.
    pub fn set_uuid(&mut self, ns: &Namespace, uuid: Option<&str>) {
        if self.uuid(ns) == uuid {
            return;
        }
        self.changed = true;
        match uuid {
            Some(uuid) => drop(self.content.uuids.insert(ns.as_str().to_owned(), uuid.to_owned())),
            None => drop(self.content.uuids.remove(ns.as_str())),
        }
    }

    /// The followed collections and their uuids.
    pub fn uuids(&self) -> impl Iterator<Item = (Namespace, &str)> {
        self.content.uuids.iter().map(|(name, uuid)| (Namespace::parse(name), uuid.as_str()))
    }

    /// Which process, by which election, answered for the source; `None`: none yet.
    pub fn source_process(&self) -> Option<&str> {
        self.content.source_process.as_deref()
    }

    /// Which data the source had then; `None`: not known.
    pub fn source_data(&self) -> Option<&str> {
        self.content.source_data.as_deref()
    }

    /// All that it may have taken back when it was started is dealt with.
    pub fn set_source(&mut self, process: &str, data: Option<String>) {
        self.content.source_process = Some(process.to_owned());
        self.content.source_data = data;
        self.changed = true;
    }

    /// By which the target knows this log; `None`: the file that knew them was lost.
    pub fn tokens(&self) -> Option<&Tokens> {
        self.content.tokens.as_ref()
    }

    /// Remembers them.
    pub fn set_tokens(&mut self, tokens: Option<Tokens>) {
        self.changed |= self.content.tokens != tokens;
        self.content.tokens = tokens;
    }
}

#[cfg(test)]
mod tests;
