//! The state's file: one small JSON object, replaced as a whole (written aside, synced, renamed, folder synced).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Bypass, Cause, DeadLetter, Desired, Dirty, Filter, State, Verdict};
use crate::feeds::Tokens;
use crate::tuning::Retuned;

/// The file's name in the log's folder.
pub(super) const FILE: &str = "replicator.json";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) version: u32,
    pub(super) log_id: String,
    pub(super) desired: Desired,
    #[serde(default)]
    pub(super) bypass: Bypass,
    pub(super) source_seen: bool,
    pub(super) target_seen: bool,
    #[serde(default)]
    pub(super) filter: Filter,
    pub(super) everything_dirty: Option<Dirty>,
    pub(super) dirty: BTreeMap<String, Dirty>,
    pub(super) dead_letters: Vec<DeadLetter>,
    pub(super) next_letter: u64,
    #[serde(default)]
    pub(super) retuned: Retuned,
    /// Which collections of the source are followed, by name.
    #[serde(default)]
    pub(super) uuids: BTreeMap<String, String>,
    /// Ordered beside the configuration.
    #[serde(default)]
    pub(super) ordered_filter: Option<Filter>,
    /// How comparisons came out, by namespace.
    #[serde(default)]
    pub(super) compared: BTreeMap<String, Verdict>,
    /// By which the target knows this log; `None`: the file that knew them was lost.
    #[serde(default)]
    pub(super) tokens: Option<Tokens>,
    /// Which process, by which election, answered for the source; `None`: none yet.
    #[serde(default)]
    pub(super) source_process: Option<String>,
    /// Which data it had.
    #[serde(default)]
    pub(super) source_data: Option<String>,
}

/// A state on its way to the disk.
pub struct Unsaved {
    path: PathBuf,
    content: Content,
}

impl Unsaved {
    /// Writes it, so that it survives a crash of the host.
    /// On a full disk the old one stays as it is, and what there is of the new one is given back.
    pub fn write(&self) -> io::Result<()> {
        let aside = self.path.with_extension("json.new");
        self.write_aside(&aside).inspect_err(|_| drop(fs::remove_file(&aside)))?;
        fs::rename(&aside, &self.path)?;
        if let Some(dir) = self.path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }

    fn write_aside(&self, aside: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(aside)?;
        file.write_all(&serde_json::to_vec_pretty(&self.content)?)?;
        file.sync_all()
    }
}

impl State {
    /// What an earlier run of the log in `dir` was ordered to capture.
    pub fn ordered_in(dir: &Path) -> Option<Filter> {
        let content: Content = serde_json::from_slice(&fs::read(dir.join(FILE)).ok()?).ok()?;
        content.ordered_filter
    }

    /// Reads the state of the log `log_id` in `dir`. A missing one is new when the log is; else, like one that
    /// cannot be read, it means that everything is dirty.
    pub fn open(dir: &Path, log_id: &str, log_is_new: bool, now_ms: u64) -> State {
        let path = dir.join(FILE);
        let new = Content { version: 1, log_id: log_id.to_owned(), next_letter: 1, ..Content::default() };
        let mut state = State { path, content: new, changed: true };
        let lost = match fs::read(&state.path) {
            Ok(bytes) => match serde_json::from_slice::<Content>(&bytes) {
                Ok(content) if content.version == 1 && content.log_id == log_id => {
                    state.content = content;
                    state.changed = false;
                    None
                }
                Ok(_) => Some("the replicator's state belongs to another log or version".to_owned()),
                Err(error) => Some(format!("the replicator's state cannot be read: {error}")),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound && log_is_new => {
                state.content.tokens = Some(Tokens::default());
                None
            }
            Err(error) => Some(format!("the replicator's state is missing: {error}")),
        };
        if let Some(reason) = lost {
            state.set_everything_dirty(Dirty::new(&reason, Cause::Unknown, now_ms));
        }
        state
    }

    /// Makes everything dirty in the state that `dir` holds; nothing to do when it holds none.
    pub fn note_capture_off(dir: &Path, now_ms: u64) -> io::Result<()> {
        let path = dir.join(FILE);
        let Ok(bytes) = fs::read(&path) else { return Ok(()) };
        let content = serde_json::from_slice(&bytes)?;
        let mut state = State { path, content, changed: false };
        let reason = "syncing was switched off for a time";
        state.set_everything_dirty(Dirty::new(reason, Cause::Unknown, now_ms));
        state.save()
    }

    /// What has to be written, if something has changed since it was last taken.
    pub fn take_unsaved(&mut self) -> Option<Unsaved> {
        std::mem::replace(&mut self.changed, false)
            .then(|| Unsaved { path: self.path.clone(), content: self.content.clone() })
    }

    /// What was taken could not be written.
    pub fn not_saved(&mut self) {
        self.changed = true;
    }

    /// Writes what has changed, so that it survives a crash of the host.
    pub fn save(&mut self) -> io::Result<()> {
        let saved = self.take_unsaved().map_or(Ok(()), |unsaved| unsaved.write());
        self.changed |= saved.is_err();
        saved
    }
}
