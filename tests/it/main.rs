//! Whole-system tests: a real manager, real agents and a real RabbitMQ, on loopback and port 0.
//! One module for each thing that must hold.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod broker;
mod choose;
mod clients;
mod delete;
mod delete_steps;
mod dev;
mod emulate;
mod emulation;
mod entity;
mod facts;
mod files;
mod fleet;
mod games;
mod gate;
mod hostile;
mod interrupted;
mod legacy;
mod manager_crash;
mod offer;
mod openapi;
mod parity;
mod procs;
mod recipes;
mod requests;
mod rpc;
mod sdk;
mod service;
mod shown;
mod tours;
mod typed;
mod upgrade;
