//! The hands of recovery: cutting, setting aside, flagging, syncing.
//!
//! - bytes are copied and the copy synced before they are cut
//! - what is torn was never durable: when it cannot be copied (a full disk), that is noted and it is cut all the same
//! - what is damaged is kept: when it cannot be copied, the whole file is set aside

use std::fs::File;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use super::{Kept, Recoverer};
use crate::error::{OpenError, is_full};
use crate::folder::{Aside, disk};
use crate::format::{SEGMENT_HEADER_BYTES, SegmentHeader};

impl Recoverer<'_> {
    /// Ends a segment at `end`.
    pub(super) fn cut(&mut self, segment: &mut Kept, end: u64, why: Aside) -> Result<(), OpenError> {
        if end >= segment.end {
            return Ok(());
        }
        let path = segment.path.clone();
        let failed = disk("cut", &path);
        let file = self.disk.open(&path).map_err(&failed)?;
        match (self.copy_aside(&file, &path, end, segment.end, why), why) {
            (Ok(aside), _) => self.report.set_aside.push(aside),
            (Err(error), Aside::Torn) => {
                self.note(format!("the torn end of {} could not be set aside: {error}", path.display()));
            }
            (Err(_), Aside::Damaged) => {
                // The file goes as a whole; the one that takes its place has no records.
                let header = SegmentHeader { gap_before: true, ..segment.header };
                self.set_aside(&path, segment.end, why)?;
                let made = self
                    .disk
                    .create(&path)
                    .and_then(|empty| self.disk.write(&empty, &[IoSlice::new(&header.encode())], 0));
                match made {
                    // The segment behind is flagged, or the one that is made next, or the cursor.
                    Err(error) if is_full(&error) => {
                        self.disk.remove(&path).map_err(&failed)?;
                        segment.gone = true;
                    }
                    other => other.map_err(&failed)?,
                }
                segment.end = SEGMENT_HEADER_BYTES;
                return Ok(());
            }
        }
        self.disk.truncate(&file, end).and_then(|()| self.disk.sync_file(&file)).map_err(&failed)?;
        if matches!(why, Aside::Torn) {
            self.report.torn_bytes += segment.end - end;
        }
        segment.end = end;
        Ok(())
    }

    /// Takes a whole file out of the log.
    pub(super) fn set_aside(&mut self, path: &Path, end: u64, why: Aside) -> Result<(), OpenError> {
        let aside = self.folder.aside(path, 0, why);
        self.disk.rename(path, &aside).map_err(disk("set aside", path))?;
        self.report.set_aside.push(aside);
        if matches!(why, Aside::Torn) {
            self.report.torn_bytes += end.saturating_sub(SEGMENT_HEADER_BYTES);
        }
        Ok(())
    }

    /// Makes the segment say, from now on, that records before it may be missing. Its records are not touched.
    pub(super) fn flag_gap(&mut self, segment: &mut Kept) -> Result<(), OpenError> {
        segment.header.gap_before = true;
        let failed = disk("flag", &segment.path);
        let file = self.disk.open(&segment.path).map_err(&failed)?;
        self.disk.write(&file, &[IoSlice::new(&segment.header.encode())], 0).map_err(&failed)?;
        self.disk.sync_file(&file).map_err(&failed)
    }

    /// The segment that was made ahead has no records, unless the host went down before its new name was on disk.
    pub(super) fn clear_spare(&mut self) -> Result<(), OpenError> {
        let path = self.folder.spare();
        match std::fs::metadata(&path) {
            Ok(meta) if meta.len() > SEGMENT_HEADER_BYTES => self.set_aside(&path, meta.len(), Aside::Torn),
            _ => self.disk.remove(&path).map_err(disk("remove", &path)),
        }
    }

    /// What was read is durable from now on, whoever wrote it.
    pub(super) fn sync<'k>(&self, segments: impl Iterator<Item = &'k Kept>) -> Result<(), OpenError> {
        for segment in segments {
            let failed = disk("sync", &segment.path);
            let file = self.disk.open(&segment.path).map_err(&failed)?;
            // Gives back what was reserved beyond the end, if the file system does so.
            let _ = self.disk.truncate(&file, segment.end);
            self.disk.sync_file(&file).map_err(&failed)?;
        }
        self.folder.sync(self.disk).map_err(disk("sync", &self.folder.path))
    }

    /// Deletes all but the newest torn tails: nobody was ever told that they were kept.
    pub(super) fn bound_torn(&mut self, older: Vec<PathBuf>) {
        let surplus = older.len().saturating_sub(TORN_FILES_MAX);
        for path in &older[..surplus] {
            let _ = self.disk.remove(path);
        }
    }

    fn copy_aside(&self, file: &File, path: &Path, from: u64, to: u64, why: Aside) -> io::Result<PathBuf> {
        let aside = self.folder.aside(path, from, why);
        let copy = self.disk.create(&aside)?;
        let copied = self.copy(file, &copy, from, to);
        if copied.is_err() {
            let _ = self.disk.remove(&aside);
        }
        copied.map(|()| aside)
    }

    fn copy(&self, file: &File, copy: &File, from: u64, to: u64) -> io::Result<()> {
        let mut at = from;
        while at < to {
            let bytes = self.disk.read(file, at, (to - at).min(1 << 20) as usize)?;
            if bytes.is_empty() {
                break;
            }
            self.disk.write(copy, &[IoSlice::new(&bytes)], at - from)?;
            at += bytes.len() as u64;
        }
        self.disk.sync_file(copy)?;
        self.folder.sync(self.disk)
    }
}

/// A torn tail is rarely more than one record; a handful tells what happened.
const TORN_FILES_MAX: usize = 4;
