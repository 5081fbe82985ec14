//! Publishing: confirmed, mandatory, bounded.
//!
//! What is small and goes to an exchange that is always there shares a channel (`pipe.rs`). All else
//! has a channel of its own while it is under way: an exchange that is missing, or a message that is
//! beyond the broker's bound, closes the channel, and then fails one publish only.
//!
//! Invariant: `Ok` means that the broker confirmed it and did not return it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::task::TaskTracker;

use super::{
    Context,
    fault::{ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED, answered, code},
    layout::Target,
    link::{Link, Session},
    pipe::{Parcel, Pipe},
    wire::{PERSISTENT, short},
};
use crate::PublishError;

/// So many publishes with channels of their own are with the broker at a time.
const CHANNELS: usize = 64;
/// So many more of what somebody waits for: CALLs, replies and canaries. A flood of CASTs that
/// wait for their turn does not hold them up.
const SWIFT_CHANNELS: usize = 16;
/// Bytes of the largest message that shares a channel. Every broker takes more, and it delays those
/// behind it by no more than a few of them.
const SMALL: usize = 64 * 1024;
/// Wait for the very first connection.
const PATIENCE: Duration = Duration::from_millis(300);

/// Why a publish failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no such exchange; it was not delivered.
    NoExchange,
    /// Anything else.
    Other(PublishError),
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for PublishError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoExchange => Self::NoQueue,
            Failure::Other(error) => error,
        }
    }
}

/// The publishing side of a transport.
#[derive(Debug)]
pub(super) struct Publisher {
    context: Arc<Context>,
    link: Link,
    in_flight: Semaphore,
    pool: Mutex<Option<Arc<Pool>>>,
}

/// The channels of one session.
#[derive(Debug)]
struct Pool {
    session: Arc<Session>,
    free: Mutex<Vec<Channel>>,
    slots: Semaphore,
    swift: Semaphore,
    /// For what lasts, and for what somebody waits for.
    pipes: [Mutex<Option<Arc<Pipe>>>; 2],
    tasks: TaskTracker,
}

/// What is known of a message beside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exchange {
    /// It is there whenever there is anybody to publish to it. The message is known by this number
    /// when it is returned.
    Always { ticket: u64 },
    /// It may be missing.
    Perhaps,
}

impl Publisher {
    pub(super) fn start(context: &Arc<Context>) -> Self {
        let name = format!("{} publish", context.config.prefix);
        Self {
            context: Arc::clone(context),
            link: Link::start(context, name, context.cancel.clone()),
            in_flight: Semaphore::new(context.config.max_in_flight),
            pool: Mutex::new(None),
        }
    }

    /// Publishes and waits for the confirmation.
    pub(super) async fn publish(
        &self,
        target: &Target,
        exchange_is: Exchange,
        properties: BasicProperties,
        body: Vec<u8>,
    ) -> Result<(), Failure> {
        let unavailable = |why: &str| PublishError::Unavailable(why.to_owned());
        let deadline = Instant::now() + self.context.config.confirm_timeout;
        if self.context.closing.is_cancelled() {
            return Err(unavailable("the transport is closed").into());
        }
        let Ok(_permit) = self.in_flight.try_acquire() else {
            let most = self.context.config.max_in_flight;
            let why = format!("{most} messages are in flight to the broker, as many as may be");
            return Err(PublishError::Busy(why).into());
        };
        let name = |name: &str| short("name", name).map_err(|_| unavailable("a name is too long"));
        let (exchange, key) = (name(&target.exchange)?, name(&target.key)?);
        let session = self.link.session(PATIENCE).await.map_err(PublishError::Unavailable)?;
        if session.blocked() {
            return Err(unavailable("it is blocked by an alarm").into());
        }
        let pool = self.pool(session);
        let lasts = *properties.delivery_mode() == Some(PERSISTENT);
        if let Exchange::Always { ticket } = exchange_is
            && body.len() <= SMALL
        {
            let parcel = Parcel { exchange, key, properties, body, ticket };
            let pipe = pool.pipe(lasts);
            let sent = timeout_at(deadline, pipe.publish(parcel)).await;
            return sent.unwrap_or_else(|_| Err(silent()));
        }
        let slots = if lasts { &pool.slots } else { &pool.swift };
        let Ok(Ok(_slot)) = timeout_at(deadline, slots.acquire()).await else {
            return Err(unavailable("it is too slow").into());
        };
        if pool.session.blocked() || !pool.session.alive() {
            return Err(unavailable("the connection was lost").into());
        }
        let channel = pool.channel().await.map_err(PublishError::Unavailable)?;

        // From here on it may be sent. The channel goes back only after a clean end.
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirmed = timeout_at(deadline, async {
            channel.basic_publish(exchange, key, options, &body, properties).await?.await
        })
        .await;
        let confirmation = match confirmed {
            Err(_) => return Err(silent()),
            Ok(Err(error)) => return Err(failure(&error, body.len())),
            Ok(Ok(confirmation)) => confirmation,
        };
        pool.give_back(channel);
        let error = match confirmation {
            Confirmation::Ack(None) => return Ok(()),
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => PublishError::NoQueue,
            Confirmation::Nack(None) => PublishError::Full,
            Confirmation::NotRequested => {
                PublishError::Unknown("the channel does not confirm".to_owned())
            }
        };
        Err(error.into())
    }

    /// Waits until nothing is in flight.
    pub(super) async fn idle(&self) {
        let all = u32::try_from(self.context.config.max_in_flight).unwrap_or(u32::MAX);
        drop(self.in_flight.acquire_many(all).await);
    }

    fn pool(&self, session: Arc<Session>) -> Arc<Pool> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        match &*pool {
            Some(pool) if Arc::ptr_eq(&pool.session, &session) => Arc::clone(pool),
            _ => Arc::clone(pool.insert(Arc::new(Pool {
                session,
                free: Mutex::new(Vec::new()),
                slots: Semaphore::new(CHANNELS),
                swift: Semaphore::new(SWIFT_CHANNELS),
                pipes: Default::default(),
                tasks: self.context.tasks.clone(),
            }))),
        }
    }
}

/// No confirmation came in time.
fn silent() -> Failure {
    PublishError::Unknown("no confirmation in time".to_owned()).into()
}

/// What an error of the channel means for the publish that got it.
pub(super) fn failure(error: &lapin::Error, bytes: usize) -> Failure {
    let error = match code(error) {
        Some(NOT_FOUND) => return Failure::NoExchange,
        Some(ACCESS_REFUSED) => PublishError::Unavailable(error.to_string()),
        // The broker's own limit, below ours.
        Some(PRECONDITION_FAILED) => PublishError::TooLarge { limit: bytes.saturating_sub(1) },
        _ => PublishError::Unknown(error.to_string()),
    };
    error.into()
}

impl Pool {
    /// The channel that all share, made anew when it has gone.
    fn pipe(&self, lasts: bool) -> Arc<Pipe> {
        let mut pipe =
            self.pipes[usize::from(lasts)].lock().unwrap_or_else(PoisonError::into_inner);
        match &*pipe {
            Some(pipe) if pipe.is_open() => Arc::clone(pipe),
            _ => {
                Arc::clone(pipe.insert(Pipe::start(Arc::clone(&self.session), &self.tasks).into()))
            }
        }
    }

    async fn channel(&self) -> Result<Channel, String> {
        while let Some(channel) = self.free().pop() {
            if channel.status().connected() {
                return Ok(channel);
            }
        }
        let channel = self.session.channel().await.map_err(|e| e.to_string())?;
        answered(channel.confirm_select(ConfirmSelectOptions::default()))
            .await
            .map_err(|e| e.to_string())?;
        Ok(channel)
    }

    fn give_back(&self, channel: Channel) {
        self.free().push(channel);
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Channel>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
