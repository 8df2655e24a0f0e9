//! Waiting for a condition, always with a bound and a name for what did not come.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// Asks `probe` again and again until it yields a value, for at most `limit`.
///
/// `None` means "not yet". An error of the probe ends the waiting at once; a probe that hangs is abandoned at the
/// limit. `what` completes the sentence "waited 10s for …".
pub async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) if Instant::now() < deadline => sleep(BETWEEN_PROBES).await,
            Ok(Err(error)) => return Err(error).with_context(|| format!("wait for {what}")),
            Ok(Ok(None)) | Err(_) => bail!("waited {limit:?} for {what}"),
        }
    }
}

const BETWEEN_PROBES: Duration = Duration::from_millis(20);
