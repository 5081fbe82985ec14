//! What is particular to the RabbitMQ transport, on a real broker. What both transports must do is
//! in the contract suite.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first thing that fails"
)]

#[path = "rabbit/dead.rs"]
mod dead;
#[path = "rabbit/delivery.rs"]
mod delivery;
#[path = "rabbit/faults.rs"]
mod faults;
#[path = "rabbit/retry.rs"]
mod retry;
#[path = "rabbit/rights.rs"]
mod rights;
#[path = "rabbit/shared.rs"]
mod shared;
#[path = "rabbit/support.rs"]
mod support;
