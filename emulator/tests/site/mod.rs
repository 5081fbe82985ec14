//! A manager in this process and the agents that are emulated for it.

use std::{path::Path, sync::Arc, time::Duration};

use goperation::{
    AgentType, Error, HostName, JsonObject, struct_to_json,
    v1::{
        self, agent_service_client::AgentServiceClient, bridge_service_client::BridgeServiceClient,
    },
};
use goperation_bridge::{
    Address, Bridge, BridgeConfig, Local, LocalConfig, QueueName, Transport,
    rabbit::{Rabbit, RabbitConfig},
};
use goperation_emulator::{Config, ENDPOINT, Handle, Parts};
use goperation_harness::RabbitNode;
use goperation_manager::BridgeLink;
use goperation_store::{Options, SledStore, Store};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// A thousand agents start in less, unless something hangs.
const READY: Duration = Duration::from_secs(400);

/// A manager, its bridge, and the ways to both.
pub(crate) struct Site {
    dir: TempDir,
    /// Where the broker's connections are counted.
    vhost: String,
    transport: Arc<dyn Transport>,
    parts: Parts,
    bridge: Bridge,
    stop: CancellationToken,
    manager: JoinHandle<Result<(), goperation_manager::Error>>,
    store: SledStore,
}

impl Site {
    /// On the embedded transport.
    pub(crate) async fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(Options::new(dir.path().join("manager"))).unwrap();
        let shared: Arc<dyn Store> = Arc::new(store.clone());
        let local: Arc<dyn Transport> = Local::open(shared, LocalConfig::default()).await.unwrap();
        Self::start(dir, store, String::new(), Arc::clone(&local), vec![local]).await
    }

    /// On RabbitMQ, with so many transports for the agents.
    pub(crate) async fn rabbit(transports: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(Options::new(dir.path().join("manager"))).unwrap();
        let uri = RabbitNode::shared().await.new_vhost().await.uri;
        let vhost = uri.rsplit('/').next().unwrap().to_owned();
        let config = RabbitConfig { uri, ..RabbitConfig::default() };
        let bridge = Rabbit::connect(config.clone()).unwrap();
        let shared = RabbitConfig { one_connection: true, ..config };
        let connect = || Rabbit::connect(shared.clone()).unwrap() as Arc<dyn Transport>;
        let agents = (0..transports).map(|_| connect()).collect();
        Self::start(dir, store, vhost, bridge, agents).await
    }

    async fn start(
        dir: TempDir,
        store: SledStore,
        vhost: String,
        transport: Arc<dyn Transport>,
        transports: Vec<Arc<dyn Transport>>,
    ) -> Self {
        let bridge = Bridge::start(Arc::clone(&transport), BridgeConfig::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stored: Arc<dyn Store> = Arc::new(store.clone());
        let link = BridgeLink::embedded(goperation_bridge::Service::new(bridge.clone()));
        let parts = goperation_manager::Parts { store: stored, bridge: link };
        let config = goperation_manager::Config::default();
        let stop = CancellationToken::new();
        let manager = tokio::spawn(goperation_manager::run(config, listener, parts, stop.clone()));
        let channel = || Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let managers = transports.iter().map(|_| channel()).collect();
        let parts = Parts { transports, managers };
        Self { dir, vhost, transport, parts, bridge, stop, manager, store }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    fn channel(&self) -> Channel {
        self.parts.managers[0].clone()
    }

    /// The record of an agent.
    pub(crate) async fn show(&self, id: u32) -> v1::Agent {
        let id = id.try_into().unwrap();
        let shown =
            AgentServiceClient::new(self.channel()).show_agent(v1::ShowAgentRequest { id }).await;
        shown.unwrap().into_inner().agent.unwrap()
    }

    /// CASTs a method to all that have the endpoint; answers the message id.
    pub(crate) async fn cast(&self, method: &str, message_id: &str) -> String {
        self.send(method, message_id).await.unwrap()
    }

    /// The same; none when it is known not to be sent.
    pub(crate) async fn try_cast(&self, method: &str) -> Option<String> {
        self.send(method, "").await.ok()
    }

    async fn send(&self, method: &str, message_id: &str) -> Result<String, Error> {
        let request = v1::CastRequest {
            target: Some(target("", true)),
            method: method.to_owned(),
            message_id: message_id.to_owned(),
            ..v1::CastRequest::default()
        };
        let sent = BridgeServiceClient::new(self.channel()).cast(request).await;
        Ok(sent.map_err(|status| Error::from_status(&status))?.into_inner().message_id)
    }

    /// CALLs a method of an agent's endpoint.
    pub(crate) async fn call(&self, host: &str, method: &str) -> Result<JsonObject, Error> {
        let request = v1::CallRequest {
            target: Some(target(host, false)),
            method: method.to_owned(),
            ..v1::CallRequest::default()
        };
        let answer = BridgeServiceClient::new(self.channel()).call(request).await;
        let answer = answer.map_err(|status| Error::from_status(&status))?.into_inner();
        Ok(struct_to_json("result", answer.result.as_ref()).unwrap())
    }

    /// Whether an agent consumes its CALL queue.
    pub(crate) async fn is_callable(&self, host: &str) -> bool {
        let address = Address {
            agent_type: AgentType::parse("type", "application").unwrap(),
            host: HostName::parse("host", host).unwrap(),
        };
        let queue = self.transport.queue(&QueueName::Call(address)).await.unwrap();
        queue.is_some_and(|queue| queue.consumers > 0)
    }

    /// How many connections the broker has for this.
    pub(crate) async fn connections(&self) -> usize {
        let node = RabbitNode::shared().await;
        let all = node.ctl(["list_connections", "--silent", "vhost"]).await.unwrap();
        all.lines().filter(|line| line.trim() == self.vhost).count()
    }

    /// Has the broker close them all.
    pub(crate) async fn cut_connections(&self) {
        let node = RabbitNode::shared().await;
        let cut = ["close_all_connections", "-p", self.vhost.as_str(), "cut by a test"];
        node.ctl(cut).await.unwrap();
    }

    /// Ends everything and waits for it.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.manager.await.unwrap().unwrap();
        self.bridge.close().await;
        for transport in &self.parts.transports {
            transport.close().await;
        }
        self.transport.close().await;
        self.store.close().await;
    }
}

fn target(host: &str, fanout: bool) -> v1::Target {
    v1::Target {
        topic: "agent.application".to_owned(),
        host: host.to_owned(),
        fanout,
        namespace: ENDPOINT.to_owned(),
    }
}

/// A running emulation.
pub(crate) struct Emulation {
    pub(crate) config: Config,
    pub(crate) handle: Handle,
    running: JoinHandle<Result<(), goperation_emulator::Error>>,
    stop: CancellationToken,
}

impl Emulation {
    /// Starts one, and waits until it is ready.
    pub(crate) async fn start(site: &Site, config: Config) -> Self {
        let stop = CancellationToken::new();
        let started = goperation_emulator::start(config.clone(), site.parts.clone(), stop.clone());
        let (handle, running) = started.await.unwrap();
        timeout(READY, handle.ready()).await.expect("ready in time").unwrap();
        Self { config, handle, running, stop }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}
