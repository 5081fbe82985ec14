//! A manager and its agents in this process, on the embedded transport or on a vhost of a real
//! RabbitMQ; each test has its own.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use goperation::{
    AgentStatus, AgentType, Error, HostName, JsonObject, json_to_struct, struct_to_json,
    v1::{
        self, agent_service_client::AgentServiceClient, bridge_service_client::BridgeServiceClient,
        entity_service_client::EntityServiceClient, port_service_client::PortServiceClient,
    },
};
use goperation_agent::{
    Config, Exit, Handle, Parts, RunError, Shared, SharedFacts, endpoint::Stub,
};
use goperation_bridge::{
    Address, Bridge, BridgeConfig, Local, LocalConfig, Transport,
    rabbit::{CastQueue, Rabbit, RabbitConfig},
};
use goperation_harness::{RabbitNode, poll_until, profile_folder};
use goperation_manager::BridgeLink;
use goperation_store::{Options, SledStore, Store};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// How long anything that should happen soon may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What carries the messages of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum On {
    /// The manager's own store.
    Embedded,
    /// A vhost of the node that all tests share.
    Rabbit(CastQueue),
    /// That broker, or what stands before it.
    At { uri: String, cast_queue: CastQueue },
}

/// A manager, its bridge, and the way to start agents.
pub(crate) struct Fleet {
    dir: TempDir,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) channel: Channel,
    address: SocketAddr,
    manager: (CancellationToken, JoinHandle<Result<(), goperation_manager::Error>>),
    bridge: Bridge,
    pub(crate) store: SledStore,
}

/// What starts games: a program of the package under test, or else the `gop` of this build.
fn launcher() -> Vec<OsString> {
    match option_env!("CARGO_BIN_EXE_hold-launcher") {
        Some(program) => vec![program.into()],
        None => vec![profile_folder().join("gop").into(), "launch".into()],
    }
}

/// One running agent.
pub(crate) struct TestAgent {
    pub(crate) handle: Handle,
    pub(crate) work_dir: PathBuf,
    pub(crate) host: String,
    pub(crate) id: u32,
    stop: CancellationToken,
    living: JoinHandle<Result<Exit, RunError>>,
}

impl Fleet {
    /// A fleet on that transport.
    pub(crate) async fn start(on: On) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(Options::new(dir.path().join("manager"))).unwrap();
        let shared: Arc<dyn Store> = Arc::new(store.clone());
        let transport: Arc<dyn Transport> = match on {
            On::Embedded => Local::open(Arc::clone(&shared), LocalConfig::default()).await.unwrap(),
            On::Rabbit(cast_queue) => {
                let uri = RabbitNode::shared().await.new_vhost().await.uri;
                Rabbit::connect(RabbitConfig { uri, cast_queue, ..RabbitConfig::default() })
                    .unwrap()
            }
            On::At { uri, cast_queue } => {
                Rabbit::connect(RabbitConfig { uri, cast_queue, ..RabbitConfig::default() })
                    .unwrap()
            }
        };
        let bridge = Bridge::start(Arc::clone(&transport), BridgeConfig::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let parts = goperation_manager::Parts {
            store: shared,
            bridge: BridgeLink::embedded(goperation_bridge::Service::new(bridge.clone())),
        };
        let config = goperation_manager::Config::default();
        let manager = tokio::spawn(goperation_manager::run(config, listener, parts, stop.clone()));
        let channel = connection(address);
        Self { dir, transport, channel, address, manager: (stop, manager), bridge, store }
    }

    /// Where the manager listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Folder that goes with the fleet.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Starts an agent and waits until it is registered and has its first status.
    pub(crate) async fn agent(&self, host: &str, toml: &str) -> TestAgent {
        let parts = self.parts(self.channel.clone());
        self.agent_on(host, toml, parts, &runtime::Handle::current()).await
    }

    /// What an agent of this fleet works with, with that way to the manager.
    pub(crate) fn parts(&self, manager: Channel) -> Parts {
        Parts { transport: Arc::clone(&self.transport), manager, launcher: launcher() }
    }

    /// As [`Self::agent`], with parts and a runtime of its own, as in a process of its own.
    pub(crate) async fn agent_on(
        &self,
        host: &str,
        toml: &str,
        parts: Parts,
        runtime: &runtime::Handle,
    ) -> TestAgent {
        let start = |config, stop| goperation_agent::start(config, parts, stop);
        self.agent_by(host, toml, runtime, start).await
    }

    /// As [`Self::agent_on`], with something that runs its methods in place of programs.
    pub(crate) async fn stubbed_agent_on(
        &self,
        host: &str,
        toml: &str,
        parts: Parts,
        runtime: &runtime::Handle,
        stub: Arc<dyn Stub>,
    ) -> TestAgent {
        let work_dir = self.path().join(host);
        fs::create_dir(&work_dir).unwrap();
        let shared = Shared {
            store: SledStore::open(Options::new(work_dir.join("shared"))).unwrap(),
            prefix: Vec::new(),
            stub,
            facts: Arc::new(SharedFacts::new(&work_dir)),
        };
        let start = |config, stop| goperation_agent::start_shared(config, parts, shared, stop);
        self.agent_by(host, toml, runtime, start).await
    }

    async fn agent_by<F>(
        &self,
        host: &str,
        toml: &str,
        runtime: &runtime::Handle,
        start: impl FnOnce(Config, CancellationToken) -> F,
    ) -> TestAgent
    where
        F: Future<Output = Result<(Handle, JoinHandle<Result<Exit, RunError>>), RunError>>
            + Send
            + 'static,
    {
        let work_dir = self.path().join(host);
        let text =
            format!("work_dir = {work_dir:?}\nhost = {host:?}\naddress = \"127.0.0.1\"\n{toml}");
        let config = Config::from_toml(Path::new("test.toml"), &text).unwrap();
        let stop = CancellationToken::new();
        let started = start(config, stop.clone());
        let (handle, living) = runtime.spawn(started).await.unwrap().unwrap();
        let mut status = handle.watch_status();
        tokio::time::timeout(SOON, status.wait_for(|s| *s != AgentStatus::Initializing))
            .await
            .expect("the agent starts in time")
            .unwrap();
        let id = handle.agent_id().expect("the agent has a number");
        let agent = TestAgent { handle, work_dir, host: host.to_owned(), id, stop, living };
        self.wait_connected(&agent).await;
        agent
    }

    /// Waits until the agent's queues are consumed: its CALL queue is there.
    pub(crate) async fn wait_connected(&self, agent: &TestAgent) {
        let name = goperation_bridge::QueueName::Call(agent.address());
        poll_until(SOON, "the agent consumes", async || {
            matches!(self.transport.queue(&name).await, Ok(Some(queue)) if queue.consumers > 0)
        })
        .await;
    }

    pub(crate) fn agents(&self) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(self.channel.clone())
    }

    pub(crate) fn entities(&self) -> EntityServiceClient<Channel> {
        EntityServiceClient::new(self.channel.clone())
    }

    pub(crate) fn ports(&self) -> PortServiceClient<Channel> {
        PortServiceClient::new(self.channel.clone())
    }

    pub(crate) fn bridge(&self) -> BridgeServiceClient<Channel> {
        BridgeServiceClient::new(self.channel.clone())
    }

    /// Makes an agent ACTIVE.
    pub(crate) async fn activate(&self, agent: &TestAgent) {
        let request = v1::ActivateAgentRequest { id: agent.wire_id(), state: 0 };
        self.agents().activate_agent(request).await.unwrap();
    }

    /// CALLs a method and answers its result.
    pub(crate) async fn call(
        &self,
        target: v1::Target,
        method: &str,
        args: Value,
        timeout: Duration,
    ) -> Result<JsonObject, Error> {
        self.call_as(target, method, args, timeout, "").await
    }

    /// As [`Self::call`], under that message id.
    pub(crate) async fn call_as(
        &self,
        target: v1::Target,
        method: &str,
        args: Value,
        timeout: Duration,
        message_id: &str,
    ) -> Result<JsonObject, Error> {
        let request = v1::CallRequest {
            target: Some(target),
            method: method.to_owned(),
            args: Some(to_struct(args)),
            timeout: Some(timeout.try_into().unwrap()),
            finish_time: None,
            message_id: message_id.to_owned(),
        };
        let answer = self.bridge().call(request).await.map_err(|s| Error::from_status(&s))?;
        Ok(struct_to_json("result", answer.into_inner().result.as_ref()).unwrap())
    }

    /// CASTs a method and answers the message id.
    pub(crate) async fn cast(
        &self,
        target: v1::Target,
        method: &str,
        args: Value,
        finish: Option<u64>,
    ) -> Result<String, Error> {
        let request = v1::CastRequest {
            target: Some(target),
            method: method.to_owned(),
            args: Some(to_struct(args)),
            agents: String::new(),
            finish_time: finish.map(goperation::to_timestamp),
            message_id: String::new(),
            request_id: String::new(),
        };
        let answer = self.bridge().cast(request).await.map_err(|s| Error::from_status(&s))?;
        Ok(answer.into_inner().message_id)
    }

    /// Ends everything and waits for it.
    pub(crate) async fn stop(self) {
        self.manager.0.cancel();
        self.manager.1.await.unwrap().unwrap();
        self.bridge.close().await;
        self.transport.close().await;
        self.store.close().await;
    }
}

impl TestAgent {
    pub(crate) fn wire_id(&self) -> i32 {
        self.id.try_into().unwrap()
    }

    pub(crate) fn address(&self) -> Address {
        Address {
            agent_type: AgentType::parse("type", "application").unwrap(),
            host: HostName::parse("host", &self.host).unwrap(),
        }
    }

    /// Its own methods, or an endpoint's.
    pub(crate) fn target(&self, namespace: &str) -> v1::Target {
        target(&self.host, namespace)
    }

    /// Stops it as an operator would and answers how it ended.
    pub(crate) async fn stop(self) -> Exit {
        self.stop.cancel();
        self.ended().await
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) -> Exit {
        tokio::time::timeout(SOON, self.living)
            .await
            .expect("the agent ends in time")
            .unwrap()
            .unwrap()
    }
}

/// A connection to a manager, made when it is first needed.
pub(crate) fn connection(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// One agent of the type `application`.
pub(crate) fn target(host: &str, namespace: &str) -> v1::Target {
    v1::Target {
        topic: "agent.application".to_owned(),
        host: host.to_owned(),
        fanout: false,
        namespace: namespace.to_owned(),
    }
}

/// All agents, or all that have the endpoint.
pub(crate) fn everybody(namespace: &str) -> v1::Target {
    v1::Target {
        topic: "agent.application".to_owned(),
        host: String::new(),
        fanout: true,
        namespace: namespace.to_owned(),
    }
}

pub(crate) fn to_struct(value: Value) -> prost_types::Struct {
    json_to_struct("args", value.as_object().expect("an object")).unwrap()
}

/// Writes an executable shell script and answers its path.
pub(crate) fn script(folder: &Path, name: &str, body: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
