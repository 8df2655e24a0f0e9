//! Every file call that changes the log goes through here, so that tests can let any of them fail, and can know what a
//! disk may hold after a power loss.
//!
//! - a write is whole or an error; a short one counts as a full disk, which is what it means on a regular file
//! - files are made with mode 0600
//!
//! Not here: retries. A failed sync is never repeated (`flush.rs`).

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
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

/// A change to the folder, told once it is made; a sync is told when it begins, too. Files go by their inode.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are those of the calls")]
pub enum Change<'a> {
    /// A file got its first name.
    Created { file: u64, path: &'a Path },
    /// Bytes were written.
    Written { file: u64, offset: u64, slices: &'a [IoSlice<'a>] },
    /// A file was cut or made longer.
    Truncated { file: u64, len: u64 },
    /// What the file holds now will be on disk once this has ended.
    SyncBegins { file: u64 },
    /// It is.
    Synced { file: u64 },
    /// The folder's names, as they are now, will be on disk once this has ended.
    DirSyncBegins,
    /// They are.
    DirSynced,
    /// A file got another name, which another file may have had.
    Renamed { from: &'a Path, to: &'a Path },
    /// A name is gone.
    Removed { path: &'a Path },
}

/// A judge over file calls: lets tests fail any of them.
#[derive(Clone)]
pub struct Faults {
    judge: Arc<dyn Fn(Call) -> Verdict + Send + Sync>,
    witness: Option<Witness>,
}

type Witness = Arc<dyn Fn(Change<'_>) + Send + Sync>;

impl Faults {
    /// Asks `judge` before every call.
    pub fn new(judge: impl Fn(Call) -> Verdict + Send + Sync + 'static) -> Faults {
        Faults { judge: Arc::new(judge), witness: None }
    }

    /// Tells `witness` of every change that is made, before the call returns.
    pub fn with_witness(mut self, witness: impl Fn(Change<'_>) + Send + Sync + 'static) -> Faults {
        self.witness = Some(Arc::new(witness));
        self
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
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        self.tell(Some(&file), |file| Change::Created { file, path });
        Ok(file)
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
            self.tell(Some(file), |file| Change::Written { file, offset, slices });
            return Ok(());
        }
        let text = format!("only {written} of {wanted} bytes were written");
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }

    /// Reads up to `bytes` bytes at `offset`; fewer only at the end of the file.
    pub(crate) fn read(&self, file: &File, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        self.read_into(Vec::new(), file, offset, bytes)
    }

    /// The same, in the memory of a buffer that is not needed any more.
    pub(crate) fn read_into(
        &self,
        mut read: Vec<u8>,
        file: &File,
        offset: u64,
        bytes: usize,
    ) -> io::Result<Vec<u8>> {
        self.ask(Call::Read)?;
        read.clear();
        read.reserve_exact(bytes);
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
        file.set_len(len)?;
        self.tell(Some(file), |file| Change::Truncated { file, len });
        Ok(())
    }

    /// Waits until the file's bytes and length are on disk.
    pub(crate) fn sync_file(&self, file: &File) -> io::Result<()> {
        self.ask(Call::SyncFile)?;
        self.tell(Some(file), |file| Change::SyncBegins { file });
        file.sync_data()?;
        self.tell(Some(file), |file| Change::Synced { file });
        Ok(())
    }

    /// Waits until the folder's names are on disk.
    pub(crate) fn sync_dir(&self, dir: &File) -> io::Result<()> {
        self.ask(Call::SyncDir)?;
        self.tell(None, |_| Change::DirSyncBegins);
        dir.sync_all()?;
        self.tell(None, |_| Change::DirSynced);
        Ok(())
    }

    /// Gives a file its name; a file that has it already is replaced.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(Call::Rename)?;
        fs::rename(from, to)?;
        self.tell(None, |_| Change::Renamed { from, to });
        Ok(())
    }

    /// Deletes a file; one that is not there is no error.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::Remove)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.inspect(|()| self.tell(None, |_| Change::Removed { path })),
        }
    }

    /// `Some(bytes)` for a write that is to stop early.
    fn ask(&self, call: Call) -> io::Result<Option<usize>> {
        match self.faults.as_ref().map_or(Verdict::Pass, |faults| (faults.judge)(call)) {
            Verdict::Pass => Ok(None),
            Verdict::Fail(errno) => Err(io::Error::from_raw_os_error(errno)),
            Verdict::Short(bytes) => Ok(Some(bytes)),
        }
    }

    fn tell<'a>(&self, file: Option<&File>, change: impl FnOnce(u64) -> Change<'a>) {
        if let Some(witness) = self.faults.as_ref().and_then(|faults| faults.witness.as_ref()) {
            let inode = file.and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.ino());
            witness(change(inode));
        }
    }
}
