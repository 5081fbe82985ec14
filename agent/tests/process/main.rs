//! The driver `process` against real processes: a whole agent under a real manager, a real
//! launcher, and games that are scripts.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../../tests/it/fleet.rs"]
#[expect(dead_code, reason = "shared with the whole-system tests")]
mod fleet;

mod adopt;
mod kill;
mod leave;
mod life;
mod ports;
mod ready;
mod record;
mod restart;
mod stage;
mod strays;
