//! Bare lapin: request and reply, and the confirmed publish and consume of what lasts.
//!
//! Invariant: as safe as ours: mandatory, confirmed, acknowledged, the queue types of ours, one
//! connection that publishes and one that consumes on either side, in processes apart. All publishes
//! share one channel, as lapin's users do it, and as ours do where they may
//! (`bridge/src/rabbit/publisher.rs`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use clap::Args;
use futures::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    ExchangeKind,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use tokio::sync::oneshot;

use crate::Result;

const DIRECT: &str = "limit.direct";
const CALL: &str = "limit.call";
const CAST: &str = "limit.cast";
/// Asks for the number of CASTs taken.
const COUNT: &str = "count";
/// As the agents and the bridge of ours have it.
const PREFETCH: u16 = 256;

/// Arguments of the process that answers.
#[derive(Debug, Args)]
pub(crate) struct Respond {
    /// The virtual host
    #[arg(long)]
    uri: String,
}

/// A connection with the frame size and heartbeat of ours.
pub(crate) async fn connect(uri: &str) -> Result<Connection> {
    let uri = format!("{uri}?frame_max=16384&heartbeat=5");
    Ok(Connection::connect(&uri, ConnectionProperties::default()).await?)
}

/// Answers CALLs with what they bring, takes CASTs and counts them.
pub(crate) async fn respond(args: Respond) -> Result<()> {
    let (publishing, consuming) = (connect(&args.uri).await?, connect(&args.uri).await?);
    let replies = confirming(&publishing).await?;
    let taken = Arc::new(AtomicU64::new(0));
    let mut casts = consume(&consuming, CAST, Lasting::Durable).await?;
    let mut calls = consume(&consuming, CALL, Lasting::Exclusive).await?;
    println!("ready");
    let counting = async {
        while let Some(delivery) = casts.next().await {
            let delivery = delivery?;
            taken.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move { delivery.acker.ack(BasicAckOptions::default()).await });
        }
        Ok(())
    };
    let answering = async {
        while let Some(delivery) = calls.next().await {
            let (delivery, channel, taken) = (delivery?, replies.clone(), Arc::clone(&taken));
            tokio::spawn(async move {
                delivery.acker.ack(BasicAckOptions::default()).await?;
                let asked =
                    delivery.properties.kind().as_ref().map(lapin::types::ShortString::as_str);
                let body = match asked {
                    Some(COUNT) => taken.load(Ordering::Relaxed).to_string().into_bytes(),
                    _ => delivery.data,
                };
                let to = delivery.properties.reply_to().clone().unwrap_or_default();
                let properties = match delivery.properties.correlation_id() {
                    Some(id) => transient().with_correlation_id(id.clone()),
                    None => transient(),
                };
                publish(&channel, to.as_str(), properties, &body).await
            });
        }
        Ok(())
    };
    let ended: Result<((), ())> = tokio::try_join!(counting, answering);
    ended.map(|_| ())
}

/// The side that asks.
#[derive(Debug)]
pub(crate) struct Requester {
    requests: Channel,
    reply: String,
    next: AtomicU64,
    waiting: Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>,
    _connections: [Connection; 2],
}

impl Requester {
    /// Connects to where a [`Respond`] serves.
    pub(crate) async fn connect(uri: &str) -> Result<Self> {
        let (publishing, consuming) = (connect(uri).await?, connect(uri).await?);
        let requests = confirming(&publishing).await?;
        let reply = format!("limit.reply.{}", uuid::Uuid::new_v4().simple());
        let mut replies = consume(&consuming, &reply, Lasting::Exclusive).await?;
        let waiting: Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>> = Arc::default();
        let waiters = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = replies.next().await {
                let id = delivery.properties.correlation_id().clone().unwrap_or_default();
                let waiter =
                    waiters.lock().unwrap_or_else(PoisonError::into_inner).remove(id.as_str());
                if let Some(waiter) = waiter {
                    // Whoever asked has given up.
                    let _ = waiter.send(delivery.data);
                }
                tokio::spawn(async move { delivery.acker.ack(BasicAckOptions::default()).await });
            }
        });
        let (next, connections) = (AtomicU64::new(0), [publishing, consuming]);
        Ok(Self { requests, reply, next, waiting, _connections: connections })
    }

    /// Sends `body` and waits for the answer.
    pub(crate) async fn call(&self, body: &[u8]) -> Result<Vec<u8>> {
        self.ask(transient(), body).await
    }

    /// How many CASTs the other side has taken.
    pub(crate) async fn taken(&self) -> Result<u64> {
        let answer = self.ask(transient().with_type(COUNT.into()), &[]).await?;
        Ok(String::from_utf8(answer)?.parse()?)
    }

    async fn ask(&self, properties: BasicProperties, body: &[u8]) -> Result<Vec<u8>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), answer);
        let properties = properties
            .with_correlation_id(id.into())
            .with_reply_to(self.reply.as_str().into())
            .with_expiration("10000".into());
        publish(&self.requests, CALL, properties, body).await?;
        Ok(answered.await?)
    }

    /// Sends `body` to the durable queue and waits until the broker has it.
    pub(crate) async fn cast(&self, body: &[u8]) -> Result<()> {
        publish(&self.requests, CAST, transient().with_delivery_mode(2), body).await
    }
}

fn transient() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(1)
}

/// Publishes, mandatory and confirmed.
pub(crate) async fn publish(
    channel: &Channel,
    key: &str,
    properties: BasicProperties,
    body: &[u8],
) -> Result<()> {
    publish_to(channel, DIRECT, key, properties, body).await
}

/// As [`publish`], to that exchange.
pub(crate) async fn publish_to(
    channel: &Channel,
    exchange: &str,
    key: &str,
    properties: BasicProperties,
    body: &[u8],
) -> Result<()> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties);
    match confirm.await?.await? {
        Confirmation::Ack(None) => Ok(()),
        other => Err(format!("the broker did not take it: {other:?}").into()),
    }
}

/// A channel whose publishes are confirmed.
pub(crate) async fn confirming(connection: &Connection) -> Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

enum Lasting {
    Durable,
    Exclusive,
}

async fn consume(connection: &Connection, queue: &str, lasting: Lasting) -> Result<Consumer> {
    let channel = connection.create_channel().await?;
    let none = FieldTable::default;
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(DIRECT.into(), ExchangeKind::Direct, options, none()).await?;
    let options = match lasting {
        Lasting::Durable => QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() },
        Lasting::Exclusive => QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        },
    };
    channel.queue_declare(queue.into(), options, none()).await?;
    let bind = QueueBindOptions::default();
    channel.queue_bind(queue.into(), DIRECT.into(), queue.into(), bind, none()).await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    Ok(channel.basic_consume(queue.into(), "".into(), options, none()).await?)
}
