//! A manager in a runtime of its own, so that it can be killed in the middle of anything.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use goperation::{
    Error,
    v1::{
        Agent, AgentEndpoint, AgentEntity, CreateAgentRequest, CreateAgentResponse,
        CreateEntityRequest, EndpointMethod, Entity, RenewAgentRequest, RenewAgentResponse,
        ShowAgentRequest, ShowEntityRequest, SyncAgentRequest, SyncAgentResponse,
        agent_service_client::AgentServiceClient, bridge_service_client::BridgeServiceClient,
        cache_service_client::CacheServiceClient, endpoint_service_client::EndpointServiceClient,
        entity_service_client::EntityServiceClient, port_service_client::PortServiceClient,
        request_service_client::RequestServiceClient,
    },
};
use goperation_bridge::{Bridge, BridgeConfig, Local, LocalConfig, Transport as _};
use goperation_manager::{BridgeLink, Config, Parts, run};
use goperation_store::{Options, SledStore, Store};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};

use crate::fake::Fake;

/// Everything that is waited for comes within this.
const PATIENCE: Duration = Duration::from_secs(20);

/// A manager.
#[derive(Debug)]
pub(crate) struct Manager {
    pub(crate) fake: Fake,
    /// A handle on the manager's own store; the folder is free only without it.
    store: Option<SledStore>,
    folder: Arc<TempDir>,
    config: Config,
    address: SocketAddr,
    channel: Channel,
    shutdown: CancellationToken,
    runtime: Option<Runtime>,
    ended: oneshot::Receiver<Result<(), goperation_manager::Error>>,
}

fn open(folder: &Path) -> SledStore {
    let begun = std::time::Instant::now();
    loop {
        match SledStore::open(Options::new(folder.join("store"))) {
            Ok(store) => return store,
            // The threads of the one before are about to end.
            Err(error) if begun.elapsed() > PATIENCE => panic!("{error:?}"),
            Err(_) => std::thread::yield_now(),
        }
    }
}

impl Manager {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { call_timeout: Duration::from_secs(5), ..Config::default() };
        configure(&mut config);
        Self::over(Arc::new(TempDir::new().unwrap()), config, Fake::new(), false).await
    }

    /// A manager with a real bridge on the embedded transport.
    pub(crate) async fn with_bridge() -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        Self::over(folder, Config::default(), Fake::new(), true).await
    }

    async fn over(folder: Arc<TempDir>, config: Config, fake: Fake, real: bool) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let shutdown = CancellationToken::new();
        let (ready, address) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (place, settings, bridge, stop) =
            (folder.clone(), config.clone(), fake.clone(), shutdown.clone());
        runtime.spawn(async move {
            let store = tokio::task::spawn_blocking(move || open(place.path())).await.unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            ready.send((listener.local_addr().unwrap(), store.clone())).unwrap();
            let stored: Arc<dyn Store> = Arc::new(store.clone());
            let result = if real {
                let local = Local::open(stored.clone(), LocalConfig::default()).await.unwrap();
                let bridge = Bridge::start(local.clone(), BridgeConfig::default());
                let link = BridgeLink::embedded(goperation_bridge::Service::new(bridge.clone()));
                let parts = Parts { store: stored, bridge: link };
                let result = run(settings, listener, parts, stop).await;
                bridge.close().await;
                local.close().await;
                result
            } else {
                let link = BridgeLink::embedded(bridge);
                run(settings, listener, Parts { store: stored, bridge: link }, stop).await
            };
            store.close().await;
            let _ = end.send(result);
        });
        let (address, store) = address.await.unwrap();
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self {
            fake,
            store: Some(store),
            folder,
            config,
            address,
            channel,
            shutdown,
            runtime: Some(runtime),
            ended,
        }
    }

    /// Ends it as an operator does, and starts it again on the same store.
    pub(crate) async fn restart(mut self) -> Self {
        self.shutdown();
        self.wait_end().await.unwrap();
        let runtime = self.runtime.take().unwrap();
        self.store = None;
        tokio::task::spawn_blocking(move || drop(runtime)).await.unwrap();
        Self::over(self.folder.clone(), self.config.clone(), self.fake.clone(), false).await
    }

    /// As [`Self::restart`], with another configuration.
    pub(crate) async fn restart_with(mut self, configure: impl FnOnce(&mut Config)) -> Self {
        configure(&mut self.config);
        self.restart().await
    }

    /// Kills it in the middle of whatever it does, and starts it again on the same store.
    pub(crate) async fn crash(mut self) -> Self {
        let runtime = self.runtime.take().unwrap();
        self.store = None;
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
        Self::over(self.folder.clone(), self.config.clone(), self.fake.clone(), false).await
    }

    pub(crate) fn store(&self) -> &SledStore {
        self.store.as_ref().unwrap()
    }

    pub(crate) fn shutdown(&self) {
        self.shutdown.cancel();
    }

    pub(crate) async fn wait_end(&mut self) -> Result<(), goperation_manager::Error> {
        tokio::time::timeout(PATIENCE, &mut self.ended).await.unwrap().unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn agents(&self) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(self.channel())
    }

    pub(crate) fn endpoints(&self) -> EndpointServiceClient<Channel> {
        EndpointServiceClient::new(self.channel())
    }

    pub(crate) fn entities(&self) -> EntityServiceClient<Channel> {
        EntityServiceClient::new(self.channel())
    }

    pub(crate) fn ports(&self) -> PortServiceClient<Channel> {
        PortServiceClient::new(self.channel())
    }

    pub(crate) fn caches(&self) -> CacheServiceClient<Channel> {
        CacheServiceClient::new(self.channel())
    }

    pub(crate) fn requests(&self) -> RequestServiceClient<Channel> {
        RequestServiceClient::new(self.channel())
    }

    pub(crate) fn bridge(&self) -> BridgeServiceClient<Channel> {
        BridgeServiceClient::new(self.channel())
    }

    pub(crate) async fn try_register(
        &self,
        host: &str,
        secret: &str,
    ) -> Result<CreateAgentResponse, Error> {
        answer(
            self.agents()
                .create_agent(CreateAgentRequest {
                    r#type: "application".to_owned(),
                    host: host.to_owned(),
                    secret: secret.to_owned(),
                    address: "10.0.0.1".to_owned(),
                    ports_ranges: vec!["7000-7999".to_owned()],
                    ..CreateAgentRequest::default()
                })
                .await,
        )
    }

    /// An agent on a host, with the secret of that host.
    pub(crate) async fn register(&self, host: &str) -> i32 {
        self.try_register(host, &secret(host)).await.unwrap().agent.unwrap().id
    }

    /// An agent that has these endpoints.
    pub(crate) async fn agent(&self, host: &str, endpoints: &[&str]) -> i32 {
        let id = self.register(host).await;
        self.sync(id, host, 1, endpoints, &[]).await.unwrap();
        id
    }

    pub(crate) async fn sync(
        &self,
        id: i32,
        host: &str,
        generation: u64,
        endpoints: &[&str],
        entities: &[AgentEntity],
    ) -> Result<SyncAgentResponse, Error> {
        let endpoints = endpoints.iter().map(|&name| AgentEndpoint {
            name: name.to_owned(),
            driver: "script".to_owned(),
            methods: vec![EndpointMethod { name: "echo".to_owned(), ..EndpointMethod::default() }],
        });
        answer(
            self.agents()
                .sync_agent(SyncAgentRequest {
                    id,
                    secret: secret(host),
                    generation,
                    endpoints: endpoints.collect(),
                    entities: entities.to_vec(),
                    ports_ranges: vec!["7000-7999".to_owned()],
                    facts: None,
                    address: "10.0.0.1".to_owned(),
                    ..SyncAgentRequest::default()
                })
                .await,
        )
    }

    pub(crate) async fn renew(
        &self,
        request: RenewAgentRequest,
    ) -> Result<RenewAgentResponse, Error> {
        answer(self.agents().renew_agent(request).await)
    }

    pub(crate) async fn show(&self, id: i32) -> Result<Agent, Error> {
        answer(self.agents().show_agent(ShowAgentRequest { id }).await)
            .map(|answer| answer.agent.unwrap())
    }

    pub(crate) async fn try_create(&self, agent: i32, endpoint: &str) -> Result<Entity, Error> {
        let request = CreateEntityRequest {
            endpoint: endpoint.to_owned(),
            agent_id: agent,
            ..CreateEntityRequest::default()
        };
        answer(self.entities().create_entity(request).await).map(|answer| answer.entity.unwrap())
    }

    pub(crate) async fn entity(&self, endpoint: &str, number: i32) -> Result<Entity, Error> {
        let request = ShowEntityRequest { endpoint: endpoint.to_owned(), number };
        answer(self.entities().show_entity(request).await).map(|answer| answer.entity.unwrap())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The secret of the agent on a host.
pub(crate) fn secret(host: &str) -> String {
    format!("secret-of-the-agent-on-{host}")
}

/// A renewal as a healthy agent sends it.
pub(crate) fn renewal(id: i32, host: &str) -> RenewAgentRequest {
    RenewAgentRequest {
        id,
        secret: secret(host),
        generation: 1,
        manager_generation: 1,
        ..RenewAgentRequest::default()
    }
}

/// What was answered, with a failure as its type.
pub(crate) fn answer<T>(result: Result<Response<T>, Status>) -> Result<T, Error> {
    result.map(Response::into_inner).map_err(|status| Error::from_status(&status))
}

/// An entity that its agent has.
pub(crate) fn has(endpoint: &str, number: i32) -> AgentEntity {
    AgentEntity { endpoint: endpoint.to_owned(), number, ready: true, ..AgentEntity::default() }
}

/// Waits until something holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = tokio::time::Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
