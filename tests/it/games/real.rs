//! Real game servers through their whole life, over three agents.

use std::{collections::BTreeSet, fs, path::Path};

use goperation::{
    Reason,
    v1::{self, endpoint_service_client::EndpointServiceClient},
};
use goperation_harness::{environment, find_program, holders, is_alive, poll_until};
use serde_json::json;
use tokio::task::spawn_blocking;

use super::{Stage, exit_of, ping, ports_of, process_of};
use crate::{
    fleet::{SOON, script},
    procs::AgentProcess,
};

const AGENTS: usize = 3;

fn server(name: &str) -> String {
    let program = find_program(name, &["/usr/games"]);
    let program = program.unwrap_or_else(|| panic!("{name}: `cargo xtask test` installs it"));
    program.to_str().unwrap().to_owned()
}

/// teeworlds is told its port in a file, bzfs in its arguments.
fn toml(folder: &Path) -> String {
    let hello = script(
        folder,
        "hello",
        r#"cat >/dev/null; echo "{\"home\":\"$GOP_HOME\",\"port\":$GOP_PORT_GAME}""#,
    );
    format!(
        r#"
[endpoints.teeworlds]
driver = "process"
[endpoints.teeworlds.process]
command = [{teeworlds:?}, "-f", "conf/server.cfg"]
ports = [{{ name = "game", protocol = "udp" }}]
files = [{{ path = "conf/server.cfg", template = """
sv_name "{{endpoint}} {{number}}"
sv_port {{port.game}}
bindaddr 127.0.0.1
sv_register 0
""" }}]
ready = {{ port = "game", timeout = "60s" }}
stop = {{ signal = "SIGTERM", grace = "30s" }}
[endpoints.teeworlds.process.env]
HOME = "{{home}}"
[endpoints.teeworlds.methods.hello]
program = [{hello:?}]

[endpoints.bzflag]
driver = "process"
[endpoints.bzflag.process]
command = [{bzfs:?}, "-p", "{{port.game}}", "-i", "127.0.0.1"]
ports = [{{ name = "game", protocol = "both" }}]
ready = {{ port = "game", timeout = "60s" }}
stop = {{ signal = "SIGTERM", grace = "30s" }}
[endpoints.bzflag.methods.hello]
program = [{hello:?}]
"#,
        teeworlds = server("teeworlds-server"),
        bzfs = server("bzfs"),
    )
}

/// One entity of a real game, and what must be true of it.
struct Real<'a> {
    stage: &'a Stage,
    agent: &'a AgentProcess,
    entity: v1::Entity,
}

impl Real<'_> {
    fn port(&self) -> u16 {
        self.entity.ports[0].port.try_into().unwrap()
    }

    /// Whether TCP, as well as whether UDP.
    fn protocols(&self) -> &'static [bool] {
        if self.entity.endpoint == "bzflag" { &[true, false] } else { &[false] }
    }

    /// It runs as that pid, which has the reserved ports, by the agent and by the kernel, and it
    /// answers in its own protocol.
    async fn assert_runs(&self, process: &v1::EntityProcess) -> u32 {
        let (state, pid) = process_of(process);
        assert_eq!(state, v1::ProcessState::Running, "{process:?}");
        let named = self.stage.named(self.agent, &self.entity.endpoint, self.entity.number);
        assert!(named.contains(&pid), "{process:?} is not one of {named:?}");
        assert!(environment(pid, "GOP_TOKEN").is_some());
        for tcp in self.protocols() {
            assert_eq!(holders(*tcp, self.port()), BTreeSet::from([pid]), "{process:?}");
        }
        let shown = self.stage.status(&self.entity).await.unwrap();
        assert_eq!(process_of(&shown), (state, pid));
        assert!(shown.memory_bytes > 0 && shown.processes == 1, "{shown:?}");
        let protocol = |tcp: &bool| if *tcp { v1::Protocol::Tcp } else { v1::Protocol::Udp };
        let bound: BTreeSet<_> = shown.bound.iter().map(|b| (b.port, b.protocol, b.pid)).collect();
        let expected: BTreeSet<_> = self
            .protocols()
            .iter()
            .map(|tcp| (i32::from(self.port()), i32::from(protocol(tcp)), pid.cast_signed()))
            .collect();
        assert_eq!(bound, expected, "{shown:?}");
        let own = |b: &v1::BoundPort| b.own && b.reserved && b.name == "game";
        assert!(shown.bound.iter().all(own), "{shown:?}");
        self.ping().await;
        pid
    }

    async fn ping(&self) {
        let port = self.port();
        if self.entity.endpoint == "bzflag" {
            let greetings =
                spawn_blocking(move || (ping::bzflag_tcp(port), ping::bzflag_udp(port))).await;
            let (tcp, udp) = greetings.unwrap();
            assert!(tcp.as_ref().is_some_and(|text| text.starts_with("BZFS")), "{tcp:?}");
            assert_eq!(tcp, udp);
        } else {
            let name = spawn_blocking(move || ping::teeworlds(port)).await.unwrap();
            assert_eq!(name, Some(format!("teeworlds {}", self.entity.number)));
        }
    }

    /// The endpoint's own method runs beside the process.
    async fn call(&self) {
        let (endpoint, number) = (&self.entity.endpoint, self.entity.number);
        let args = json!({"entity": number});
        let answer = self.stage.site.call(&self.agent.host, endpoint, "hello", args, SOON).await;
        let answer = serde_json::Value::Object(answer.unwrap());
        let [home, _] = self.stage.folders(self.agent, endpoint, number);
        let told = if answer["result"].is_object() { &answer["result"] } else { &answer };
        assert_eq!(told, &json!({"home": home, "port": self.port()}));
    }

    async fn life(&self) {
        let started = self.stage.start_entity(&self.entity).await.unwrap();
        let first = self.assert_runs(&started).await;
        self.call().await;
        // What runs already is left alone.
        let again = self.stage.start_entity(&self.entity).await.unwrap();
        assert_eq!(process_of(&again), (v1::ProcessState::Running, first));

        let restarted = self.stage.restart_entity(&self.entity).await.unwrap();
        assert!(!is_alive(first));
        let second = self.assert_runs(&restarted).await;
        assert_ne!(first, second);
        let record = self.stage.site.entity(&self.entity.endpoint, self.entity.number).await;
        assert_eq!(ports_of(&record.unwrap()), ports_of(&self.entity));
        self.stage
            .recorded(&self.entity, "RUNNING as the second", |p| {
                (p.state(), p.pid) == (v1::ProcessState::Running, second.cast_signed())
            })
            .await;

        let error = self.stage.delete_entity(&self.entity).await.unwrap_err();
        assert_eq!(error.reason, Reason::StateRefused, "a delete while it runs: {error}");
        let stopped = self.stage.stop_entity(&self.entity).await.unwrap();
        assert_eq!(process_of(&stopped), (v1::ProcessState::Stopped, 0));
        assert_eq!(exit_of(&stopped).2, "stop");
        assert!(!is_alive(second));
        for tcp in self.protocols() {
            assert_eq!(holders(*tcp, self.port()), BTreeSet::new());
        }
        let named = self.stage.named(self.agent, &self.entity.endpoint, self.entity.number);
        assert!(named.is_empty(), "{named:?} after the stop");
        self.free_and_delete().await;
    }

    async fn free_and_delete(&self) {
        let (endpoint, number) = (&self.entity.endpoint, self.entity.number);
        let [home, run] = self.stage.folders(self.agent, endpoint, number);
        assert!(home.is_dir() && run.is_dir());
        let request = v1::FreePortsRequest {
            agent_id: self.agent.id,
            ports: vec![self.port().into()],
            strict: true,
            ..v1::FreePortsRequest::default()
        };
        let freed = self.stage.site.ports().free_ports(request).await.unwrap().into_inner();
        assert_eq!(freed.freed.len(), 1, "{freed:?}");
        self.stage.delete_entity(&self.entity).await.unwrap();
        assert!(!home.exists() && !run.exists());
        let gone = self.stage.site.entity(endpoint, number).await.unwrap_err();
        assert_eq!(gone.reason, Reason::EntityNotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_games_live_on_three_agents() {
    let stage = Stage::start().await;
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        let toml = toml(stage.site.path());
        agents.push(stage.agent(&format!("h{number}"), 6, &toml).await);
    }
    // Each tells the facts of its host when it starts, without which it is not chosen.
    poll_until(SOON, "all agents suit", async || {
        let request =
            v1::ChooseRequest { name: "bzflag".to_owned(), ..v1::ChooseRequest::default() };
        let mut endpoints = EndpointServiceClient::new(stage.site.channel.clone());
        endpoints.choose(request).await.unwrap().into_inner().candidates.len() == AGENTS
    })
    .await;
    let mut games = Vec::new();
    for endpoint in ["teeworlds", "bzflag"] {
        let mut places = BTreeSet::new();
        for _ in 0..AGENTS {
            let request = v1::CreateEntityRequest {
                endpoint: endpoint.to_owned(),
                ..v1::CreateEntityRequest::default()
            };
            let created = stage.site.entities().create_entity(request).await.unwrap().into_inner();
            assert_eq!(created.candidates.len(), AGENTS, "{created:?}");
            assert!(created.refused.is_empty(), "{created:?}");
            let entity = created.entity.unwrap();
            assert_eq!(entity.agent_id, created.candidates[0].agent_id);
            assert_eq!(entity.ports.len(), 1, "{entity:?}");
            assert_eq!(entity.ports[0].name, "game");
            let agent = agents.iter().find(|agent| agent.id == entity.agent_id).unwrap();
            let [home, _] = stage.folders(agent, endpoint, entity.number);
            let config = fs::read_to_string(home.join("conf/server.cfg"));
            if endpoint == "teeworlds" {
                let line = format!("sv_port {}\n", entity.ports[0].port);
                assert!(config.as_ref().is_ok_and(|text| text.contains(&line)), "{config:?}");
            }
            places.insert(entity.agent_id);
            games.push(Real { stage: &stage, agent, entity });
        }
        // The one with the fewest is chosen, so each gets one.
        assert_eq!(places.len(), AGENTS);
    }
    // All at once, each at its own pace.
    futures::future::join_all(games.iter().map(Real::life)).await;
    for agent in &agents {
        assert!(stage.ports(agent).await.is_empty());
    }
    drop(games);
    stage.site.stop().await;
}
