//! What the tests stand on: a transport of each kind, messages, and waits with a deadline.

use std::{sync::Arc, time::Duration};

use goperation::{AgentType, EndpointName, HostName, MessageId, NotifyName, now_millis};
use goperation_bridge::{
    Address, Body, Delivery, Kind, Local, LocalConfig, Message, PublishError, QueueName, Route,
    Source, Subscription, Transport,
    rabbit::{Rabbit, RabbitConfig},
};
use goperation_harness::{RabbitNode, poll_until};
use goperation_store::{Options, SledStore};
use serde_json::json;

/// Messages in a notify queue of a test at most.
pub(crate) const NOTIFY_LIMIT: usize = 5;
/// Nothing here takes longer, unless it never comes.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A transport as the bridge has it, and as an agent has it.
pub(crate) struct Bed {
    pub(crate) bridge: Arc<dyn Transport>,
    pub(crate) agent: Arc<dyn Transport>,
    store: Option<(SledStore, tempfile::TempDir)>,
}

/// On the embedded transport: both are the same.
pub(crate) async fn local() -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(Options::new(folder.path())).unwrap();
    let config = LocalConfig { max_notify: NOTIFY_LIMIT, ..LocalConfig::default() };
    let local = Local::open(Arc::new(store.clone()), config).await.unwrap();
    Bed { bridge: local.clone(), agent: local, store: Some((store, folder)) }
}

/// On RabbitMQ: two processes' worth of connections.
pub(crate) async fn rabbit() -> Bed {
    let vhost = RabbitNode::shared().await.new_vhost().await;
    let config = RabbitConfig {
        uri: vhost.uri,
        notify_max_length: u32::try_from(NOTIFY_LIMIT).unwrap(),
        ..RabbitConfig::default()
    };
    let bridge = Rabbit::connect(config.clone()).unwrap();
    let agent = Rabbit::connect(config).unwrap();
    let (nobody, probe) = (Route::Reply("nobody".into()), cast(0));
    poll_until(SOON, "both connected", async || {
        let sides = [&bridge, &agent].map(|side| side.publish(&nobody, &probe));
        let answers = futures::future::join_all(sides).await;
        answers.iter().all(|answer| *answer == Err(PublishError::NoQueue))
    })
    .await;
    Bed { bridge, agent, store: None }
}

impl Bed {
    pub(crate) async fn close(self) {
        self.agent.close().await;
        self.bridge.close().await;
        if let Some((store, _folder)) = self.store {
            store.close().await;
        }
    }

    /// Makes an agent's queues and those of its type.
    pub(crate) async fn known(&self, agent: &Address, endpoints: &[EndpointName]) {
        self.bridge.ensure_type(&agent.agent_type).await.unwrap();
        self.bridge.ensure_agent(agent, endpoints, &[]).await.unwrap();
    }

    /// A subscription that consumes.
    pub(crate) async fn there(&self, agent: &Address, prefetch: u16) -> Subscription {
        connected(&self.agent, Source::Agent(agent.clone()), prefetch).await
    }

    /// Waits until the queue has so many messages ready.
    pub(crate) async fn depth(&self, name: QueueName, depth: u32) {
        poll_until(SOON, &format!("{depth} in {name}"), async || {
            self.bridge.queue(&name).await.unwrap().is_some_and(|info| info.depth == depth)
        })
        .await;
    }
}

/// A subscription that consumes.
pub(crate) async fn connected(
    transport: &Arc<dyn Transport>,
    source: Source,
    prefetch: u16,
) -> Subscription {
    let mut subscription = transport.subscribe(source, prefetch).await.unwrap();
    let waited = subscription.connected.wait_for(|connected| *connected);
    tokio::time::timeout(SOON, waited).await.expect("connected in time").unwrap();
    subscription
}

/// The next delivery.
pub(crate) async fn next(subscription: &mut Subscription) -> Delivery {
    let next = tokio::time::timeout(SOON, subscription.deliveries.recv()).await;
    next.expect("a delivery in time").expect("a running subscription")
}

/// Takes and acknowledges so many; answers their numbers.
pub(crate) async fn take(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        let delivery = next(subscription).await;
        numbers.push(number(&delivery.message));
        delivery.ack.ack().await;
    }
    numbers
}

pub(crate) fn host(name: &str) -> Address {
    Address {
        agent_type: AgentType::parse("type", "application").unwrap(),
        host: HostName::parse("host", name).unwrap(),
    }
}

pub(crate) fn endpoint(name: &str) -> EndpointName {
    EndpointName::parse("endpoint", name).unwrap()
}

pub(crate) fn notify(name: &str) -> NotifyName {
    NotifyName::parse("queue", name).unwrap()
}

/// A message with a number in it.
pub(crate) fn message(kind: Kind, number: u64) -> Message {
    Message {
        kind,
        id: MessageId::generate(),
        namespace: "game".into(),
        method: "start".into(),
        agents: None,
        agent_type: None,
        finish_time: Some(now_millis() + 3_600_000),
        deadline: None,
        attempt: 0,
        reply_to: None,
        correlation: None,
        request: None,
        traceparent: None,
        sent: now_millis(),
        body: Body::Object(json!({ "number": number }).as_object().unwrap().clone()),
    }
}

/// A CAST with a number in it.
pub(crate) fn cast(number: u64) -> Message {
    message(Kind::Cast, number)
}

/// A notification with a number in it.
pub(crate) fn notification(number: u64) -> Message {
    Message {
        finish_time: None,
        namespace: String::new(),
        method: String::new(),
        ..message(Kind::Notify, number)
    }
}

/// The number in a message.
pub(crate) fn number(message: &Message) -> u64 {
    match &message.body {
        Body::Object(object) => object["number"].as_u64().unwrap(),
        Body::Failure(error) => panic!("a failure: {error}"),
    }
}
