//! What is particular to the RabbitMQ transport, on a real broker. What both transports must do is
//! in the contract suite.

mod dead;
mod delivery;
mod faults;
mod retry;
mod rights;
mod support;
