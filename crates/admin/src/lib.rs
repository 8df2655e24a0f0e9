//! The sidecar HTTP port: health, readiness, metrics, `/api/sync`, a status page.
//!
//! - knows the program only through [`System`]; everything it shows comes from there or from the registry
//! - `/healthz`, `/readyz`, `/`, `/api/sync/health` are open, `/metrics` too on loopback; all else wants a token
//! - every `/api/sync` answer is `{"success":true,"data":…}` or `{"success":false,"error":{code,message,action}}`
//! - bounded: connections, header and body bytes, the time of a header, a request and a connection ([`Limits`])
//!
//! Not here: TLS (put a reverse proxy in front when it must leave the host), sessions, cookies.

mod auth;
mod config;
mod counters;
mod envelope;
mod orders;
mod routes;
mod serve;
mod shapes;
mod system;

pub use config::{Config, Limits, Token};
pub use serve::{Admin, BindError};
pub use shapes::{
    Affected, At, CaptureMode, CaptureState, Check, CheckStatus, Checks, Cleared, CompareProgress,
    CompareState, Compared, Connection, ConnectionState, Connections, Counts, DeadLetter, DeadLetters,
    FillBound, FillLevel, Filters, Full, FullState, Health, HealthStatus, Lag, LastError, LogFill, Measured,
    NamespaceState, Namespaces, Noted, Positions, Queue, QueueLimits, Recommendation, Report, Stats,
    TargetError, Worker, WorkerState,
};
pub use system::{Action, CaptureAction, Letters, Pace, Refusal, SetFilters, System};
