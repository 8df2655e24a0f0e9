//! A Python with a pinned PyMongo: the second, independent client.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache;

/// The interpreter of a virtual environment that has [`PYMONGO`]; made in the cache once per machine.
///
/// When it cannot be made, the error says what to install. Run it with `-I` to keep the caller's Python settings out.
pub fn interpreter() -> Result<PathBuf> {
    let folder = cache::folder()?.join(NAME);
    // Scripts inside a virtual environment carry its path, so it is made under its final name; the marker file is what
    // says that it is whole.
    cache::fetch(&format!("{NAME}.ready"), |ready| {
        let python = folder.join("bin/python");
        let environment = folder.to_str().context("the cache's path is not UTF-8")?;
        cache::run("python3", &["-m", "venv", "--clear", environment], None)?;
        let install =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", PYMONGO];
        cache::run(&python, &install, None)?;
        let version = cache::run(&python, &["-c", "import pymongo; print(pymongo.version)"], None)?;
        std::fs::write(ready.join("version"), version).context("write the marker")
    })
    .context(
        "no Python with PyMongo here and none could be made: install Python 3 with pip and venv \
         (Debian: apt-get install python3 python3-pip python3-venv)",
    )?;
    Ok(folder.join("bin/python"))
}

/// What is installed, for pip.
pub const PYMONGO: &str = "pymongo==4.15.5";
const NAME: &str = "python-pymongo-4.15.5";
