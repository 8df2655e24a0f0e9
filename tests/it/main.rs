//! The real binary between real mongods: what a user would see, end to end.

#![allow(clippy::print_stdout, reason = "a test tells what it did")]

mod bad_input;
mod differential;
mod drivers;
mod expiry;
mod feeds;
mod log;
mod lost;
mod memory;
mod outages;
mod past;
mod reconcile;
mod security;
mod shapes;
mod shop;
mod sidecar;
mod startup;
mod support;
mod topologies;
mod transparency;
mod undo;
mod writes;
