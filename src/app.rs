//! The wiring of the running program.

use crate::config::Config;

/// Runs the proxy until it is told to end.
pub(crate) async fn run(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("the parts are not wired yet")
}
