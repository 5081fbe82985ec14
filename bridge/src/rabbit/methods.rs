//! The AMQP methods that the transport uses, each with a deadline.

use lapin::{
    Channel, ExchangeKind,
    message::BasicGetMessage,
    options::{
        BasicGetOptions, ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, LongString},
};

use super::{
    config::CastQueue,
    fault::{Fault, NOT_FOUND, PRECONDITION_FAILED, answered},
    link::Session,
};

/// Messages in a queue and its consumers; none when there is no such queue. It costs a channel:
/// the broker closes it over a queue that does not exist.
pub(super) async fn depth(session: &Session, queue: &str) -> Result<Option<(u32, u32)>, Fault> {
    let channel = session.channel().await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match answered(channel.queue_declare(queue.into(), options, FieldTable::default())).await {
        Ok(queue) => {
            close(&channel).await;
            Ok(Some((queue.message_count(), queue.consumer_count())))
        }
        Err(fault) if fault.code() == Some(NOT_FOUND) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Takes messages from a queue without acknowledging them.
pub(super) async fn get(
    channel: &Channel,
    queue: &str,
    limit: usize,
) -> Result<Vec<BasicGetMessage>, Fault> {
    let mut messages = Vec::new();
    while messages.len() < limit {
        let options = BasicGetOptions::default();
        match answered(channel.basic_get(queue.into(), options)).await? {
            Some(message) => messages.push(message),
            None => break,
        }
    }
    Ok(messages)
}

/// Ends a channel that is no longer needed. It is gone either way.
pub(super) async fn close(channel: &Channel) {
    let _ = answered(channel.close(200, "done".into())).await;
}

/// Declares a queue whose limits an operator may have changed in the configuration since it was
/// made. It then keeps those that it has: arguments cannot be changed.
pub(super) async fn declare_lenient(
    session: &Session,
    queue: &str,
    mut arguments: FieldTable,
) -> Result<(), Fault> {
    arguments.insert("x-queue-type".into(), text(CastQueue::Classic.as_str()));
    let channel = session.channel().await?;
    match declare_queue(&channel, queue.to_owned(), arguments).await {
        Ok(()) => close(&channel).await,
        Err(fault) if fault.code() == Some(PRECONDITION_FAILED) => {
            tracing::warn!(queue, %fault, "the queue keeps its limits: change them by a policy");
        }
        Err(fault) => return Err(fault),
    }
    Ok(())
}

/// Declares a durable exchange.
pub(super) async fn declare_exchange(
    channel: &Channel,
    name: String,
    kind: ExchangeKind,
    arguments: FieldTable,
) -> Result<(), Fault> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    answered(channel.exchange_declare(name.into(), kind, options, arguments)).await
}

/// Declares a durable queue.
pub(super) async fn declare_queue(
    channel: &Channel,
    name: String,
    arguments: FieldTable,
) -> Result<(), Fault> {
    let options = QueueDeclareOptions::durable();
    answered(channel.queue_declare(name.into(), options, arguments)).await.map(drop)
}

/// Binds a queue to an exchange.
pub(super) async fn bind(
    channel: &Channel,
    queue: String,
    exchange: String,
    key: String,
) -> Result<(), Fault> {
    let options = QueueBindOptions::default();
    let none = FieldTable::default();
    answered(channel.queue_bind(queue.into(), exchange.into(), key.into(), options, none)).await
}

/// Unbinds a queue from an exchange; either may be missing.
pub(super) async fn unbind(
    channel: &Channel,
    queue: String,
    exchange: String,
    key: String,
) -> Result<(), Fault> {
    let none = FieldTable::default();
    answered(channel.queue_unbind(queue.into(), exchange.into(), key.into(), none)).await
}

/// Binds an exchange to an exchange.
pub(super) async fn bind_exchange(
    channel: &Channel,
    to: String,
    from: String,
    key: String,
) -> Result<(), Fault> {
    let options = ExchangeBindOptions::default();
    let none = FieldTable::default();
    answered(channel.exchange_bind(to.into(), from.into(), key.into(), options, none)).await
}

/// `x-queue-type` is said always: a vhost may have quorum as its default.
pub(super) fn queue_type(kind: CastQueue) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text(kind.as_str()));
    arguments
}

/// A text among the arguments of a queue or exchange.
pub(super) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}
