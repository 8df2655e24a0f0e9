//! Opens what an earlier process left: keeps what is whole, cuts what never was durable, reports all else.
//!
//! 1. Headers, log id and names are checked. A last file without records is a crash during a roll.
//! 2. The last segment and all that may not have been synced are read; earlier ones are checked when they are read.
//! 3. At the first bad record, at position `s`:
//!    nothing behind it, and nothing says that `s` was synced: a **torn tail**, cut;
//!    something behind it, the host restarted since, and `s` was not synced: **power loss** wrote pages out of order,
//!    cut with all behind it; else **damage**. Where nobody knows whether the host restarted, nothing whole is cut, but all
//!    that was not closed in order has a gap.
//! 4. The next position lies above every one that was ever seen. A log that ends before its cursor, or before what
//!    was synced, has a gap.
//! 5. Damage and gaps are never passed in silence: the bytes are set aside, [`Recovery::gap`] tells, the segment behind
//!    is flagged and reported again until a cursor lies behind it, or its reader has kept what it means; and the log
//!    opens all the same.
//!
//! Not here: salvage of whole records behind damage (everything is to be verified then).

mod mend;

use std::path::{Path, PathBuf};

use crate::Lsn;
use crate::cursor::slot::{self, Loaded};
use crate::disk::Disk;
use crate::error::OpenError;
use crate::folder::{Aside, Folder, disk};
use crate::format::{self, BOOT_UNKNOWN, BlockFault, BootId, LogId, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::reserve::Reserve;
use crate::walk::{Step, Walk};

/// What was found at open, what was kept and what was cut.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// The log was closed in order, or is new: nothing had to be decided.
    pub clean: bool,
    /// The first position that can be read.
    pub first: Lsn,
    /// The position that the next append gets.
    pub head: Lsn,
    /// Bytes that were cut because they never were durable.
    pub torn_bytes: u64,
    /// Files with what was cut or could not be used. The program never deletes a `.damaged` one.
    pub set_aside: Vec<PathBuf>,
    /// Records may be missing: everything is to be verified. Set again at every open until the stored cursor lies
    /// beyond `head` as it is now, so keep what it means before storing one; or until
    /// [`SyncLog::forget_gap`](crate::SyncLog::forget_gap).
    pub gap: Option<String>,
    /// What else a person may want to know.
    pub notes: Vec<String>,
}

/// A log that can go on.
pub(crate) struct Recovered {
    pub(crate) id: LogId,
    /// There was no log.
    pub(crate) fresh: bool,
    pub(crate) segments: Vec<Kept>,
    /// Whether the segment that is made now, at `report.head`, follows a gap.
    pub(crate) gap_before_head: bool,
    /// Whoever reads the log has kept what all gaps mean that segments are flagged with.
    pub(crate) gaps_kept: bool,
    pub(crate) cursor: Loaded,
    pub(crate) report: Recovery,
}

/// A segment that stays.
pub(crate) struct Kept {
    pub(crate) path: PathBuf,
    pub(crate) header: SegmentHeader,
    pub(crate) end: u64,
    /// It was set aside, and there was no space for an empty one in its place.
    gone: bool,
}

/// A segment file and its header, if that can be used.
struct Candidate {
    base: Lsn,
    path: PathBuf,
    header: Option<SegmentHeader>,
    end: u64,
}

/// What reading a segment showed.
struct Scan {
    /// Position and offset behind the last whole record.
    next: Lsn,
    end: u64,
    bad: Option<&'static str>,
    /// Whole records lie behind the bad one.
    more: bool,
}

/// Reads, cuts and reports. `boot` is the host's current boot.
pub(crate) fn recover(disk_calls: &Disk, folder: &Folder, boot: BootId) -> Result<Recovered, OpenError> {
    // All that could be refused is looked at before anything is changed.
    let listing = folder.list()?;
    Reserve::refuse(folder)?;
    let mut loaded = slot::load(disk_calls, &folder.cursor())?;
    let mut candidates = Vec::new();
    for (base, path) in listing.segments {
        candidates.push(candidate(disk_calls, base, path)?);
    }

    let was = loaded.slot.clone();
    let newest = candidates.iter().rev().find_map(|candidate| candidate.header);
    let id = was.as_ref().map(|slot| slot.id).or(newest.map(|header| header.id));
    let id = id.unwrap_or_else(|| fastrand::u128(..).to_le_bytes());
    let applied = was.as_ref().and_then(|slot| slot.cursor.as_ref()).map(|cursor| cursor.applied);
    let unreadable = loaded.unreadable;
    let newest_base = candidates.last().map_or(Lsn::FIRST, |candidate| candidate.base);
    let fresh = was.is_none() && candidates.is_empty() && !unreadable;
    let written_in = newest.map_or(BOOT_UNKNOWN, |last| last.boot);
    let same_boot_unsure = written_in == BOOT_UNKNOWN || boot == BOOT_UNKNOWN;
    let restarted = !same_boot_unsure && written_in != boot;

    let mut recovery = Recoverer {
        disk: disk_calls,
        folder,
        id,
        seed: format::seed(&id),
        restarted,
        unfinished: was.as_ref().is_some_and(|slot| slot.gap),
        durable: was.as_ref().map_or(Lsn::FIRST, |slot| slot.durable),
        highest: Lsn::ZERO,
        gaps: Vec::new(),
        report: Recovery { notes: std::mem::take(&mut loaded.notes), ..Recovery::default() },
        cursor: loaded,
    };
    if recovery.unfinished {
        recovery.gaps.push("an earlier start found a gap and did not get to its end, or an earlier run could not keep its notes".to_owned());
    }
    if !listing.damaged.is_empty() {
        recovery.note(format!("{} damaged files of earlier starts lie in the folder", listing.damaged.len()));
    }
    recovery.clear_spare()?;
    let mut kept = recovery.usable(candidates)?;
    let scans = recovery.scan(&kept);
    let scanned = scans.len();
    let found = recovery.judge(&mut kept, scans)?;

    // Rule 4.
    let floor = recovery.durable.max(applied.unwrap_or(Lsn::FIRST));
    if found < floor {
        recovery.gaps.push(format!("the log ends at position {found}, but had reached {floor}"));
    }
    let head = found.max(floor).max(recovery.highest.next());
    // The cursor is there before the first record. Without it, nobody can say what was trimmed, or where the log ended.
    if unreadable || (was.is_none() && head.max(newest_base) > Lsn::FIRST) {
        recovery
            .gaps
            .push("the cursor is missing or unreadable: how far the log reached is not known".into());
    }
    // A log starts at 1, or, once trimmed, at or below its cursor.
    if let Some(first) = kept.first().map(|kept| kept.header)
        && first.base > applied.unwrap_or(Lsn::FIRST)
        && !first.gap_before
    {
        recovery.gaps.push(format!("the files before position {} are missing", first.base));
    }
    let in_order = was.is_some_and(|slot| slot.closed && slot.durable == found);
    let untouched = recovery.gaps.is_empty() && recovery.report.set_aside.is_empty();
    recovery.report.clean = fresh || (in_order && untouched);
    if !recovery.report.clean && (restarted || same_boot_unsure) {
        let down = if restarted {
            "the host went down"
        } else {
            "the host may have gone down (its boot id is not known)"
        };
        recovery.gaps.push(format!("{down} before the log was closed: its last records may be missing"));
    }

    // Rule 5: what was reported and not passed yet is reported again.
    let mut gap_before_head = !recovery.gaps.is_empty();
    let mut gaps_kept = recovery.cursor.slot.as_ref().is_some_and(|slot| slot.kept);
    if gap_before_head && gaps_kept {
        // On disk before anything is flagged with the new one.
        recovery.announce_gap()?;
        gaps_kept = false;
    }
    let unpassed = |kept: &&Kept| kept.header.gap_before && kept.header.base >= applied.unwrap_or(Lsn::ZERO);
    if let (false, false, Some(kept)) = (gap_before_head, gaps_kept, kept.iter().find(unpassed)) {
        let base = kept.header.base;
        recovery
            .gaps
            .push(format!("a gap before position {base}, found at an earlier start, is not passed yet"));
    }

    recovery.sync(kept.iter().rev().take(scanned))?;
    recovery.bound_torn(listing.torn);
    // An empty last segment gives its name, and its flag, to the one that is made now.
    if let Some(empty) = kept.pop_if(|last| last.end <= SEGMENT_HEADER_BYTES && last.header.base == head) {
        gap_before_head |= empty.header.gap_before;
    }
    let mut report = recovery.report;
    report.first = kept.first().map_or(head, |kept| kept.header.base);
    report.head = head;
    report.gap = (!recovery.gaps.is_empty()).then(|| recovery.gaps.join("; "));
    Ok(Recovered { id, fresh, segments: kept, gap_before_head, gaps_kept, cursor: recovery.cursor, report })
}

struct Recoverer<'a> {
    disk: &'a Disk,
    folder: &'a Folder,
    id: LogId,
    seed: u32,
    /// The host was started again since the log was written.
    restarted: bool,
    /// An earlier recovery found a gap and died: `durable` may be what was reached, and is no reason for trust.
    unfinished: bool,
    /// Everything below it was synced, as far as anything tells.
    durable: Lsn,
    /// The highest position in any whole record that is not kept.
    highest: Lsn,
    gaps: Vec<String>,
    report: Recovery,
    cursor: Loaded,
}

impl Recoverer<'_> {
    /// Rule 1. What cannot be used is removed or set aside.
    fn usable(&mut self, candidates: Vec<Candidate>) -> Result<Vec<Kept>, OpenError> {
        let mut kept: Vec<Kept> = Vec::new();
        let mut hole = false;
        let last = candidates.len().saturating_sub(1);
        for (nth, Candidate { base, path, header, end }) in candidates.into_iter().enumerate() {
            if let Some(header) = header.filter(|header| header.id == self.id && header.base == base) {
                let mut segment = Kept { path, header, end, gone: false };
                if std::mem::take(&mut hole) {
                    self.flag_gap(&mut segment)?;
                }
                kept.push(segment);
                continue;
            }
            if nth == last && end <= SEGMENT_HEADER_BYTES {
                self.disk.remove(&path).map_err(disk("remove", &path))?;
                self.note(format!("{} was unfinished and empty: removed", path.display()));
                continue;
            }
            let mut walk = self.walk(&path, end)?;
            let whole = self.look_behind(&mut walk, Lsn(base.0 - 1));
            if nth == last && header.is_none() && !whole {
                self.set_aside(&path, end, Aside::Torn)?;
            } else {
                self.gaps.push(format!("{} has no header of this log", path.display()));
                self.announce_gap()?;
                self.set_aside(&path, end, Aside::Damaged)?;
                hole = true;
            }
        }
        Ok(kept)
    }

    /// Rule 2. One scan for each of the last segments, in order, as far back as something may not have been synced.
    fn scan(&mut self, kept: &[Kept]) -> Vec<Scan> {
        let mut scans = Vec::new();
        for segment in kept.iter().rev() {
            let mut scan =
                Scan { next: segment.header.base, end: SEGMENT_HEADER_BYTES, bad: None, more: false };
            match self.walk(&segment.path, segment.end) {
                Ok(mut walk) => self.scan_one(&mut walk, &mut scan),
                Err(_) => scan.bad = Some("the file cannot be opened"),
            }
            scans.push(scan);
            if segment.header.base <= self.durable && !self.unfinished {
                break;
            }
        }
        scans.reverse();
        scans
    }

    fn scan_one(&mut self, walk: &mut Walk, scan: &mut Scan) {
        loop {
            match walk.step(scan.next) {
                Ok(Step::Record(header, _)) => {
                    self.durable = self.durable.max(header.durable);
                    scan.next = scan.next.next();
                    scan.end = walk.offset();
                }
                Ok(Step::End) => return,
                Ok(Step::Bad(what)) => {
                    scan.bad = Some(what);
                    scan.more = self.look_behind(walk, scan.next);
                    return;
                }
                Err(_) => {
                    // What the disk cannot read may hold anything.
                    scan.bad = Some("the disk cannot read it");
                    scan.more = true;
                    return;
                }
            }
        }
    }

    /// Whether whole records with positions above `after` lie from here on; remembers the highest.
    fn look_behind(&mut self, walk: &mut Walk, mut after: Lsn) -> bool {
        let mut found = false;
        while let Ok(Some((offset, header))) = walk.find_whole(after) {
            found = true;
            walk.skip_to(offset);
            after = header.lsn;
            while let Ok(Step::Record(header, _)) = walk.step(after) {
                self.durable = self.durable.max(header.durable);
                self.highest = self.highest.max(header.lsn);
                after = after.next();
            }
        }
        found
    }

    /// Rule 3, oldest first. Gives the position behind the last record that is kept.
    fn judge(&mut self, kept: &mut Vec<Kept>, scans: Vec<Scan>) -> Result<Lsn, OpenError> {
        let from = kept.len() - scans.len();
        let reached = scans.last().map_or(Lsn::FIRST, |last| last.next);
        let mut head = Lsn::FIRST;
        for (at, scan) in (from..).zip(scans) {
            head = scan.next;
            let follower = kept.get(at + 1).map(|segment| segment.header);
            let joined =
                follower.is_none_or(|next| next.base == head || (next.gap_before && next.base > head));
            if scan.bad.is_none() && joined {
                continue;
            }
            let behind = scan.more || follower.is_some();
            if head < self.durable || (behind && !self.restarted) {
                let what = scan.bad.unwrap_or("its last records are missing");
                self.gaps.push(format!("{} is damaged at position {head}: {what}", kept[at].path.display()));
                self.announce_gap()?;
                self.cut(&mut kept[at], scan.end, Aside::Damaged)?;
                if let Some(next) = kept.get_mut(at + 1) {
                    self.flag_gap(next)?;
                }
            } else {
                if behind {
                    self.highest = self.highest.max(Lsn(reached.0 - 1));
                    self.announce_gap()?;
                }
                self.cut(&mut kept[at], scan.end, Aside::Torn)?;
                for later in kept.split_off(at + 1) {
                    self.set_aside(&later.path, later.end, Aside::Torn)?;
                }
                break;
            }
        }
        kept.retain(|segment| !segment.gone);
        Ok(head)
    }

    fn walk(&self, path: &Path, end: u64) -> Result<Walk, OpenError> {
        let file = self.disk.open(path).map_err(disk("open", path))?;
        Ok(Walk::new(self.disk.clone(), file, self.seed, end))
    }

    /// Says on disk that something may be missed, before anything is cut for it.
    fn announce_gap(&mut self) -> Result<(), OpenError> {
        slot::announce_gap(self.disk, self.folder, self.id, &mut self.cursor, self.highest.next())
    }

    fn note(&mut self, note: String) {
        self.report.notes.push(note);
    }
}

/// The file's header, unless it is damaged. A newer one refuses the whole log.
fn candidate(disk_calls: &Disk, base: Lsn, path: PathBuf) -> Result<Candidate, OpenError> {
    let failed = disk("read", &path);
    let file = disk_calls.open(&path).map_err(&failed)?;
    let end = file.metadata().map_err(&failed)?.len();
    // A header that cannot be read is as good as a damaged one: the rest of the log opens.
    let bytes = disk_calls.read(&file, 0, SEGMENT_HEADER_BYTES as usize).unwrap_or_default();
    match SegmentHeader::decode(&bytes) {
        Ok(header) => Ok(Candidate { base, path, header: Some(header), end }),
        Err(BlockFault::Damaged) => Ok(Candidate { base, path, header: None, end }),
        Err(BlockFault::Newer(version)) => Err(OpenError::Newer { path, version }),
    }
}
