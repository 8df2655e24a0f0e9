//! A Python with a pinned PyMongo, the second, independent client; and PyMongo's own tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::cache;

/// The interpreter of a virtual environment that has what `requirements.txt` names: PyMongo with every compressor,
/// pytest, and a Node (for [`node`](crate::node)). Made in the cache once per machine.
///
/// When it cannot be made, the error says what to install. Run it with `-I` to keep the caller's Python settings out.
pub fn interpreter() -> Result<PathBuf> {
    let name = format!("python-{}", cache::fingerprint(&[REQUIREMENTS]));
    let folder = cache::folder()?.join(&name);
    // Scripts inside a virtual environment carry its path, so it is made under its final name; the marker file is what
    // says that it is whole.
    cache::fetch(&format!("{name}.ready"), |ready| {
        let python = folder.join("bin/python");
        let environment = folder.to_str().context("the cache's path is not UTF-8")?;
        cache::run("python3", &["-m", "venv", "--clear", environment], None)?;
        let requirements = ready.join("requirements.txt");
        fs::write(&requirements, REQUIREMENTS).context("write requirements.txt")?;
        let requirements = requirements.to_str().context("the cache's path is not UTF-8")?;
        let install =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"];
        cache::run(&python, &[&install[..], &["-r", requirements]].concat(), None)?;
        cache::run(&python, &["-m", "pip", "check", "--disable-pip-version-check"], None).map(drop)
    })
    .context(
        "no Python with PyMongo here and none could be made: install Python 3.10 or later with pip and venv \
         (Debian: apt-get install python3 python3-pip python3-venv)",
    )?;
    Ok(folder.join("bin/python"))
}

/// The folder of PyMongo's own tests (`test/`, `pyproject.toml`), as its source package carries them, without PyMongo
/// itself: the tests import the one that [`interpreter`] has. Downloaded once per machine; nobody may write to it.
pub fn own_tests() -> Result<PathBuf> {
    let pymongo = pinned("pymongo")?;
    cache::fetch(&pymongo.replace("==", "-tests-"), |folder| {
        // The package's metadata come from its build system, which pip fetches for itself.
        let download = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"];
        let source = ["--no-binary", ":all:", "--dest", ".", pymongo];
        cache::run(interpreter()?, &[&download[..], &source].concat(), Some(folder))?;
        unpack(folder, &pymongo.replace("==", "-"))
    })
    .with_context(|| format!("the tests of {pymongo} cannot be had"))
}

/// Leaves what the tests need of `<name>.tar.gz` in the folder, and nothing else.
fn unpack(folder: &Path, name: &str) -> Result<()> {
    let archive = format!("{name}.tar.gz");
    cache::run("python3", &["-m", "tarfile", "-e", &archive, "."], Some(folder))?;
    for part in ["test", "tools", "pyproject.toml"] {
        fs::rename(folder.join(name).join(part), folder.join(part))
            .with_context(|| format!("take {part}"))?;
    }
    fs::remove_dir_all(folder.join(name)).context("remove the rest")?;
    fs::remove_file(folder.join(archive)).context("remove the archive")
}

/// `package==version`
fn pinned(package: &str) -> Result<&'static str> {
    let mut lines = REQUIREMENTS.lines();
    lines
        .find(|line| line.split("==").next() == Some(package))
        .ok_or_else(|| anyhow!("requirements.txt does not name {package}"))
}

const REQUIREMENTS: &str = include_str!("../requirements.txt");
