//! Whole-system tests: a real manager, real agents and a real RabbitMQ, on loopback and port 0.
//! One module for each thing that must hold.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod broker;
mod delete;
mod delete_steps;
mod dev;
mod entity;
mod fleet;
mod gate;
mod interrupted;
mod manager_crash;
mod offer;
mod procs;
mod rpc;
