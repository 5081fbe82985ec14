//! The roles as processes: configuration, signals, and the exit code. What a role does is in
//! its own library.

pub(crate) mod agent;
pub(crate) mod bridge;
pub(crate) mod dev;
pub(crate) mod emulate;
mod fleet;
mod games;
pub(crate) mod manager;
mod sample;
mod service;
mod setup;
