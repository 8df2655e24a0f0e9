//! Capture taken out of the way by an order or the configuration, and brought back.
//!
//! - everything is dirty, on disk, before the first write passes unseen
//! - and once more when capture is back and the last write that passed unseen has ended: a comparison may have read
//!   before it. Until then the state is *resuming*, over restarts too
//! - a transaction that was begun unseen may be committed seen: what it then brings counts as missed
//!
//! Not here: a cursor of `$out` that was opened unseen and is read to its end only after that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use admin::{CaptureMode, CaptureState, Refusal};
use replicator::{Bypass, ControlError, now_ms};
use tracing::{error, info, warn};

use super::{Sync, refused};
use crate::config::Config;

/// When nothing is captured anyway.
pub(super) const OFF: CaptureState = CaptureState { state: CaptureMode::Off, passing: 0 };
const REASON: &str = "writes passed unseen while capture was bypassed";

/// The proxy's switch, and who turns it.
#[derive(Default)]
pub(crate) struct Switch {
    pub(crate) switch: Arc<proxy::Bypass>,
    turning: Mutex<()>,
}

impl Switch {
    /// Orders come from people, and the tick once a second.
    fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.turning.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes up what an earlier run was told, or what the configuration says now; before clients are taken.
pub(crate) fn restore(config: &Config, sync: &Sync) -> Result<(), ControlError> {
    let was = sync.shared.bypass();
    let now = match (config.sync.bypass, was) {
        (true, _) => Bypass::Configured,
        (false, Bypass::On) => Bypass::On,
        (false, _) => Bypass::Off,
    };
    if now != Bypass::Off || was != Bypass::Off {
        missed(sync, now)?;
    }
    if now != Bypass::Off {
        warn!("capture is bypassed: writes pass unseen, and are compared once they are captured again");
        sync.bypass.switch.turn_on();
    }
    Ok(())
}

/// Whether writes are captured.
pub(super) fn state(sync: &Sync) -> CaptureState {
    let state = match sync.shared.bypass() {
        Bypass::Off => CaptureMode::On,
        Bypass::On | Bypass::Configured => CaptureMode::Bypassed,
        Bypass::Ending => CaptureMode::Resuming,
    };
    CaptureState { state, passing: sync.bypass.switch.passing() }
}

/// Writes pass unseen when this returns.
pub(super) fn begin(sync: &Sync) -> Result<(), Refusal> {
    let _one_at_a_time = sync.bypass.one_at_a_time();
    match sync.shared.bypass() {
        Bypass::Off | Bypass::Ending => {}
        Bypass::On | Bypass::Configured => return Err(wrong("capture is bypassed already")),
    }
    missed(sync, Bypass::On).map_err(refused)?;
    sync.bypass.switch.turn_on();
    warn!("capture is bypassed: writes pass unseen, and are compared once they are captured again");
    Ok(())
}

/// Writes are captured when this returns; [`settle`] does the rest.
pub(super) fn end(sync: &Sync) -> Result<(), Refusal> {
    let _one_at_a_time = sync.bypass.one_at_a_time();
    match sync.shared.bypass() {
        Bypass::On => {}
        Bypass::Configured => {
            return Err(Refusal::WrongState {
                message: "sync.bypass is set in the configuration".to_owned(),
                action: "take it out and restart".to_owned(),
            });
        }
        Bypass::Off | Bypass::Ending => return Err(wrong("capture is not bypassed")),
    }
    missed(sync, Bypass::Ending).map_err(refused)?;
    sync.bypass.switch.turn_off();
    info!("capture is back");
    Ok(())
}

/// Once a second: what passed unseen has ended, so that everything can be compared.
pub(super) fn settle(sync: &Sync) {
    if sync.shared.bypass() != Bypass::Ending {
        return;
    }
    let _one_at_a_time = sync.bypass.one_at_a_time();
    if sync.shared.bypass() != Bypass::Ending || !sync.bypass.switch.is_quiet() {
        return;
    }
    match missed(sync, Bypass::Off) {
        Ok(()) => info!("all writes that passed unseen have ended: everything is compared"),
        Err(error) => error!(%error, "that capture is back cannot be remembered"),
    }
}

/// Everything is dirty: for the worker, and on disk when this returns.
fn missed(sync: &Sync, now: Bypass) -> Result<(), ControlError> {
    sync.capture.missed_everything_before(now_ms());
    sync.shared.set_bypass(now, REASON)
}

fn wrong(message: &str) -> Refusal {
    Refusal::WrongState {
        message: message.to_owned(),
        action: "GET /api/sync/capture shows its state".to_owned(),
    }
}
