//! The real binary: its exit codes, its words, and the tour of the README on `gop dev`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it goes wrong")]

mod commands;
mod dev;
mod process;
mod request;
mod tour;
mod usage;
