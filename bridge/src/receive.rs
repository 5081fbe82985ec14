//! Receive and Acknowledge: the messages of a notify queue as a stream, each acknowledged by its
//! token.
//!
//! Invariant: a stream keeps at most as many deliveries as it said; when it ends they are dropped,
//! and so go back to their queue.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{Stream, stream};
use goperation::{Error, JsonObject, NotifyName, Reason, json_to_struct, to_timestamp, v1};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    Ack, Body, Bridge, Delivery, QueueName, Source, Subscription,
    error::{Fields, rate_limited, stopping},
};

/// Unacknowledged messages when none are said.
const DEFAULT_UNACKNOWLEDGED: u16 = 16;
/// Unacknowledged messages at most.
const MAX_UNACKNOWLEDGED: u16 = 256;

/// The deliveries of one stream that are not acknowledged yet, by their numbers.
type Kept = BTreeMap<u64, Box<dyn Ack>>;

/// The streams that run.
#[derive(Debug)]
pub(crate) struct Streams {
    limit: usize,
    open: Mutex<HashMap<String, Open>>,
}

/// One stream.
#[derive(Debug)]
struct Open {
    queue: NotifyName,
    kept: Kept,
}

impl Streams {
    /// A registry for so many streams.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, open: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more.
    fn register(self: &Arc<Self>, queue: NotifyName) -> Result<Registered, Error> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let mut open = self.lock();
        if open.len() >= self.limit {
            return Err(rate_limited("streams of Receive", self.limit));
        }
        open.insert(id.clone(), Open { queue, kept: Kept::new() });
        drop(open);
        Ok(Registered { streams: self.clone(), id, next: 0 })
    }

    /// Takes the delivery of a token; `None` when no running stream of that queue has it.
    fn take(&self, queue: &NotifyName, token: &str) -> Option<Box<dyn Ack>> {
        let (id, number) = token.split_once('.')?;
        let number = number.parse().ok()?;
        let mut open = self.lock();
        let stream = open.get_mut(id).filter(|stream| stream.queue == *queue)?;
        stream.kept.remove(&number)
    }
}

/// The place of one stream in the registry; what it kept is given back when this is dropped.
#[derive(Debug)]
struct Registered {
    streams: Arc<Streams>,
    id: String,
    next: u64,
}

impl Registered {
    /// Keeps a delivery; answers its token.
    fn keep(&mut self, ack: Box<dyn Ack>) -> String {
        self.next += 1;
        if let Some(stream) = self.streams.lock().get_mut(&self.id) {
            stream.kept.insert(self.next, ack);
        }
        format!("{}.{}", self.id, self.next)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let closed = self.streams.lock().remove(&self.id);
        // Outside the lock: each delivery reports its end.
        drop(closed);
    }
}

/// A running stream; dropping it ends it.
pub struct Receiving(Pin<Box<dyn Stream<Item = Result<v1::ReceiveResponse, Status>> + Send>>);

impl fmt::Debug for Receiving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiving(..)")
    }
}

impl Stream for Receiving {
    type Item = Result<v1::ReceiveResponse, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// What a stream owns. The subscription stands first: it ends before what was kept is given back,
/// so that nothing comes again to this very stream.
struct Work {
    subscription: Subscription,
    registered: Registered,
    auto: bool,
    stop: CancellationToken,
}

impl Bridge {
    /// Streams the messages of a notify queue.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming every bad field, `RATE_LIMITED`, `BROKER_UNAVAILABLE`.
    pub async fn receive(&self, request: v1::ReceiveRequest) -> Result<Receiving, Error> {
        let mut fields = Fields::default();
        let queue = fields.take(NotifyName::parse("queue", &request.queue));
        let prefetch = match u16::try_from(request.max_unacknowledged) {
            Ok(0) => DEFAULT_UNACKNOWLEDGED,
            Ok(n) if n <= MAX_UNACKNOWLEDGED => n,
            _ => {
                fields.bad("max_unacknowledged", format!("must be 0 to {MAX_UNACKNOWLEDGED}"));
                0
            }
        };
        if let Some(error) = fields.error() {
            return Err(error);
        }
        let Some(queue) = queue else {
            return Err(Error::new(Reason::Internal, "a bad field was not named"));
        };
        let inner = &self.inner;
        if inner.stop.is_cancelled() {
            return Err(stopping());
        }
        let registered = inner.streams.register(queue.clone())?;
        inner.remember([QueueName::Notify(queue.clone())]);
        let source = Source::Notify(queue);
        let subscription = inner.transport.subscribe(source, prefetch).await?;
        let stop = inner.stop.clone();
        let work = Work { subscription, registered, auto: request.auto_acknowledge, stop };
        Ok(Receiving(Box::pin(stream::unfold(Some(work), next))))
    }

    /// Acknowledges messages of running streams, or gives them back to their queue.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming every bad field.
    pub async fn acknowledge(
        &self,
        request: v1::AcknowledgeRequest,
    ) -> Result<v1::AcknowledgeResponse, Error> {
        let mut fields = Fields::default();
        let queue = fields.take(NotifyName::parse("queue", &request.queue));
        if request.ack_tokens.is_empty() {
            fields.bad("ack_tokens", "must name one at least");
        }
        if let Some(error) = fields.error() {
            return Err(error);
        }
        let mut unknown = Vec::new();
        for token in request.ack_tokens {
            match queue.as_ref().and_then(|queue| self.inner.streams.take(queue, &token)) {
                Some(ack) if request.requeue => ack.requeue().await,
                Some(ack) => ack.ack().await,
                None => unknown.push(token),
            }
        }
        Ok(v1::AcknowledgeResponse { unknown })
    }
}

/// The next message of a stream.
async fn next(work: Option<Work>) -> Option<(Result<v1::ReceiveResponse, Status>, Option<Work>)> {
    let mut work = work?;
    let delivery = tokio::select! {
        () = work.stop.cancelled() => return Some((Err(stopping().into()), None)),
        delivery = work.subscription.deliveries.recv() => match delivery {
            Some(delivery) => delivery,
            None => return Some((Err(stopping().into()), None)),
        },
    };
    let Delivery { message, redelivered, ack, .. } = delivery;
    let payload = match message.body {
        Body::Object(object) => object,
        Body::Failure(_) => JsonObject::new(),
    };
    let payload = match json_to_struct("payload", &payload) {
        Ok(payload) => payload,
        // It was checked when it was sent: someone else wrote it. It cannot be shown, ever.
        Err(error) => {
            ack.ack().await;
            return Some((Err(error.with_message_id(&message.id).into()), None));
        }
    };
    let ack_token = if work.auto {
        ack.ack().await;
        String::new()
    } else {
        work.registered.keep(ack)
    };
    let response = v1::ReceiveResponse {
        ack_token,
        message_id: message.id.to_string(),
        payload: Some(payload),
        send_time: Some(to_timestamp(message.sent)),
        redelivered,
    };
    Some((Ok(response), Some(work)))
}
