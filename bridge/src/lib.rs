//! The bridge turns gRPC calls into CAST, CALL and NOTIFY on a transport, and replies back into
//! answers. It knows bytes, deadlines and targets, not resources.
//!
//! Invariant: whatever is answered is true — accepted means confirmed, a failure is typed, and an
//! unknown outcome is said, never guessed (contract §3).

mod address;
mod message;
mod transport;

pub use address::{Address, QueueName, Route, Source};
pub use message::{Body, Kind, Message};
pub use transport::{
    Ack, DeadLetter, Delivery, PublishError, QueueInfo, Subscription, Transport, TransportError,
};
