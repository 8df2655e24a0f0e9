//! The shell: some lines typed into `mongosh`, and what it shows.

use std::fs;

use anyhow::{Context, Result, ensure};
use testkit::node;
use tokio::process::Command;

use super::{Pair, run, scripts};

/// Types the lines of `shell.txt` on both sides at once and compares what is shown, prompts included.
pub async fn compare(pair: &Pair) -> Result<()> {
    let node =
        tokio::task::spawn_blocking(|| node::install(&scripts())).await.context("install mongosh")??;
    let lines = fs::read_to_string(scripts().join("shell.txt"))?.replace("DATABASE", "shell");
    let home = tempfile::tempdir().context("make a home for the shell")?;
    let type_in = async |uri: &str| {
        let mut command = Command::new(&node.program);
        command.arg(node.modules.join("mongosh/bin/mongosh.js")).args(["--quiet", "--norc", uri]);
        command.env("HOME", home.path());
        run(command, Some(lines.clone().into_bytes())).await
    };
    let [direct, proxied] = pair.uris();
    let (direct, proxied) = tokio::try_join!(type_in(&direct), type_in(&proxied)).context("mongosh")?;
    ensure!(direct.matches("shell> ").count() >= 60, "not every line was taken:\n{direct}");
    pair.same().check(&direct, &proxied).context("mongosh")
}
