//! The folder that keeps what was downloaded once: `$XDG_CACHE_HOME/dualsync`, else `~/.cache/dualsync`.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::process::Process;

/// The cache's folder; it is not created here.
pub(crate) fn folder() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(base.ok_or_else(|| anyhow!("neither XDG_CACHE_HOME nor HOME is set"))?.join("dualsync"))
}

/// Yields `name` in the cache; when it is not there, `fill` makes it in an empty folder on the same file system first.
///
/// Many processes may ask at once: a file lock lets one work while the others wait, and what `fill` made appears under
/// its name by one rename, so nobody ever sees half of it.
pub(crate) fn fetch(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = folder()?;
    let kept = folder.join(name);
    if kept.exists() {
        return Ok(kept);
    }
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let lock = File::create(folder.join(format!("{name}.lock"))).context("create the cache's lock file")?;
    lock.lock().context("lock the cache")?;
    if kept.exists() {
        return Ok(kept);
    }
    let scratch =
        tempfile::Builder::new().prefix(".new-").tempdir_in(&folder).context("create a scratch folder")?;
    fill(scratch.path())?;
    fs::rename(scratch.path(), &kept).with_context(|| format!("move into {}", kept.display()))?;
    Ok(kept)
}

/// A part of a name that stands for these texts, so that something else is installed when they change.
pub(crate) fn fingerprint(texts: &[&str]) -> String {
    let mut hasher = DefaultHasher::new();
    texts.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Runs a program to its end, in a folder or here; an error carries what it wrote.
pub(crate) fn run(program: impl AsRef<Path>, args: &[&str], folder: Option<&Path>) -> Result<String> {
    let program = program.as_ref();
    let mut command = Process::command(program);
    command.args(args);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let output = Process::output(command)?;
    let stdout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} {}: {}\n{stdout}\n{}", program.display(), args.join(" "), output.status, stderr.trim());
    }
    Ok(stdout)
}
