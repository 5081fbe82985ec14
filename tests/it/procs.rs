//! A manager and agents as processes of their own, each the real `gop`, over a vhost of a real
//! RabbitMQ. They are killed with SIGKILL and started again on the same port and data.
//!
//! The test has a bridge of its own on the vhost, so it reaches agents while no manager lives.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use goperation::{
    AgentType, Error, HostName, JsonObject, struct_to_json,
    v1::{
        self, agent_service_client::AgentServiceClient, bridge_service_client::BridgeServiceClient,
        entity_service_client::EntityServiceClient, port_service_client::PortServiceClient,
    },
};
use goperation_bridge::{
    Address, Bridge, BridgeConfig, QueueName, Transport,
    rabbit::{Rabbit, RabbitConfig},
};
use goperation_harness::{GopOutput, GopProcess, RabbitNode, free_port, gop, gop_output};
use serde_json::Value;
use tempfile::TempDir;
use tonic::{Request, transport::Channel};

use crate::fleet::{SOON, target, to_struct};

/// How long a lease lasts here: short, so that what waits for its end is soon.
pub(crate) const LEASE: Duration = Duration::from_secs(5);
/// When a precommit lapses here, unless a test says otherwise.
pub(crate) const LAPSE: Duration = Duration::from_secs(3);
/// How long the manager waits for an agent here.
pub(crate) const WAIT: Duration = Duration::from_secs(5);

/// A vhost with one manager.
pub(crate) struct Site {
    dir: TempDir,
    /// `[broker]` in every file.
    broker: String,
    port: u16,
    manager: Option<GopProcess>,
    /// The bridge that is a process of its own, when there is one.
    own_bridge: Option<GopProcess>,
    /// When a precommit of agents that are made from now on lapses.
    pub(crate) lapse: Duration,
    clients: Clients,
}

/// Ways to the manager's port, whichever process has it, and to the agents.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) transport: Arc<dyn Transport>,
    bridge: Bridge,
    pub(crate) channel: Channel,
}

impl std::ops::Deref for Site {
    type Target = Clients;

    fn deref(&self) -> &Clients {
        &self.clients
    }
}

impl Site {
    /// A new vhost, with a manager that serves.
    pub(crate) async fn start() -> Self {
        Self::start_waiting(WAIT).await
    }

    /// As [`Self::start`], with a manager that waits so long for an agent.
    pub(crate) async fn start_waiting(wait: Duration) -> Self {
        Self::start_with(wait, RabbitConfig::default()).await
    }

    /// As [`Self::start_waiting`], with the prefix and queue type of that configuration.
    pub(crate) async fn start_with(wait: Duration, broker: RabbitConfig) -> Self {
        Self::start_all(wait, LEASE, broker, None).await
    }

    /// As [`Self::start`], with leases that last so long: for many agents, which then renew them
    /// less often, and may be slow.
    pub(crate) async fn start_leased(lease: Duration) -> Self {
        Self::start_all(WAIT, lease, RabbitConfig::default(), None).await
    }

    /// As [`Self::start_leased`], with a bridge in a process of its own.
    pub(crate) async fn start_bridged(lease: Duration) -> Self {
        Self::start_all(WAIT, lease, RabbitConfig::default(), Some(free_port())).await
    }

    async fn start_all(
        wait: Duration,
        lease: Duration,
        broker: RabbitConfig,
        bridge_port: Option<u16>,
    ) -> Self {
        let uri = RabbitNode::shared().await.new_vhost().await.uri;
        let port = free_port();
        let config = RabbitConfig { uri, ..broker };
        let broker = format!(
            "[broker]\nuri = {:?}\nprefix = {:?}\ncast_queue = {:?}\n",
            config.uri,
            config.prefix,
            config.cast_queue.as_str(),
        );
        let transport: Arc<dyn Transport> = Rabbit::connect(config).unwrap();
        let bridge = Bridge::start(Arc::clone(&transport), BridgeConfig::default());
        let channel =
            Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap().connect_lazy();
        let dir = tempfile::tempdir().unwrap();
        let way = match bridge_port {
            None => broker.clone(),
            Some(port) => {
                let text = format!("listen = \"127.0.0.1:{port}\"\n{broker}");
                fs::write(dir.path().join("bridge.toml"), text).unwrap();
                format!("bridge = \"http://127.0.0.1:{port}\"\n")
            }
        };
        let text = format!(
            "listen = \"127.0.0.1:{port}\"\ndata_dir = {:?}\n\
             lease = \"{}s\"\ncall_timeout = \"{}s\"\n{way}",
            dir.path().join("manager"),
            lease.as_secs(),
            wait.as_secs(),
        );
        fs::write(dir.path().join("manager.toml"), text).unwrap();
        let clients = Clients { transport, bridge, channel };
        let (manager, own_bridge) = (None, None);
        let mut site = Self { dir, broker, port, manager, own_bridge, lapse: LAPSE, clients };
        if bridge_port.is_some() {
            site.start_bridge().await;
        }
        site.start_manager().await;
        site
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The virtual host of all.
    pub(crate) fn vhost(&self) -> &str {
        self.broker.split(['/', '"']).find(|part| part.starts_with("test-")).expect("a vhost")
    }

    /// The address of the virtual host.
    pub(crate) fn broker_uri(&self) -> &str {
        self.broker.split('"').find(|part| part.starts_with("amqp://")).expect("a uri")
    }

    /// Where the manager listens.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts the manager, on the port and data of the one before.
    pub(crate) async fn start_manager(&mut self) {
        let config = self.dir.path().join("manager.toml");
        let args = ["manager".as_ref(), "--config".as_ref(), config.as_os_str()];
        self.manager = Some(GopProcess::spawn(args).await);
    }

    /// Adds to the manager's file, which its next start reads.
    pub(crate) fn configure_manager(&self, toml: &str) {
        let path = self.dir.path().join("manager.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}{toml}")).unwrap();
    }

    /// Kills the manager with SIGKILL.
    pub(crate) fn kill_manager(&mut self) {
        self.manager.as_mut().expect("a manager").kill9();
    }

    /// Starts the bridge that is a process of its own, on the port of the one before.
    pub(crate) async fn start_bridge(&mut self) {
        let config = self.dir.path().join("bridge.toml");
        let args = ["bridge".as_ref(), "--config".as_ref(), config.as_os_str()];
        let process = GopProcess::spawn(args).await;
        self.own_bridge = Some(process);
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill_bridge(&mut self) {
        self.own_bridge.as_mut().expect("a bridge").kill9();
    }

    /// The log of the manager since its last start.
    pub(crate) fn manager_log(&self) -> String {
        self.manager.as_ref().expect("a manager").stderr_text()
    }

    /// An agent that is not started yet. `toml` comes after what every agent has.
    pub(crate) fn agent(&self, host: &str, toml: &str) -> AgentProcess {
        let config = self.path().join(format!("{host}.toml"));
        let text = format!(
            "work_dir = {:?}\nhost = {host:?}\naddress = \"127.0.0.1\"\n\
             manager = \"http://127.0.0.1:{}\"\nprecommit_lapse = \"{}s\"\n\
             deleted_linger = \"200ms\"\n{toml}\n{}",
            self.path().join(host),
            self.port,
            self.lapse.as_secs(),
            self.broker,
        );
        fs::write(&config, text).unwrap();
        AgentProcess {
            host: host.to_owned(),
            config,
            program: gop(),
            env: Vec::new(),
            process: None,
            id: 0,
        }
    }

    /// The ways to everybody, for who goes on while the manager is killed.
    pub(crate) fn clients(&self) -> Clients {
        self.clients.clone()
    }

    /// Ends what the test itself has on the vhost.
    pub(crate) async fn stop(self) {
        self.bridge.close().await;
        self.transport.close().await;
    }

    /// A started agent that is ACTIVE.
    pub(crate) async fn active_agent(&self, host: &str, toml: &str) -> AgentProcess {
        let mut agent = self.agent(host, toml);
        agent.start().await;
        self.activate(agent.id).await;
        agent
    }
}

impl Clients {
    pub(crate) async fn activate(&self, id: i32) {
        self.agents().activate_agent(v1::ActivateAgentRequest { id, state: 0 }).await.unwrap();
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

    /// The record of an agent.
    pub(crate) async fn show(&self, id: i32) -> Result<v1::Agent, Error> {
        let shown = self.agents().show_agent(v1::ShowAgentRequest { id }).await;
        Ok(shown.map_err(|s| Error::from_status(&s))?.into_inner().agent.unwrap())
    }

    /// Deletes an agent in two phases.
    pub(crate) async fn delete(&self, id: i32) -> Result<v1::Agent, Error> {
        let request = v1::DeleteAgentRequest { id, force: false, etag: String::new() };
        let deleted = self.agents().delete_agent(request).await;
        Ok(deleted.map_err(|s| Error::from_status(&s))?.into_inner().agent.unwrap())
    }

    /// The record of an entity.
    pub(crate) async fn entity(&self, endpoint: &str, number: i32) -> Result<v1::Entity, Error> {
        let request = v1::ShowEntityRequest { endpoint: endpoint.to_owned(), number };
        let shown = self.entities().show_entity(request).await;
        Ok(shown.map_err(|s| Error::from_status(&s))?.into_inner().entity.unwrap())
    }

    /// CALLs a method through the test's own bridge: no manager is needed.
    pub(crate) async fn call(
        &self,
        host: &str,
        namespace: &str,
        method: &str,
        args: Value,
        timeout: Duration,
    ) -> Result<JsonObject, Error> {
        self.call_as(host, namespace, method, args, timeout, "").await
    }

    /// As [`Self::call`], under that message id.
    pub(crate) async fn call_as(
        &self,
        host: &str,
        namespace: &str,
        method: &str,
        args: Value,
        timeout: Duration,
        message_id: &str,
    ) -> Result<JsonObject, Error> {
        let mut client = BridgeServiceClient::new(goperation_bridge::service(self.bridge.clone()));
        let mut request = Request::new(v1::CallRequest {
            target: Some(target(host, namespace)),
            method: method.to_owned(),
            args: Some(to_struct(args)),
            timeout: Some(timeout.try_into().unwrap()),
            finish_time: None,
            message_id: message_id.to_owned(),
        });
        // So that the bridge ends first.
        request.set_timeout(2 * timeout + Duration::from_secs(2));
        let answer = client.call(request).await.map_err(|s| Error::from_status(&s))?;
        Ok(struct_to_json("result", answer.into_inner().result.as_ref()).unwrap())
    }

    /// Whether any queue of that agent is left.
    pub(crate) async fn has_queues(&self, host: &str) -> bool {
        for name in [QueueName::Cast(address(host)), QueueName::Call(address(host))] {
            if !matches!(self.transport.queue(&name).await, Ok(None)) {
                return true;
            }
        }
        false
    }
}

fn address(host: &str) -> Address {
    Address {
        agent_type: AgentType::parse("type", "application").unwrap(),
        host: HostName::parse("host", host).unwrap(),
    }
}

/// One agent, with or without a process.
pub(crate) struct AgentProcess {
    pub(crate) host: String,
    config: PathBuf,
    /// What it is started from.
    pub(crate) program: PathBuf,
    /// What is added to its environment.
    pub(crate) env: Vec<(&'static str, String)>,
    process: Option<GopProcess>,
    /// Its number at the last start.
    pub(crate) id: i32,
}

impl AgentProcess {
    fn args(&self) -> [&std::ffi::OsStr; 3] {
        ["agent".as_ref(), "--config".as_ref(), self.config.as_os_str()]
    }

    /// Starts it and waits until it is online.
    pub(crate) async fn start(&mut self) {
        self.try_start().await.unwrap();
    }

    /// As [`Self::start`]; the text says how it ended when it did.
    pub(crate) async fn try_start(&mut self) -> Result<(), String> {
        self.process = None;
        let env: Vec<_> = self.env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let process = GopProcess::try_spawn_program(&self.program, self.args(), &env).await;
        let process = process.map_err(|e| e.to_string())?;
        let line = process.ready_line();
        let id = line.split_whitespace().find_map(|word| word.strip_prefix("agent="));
        self.id = id.and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("{line}"));
        self.process = Some(process);
        Ok(())
    }

    /// Starts it and waits until it is online, or has ended: the exit code then.
    pub(crate) async fn start_or_end(&mut self) -> Option<i32> {
        match self.try_start().await {
            Ok(()) => None,
            Err(text) if text.contains("exit status: 3") => Some(3),
            Err(text) => panic!("{text}"),
        }
    }

    /// Starts it where it must end by itself at once.
    pub(crate) async fn start_that_ends(&self) -> GopOutput {
        gop_output(self.args(), SOON).await
    }

    /// `gop agent adopt`.
    pub(crate) async fn adopt(&self) -> GopOutput {
        let args = ["agent".as_ref(), "adopt".as_ref(), "--config".as_ref()];
        gop_output(args.into_iter().chain([self.config.as_os_str()]), SOON).await
    }

    /// Its process.
    pub(crate) fn process(&mut self) -> &mut GopProcess {
        self.process.as_mut().expect("the agent has a process")
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process().kill9();
    }

    /// The exit code, once it has ended by itself.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        match &mut self.process {
            Some(process) => process.wait(SOON).await.code(),
            None => Some(3),
        }
    }

    /// Whether its process runs, asked now.
    pub(crate) fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }
}
