//! Making, changing and removing what is on the broker: the bridge's side of the layout.
//!
//! Invariant: everything here can be repeated. It runs on a connection that does not publish, so
//! that it works while an alarm blocks publishers.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt as _, join_all, try_join_all};
use goperation::{AgentType, EndpointName, NotifyName, now_millis};
use lapin::{
    Channel, ExchangeKind,
    options::{BasicAckOptions, ExchangeDeleteOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    Context,
    config::CastQueue,
    fault::{Fault, PRECONDITION_FAILED, answered},
    layout::{Target, any_call_key, any_key, any_step, call_key, cast_key, dead_key, notify_queue},
    link::{Link, Session},
    methods::{
        bind, bind_exchange, close, declare_exchange, declare_lenient, declare_queue, depth, get,
        queue_type, text, unbind,
    },
    publisher::{Exchange, Publisher},
    wire::{DIED_AT, DIED_IN, REASON, put_number, put_text},
};
use crate::{Address, PublishError, Route, TransportError};

/// Wait for the very first connection.
const PATIENCE: Duration = Duration::from_secs(1);
/// Messages moved at a time when a queue is drained.
const BATCH: usize = 32;
/// Notify queues remembered as made.
const REMEMBERED: usize = 10_000;
/// RabbitMQ 4 drops a message of a quorum queue after 20 deliveries unless told otherwise.
/// Agents that come and go must not lose one; 3.x takes no "never".
const DELIVERY_LIMIT: i64 = 1_000_000;

/// The bridge's side of a transport. Its connection is made when it is first needed: a transport
/// that only serves agents never makes it.
#[derive(Debug)]
pub(super) struct Control {
    context: Arc<Context>,
    publisher: Arc<Publisher>,
    link: OnceLock<Link>,
    made: Mutex<HashSet<NotifyName>>,
    /// Whether what all agents share was ever declared: it is durable.
    declared: AtomicBool,
}

impl Control {
    pub(super) fn new(context: &Arc<Context>, publisher: &Arc<Publisher>) -> Self {
        Self {
            context: Arc::clone(context),
            publisher: Arc::clone(publisher),
            link: OnceLock::new(),
            made: Mutex::default(),
            declared: AtomicBool::new(false),
        }
    }

    /// The connection; it also consumes replies and notifications.
    pub(super) fn link(&self) -> &Link {
        self.link.get_or_init(|| {
            let name = format!("{} control", self.context.config.prefix);
            Link::start(&self.context, name, self.context.cancel.clone())
        })
    }

    /// The connection now, with the shared exchanges declared over it.
    pub(super) async fn ready(&self) -> Result<Arc<Session>, TransportError> {
        let session = self.link().session(PATIENCE).await.map_err(TransportError::Unavailable)?;
        self.common(&session).await?;
        Ok(session)
    }

    /// Declares what all agents share, once per connection.
    pub(super) async fn common(&self, session: &Session) -> Result<(), Fault> {
        session.common.get_or_try_init(|| self.declare_common(session)).await.map(drop)
    }

    /// Before a publish: what all agents share is there. While only this connection is away, what
    /// was declared before is taken to be there still.
    pub(super) async fn prepared(&self) -> Result<(), TransportError> {
        match self.link().current() {
            Some(session) if session.alive() => Ok(self.common(&session).await?),
            _ if self.declared.load(Ordering::Acquire) => Ok(()),
            _ => self.ready().await.map(drop),
        }
    }

    /// Something shared is missing on the broker: declare it again.
    pub(super) fn distrust(&self) {
        self.made().clear();
        let session = self.link.get().and_then(Link::current);
        if let Some(session) = session.filter(|session| session.common.initialized()) {
            session.abort();
        }
    }

    async fn declare_common(&self, session: &Session) -> Result<(), Fault> {
        let layout = &self.context.layout;
        let config = &self.context.config;
        let mut dead = FieldTable::default();
        dead.insert("x-max-length".into(), AMQPValue::LongLongInt(config.dead_max_length.into()));
        dead.insert("x-overflow".into(), text("drop-head"));
        declare_lenient(session, &layout.dead(), dead).await?;

        let channel = session.channel().await?;
        let mut alternate = FieldTable::default();
        alternate.insert("alternate-exchange".into(), text(&layout.dead()));
        let none = FieldTable::default;
        let (direct, topic, fanout) =
            (ExchangeKind::Direct, ExchangeKind::Topic, ExchangeKind::Fanout);
        for (name, kind, arguments) in [
            (layout.dead(), fanout.clone(), none()),
            (layout.direct(), direct.clone(), none()),
            (layout.returning(), topic.clone(), alternate),
            (layout.step(), topic, none()),
            (layout.fanout_agents(), fanout, none()),
            (layout.reply(), direct.clone(), none()),
            (layout.notify(), direct, none()),
        ] {
            declare_exchange(&channel, name, kind, arguments).await?;
        }
        bind(&channel, layout.dead(), layout.dead(), String::new()).await?;
        for step in Route::STEPS {
            let millis = step.as_millis();
            let mut arguments = queue_type(CastQueue::Classic);
            let ttl = i64::try_from(millis).unwrap_or(i64::MAX);
            arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(ttl));
            arguments.insert("x-dead-letter-exchange".into(), text(&layout.returning()));
            declare_queue(&channel, layout.step_queue(step), arguments).await?;
            bind(&channel, layout.step_queue(step), layout.step(), format!("{millis}.#")).await?;
        }
        self.made().clear();
        self.declared.store(true, Ordering::Release);
        close(&channel).await;
        Ok(())
    }

    /// The queue and exchange of an agent, bound to the broadcasts of exactly these endpoints.
    ///
    /// An agent registers, and a moment later syncs with its endpoints: what was made over this
    /// connection for the one is not made again for the other.
    pub(super) async fn ensure_agent(
        &self,
        agent: &Address,
        endpoints: &[EndpointName],
        former: &[EndpointName],
    ) -> Result<(), TransportError> {
        let session = self.ready().await?;
        let channel = session.lend().await?;
        let mut steps = Vec::new();
        if endpoints.is_empty() || !session.fresh.take(agent) {
            self.push_agent(&channel, agent, &mut steps);
        }
        let new: Vec<_> = endpoints.iter().filter(|e| !session.endpoints.has(e)).collect();
        for endpoint in &new {
            let (fanout, none) = (self.context.layout.fanout(endpoint), FieldTable::default());
            steps.push(declare_exchange(&channel, fanout, ExchangeKind::Fanout, none).boxed());
        }
        self.push_endpoints(&channel, agent, endpoints, former, &mut steps);
        // The channel keeps their order; nobody waits for each answer in turn.
        try_join_all(steps).await?;
        new.into_iter().for_each(|endpoint| session.endpoints.note(endpoint));
        if endpoints.is_empty() {
            session.fresh.note(agent);
        }
        session.take_back(channel);
        Ok(())
    }

    fn push_agent<'a>(
        &self,
        channel: &'a Channel,
        agent: &Address,
        steps: &mut Vec<BoxFuture<'a, Result<(), Fault>>>,
    ) {
        let layout = &self.context.layout;
        let (own, queue) = (layout.agent(agent), layout.cast_queue(agent));
        let none = FieldTable::default();
        steps.extend([
            declare_exchange(channel, own.clone(), ExchangeKind::Topic, none).boxed(),
            declare_queue(channel, queue.clone(), self.lasting()).boxed(),
        ]);
        let any = any_step(&any_key(&agent.agent_type));
        for (from, to, key) in [
            (layout.direct(), own.clone(), call_key(agent)),
            (own.clone(), layout.step(), any_step(&cast_key(agent))),
            (own.clone(), layout.step(), any),
            (own, layout.dead(), dead_key(agent)),
        ] {
            steps.push(bind_exchange(channel, to, from, key).boxed());
        }
        // The queue type was changed in the configuration: the old queue gets nothing more. What
        // is left in it expires into the dead letters.
        let old = layout.other_cast_queue(agent);
        for (from, key) in [
            (layout.direct(), cast_key(agent)),
            (layout.returning(), any_step(&cast_key(agent))),
            (layout.fanout_agents(), String::new()),
        ] {
            steps.push(bind(channel, queue.clone(), from.clone(), key.clone()).boxed());
            steps.push(unbind(channel, old.clone(), from, key).boxed());
        }
    }

    fn push_endpoints<'a>(
        &self,
        channel: &'a Channel,
        agent: &Address,
        endpoints: &[EndpointName],
        former: &[EndpointName],
        steps: &mut Vec<BoxFuture<'a, Result<(), Fault>>>,
    ) {
        let layout = &self.context.layout;
        let (queue, old) = (layout.cast_queue(agent), layout.other_cast_queue(agent));
        for endpoint in endpoints {
            let fanout = layout.fanout(endpoint);
            steps.push(bind(channel, queue.clone(), fanout, String::new()).boxed());
        }
        for endpoint in endpoints.iter().chain(former) {
            let fanout = layout.fanout(endpoint);
            steps.push(unbind(channel, old.clone(), fanout, String::new()).boxed());
        }
        for endpoint in former.iter().filter(|f| !endpoints.contains(f)) {
            let fanout = layout.fanout(endpoint);
            steps.push(unbind(channel, queue.clone(), fanout, String::new()).boxed());
        }
    }

    /// The shared queues of a type, unless they were made over this connection just now.
    pub(super) async fn ensure_type(&self, agent_type: &AgentType) -> Result<(), TransportError> {
        let session = self.ready().await?;
        if session.types.has(agent_type) {
            return Ok(());
        }
        let channel = session.lend().await?;
        let layout = &self.context.layout;
        let (exchange, queue) = (layout.agent_type(agent_type), layout.any_queue(agent_type));
        let key = any_key(agent_type);
        let none = FieldTable::default();
        let old = layout.other_any_queue(agent_type);
        let steps: [BoxFuture<'_, Result<(), Fault>>; 7] = [
            declare_exchange(&channel, exchange.clone(), ExchangeKind::Direct, none).boxed(),
            declare_queue(&channel, queue.clone(), self.lasting()).boxed(),
            bind_exchange(&channel, exchange, layout.direct(), any_call_key(agent_type)).boxed(),
            bind(&channel, queue.clone(), layout.direct(), key.clone()).boxed(),
            bind(&channel, queue, layout.returning(), any_step(&key)).boxed(),
            unbind(&channel, old.clone(), layout.direct(), key.clone()).boxed(),
            unbind(&channel, old, layout.returning(), any_step(&key)).boxed(),
        ];
        try_join_all(steps).await?;
        session.types.note(agent_type);
        session.take_back(channel);
        Ok(())
    }

    /// Makes a notify queue, unless it is remembered as made.
    pub(super) async fn ensure_notify(&self, name: &NotifyName) -> Result<(), TransportError> {
        if self.made().contains(name) {
            return Ok(());
        }
        let session = self.ready().await?;
        self.declare_notify(&session, name).await?;
        let mut made = self.made();
        if made.len() >= REMEMBERED {
            made.clear();
        }
        made.insert(name.clone());
        Ok(())
    }

    /// The queue has gone from the broker: make it again at the next use.
    pub(super) fn forget_notify(&self, name: &NotifyName) {
        self.made().remove(name);
    }

    /// Makes a notify queue.
    pub(super) async fn declare_notify(
        &self,
        session: &Session,
        name: &NotifyName,
    ) -> Result<(), Fault> {
        let layout = &self.context.layout;
        let limit = self.context.config.notify_max_length;
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(limit.into()));
        arguments.insert("x-overflow".into(), text("reject-publish"));
        arguments.insert("x-dead-letter-exchange".into(), text(&layout.dead()));
        let queue = notify_queue(name);
        declare_lenient(session, &queue, arguments).await?;
        let channel = session.channel().await?;
        bind(&channel, queue.clone(), layout.notify(), queue).await?;
        close(&channel).await;
        Ok(())
    }

    /// Removes the queues of an agent; what is in them goes to the dead letters first, for a queue
    /// that is deleted dead-letters nothing.
    pub(super) async fn remove_agent(&self, agent: &Address) -> Result<u32, TransportError> {
        let session = self.ready().await?;
        session.fresh.take(agent);
        let layout = &self.context.layout;
        // The other one is there when the queue type was changed in the configuration.
        let (kind, other) = (layout.kind(), layout.kind().other());
        let mut drained =
            self.remove_queue(&session, agent, layout.cast_queue(agent), kind).await?;
        let old = layout.other_cast_queue(agent);
        drained += self.remove_queue(&session, agent, old, other).await?;
        let channel = session.channel().await?;
        let options = ExchangeDeleteOptions::default();
        answered(channel.exchange_delete(layout.agent(agent).into(), options)).await?;
        close(&channel).await;
        Ok(drained)
    }

    /// Removes one CAST queue of an agent; answers how many messages became dead letters.
    async fn remove_queue(
        &self,
        session: &Session,
        agent: &Address,
        queue: String,
        kind: CastQueue,
    ) -> Result<u32, TransportError> {
        if depth(session, &queue).await?.is_none() {
            return Ok(0);
        }
        let layout = &self.context.layout;
        let channel = session.channel().await?;
        // Nothing new may arrive; what waits in a step then goes to the dead letters.
        for (from, key) in [
            (layout.direct(), cast_key(agent)),
            (layout.returning(), any_step(&cast_key(agent))),
            (layout.fanout_agents(), String::new()),
        ] {
            unbind(&channel, queue.clone(), from, key).await?;
        }
        close(&channel).await;
        let mut drained = 0;
        loop {
            drained += self.drain(session, &queue).await?;
            if self.delete_empty(session, &queue, kind).await? {
                return Ok(drained);
            }
        }
    }

    /// Deletes a queue. A classic one only if it is empty, for a broadcast by endpoint may still
    /// come in; a quorum queue cannot be asked for that.
    async fn delete_empty(
        &self,
        session: &Session,
        queue: &str,
        kind: CastQueue,
    ) -> Result<bool, Fault> {
        let channel = session.channel().await?;
        let if_empty = kind == CastQueue::Classic;
        let options = QueueDeleteOptions { if_empty, ..QueueDeleteOptions::default() };
        match answered(channel.queue_delete(queue.into(), options)).await {
            Ok(lost) => {
                if lost > 0 {
                    tracing::warn!(queue, lost, "messages arrived while the queue was deleted");
                }
                close(&channel).await;
                Ok(true)
            }
            Err(fault) if fault.code() == Some(PRECONDITION_FAILED) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    async fn drain(&self, session: &Session, queue: &str) -> Result<u32, TransportError> {
        let layout = &self.context.layout;
        let channel = session.channel().await?;
        let target = Target { exchange: layout.dead(), key: layout.for_people(queue) };
        let mut drained = 0;
        loop {
            let batch = get(&channel, queue, BATCH).await?;
            let Some(last) = batch.last() else { break };
            let moved = join_all(batch.iter().map(|message| async {
                let mut headers = message.properties.headers().clone().unwrap_or_default();
                put_text(&mut headers, REASON, "AGENT_DELETED");
                put_text(&mut headers, DIED_IN, &layout.for_people(queue));
                put_number(&mut headers, DIED_AT, now_millis());
                let properties = message.properties.clone().with_headers(headers);
                // What ends here no longer expires.
                let properties = without_expiration(properties);
                let body = message.data.clone();
                let moved =
                    self.publisher.publish(&target, Exchange::Perhaps, properties, body).await;
                moved.map_err(PublishError::from)
            }))
            .await;
            if let Some(failed) = moved.into_iter().find_map(Result::err) {
                // With the channel everything that was taken returns to the queue.
                close(&channel).await;
                return Err(match failed {
                    PublishError::NoQueue => TransportError::Refused(failed.to_string()),
                    other => TransportError::Unavailable(other.to_string()),
                });
            }
            answered(channel.basic_ack(last.delivery_tag, BasicAckOptions { multiple: true }))
                .await?;
            drained += u32::try_from(batch.len()).unwrap_or(u32::MAX);
        }
        close(&channel).await;
        Ok(drained)
    }

    /// A CAST queue: nothing in it is lost, what cannot stay becomes a dead letter.
    fn lasting(&self) -> FieldTable {
        let kind = self.context.layout.kind();
        let mut arguments = queue_type(kind);
        arguments.insert("x-dead-letter-exchange".into(), text(&self.context.layout.dead()));
        if kind == CastQueue::Quorum {
            arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
        }
        arguments
    }

    fn made(&self) -> std::sync::MutexGuard<'_, HashSet<NotifyName>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn without_expiration(properties: lapin::BasicProperties) -> lapin::BasicProperties {
    let mut kept = lapin::BasicProperties::default();
    if let Some(headers) = properties.headers() {
        kept = kept.with_headers(headers.clone());
    }
    if let Some(id) = properties.message_id() {
        kept = kept.with_message_id(id.clone());
    }
    if let Some(kind) = properties.kind() {
        kept = kept.with_type(kind.clone());
    }
    if let Some(content_type) = properties.content_type() {
        kept = kept.with_content_type(content_type.clone());
    }
    if let Some(timestamp) = properties.timestamp() {
        kept = kept.with_timestamp(*timestamp);
    }
    kept.with_delivery_mode(2)
}
