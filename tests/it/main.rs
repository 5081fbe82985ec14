//! Whole-system tests: a real manager, real agents and a real RabbitMQ, on loopback and port 0.
//! One module for each thing that must hold.

mod broker;
mod fleet;
mod gate;
mod offer;
mod rpc;
