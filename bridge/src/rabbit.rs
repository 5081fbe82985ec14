//! The RabbitMQ transport.
//!
//! One connection publishes, another makes queues and consumes replies and notifications, and each
//! subscribed agent has its own, unless they shall share one: an alarm of the broker stops reading
//! from connections that publish, their acks included. All are supervised here, not by lapin.
//!
//! Invariant: every fault of the broker or the network is either mended within seconds or said.

mod config;
mod control;
mod fault;
mod feed;
mod inspect;
mod layout;
mod link;
mod live;
mod methods;
mod pipe;
mod publisher;
mod recent;
mod subscription;
mod wire;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use goperation::{AgentType, EndpointName, Error, now_millis};
use lapin::uri::AMQPUri;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use config::{CastQueue, RabbitConfig};
pub use layout::{Layout, Rights};

use crate::{
    Address, DeadLetter, Message, PublishError, QueueInfo, QueueName, Route, Source, Subscription,
    Transport, TransportError,
};
use control::Control;
use link::Link;
use publisher::{Exchange, Failure, Publisher};
use wire::EncodeError;

/// What is still in flight at the end gets this long to be confirmed.
const LAST: Duration = Duration::from_secs(1);
/// Longest name of a bridge: it stands in a queue name of at most 255 bytes.
const BRIDGE_NAME_MAX: usize = 128;

/// What every part of one transport shares.
#[derive(Debug)]
struct Context {
    config: RabbitConfig,
    uri: AMQPUri,
    layout: Layout,
    /// No new publishes.
    closing: CancellationToken,
    /// Everything ends.
    cancel: CancellationToken,
    tasks: TaskTracker,
    /// The one connection over which all agents consume, where they share it.
    shared: OnceLock<Link>,
}

impl Context {
    /// The connection that agents share.
    fn shared(self: &Arc<Self>) -> Link {
        let start = || {
            let name = format!("{} agents", self.config.prefix);
            Link::start(self, name, self.cancel.clone())
        };
        self.shared.get_or_init(start).clone()
    }
}

/// A transport over RabbitMQ.
#[derive(Debug)]
pub struct Rabbit {
    context: Arc<Context>,
    publisher: Arc<Publisher>,
    control: Arc<Control>,
    reading: Arc<Semaphore>,
    /// The ticket of the next publish.
    tickets: AtomicU64,
}

impl Rabbit {
    /// Starts a transport, in the current tokio runtime. It answers at once; the broker need not
    /// be there.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming every field of the configuration that is wrong.
    pub fn connect(config: RabbitConfig) -> Result<Arc<Self>, Error> {
        let context = Arc::new(Context {
            uri: config.parsed()?,
            layout: Layout::new(&config),
            config,
            closing: CancellationToken::new(),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
            shared: OnceLock::new(),
        });
        let publisher = Arc::new(Publisher::start(&context));
        let control = Arc::new(Control::new(&context, &publisher));
        let (reading, tickets) = (Arc::new(Semaphore::new(1)), AtomicU64::new(1));
        Ok(Arc::new(Self { context, publisher, control, reading, tickets }))
    }

    /// The names of this deployment.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.context.layout
    }

    async fn send(&self, route: &Route, message: &Message) -> Result<(), PublishError> {
        let limit = self.context.config.max_message_bytes;
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let encoded =
            wire::encode(route, message, ticket, now_millis(), limit).map_err(|e| match e {
                EncodeError::TooLarge(limit) => PublishError::TooLarge { limit },
                EncodeError::Name(what) => {
                    PublishError::Unavailable(format!("its {what} cannot be carried"))
                }
            })?;
        let target = self.context.layout.target(route);
        let exchange = match route {
            // Its bridge declares it before anybody can reply.
            Route::Reply(_) => Exchange::Always { ticket },
            route if is_shared(route) => Exchange::Always { ticket },
            _ => Exchange::Perhaps,
        };
        let sent = self.publisher.publish(&target, exchange, encoded.properties, encoded.body);
        match sent.await {
            Ok(()) => Ok(()),
            Err(Failure::NoExchange) if is_shared(route) => {
                self.control.distrust();
                Err(PublishError::Unavailable(format!(
                    "the exchange {} was missing and is made again",
                    target.exchange
                )))
            }
            Err(failure) => Err(failure.into()),
        }
    }
}

/// Whether the exchange of a route is there whatever agents and endpoints there are.
fn is_shared(route: &Route) -> bool {
    match route {
        Route::Call(_)
        | Route::Cast(_)
        | Route::AnyCall(_)
        | Route::Any(_)
        | Route::FanoutAgents
        | Route::Notify(_) => true,
        Route::FanoutEndpoint(_)
        | Route::Reply(_)
        | Route::RetryCast(..)
        | Route::RetryAny(..)
        | Route::Dead(_) => false,
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        self.context.cancel.cancel();
    }
}

#[async_trait]
impl Transport for Rabbit {
    async fn publish(&self, route: &Route, message: &Message) -> Result<(), PublishError> {
        let unavailable = |e: TransportError| PublishError::Unavailable(e.to_string());
        match route {
            // An agent's own: it finds them made, or there is no queue.
            Route::Reply(_) | Route::RetryCast(..) | Route::RetryAny(..) | Route::Dead(_) => {
                self.send(route, message).await
            }
            Route::Notify(name) => {
                self.control.ensure_notify(name).await.map_err(unavailable)?;
                match self.send(route, message).await {
                    Err(PublishError::NoQueue) => {
                        // Someone removed it since.
                        self.control.forget_notify(name);
                        self.control.ensure_notify(name).await.map_err(unavailable)?;
                        self.send(route, message).await
                    }
                    done => done,
                }
            }
            _ => {
                self.control.prepared().await.map_err(unavailable)?;
                self.send(route, message).await
            }
        }
    }

    async fn ensure_agent(
        &self,
        agent: &Address,
        endpoints: &[EndpointName],
        former: &[EndpointName],
    ) -> Result<(), TransportError> {
        self.control.ensure_agent(agent, endpoints, former).await
    }

    async fn remove_agent(&self, agent: &Address) -> Result<u32, TransportError> {
        self.control.remove_agent(agent).await
    }

    async fn ensure_type(&self, agent_type: &AgentType) -> Result<(), TransportError> {
        self.control.ensure_type(agent_type).await
    }

    async fn subscribe(
        &self,
        source: Source,
        prefetch: u16,
    ) -> Result<Subscription, TransportError> {
        if self.context.closing.is_cancelled() {
            return Err(TransportError::Unavailable("the transport is closed".to_owned()));
        }
        if let Source::Replies(bridge) = &source
            && (bridge.is_empty() || bridge.len() > BRIDGE_NAME_MAX)
        {
            return Err(TransportError::Refused(format!(
                "the name of a bridge must have 1 to {BRIDGE_NAME_MAX} bytes"
            )));
        }
        Ok(subscription::start(&self.context, &self.publisher, &self.control, source, prefetch))
    }

    async fn queue(&self, name: &QueueName) -> Result<Option<QueueInfo>, TransportError> {
        self.look(name).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, TransportError> {
        self.read_dead(limit).await
    }

    async fn close(&self) {
        self.context.closing.cancel();
        let _ = timeout(LAST, self.publisher.idle()).await;
        self.context.cancel.cancel();
        self.context.tasks.close();
        if timeout(LAST, self.context.tasks.wait()).await.is_err() {
            tracing::warn!("connections to the broker were left open");
        }
    }
}
