//! Whether writes are captured.

use serde::Serialize;

/// `/api/sync/capture`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaptureState {
    /// Whether writes are captured.
    pub state: CaptureMode,
    /// Writes that passed unseen and have not ended yet.
    pub passing: u64,
}

/// Whether writes are captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptureMode {
    /// Syncing is off.
    Off,
    /// Yes.
    On,
    /// No, by an order or by the configuration.
    Bypassed,
    /// Yes, and what passed unseen before may still be at work.
    Resuming,
}
