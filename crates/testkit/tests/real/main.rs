//! The test kit against real mongods. The product's own tests are in the root package.

mod compare;
mod dualsync;
mod mongod;
mod net;
mod python;
mod replica_set;
mod traffic;

type Result = anyhow::Result<()>;
