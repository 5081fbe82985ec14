//! A bridge behind its gRPC service, and an agent that is played by the test.

use std::{sync::Arc, time::Duration};

use goperation::{
    AgentType, Error, HostName, Reason, json_to_struct,
    v1::{self, bridge_service_client::BridgeServiceClient},
};
use goperation_bridge::{
    Address, Body, Bridge, BridgeConfig, Delivery, Kind, Local, LocalConfig, Message, PublishError,
    Route, Service, Source, Subscription, Transport, service,
};
use goperation_store::{Options, SledStore};
use serde_json::{Value, json};

/// Nothing here takes longer, unless it never comes.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The client that the manager has: the service within the process.
pub(crate) type Client =
    BridgeServiceClient<goperation::v1::bridge_service_server::BridgeServiceServer<Service>>;

pub(crate) struct Bed {
    pub(crate) bridge: Bridge,
    pub(crate) transport: Arc<dyn Transport>,
    store: SledStore,
    _folder: tempfile::TempDir,
}

pub(crate) async fn bed() -> Bed {
    bed_with(BridgeConfig::default()).await
}

pub(crate) async fn bed_with(config: BridgeConfig) -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(Options::new(folder.path())).unwrap();
    let limits = LocalConfig { max_notify: 5, ..LocalConfig::default() };
    let transport: Arc<dyn Transport> = Local::open(Arc::new(store.clone()), limits).await.unwrap();
    let bridge = Bridge::start(transport.clone(), config);
    Bed { bridge, transport, store, _folder: folder }
}

impl Bed {
    pub(crate) fn client(&self) -> Client {
        BridgeServiceClient::new(service(self.bridge.clone()))
    }

    /// Makes the queues of `h1`.
    pub(crate) async fn known(&self, endpoints: &[&str]) {
        let request = v1::CreateAgentQueuesRequest {
            r#type: "application".into(),
            host: "h1".into(),
            endpoints: endpoints.iter().map(|name| (*name).to_owned()).collect(),
            former_endpoints: Vec::new(),
        };
        self.client().create_agent_queues(request).await.unwrap();
    }

    /// The agent `h1`, there.
    pub(crate) async fn agent(&self) -> Agent {
        let source = Source::Agent(h1());
        let mut subscription = self.transport.subscribe(source, 16).await.unwrap();
        let connected = subscription.connected.wait_for(|connected| *connected);
        tokio::time::timeout(SOON, connected).await.unwrap().unwrap();
        Agent { transport: self.transport.clone(), subscription }
    }

    pub(crate) async fn close(self) {
        self.bridge.close().await;
        assert_eq!(self.bridge.waiting_calls(), 0, "no CALL may be left in the map");
        self.transport.close().await;
        self.store.close().await;
    }
}

/// An agent that does what the test says.
pub(crate) struct Agent {
    transport: Arc<dyn Transport>,
    subscription: Subscription,
}

impl Agent {
    /// The next delivery.
    pub(crate) async fn next(&mut self) -> Delivery {
        let next = tokio::time::timeout(SOON, self.subscription.deliveries.recv()).await;
        next.expect("a delivery in time").expect("a running subscription")
    }

    /// The next message, acknowledged.
    pub(crate) async fn message(&mut self) -> Message {
        let Delivery { message, ack, .. } = self.next().await;
        ack.ack().await;
        message
    }

    /// Answers a CALL.
    pub(crate) async fn answer(
        &self,
        call: &Message,
        body: Result<Value, Error>,
    ) -> Result<(), PublishError> {
        let body = match body {
            Ok(object) => Body::Object(object.as_object().unwrap().clone()),
            Err(error) => Body::Failure(Box::new(error)),
        };
        let reply = Message {
            kind: Kind::Reply,
            namespace: String::new(),
            method: String::new(),
            finish_time: None,
            reply_to: None,
            body,
            ..call.clone()
        };
        let route = Route::Reply(call.reply_to.clone().expect("a CALL says where to"));
        self.transport.publish(&route, &reply).await
    }

    /// Answers that the agent is busy.
    pub(crate) async fn busy(&self, call: &Message) {
        self.answer(call, Err(Error::new(Reason::AgentBusy, "paused"))).await.unwrap();
    }
}

pub(crate) fn h1() -> Address {
    Address {
        agent_type: AgentType::parse("type", "application").unwrap(),
        host: HostName::parse("host", "h1").unwrap(),
    }
}

/// `h1`'s endpoint `game`.
pub(crate) fn target() -> Option<v1::Target> {
    Some(v1::Target {
        topic: "agent.application".into(),
        host: "h1".into(),
        fanout: false,
        namespace: "game".into(),
    })
}

/// A CALL that waits so long.
pub(crate) fn call(timeout: Duration) -> v1::CallRequest {
    v1::CallRequest {
        target: target(),
        method: "status".into(),
        args: Some(args(&json!({ "n": 7 }))),
        timeout: Some(timeout.try_into().unwrap()),
        finish_time: None,
        message_id: String::new(),
    }
}

/// A CAST.
pub(crate) fn cast() -> v1::CastRequest {
    v1::CastRequest {
        target: target(),
        method: "start".into(),
        args: Some(args(&json!({ "n": 7 }))),
        ..v1::CastRequest::default()
    }
}

pub(crate) fn args(value: &Value) -> prost_types::Struct {
    json_to_struct("args", value.as_object().unwrap()).unwrap()
}

/// The typed failure of an answer.
pub(crate) fn failure<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) -> Error {
    Error::from_status(&answer.unwrap_err())
}
