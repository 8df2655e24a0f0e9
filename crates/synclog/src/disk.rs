//! Every file call that changes the log goes through here, so that tests can let any of them fail.
//!
//! - a write is whole or an error; a short one counts as a full disk, which is what it means on a regular file
//! - files are made with mode 0600
//!
//! Not here: retries. A failed sync is never repeated (`flush.rs`).

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FallocateFlags;

/// A kind of file call, as [`Faults`] sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// A file is made.
    Create,
    /// Space is reserved for a segment.
    Allocate,
    /// Bytes are written.
    Write,
    /// Bytes are read.
    Read,
    /// A file is cut.
    Truncate,
    /// `fdatasync` of a file.
    SyncFile,
    /// `fsync` of the folder.
    SyncDir,
    /// A file gets its name.
    Rename,
    /// A file is deleted.
    Remove,
}

/// What is to become of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Pass,
    /// It is not made; the caller sees this `errno`.
    Fail(i32),
    /// A write stops after so many bytes. Other calls pass.
    Short(usize),
}

/// A judge over file calls: lets tests fail any of them.
#[derive(Clone)]
pub struct Faults(Arc<dyn Fn(Call) -> Verdict + Send + Sync>);

impl Faults {
    /// Asks `judge` before every call.
    pub fn new(judge: impl Fn(Call) -> Verdict + Send + Sync + 'static) -> Faults {
        Faults(Arc::new(judge))
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faults(..)")
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Disk {
    faults: Option<Faults>,
}

impl Disk {
    pub(crate) fn new(faults: Option<Faults>) -> Disk {
        Disk { faults }
    }

    /// Makes a file that must not be there yet.
    pub(crate) fn create(&self, path: &Path) -> io::Result<File> {
        self.ask(Call::Create)?;
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
    }

    /// Opens a file for reading and writing.
    pub(crate) fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    /// Reserves space without changing the file's length. A file system that cannot do so is no error.
    pub(crate) fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.ask(Call::Allocate)?;
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Err(errno) if errno == rustix::io::Errno::OPNOTSUPP || errno == rustix::io::Errno::NOSYS => {
                Ok(())
            }
            other => other.map_err(io::Error::from),
        }
    }

    /// Writes all of `slices` at `offset` with one call. After an error, any part may have been written.
    pub(crate) fn write(&self, file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let written = match self.ask(Call::Write)? {
            None => rustix::io::pwritev(file, slices, offset)?,
            Some(bytes) => {
                let whole: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                file.write_at(&whole[..bytes.min(wanted)], offset)?
            }
        };
        if written == wanted {
            return Ok(());
        }
        let text = format!("only {written} of {wanted} bytes were written");
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }

    /// Reads up to `bytes` bytes at `offset`; fewer only at the end of the file.
    pub(crate) fn read(&self, file: &File, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        self.ask(Call::Read)?;
        let mut read = Vec::with_capacity(bytes);
        while read.len() < bytes {
            let at = offset + read.len() as u64;
            match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut read), at) {
                Ok(0) => break,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        read.truncate(bytes);
        Ok(read)
    }

    pub(crate) fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        self.ask(Call::Truncate)?;
        file.set_len(len)
    }

    /// Waits until the file's bytes and length are on disk.
    pub(crate) fn sync_file(&self, file: &File) -> io::Result<()> {
        self.ask(Call::SyncFile)?;
        file.sync_data()
    }

    /// Waits until the folder's names are on disk.
    pub(crate) fn sync_dir(&self, dir: &File) -> io::Result<()> {
        self.ask(Call::SyncDir)?;
        dir.sync_all()
    }

    /// Gives a file its name; a file that has it already is replaced.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(Call::Rename)?;
        fs::rename(from, to)
    }

    /// Deletes a file; one that is not there is no error.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::Remove)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// `Some(bytes)` for a write that is to stop early.
    fn ask(&self, call: Call) -> io::Result<Option<usize>> {
        match self.faults.as_ref().map_or(Verdict::Pass, |faults| (faults.0)(call)) {
            Verdict::Pass => Ok(None),
            Verdict::Fail(errno) => Err(io::Error::from_raw_os_error(errno)),
            Verdict::Short(bytes) => Ok(Some(bytes)),
        }
    }
}
