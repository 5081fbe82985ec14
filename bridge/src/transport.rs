//! What a transport does. Two do it: in-process and RabbitMQ; one contract suite holds both.
//!
//! Invariant: [`Transport::publish`] returns `Ok` only when every queue that the route names has
//! the message (durably where the queue is durable), and a subscription goes on for ever, through
//! every fault of the broker, until it is dropped.

use std::fmt;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use crate::{Address, Message, QueueName, Route, Source};
use goperation::{AgentType, EndpointName, JsonObject};

/// Why a message was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No queue takes it. It was not delivered.
    #[error("no queue takes the message")]
    NoQueue,
    /// A bounded queue is full. It was not delivered there.
    #[error("the queue is full")]
    Full,
    /// The broker cannot be reached or is blocked: not published.
    #[error("the broker is not available: {0}")]
    Unavailable(String),
    /// More is in flight than may be at a time: not published.
    #[error("{0}")]
    Busy(String),
    /// Sent, but the confirmation never came: it may have been delivered.
    #[error("the broker did not confirm the message: {0}")]
    Unknown(String),
    /// Larger than a message may be.
    #[error("the message is larger than {limit} bytes")]
    TooLarge {
        /// Bytes at most.
        limit: usize,
    },
}

/// Why the topology could not be read or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The broker cannot be reached; the same later will do.
    #[error("the broker is not available: {0}")]
    Unavailable(String),
    /// The broker refuses it; the same later is refused too.
    #[error("the broker refused it: {0}")]
    Refused(String),
}

/// A queue as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueInfo {
    /// Its name.
    pub name: QueueName,
    /// Messages ready in it.
    pub depth: u32,
    /// Consumers on it.
    pub consumers: u32,
}

/// A message that could not be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id, as far as it could be read.
    pub message_id: String,
    /// The queue in which it died.
    pub queue: String,
    /// Why: one of our reasons, or `EXPIRED`, `REJECTED`, `MAXLEN` as the broker says.
    pub reason: String,
    /// Namespace.
    pub namespace: String,
    /// Method.
    pub method: String,
    /// Body, when it is an object.
    pub body: JsonObject,
    /// When it died, in milliseconds since 1970.
    pub time: u64,
}

/// Ends one delivery. Dropped without a word, the message is delivered again.
#[async_trait]
pub trait Ack: Send + Sync + fmt::Debug {
    /// The message is done with. When the connection has gone meanwhile, it comes again.
    async fn ack(self: Box<Self>);
    /// Gives the message back to its queue.
    async fn requeue(self: Box<Self>);
}

/// A message that arrived.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// The queue that it came from.
    pub queue: QueueName,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Ends the delivery. Replies and CALLs need none: their `ack` does nothing.
    pub ack: Box<dyn Ack>,
}

/// A running subscription. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    /// What arrives; bounded by the prefetch.
    pub deliveries: mpsc::Receiver<Delivery>,
    /// Whether every queue of it is being consumed now.
    pub connected: watch::Receiver<bool>,
    /// Held by the subscription; when dropped, the task that feeds it ends.
    pub guard: tokio_util::sync::DropGuard,
}

/// A transport.
#[async_trait]
pub trait Transport: Send + Sync + fmt::Debug {
    /// Publishes a message and waits until it is confirmed or known to have failed. It waits at
    /// most for the transport's own confirm timeout, then says [`PublishError::Unknown`].
    async fn publish(&self, route: &Route, message: &Message) -> Result<(), PublishError>;

    /// Makes the queues of an agent and binds its CAST queue to the broadcasts of exactly these
    /// endpoints. Does nothing that is done already.
    async fn ensure_agent(
        &self,
        agent: &Address,
        endpoints: &[EndpointName],
        former: &[EndpointName],
    ) -> Result<(), TransportError>;

    /// Removes the queues of an agent, draining what is in them into the dead letters first.
    /// Answers how many messages that were; 0 when there was no queue.
    async fn remove_agent(&self, agent: &Address) -> Result<u32, TransportError>;

    /// Makes the shared CAST queue of a type.
    async fn ensure_type(&self, agent_type: &AgentType) -> Result<(), TransportError>;

    /// Starts a subscription. At most `prefetch` deliveries are unacknowledged at a time.
    /// It answers at once; whether it is consuming is in [`Subscription::connected`].
    async fn subscribe(
        &self,
        source: Source,
        prefetch: u16,
    ) -> Result<Subscription, TransportError>;

    /// The queue, if it exists.
    async fn queue(&self, name: &QueueName) -> Result<Option<QueueInfo>, TransportError>;

    /// The oldest dead letters, at most `limit`; they stay where they are.
    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, TransportError>;

    /// Ends every connection and task; what is not yet confirmed is given a last second.
    async fn close(&self);
}
