//! One queue of a subscription: declared where it is ours to declare, consumed, and begun anew
//! when its channel dies, on whatever connection there is.
//!
//! Invariant: at most `prefetch` messages that the receiver must acknowledge are with it, over all
//! feeds of a subscription; a full receiver stops the feed, never the memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _};
use goperation::{AgentType, NotifyName};
use lapin::{
    Acker, Channel, Consumer,
    message::Delivery as Arrived,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
        BasicRejectOptions, QueueDeclareOptions,
    },
    types::{FieldTable, ShortString},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    config::CastQueue,
    control::Control,
    fault::{Fault, LOCKED, NOT_FOUND, answered},
    layout::{any_call_key, call_key},
    link::{Backoff, Session},
    live::Live,
    methods::{bind, queue_type},
    wire::{self, CANARY},
};
use crate::{Ack, Address, Delivery, QueueName};

/// What a feed consumes, and what it has to make first.
#[derive(Debug, Clone)]
pub(super) enum Tap {
    /// The CALL queue of an agent: made here, and gone with the connection.
    Call(Address),
    /// The shared CALL queue: made here.
    AnyCall(AgentType),
    /// The CAST queue of an agent: made by the bridge.
    Cast(Address),
    /// The shared CAST queue: made by the bridge.
    Any(AgentType),
    /// The reply queue of a bridge: made here, and gone with the connection.
    Replies(String, Arc<Control>),
    /// A notify queue: made here.
    Notify(NotifyName, Arc<Control>),
}

impl Tap {
    fn name(&self) -> QueueName {
        match self {
            Self::Call(agent) => QueueName::Call(agent.clone()),
            Self::AnyCall(agent_type) => QueueName::AnyCall(agent_type.clone()),
            Self::Cast(agent) => QueueName::Cast(agent.clone()),
            Self::Any(agent_type) => QueueName::Any(agent_type.clone()),
            Self::Replies(bridge, _) => QueueName::Reply(bridge.clone()),
            Self::Notify(name, _) => QueueName::Notify(name.clone()),
        }
    }

    /// Whether the receiver ends its deliveries. CALLs and replies are done once handed over.
    fn is_settled_by_receiver(&self) -> bool {
        matches!(self, Self::Cast(_) | Self::Any(_) | Self::Notify(..))
    }

    /// Makes what is consumed. `there` says that a shared queue is taken to be there: to declare it
    /// again costs the broker as much as it has consumers, which is all agents of a type.
    async fn declare(
        &self,
        context: &Context,
        session: &Session,
        channel: &Channel,
        queue: &str,
        there: bool,
    ) -> Result<(), Fault> {
        let layout = &context.layout;
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let (options, exchange, key) = match self {
            Self::Cast(_) | Self::Any(_) => return Ok(()),
            Self::Notify(name, control) => {
                control.common(session).await?;
                return control.declare_notify(session, name).await;
            }
            Self::Call(agent) => (exclusive, layout.agent(agent), call_key(agent)),
            Self::Replies(bridge, control) => {
                control.common(session).await?;
                (exclusive, layout.reply(), bridge.clone())
            }
            Self::AnyCall(agent_type) => {
                let shared = QueueDeclareOptions {
                    durable: true,
                    auto_delete: true,
                    ..QueueDeclareOptions::default()
                };
                (shared, layout.agent_type(agent_type), any_call_key(agent_type))
            }
        };
        if !there {
            let arguments = queue_type(CastQueue::Classic);
            answered(channel.queue_declare(queue.into(), options, arguments)).await?;
        }
        bind(channel, queue.to_owned(), exchange, key).await
    }
}

/// How the canary is told that it came back.
#[derive(Debug, Default)]
pub(super) struct Nest {
    /// The latest that came back.
    seen: AtomicU64,
    /// Whether the feed waits for its receiver: then the canary waits too, and proves nothing.
    stalled: AtomicBool,
    /// Wakes the one that waits for it.
    changed: watch::Sender<()>,
}

impl Nest {
    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    pub(super) fn stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn stall(&self, on: bool) {
        self.stalled.store(on, Ordering::Release);
    }

    fn back(&self, number: u64) {
        self.seen.fetch_max(number, Ordering::AcqRel);
        self.changed.send_replace(());
    }
}

/// One queue of a subscription.
#[derive(Debug, Clone)]
pub(super) struct Feed {
    pub(super) context: Arc<Context>,
    pub(super) tap: Tap,
    /// Its number in `live`.
    pub(super) number: usize,
    pub(super) live: Arc<Live>,
    pub(super) nest: Option<Arc<Nest>>,
    pub(super) prefetch: u16,
    /// One permit for each delivery that the receiver must end.
    pub(super) permits: Arc<Semaphore>,
    pub(super) sender: mpsc::Sender<Delivery>,
}

impl Feed {
    /// Consumes over this connection until it ends.
    pub(super) async fn run(&self, session: &Session) {
        let name = self.tap.name();
        let queue = self.context.layout.queue(&name);
        let mut backoff = Backoff::default();
        let mut locked: Option<Instant> = None;
        let mut told = false;
        while session.alive() && !self.sender.is_closed() {
            match self.open(session, &queue).await {
                Ok((channel, mut consumer)) => {
                    (backoff, locked, told) = (Backoff::default(), None, false);
                    self.live.feed(self.number, true);
                    let gone = CancellationToken::new();
                    let _with_the_channel = gone.clone().drop_guard();
                    let (handed_over, latest) = watch::channel(None);
                    let pump = async {
                        let end = self.pump(&name, &mut consumer, &gone, &handed_over).await;
                        // Then what was handed over last is ended too, and nothing more.
                        drop(handed_over);
                        end
                    };
                    let (end, ()) = tokio::join!(pump, end_handed_over(latest));
                    self.live.feed(self.number, false);
                    drop(channel);
                    tracing::debug!(%queue, ?end, "no longer consuming");
                }
                Err(fault) => match fault.code().inspect(|_| session.heard()) {
                    Some(NOT_FOUND) => {
                        tracing::debug!(%queue, %fault, "nothing to consume yet");
                    }
                    Some(LOCKED) => {
                        // The broker holds the name for a connection that we gave up, until it
                        // has missed its heartbeats. Longer than that, it has another owner.
                        let since = *locked.get_or_insert_with(Instant::now);
                        let lapse = self.context.config.heartbeat.saturating_mul(4);
                        if since.elapsed() > lapse && !std::mem::replace(&mut told, true) {
                            tracing::error!(
                                %queue,
                                "the name is held by another connection: a second agent or bridge \
                                 with this identity is running"
                            );
                        }
                        backoff = Backoff::default();
                    }
                    _ => tracing::warn!(%queue, %fault, "cannot consume"),
                },
            }
            tokio::select! {
                () = session.ended() => {}
                () = self.sender.closed() => {}
                () = sleep(backoff.next()) => {}
            }
        }
        self.live.feed(self.number, false);
    }

    async fn open(&self, session: &Session, queue: &str) -> Result<(Channel, Consumer), Fault> {
        if matches!(self.tap, Tap::AnyCall(_)) {
            match self.consume(session, queue, true).await {
                Err(fault) if fault.code() == Some(NOT_FOUND) => {}
                opened => return opened,
            }
        }
        self.consume(session, queue, false).await
    }

    async fn consume(
        &self,
        session: &Session,
        queue: &str,
        there: bool,
    ) -> Result<(Channel, Consumer), Fault> {
        let channel = session.channel().await?;
        self.tap.declare(&self.context, session, &channel, queue, there).await?;
        answered(channel.basic_qos(self.prefetch, BasicQosOptions::default())).await?;
        let options = BasicConsumeOptions::default();
        let none = FieldTable::default();
        let consumer =
            answered(channel.basic_consume(queue.into(), "".into(), options, none)).await?;
        Ok((channel, consumer))
    }

    /// Hands over what arrives, until the consumer ends or the receiver has gone.
    async fn pump(
        &self,
        name: &QueueName,
        consumer: &mut Consumer,
        gone: &CancellationToken,
        handed_over: &watch::Sender<Option<Acker>>,
    ) -> Option<lapin::Error> {
        loop {
            let next = tokio::select! {
                next = consumer.next() => next?,
                () = self.sender.closed() => return None,
            };
            let arrived = match next {
                Ok(arrived) => arrived,
                Err(error) => return Some(error),
            };
            if self.is_canary(&arrived) {
                handed_over.send_replace(Some(arrived.acker));
                continue;
            }
            let message = match wire::decode(&arrived.properties, &arrived.data) {
                Ok(message) => message,
                Err(why) => {
                    tracing::warn!(queue = %name, %why, "a message that cannot be read");
                    settle(arrived.acker.reject(BasicRejectOptions { requeue: false })).await;
                    continue;
                }
            };
            let permit = if self.tap.is_settled_by_receiver() {
                let permit = Arc::clone(&self.permits).acquire_owned();
                tokio::select! {
                    permit = permit => Some(permit.ok()?),
                    () = self.sender.closed() => return None,
                }
            } else {
                None
            };
            if let Some(nest) = &self.nest {
                nest.stall(true);
            }
            let slot = self.sender.reserve().await;
            if let Some(nest) = &self.nest {
                nest.stall(false);
            }
            let Ok(slot) = slot else { return None };
            let ack: Box<dyn Ack> = match permit {
                Some(permit) => Box::new(Settle {
                    acker: Some(arrived.acker),
                    gone: gone.clone(),
                    _permit: permit,
                }),
                None => {
                    handed_over.send_replace(Some(arrived.acker));
                    Box::new(Settled)
                }
            };
            slot.send(Delivery {
                message,
                queue: name.clone(),
                redelivered: arrived.redelivered,
                ack,
            });
        }
    }

    fn is_canary(&self, arrived: &Arrived) -> bool {
        let Some(nest) = &self.nest else { return false };
        if arrived.properties.kind().as_ref().map(ShortString::as_str) != Some(CANARY) {
            return false;
        }
        let id = arrived.properties.message_id().as_ref().map(ShortString::as_str);
        if let Some(number) = id.and_then(|id| id.parse().ok()) {
            nest.back(number);
        }
        true
    }
}

/// Ends deliveries that are done once they are handed over: all up to the latest at once, for each
/// frame costs the broker about as much as a message. One after the other: lapin may send what is
/// asked for at the same time in any order, and the broker closes the channel when an older one is
/// ended after a younger.
async fn end_handed_over(mut latest: watch::Receiver<Option<Acker>>) {
    while latest.changed().await.is_ok() {
        let acker = latest.borrow_and_update().clone();
        if let Some(acker) = acker {
            settle(acker.ack(BasicAckOptions { multiple: true })).await;
        }
    }
}

/// Ends a delivery at the broker. On a channel that has gone there is nothing to end: the message
/// comes again.
async fn settle(settling: impl Future<Output = lapin::Result<bool>>) {
    if let Err(fault) = answered(settling).await {
        tracing::debug!(%fault, "a delivery was not ended");
    }
}

/// Ends a delivery that the receiver must end.
#[derive(Debug)]
struct Settle {
    acker: Option<Acker>,
    /// Cancelled with its channel: then nobody answers, and there is nothing to wait for.
    gone: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

#[async_trait]
impl Ack for Settle {
    async fn ack(mut self: Box<Self>) {
        if let Some(acker) = self.acker.take() {
            let acked = settle(acker.ack(BasicAckOptions::default()));
            self.gone.run_until_cancelled(acked).await;
        }
    }

    async fn requeue(mut self: Box<Self>) {
        if let Some(acker) = self.acker.take() {
            self.gone.run_until_cancelled(settle(acker.nack(requeue()))).await;
        }
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if let Some(acker) = self.acker.take() {
            // The first poll hands it to lapin; nobody needs to hear that it was sent.
            let _ = acker.nack(requeue()).now_or_never();
        }
    }
}

fn requeue() -> BasicNackOptions {
    BasicNackOptions { requeue: true, multiple: false }
}

/// Ends a delivery that was ended when it was handed over.
#[derive(Debug)]
struct Settled;

#[async_trait]
impl Ack for Settled {
    async fn ack(self: Box<Self>) {}
    async fn requeue(self: Box<Self>) {}
}

/// How long a canary may be away.
pub(super) fn canary_interval(heartbeat: Duration) -> Duration {
    heartbeat / 2
}
