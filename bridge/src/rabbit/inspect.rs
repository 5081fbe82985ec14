//! Looking at queues and dead letters without changing them.

use std::sync::Arc;

use goperation::JsonObject;
use lapin::{
    message::BasicGetMessage,
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::time::timeout;

use super::{
    Rabbit,
    fault::{ANSWER, LOCKED},
    layout::Layout,
    methods::{close, depth, get},
    wire::{self, DIED_AT, DIED_IN, REASON, number, text},
};
use crate::{DeadLetter, QueueInfo, QueueName, TransportError};

impl Rabbit {
    /// The queue, if it exists.
    pub(super) async fn look(&self, name: &QueueName) -> Result<Option<QueueInfo>, TransportError> {
        let session = self.control.ready().await?;
        let queue = self.context.layout.queue(name);
        let found = match depth(&session, &queue).await {
            // It is the exclusive queue of another connection, which is all that it tells.
            Err(fault) if fault.code() == Some(LOCKED) => Some((0, 1)),
            found => found?,
        };
        Ok(found.map(|(depth, consumers)| QueueInfo { name: name.clone(), depth, consumers }))
    }

    /// The oldest dead letters. They are taken and, with the channel, given back to their places.
    pub(super) async fn read_dead(&self, limit: usize) -> Result<Vec<DeadLetter>, TransportError> {
        // Two readers would hide letters from each other.
        let turn = timeout(ANSWER, Arc::clone(&self.reading).acquire_owned()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(TransportError::Unavailable("the dead letters are being read".to_owned()));
        };
        let session = self.control.ready().await?;
        let channel = session.channel().await?;
        let messages = get(&channel, &self.context.layout.dead(), limit).await;
        close(&channel).await;
        Ok(messages?.iter().map(|message| dead_letter(&self.context.layout, message)).collect())
    }
}

fn dead_letter(layout: &Layout, message: &BasicGetMessage) -> DeadLetter {
    let properties = &message.properties;
    let none = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&none);
    let death = last_death(headers).unwrap_or(&none);
    let (mut queue, mut reason) = (
        layout.for_people(&text(death, "queue").unwrap_or_default()),
        text(death, "reason").unwrap_or_default().to_ascii_uppercase(),
    );
    if message.exchange.as_str() == layout.returning() {
        // It came out of a step when its queue had gone: `<ms>.` and then the queue.
        let key = message.routing_key.as_str();
        queue = key.split_once('.').map_or(key, |(_, queue)| queue).to_owned();
        reason = "QUEUE_NOT_FOUND".to_owned();
    }
    // What cannot be read is a dead letter for just that.
    let (head, payload) = wire::open(properties, &message.data).unwrap_or_default();
    DeadLetter {
        message_id: properties
            .message_id()
            .as_ref()
            .map(ShortString::to_string)
            .unwrap_or_default(),
        queue: text(headers, DIED_IN).unwrap_or(queue),
        reason: text(headers, REASON).unwrap_or(reason),
        namespace: head.namespace.into_owned(),
        method: head.method.into_owned(),
        body: serde_json::from_slice::<JsonObject>(payload).unwrap_or_default(),
        time: number(headers, DIED_AT)
            .or_else(|| number(death, "time").map(|seconds| seconds.saturating_mul(1000)))
            .unwrap_or(0),
    }
}

/// The latest entry of the broker's record of deaths.
fn last_death(headers: &FieldTable) -> Option<&FieldTable> {
    match headers.inner().get("x-death")? {
        AMQPValue::FieldArray(deaths) => match deaths.as_slice().first()? {
            AMQPValue::FieldTable(death) => Some(death),
            _ => None,
        },
        _ => None,
    }
}
