//! A broker, transports on it, and messages.

use std::{sync::Arc, time::Duration};

use goperation::{AgentType, HostName, JsonObject, MessageId, now_millis};
use goperation_bridge::{
    Address, Body, Delivery, Kind, Message, Source, Subscription, Transport as _,
    rabbit::{CastQueue, Rabbit, RabbitConfig},
};
use goperation_harness::{RabbitNode, poll_for};
use tokio::time::timeout;

/// Long enough for anything that needs no recovery.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn config(uri: &str) -> RabbitConfig {
    RabbitConfig { uri: uri.to_owned(), ..RabbitConfig::default() }
}

/// A transport on a new virtual host of the shared node.
pub(crate) async fn fresh(change: impl FnOnce(&mut RabbitConfig)) -> (Arc<Rabbit>, RabbitConfig) {
    let vhost = RabbitNode::shared().await.new_vhost().await;
    let mut config = config(&vhost.uri);
    change(&mut config);
    (Rabbit::connect(config.clone()).unwrap(), config)
}

pub(crate) async fn fresh_of(kind: CastQueue) -> Arc<Rabbit> {
    fresh(|config| config.cast_queue = kind).await.0
}

pub(crate) fn agent(host: &str) -> Address {
    Address {
        agent_type: AgentType::parse("type", "application").unwrap(),
        host: HostName::parse("host", host).unwrap(),
    }
}

pub(crate) fn message(kind: Kind, number: u64) -> Message {
    let body: JsonObject = [("number".to_owned(), number.into())].into_iter().collect();
    Message {
        kind,
        id: MessageId::generate(),
        namespace: "game".into(),
        method: "start".into(),
        agents: None,
        agent_type: None,
        finish_time: Some(now_millis() + 60_000),
        deadline: (kind == Kind::Call).then(|| now_millis() + 15_000),
        attempt: 0,
        reply_to: None,
        correlation: None,
        request: None,
        traceparent: None,
        sent: now_millis(),
        body: Body::Object(body),
    }
}

pub(crate) fn number(message: &Message) -> u64 {
    match &message.body {
        Body::Object(object) => object["number"].as_u64().unwrap(),
        Body::Failure(error) => panic!("{error}"),
    }
}

/// A registered agent.
pub(crate) async fn registered(rabbit: &Rabbit, host: &str) -> Address {
    let agent = agent(host);
    // The first connection may still be under way.
    poll_for(SOON, "the agent's queues", async || {
        rabbit.ensure_type(&agent.agent_type).await.ok()?;
        rabbit.ensure_agent(&agent, &[], &[]).await.ok()
    })
    .await;
    agent
}

pub(crate) async fn subscribed(rabbit: &Rabbit, agent: &Address) -> Subscription {
    let mut subscription = rabbit.subscribe(Source::Agent(agent.clone()), 64).await.unwrap();
    connected(&mut subscription, SOON).await;
    subscription
}

pub(crate) async fn connected(subscription: &mut Subscription, within: Duration) {
    let live = timeout(within, subscription.connected.wait_for(|on| *on)).await;
    live.expect("the subscription consumes in time").unwrap();
}

pub(crate) async fn next(subscription: &mut Subscription) -> Delivery {
    let delivery = timeout(SOON, subscription.deliveries.recv()).await;
    delivery.expect("a delivery in time").expect("the subscription goes on")
}

/// The next delivery, acknowledged.
pub(crate) async fn taken(subscription: &mut Subscription) -> Message {
    let delivery = next(subscription).await;
    delivery.ack.ack().await;
    delivery.message
}
