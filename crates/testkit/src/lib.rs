//! Real mongods, the real binary, faults and a log watch: for tests, benches and the demo, never in the product.
//!
//! - [`Mongod`] and [`ReplicaSet`] run real servers on free ports in temporary folders; [`mongod::find`] installs one
//! - [`Dualsync`] runs the real binary and fails the test on log lines that nobody declared
//! - [`Relay`](net::Relay) stands between two of them and cuts or stalls the network
//! - [`differential::Run`] sends random commands of every kind and compares; [`Shop`](traffic::Shop) makes a shop's
//!   seeded traffic; [`compare::databases`] says whether both sides hold the same bytes
//!
//! Whatever is started here ends, by pid, when its handle is dropped (so on a panic too), and when the test process
//! itself is killed. There is no mock of a mongod here and there will be none.

mod cache;
pub mod compare;
pub mod connection;
pub mod differential;
mod dualsync;
pub mod everything;
pub mod mongod;
pub mod net;
pub mod node;
mod process;
pub mod python;
mod replica_set;
pub mod suite;
pub mod tls;
pub mod traffic;
mod wait;

pub use dualsync::{Builder, Dualsync, Ended, Level, Response};
pub use mongod::Mongod;
pub use replica_set::ReplicaSet;
pub use wait::wait_for;
