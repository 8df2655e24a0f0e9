//! The log's folder: its permissions, its lock, the names in it.
//!
//! - made with mode 0700; what others could read is refused, not mended, because they may have read it already
//! - one process per folder: `LOCK` is held by `flock`, which ends with the process, and names the owner's pid
//! - what recovery sets aside gets a name of its own and is never read again by this program

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::Lsn;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::{BOOT_UNKNOWN, BootId};

#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    handle: File,
}

/// Held for as long as the log is open.
#[derive(Debug)]
pub(crate) struct FolderLock {
    file: File,
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing is not enough: a child process that is just being started has the file open as well.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// What lies in the folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Segments, by the base their names tell, in order.
    pub(crate) segments: Vec<(Lsn, PathBuf)>,
    /// Torn tails of earlier recoveries, oldest first.
    pub(crate) torn: Vec<PathBuf>,
    /// Damaged files of earlier recoveries.
    pub(crate) damaged: Vec<PathBuf>,
}

impl Listing {
    pub(crate) fn read(dir: &Path) -> Result<Listing, OpenError> {
        let failed = disk("list", dir);
        let mut listing = Listing::default();
        for entry in fs::read_dir(dir).map_err(&failed)? {
            let path = entry.map_err(&failed)?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("seg") => listing.segments.extend(base_of(&path).map(|base| (base, path))),
                Some("torn") => listing.torn.push(path),
                Some("damaged") => listing.damaged.push(path),
                _ => {}
            }
        }
        listing.segments.sort();
        let made =
            |path: &PathBuf| fs::metadata(path).map_or((0, 0), |meta| (meta.mtime(), meta.mtime_nsec()));
        listing.torn.sort_by_cached_key(made);
        Ok(listing)
    }
}

/// Why bytes were set aside; the file's extension.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aside {
    /// They were never durable.
    Torn,
    /// They are to be looked at.
    Damaged,
}

impl Folder {
    /// Opens the folder, or makes it.
    pub(crate) fn prepare(path: &Path) -> Result<Folder, OpenError> {
        if !path.exists() {
            make_folder(path).map_err(disk("make the log folder", path))?;
        }
        if !path.is_dir() {
            return Err(disk("use as the log folder", path)(std::io::ErrorKind::NotADirectory.into()));
        }
        refuse_too_open(path, 0o700)?;
        let handle = File::open(path).map_err(disk("open the log folder", path))?;
        Ok(Folder { path: path.to_owned(), handle })
    }

    pub(crate) fn lock(&self) -> Result<FolderLock, OpenError> {
        let path = self.path.join("LOCK");
        let failed = disk("lock", &path);
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = options.map_err(&failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(OpenError::Locked { dir: self.path.clone(), pid });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        // The pid only serves the message above: a full disk must not keep the log from opening.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(FolderLock { file })
    }

    pub(crate) fn handle(&self) -> &File {
        &self.handle
    }

    /// What lies in the folder; files that others could read are refused.
    pub(crate) fn list(&self) -> Result<Listing, OpenError> {
        let listing = Listing::read(&self.path)?;
        let segments = listing.segments.iter().map(|(_, path)| path);
        for path in segments.chain(&listing.torn).chain(&listing.damaged) {
            refuse_too_open(path, 0o600)?;
        }
        let spare = self.spare();
        if spare.exists() {
            refuse_too_open(&spare, 0o600)?
        }
        Ok(listing)
    }

    pub(crate) fn segment(&self, base: Lsn) -> PathBuf {
        self.path.join(format!("{:016x}.seg", base.0))
    }

    pub(crate) fn spare(&self) -> PathBuf {
        self.path.join("spare")
    }

    pub(crate) fn reserve(&self) -> PathBuf {
        self.path.join("reserve")
    }

    pub(crate) fn cursor(&self) -> PathBuf {
        self.path.join("cursor")
    }

    /// A name that is not taken, for bytes that `source` had from `offset` on.
    pub(crate) fn aside(&self, source: &Path, offset: u64, why: Aside) -> PathBuf {
        let stem = source.file_stem().and_then(|stem| stem.to_str()).unwrap_or("file");
        let extension = match why {
            Aside::Torn => "torn",
            Aside::Damaged => "damaged",
        };
        let names = (0u32..).map(|nth| self.path.join(format!("{stem}-{offset:x}-{nth}.{extension}")));
        names.into_iter().find(|path| !path.exists()).unwrap_or_else(|| self.path.join(extension))
    }

    pub(crate) fn sync(&self, disk: &Disk) -> io::Result<()> {
        disk.sync_dir(&self.handle)
    }
}

/// Opens a file to read it. What is no regular file is an error of the kind `InvalidInput`: a pipe would hold up whoever
/// opens or reads it.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
}

/// The running kernel's boot id, zeros when it does not tell.
pub(crate) fn kernel_boot_id() -> BootId {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits = text.trim().replace('-', "");
    u128::from_str_radix(&digits, 16).map_or(BOOT_UNKNOWN, u128::to_be_bytes)
}

/// Refuses a file or folder that group or others may use.
pub(crate) fn refuse_too_open(path: &Path, should: u32) -> Result<(), OpenError> {
    let mode = fs::metadata(path).map_err(disk("look at", path))?.mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(OpenError::TooOpen { path: path.to_owned(), mode, should }) }
}

/// Turns an I/O error into one that names the file and what was tried.
pub(crate) fn disk(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Disk { doing, path: path.clone(), source }
}

fn make_folder(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent)?;
    DirBuilder::new().mode(0o700).create(path)?;
    File::open(parent)?.sync_all()
}

/// `000000000000002a.seg` begins at 42.
fn base_of(path: &Path) -> Option<Lsn> {
    let stem = path.file_stem()?.to_str()?;
    let base = u64::from_str_radix(stem, 16).ok().filter(|base| *base > 0)?;
    // Two names must not tell the same.
    (format!("{base:016x}") == stem).then_some(Lsn(base))
}
