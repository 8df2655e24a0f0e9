//! The locks, atomics and threads that everything in here uses.
//!
//! `parking_lot` and not `std`: a lock can be given up after a while, so that a device that hangs under one appender
//! is an error for the others and no standstill. A thread that panics leaves its locks usable: every section under
//! them leaves its data whole.
//!
//! With the feature `shuttle`, the same names are those of a test that tries the orders in which threads may run.

#[cfg(feature = "shuttle")]
mod scheduled;

#[cfg(feature = "shuttle")]
pub(crate) use self::scheduled::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};
#[cfg(feature = "shuttle")]
pub(crate) use shuttle::{sync::atomic, thread};

#[cfg(not(feature = "shuttle"))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::{sync::atomic, thread};
