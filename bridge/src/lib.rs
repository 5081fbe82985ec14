//! The bridge turns gRPC calls into CAST, CALL and NOTIFY on a transport, and replies back into
//! answers. It knows bytes, deadlines and targets, not resources.
//!
//! Invariant: whatever is answered is true — accepted means confirmed, a failure is typed, and an
//! unknown outcome is said, never guessed (contract §3).

mod address;
mod bridge;
mod call;
mod cast;
mod conditions;
mod config;
mod context;
mod error;
mod local;
mod message;
mod notify;
mod queues;
pub mod rabbit;
mod receive;
mod reply;
mod service;
mod target;
mod transport;

pub use address::{Address, QueueName, Route, Source};
pub use bridge::Bridge;
pub use config::BridgeConfig;
pub use context::Context;
pub use local::{Local, LocalConfig};
pub use message::{Body, Kind, Message};
pub use receive::Receiving;
pub use service::{Service, service};
pub use transport::{
    Ack, DeadLetter, Delivery, PublishError, QueueInfo, Subscription, Transport, TransportError,
};
