//! The locks, atomics and threads that everything in here uses.
//!
//! `parking_lot` and not `std`: a lock can be given up after a while, so that a device that hangs under one appender
//! is an error for the others and no standstill. A thread that panics leaves its locks usable: every section under
//! them leaves its data whole.

pub(crate) use std::sync::atomic;
pub(crate) use std::thread;

pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};
