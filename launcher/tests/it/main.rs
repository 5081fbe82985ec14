//! The launcher, with real processes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod case;
mod end;
mod lock;
mod log;
mod run;
mod tree;
