//! What the cases act on: for each call with an effect two objects of their own, one for gRPC and
//! one for REST, made by gRPC before anything is compared.

use std::collections::HashMap;

use goperation_harness::poll_until;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use tonic::Streaming;

use super::{
    cases::merged,
    wire::{Wire, to_json},
};
use crate::fleet::SOON;

/// The secret of every agent that the test itself registers.
pub(super) const SECRET: &str = "a-secret-of-the-parity-test";
/// The notify queue whose stream runs throughout the test.
pub(super) const ACKNOWLEDGED: &str = "parity.acknowledge";
/// Notify queues with the same two messages each.
pub(super) const STREAMS: [&str; 3] = ["parity.grpc", "parity.lines", "parity.events"];

/// Agents that are registered with a secret, or only reserved.
const REGISTERED: [&str; 8] =
    ["update", "edit", "force", "report", "clean", "renew", "sync", "claim"];
const RESERVED: [&str; 2] = ["endpoints-more", "endpoints-less"];
/// Entities on agents 1 and 2.
const ENTITIES: [&str; 6] = ["update", "edit", "delete", "port-more", "port-less", "port-free"];

/// Clocks on agents 1 and 2: the first is stopped, the others run.
const CLOCKS: [&str; 4] = ["start", "stop", "restart", "kill"];

/// The objects.
#[derive(Debug)]
pub(super) struct Fixture {
    /// An entity on agent 1 with ports and labels that is only read.
    pub(super) shown: i32,
    /// Tokens of messages that wait for their acknowledgement.
    pub(super) tokens: Vec<String>,
    agents: HashMap<&'static str, [i32; 2]>,
    entities: HashMap<&'static str, [i32; 2]>,
    clocks: HashMap<&'static str, [i32; 2]>,
    /// A request that has ended well.
    pub(super) done: String,
    /// The cursor of its second event.
    pub(super) cursor: String,
    /// One that waits for two agents of the test's own.
    pub(super) responded: String,
    requests: HashMap<&'static str, [String; 2]>,
    /// Ends the tokens when it ends.
    _stream: Streaming<DynamicMessage>,
}

impl Fixture {
    pub(super) async fn new(wire: &Wire) -> Self {
        for id in [1, 2] {
            wire.ask("AgentService/ActivateAgent", json!({"id": id})).await;
        }
        // An agent reports when it has started, and not at once: until then answers change.
        poll_until(SOON, "all have reported", async || {
            let chosen = wire.ask("EndpointService/Choose", json!({"name": "sample"})).await;
            let some = chosen["candidates"].as_array().is_some_and(|chosen| chosen.len() >= 2);
            some && !chosen.to_string().contains("not reported")
        })
        .await;
        let mut agents = HashMap::new();
        for purpose in REGISTERED.into_iter().chain(RESERVED) {
            let mut pair = [0; 2];
            for (side, id) in ["a", "b"].into_iter().zip(&mut pair) {
                *id = Self::register(wire, &format!("parity-{purpose}-{side}")).await;
            }
            agents.insert(purpose, pair);
        }
        for id in agents["clean"] {
            wire.ask("AgentService/DeleteAgent", json!({"id": id, "force": true})).await;
        }
        let shown = json!({
            "endpoint": "sample", "agentId": 1, "description": "only read",
            "labels": {"zone": "a b", "tier": "gold/1"},
            "ports": [{"name": "game", "protocol": "PROTOCOL_UDP"}, {"port": 20050}],
        });
        let shown = Self::create(wire, shown).await;
        let mut entities = HashMap::new();
        for (i, purpose) in ENTITIES.into_iter().enumerate() {
            let mut pair = [0; 2];
            for (agent, number) in [1, 2].into_iter().zip(&mut pair) {
                let port = 20_060 + 100 * (agent - 1) + i;
                let wishes = json!([{"port": port, "protocol": "PROTOCOL_TCP"}]);
                let entity = json!({"endpoint": "sample", "agentId": agent, "ports": wishes});
                *number = Self::create(wire, entity).await;
            }
            entities.insert(purpose, pair);
        }
        let mut clocks = HashMap::new();
        for purpose in CLOCKS {
            let mut pair = [0; 2];
            for (agent, number) in [1, 2].into_iter().zip(&mut pair) {
                let clock = json!({"endpoint": "clock", "agentId": agent});
                *number = Self::create(wire, clock).await;
                if purpose != "start" {
                    let name = json!({"endpoint": "clock", "number": *number});
                    wire.ask("EntityService/StartEntity", name).await;
                }
            }
            clocks.insert(purpose, pair);
        }
        for key in ["show", "edit-a", "edit-b", "update-a", "update-b", "delete-a", "delete-b"] {
            let cache = json!({"key": format!("parity.{key}"), "value": {"n": 1}, "ttl": "3600s"});
            wire.ask("CacheService/CreateCache", json!({"cache": cache})).await;
        }
        for key in ["flush-a.1", "flush-a.2", "flush-b.1", "flush-b.2"] {
            let cache = json!({"key": key, "value": {}, "ttl": "3600s"});
            wire.ask("CacheService/CreateCache", json!({"cache": cache})).await;
        }
        for queue in STREAMS {
            for n in [1, 2] {
                let payload = json!({"n": n, "text": "ü\n", "deep": {"list": [1.5, true, null]}});
                wire.ask("BridgeService/Notify", json!({"queue": queue, "payload": payload})).await;
            }
        }
        let (tokens, stream) = Self::unacknowledged(wire).await;
        let requests = Self::begun(wire).await;
        let done = Self::begin(wire, echo("1-2")).await;
        Self::until(wire, &done, |it| it["state"] == "REQUEST_STATE_FINISHED").await;
        let [a, b] = agents["update"];
        let slow = json!({"namespace": "manager", "method": "status_agent",
                          "on": {"agents": format!("{a}-{b}")}, "finishTimeout": "3600s"});
        Self {
            shown,
            tokens,
            agents,
            entities,
            clocks,
            cursor: Self::cursor(wire, &done).await,
            done,
            responded: Self::begin(wire, slow).await,
            requests,
            _stream: stream,
        }
    }

    /// Pairs of requests that stand where they do until somebody does something with them.
    async fn begun(wire: &Wire) -> HashMap<&'static str, [String; 2]> {
        let slow = json!({"rollout": {"canary": 1, "pause": "3600s"}});
        let strict = json!({"method": "dance", "rollout": {"canary": 1, "maxFailures": "0"}});
        let mut requests = HashMap::new();
        for (purpose, more) in
            [("cancel", &slow), ("overtime", &slow), ("resume", &strict), ("delete", &json!({}))]
        {
            let mut pair = [String::new(), String::new()];
            for id in &mut pair {
                *id = Self::begin(wire, merged(echo("1-2"), more.clone())).await;
                Self::until(wire, id, |it| match purpose {
                    "resume" => it["state"] == "REQUEST_STATE_STOPPED",
                    "delete" => it["state"] == "REQUEST_STATE_FINISHED",
                    _ => it["counts"]["succeeded"] == 1,
                })
                .await;
            }
            requests.insert(purpose, pair);
        }
        requests
    }

    async fn begin(wire: &Wire, request: Value) -> String {
        let begun = wire.ask("RequestService/CreateRequest", request).await;
        begun["request"]["id"].as_str().unwrap().to_owned()
    }

    async fn until(wire: &Wire, id: &str, is: impl Fn(&Value) -> bool) {
        poll_until(SOON, "the request is so far", async || {
            is(&wire.ask("RequestService/ShowRequest", json!({"id": id})).await["request"])
        })
        .await;
    }

    async fn cursor(wire: &Wire, id: &str) -> String {
        let service = wire.pool.get_service_by_name("goperation.v1.RequestService").unwrap();
        let watch = service.methods().find(|method| method.name() == "WatchRequest").unwrap();
        let mut stream = wire.grpc_stream(&watch, &json!({"id": id})).await.unwrap();
        stream.message().await.unwrap().unwrap();
        let second = to_json(&stream.message().await.unwrap().unwrap());
        second["cursor"].as_str().unwrap().to_owned()
    }

    async fn register(wire: &Wire, host: &str) -> i32 {
        let mut agent = json!({"type": "parity", "host": host, "portsRanges": ["30000-30099"]});
        if host.contains("endpoints") {
            agent["reserve"] = true.into();
            agent["endpoints"] = json!(["arena", "lobby"]);
        } else {
            agent["secret"] = SECRET.into();
        }
        number(&wire.ask("AgentService/CreateAgent", agent).await["agent"]["id"])
    }

    async fn create(wire: &Wire, entity: Value) -> i32 {
        number(&wire.ask("EntityService/CreateEntity", entity).await["entity"]["number"])
    }

    async fn unacknowledged(wire: &Wire) -> (Vec<String>, Streaming<DynamicMessage>) {
        for n in 0..2 {
            let notify = json!({"queue": ACKNOWLEDGED, "payload": {"n": n}});
            wire.ask("BridgeService/Notify", notify).await;
        }
        let service = wire.pool.get_service_by_name("goperation.v1.BridgeService").unwrap();
        let receive = service.methods().find(|method| method.name() == "Receive").unwrap();
        let request = json!({"queue": ACKNOWLEDGED});
        let mut stream = wire.grpc_stream(&receive, &request).await.unwrap();
        let mut tokens = Vec::new();
        while tokens.len() < 2 {
            let message = to_json(&stream.message().await.unwrap().unwrap());
            tokens.push(message["ackToken"].as_str().unwrap().to_owned());
        }
        (tokens, stream)
    }

    /// Two agents of the test's own for that purpose.
    pub(super) fn agents(&self, purpose: &str) -> [i32; 2] {
        self.agents[purpose]
    }

    /// An entity on agent 1 and one on agent 2 for that purpose.
    pub(super) fn entities(&self, purpose: &str) -> [i32; 2] {
        self.entities[purpose]
    }

    /// A clock on agent 1 and one on agent 2 for that purpose.
    pub(super) fn clocks(&self, purpose: &str) -> [i32; 2] {
        self.clocks[purpose]
    }

    /// Two requests for that purpose.
    pub(super) fn requests(&self, purpose: &str) -> [&str; 2] {
        self.requests[purpose].each_ref().map(String::as_str)
    }

    /// The TCP port that the entity for that purpose has on agents 1 and 2.
    pub(super) fn ports(purpose: &str) -> [usize; 2] {
        let i = ENTITIES.iter().position(|known| *known == purpose).unwrap();
        [20_060 + i, 20_160 + i]
    }
}

fn number(value: &Value) -> i32 {
    i32::try_from(value.as_i64().unwrap()).unwrap()
}

/// A request for the echo of those agents.
pub(super) fn echo(agents: &str) -> Value {
    json!({
        "namespace": "sample", "method": "echo", "args": {"n": 1, "x": [null, "ü", 0.25]},
        "on": {"agents": agents},
    })
}
