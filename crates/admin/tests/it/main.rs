//! The admin port over real sockets.

// `cfg(test)` tells clippy that the helpers may unwrap, too.
#[cfg(test)]
mod common;
#[cfg(test)]
mod endpoints;
#[cfg(test)]
mod limits;
