//! What an earlier run left in the log.

use std::collections::BTreeMap;

use record::{Mark, Record, RecordKind};
use synclog::{Lsn, ReadError, Reader, SyncLog};

use crate::checkpoint::Checkpoint;

/// What an earlier run left in the log.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Marks without an end: their writes may still run on the source.
    pub orphans: Vec<(u64, Mark)>,
    /// Entries that are not applied.
    pub entries: u64,
    pub(crate) checkpoint: Checkpoint,
    /// Something could not be read.
    pub(crate) problem: Option<String>,
}

/// Looks through the part of the log that is not applied. Blocking: reads it from the disk.
pub fn recover(log: &SyncLog) -> Recovered {
    let checkpoint = Checkpoint::load(log);
    let mut recovered = Recovered { checkpoint, ..Recovered::default() };
    if let Err(problem) = look_through(log, &mut recovered) {
        recovered.problem = Some(problem);
    }
    recovered
}

fn look_through(log: &SyncLog, recovered: &mut Recovered) -> Result<(), String> {
    let (mut reader, problem) = reader_at(log, recovered.checkpoint.resume)?;
    let mut open = BTreeMap::new();
    let mut problem = problem.map_or(Ok(()), Err);
    loop {
        let raw = match reader.next() {
            Ok(Some(raw)) => raw,
            Ok(None) => break,
            // The reader already stands behind the damage.
            Err(error @ ReadError::Damaged { .. }) => {
                problem = Err(error.to_string());
                continue;
            }
            // The disk refuses: what is there is lost to us, and what comes behind it is not.
            Err(error @ ReadError::Disk { .. }) => {
                problem = Err(error.to_string());
                reader.skip_segment();
                continue;
            }
            Err(error) => {
                problem = Err(error.to_string());
                break;
            }
        };
        if raw.kind == RecordKind::Entry as u8 && raw.lsn.0 >= recovered.checkpoint.applied {
            recovered.entries += 1;
        }
        match Record::decode(raw.kind, &raw.payload) {
            Ok(Record::Mark(mark)) => drop(open.insert(raw.lsn.0, mark)),
            Ok(Record::Closed { mark }) => drop(open.remove(&mark)),
            Ok(Record::Entry(entry)) => drop(open.remove(&entry.mark)),
            Err(error) => problem = Err(format!("record {}: {error}", raw.lsn)),
        }
    }
    recovered.orphans = open.into_iter().collect();
    problem
}

/// A reader from `resume` on, or from behind the damage that is there, and what that was.
pub(crate) fn reader_at(log: &SyncLog, resume: u64) -> Result<(Reader, Option<String>), String> {
    match log.reader(Lsn(resume)) {
        Ok(reader) => Ok((reader, None)),
        Err(ReadError::Damaged { resume_at, .. }) if resume_at > Lsn(resume) => {
            let problem = format!("damaged from record {resume} on");
            let (reader, more) = reader_at(log, resume_at.0)?;
            Ok((reader, more.or(Some(problem))))
        }
        // The disk refuses: what is there is lost to us, and what comes now is not.
        Err(error) if Lsn(resume) < log.head() => {
            let (reader, _) = reader_at(log, log.head().0)?;
            Ok((reader, Some(error.to_string())))
        }
        Err(error) => Err(error.to_string()),
    }
}
