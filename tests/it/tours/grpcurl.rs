//! The tour by grpcurl.

mod requests;

use std::{
    fmt::Write as _,
    process::Stdio,
    sync::{Mutex, PoisonError},
};

use goperation_harness::{grpcurl, poll_until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::fleet::SOON;

struct Tour<'a> {
    address: &'a str,
    transcript: Mutex<String>,
}

/// Runs it and answers its transcript.
pub(super) async fn tour(address: &str) -> String {
    let tour = Tour { address, transcript: Mutex::default() };
    tour.agents().await;
    tour.entity().await;
    tour.process().await;
    tour.messages().await;
    tour.requests().await;
    tour.back().await;
    tour.transcript.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// One agent's endpoint.
fn sample(host: &str) -> Value {
    json!({"topic": "agent.application", "host": host, "namespace": "sample"})
}

/// The last part of an enum's name, as `gop` shows it.
fn short(value: &Value, prefix: &str) -> String {
    value.as_str().unwrap().strip_prefix(prefix).unwrap().to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn state(agent: &Value) -> String {
    short(&agent["state"], "AGENT_STATE_")
}

fn protocol(port: &Value) -> String {
    short(&port["protocol"], "PROTOCOL_").to_lowercase()
}

/// `game=20000/udp,web=20050/tcp`
fn ports(ports: &Value) -> String {
    let ports = ports.as_array().unwrap().iter();
    let shown = |p: &Value| format!("{}={}/{}", text(&p["name"]), p["port"], protocol(p));
    ports.map(shown).collect::<Vec<_>>().join(",")
}

impl Tour<'_> {
    fn say(&self, line: std::fmt::Arguments<'_>) {
        writeln!(self.transcript.lock().unwrap(), "{line}").unwrap();
    }

    fn command(&self, method: &str, request: &Value) -> Command {
        let mut command = Command::new(grpcurl());
        command
            .args(["-plaintext", "-emit-defaults", "-format-error", "-d", &request.to_string()])
            .arg(self.address)
            .arg(format!("goperation.v1.{method}"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn ask(&self, method: &str, request: Value) -> Value {
        let out = self.command(method, &request).output().await.unwrap();
        let wrong = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{method} {request}: {wrong}");
        serde_json::from_slice(&out.stdout).unwrap()
    }

    async fn agents(&self) {
        let index = self.ask("AgentService/IndexAgents", json!({})).await;
        for agent in index["agents"].as_array().unwrap() {
            let online = if agent["online"] == true { "online" } else { "offline" };
            let (id, kind, host) = (&agent["id"], text(&agent["type"]), text(&agent["host"]));
            self.say(format_args!("agent {id} {kind} {host} {} {online}", state(agent)));
        }
        for id in [1, 2] {
            let agent = self.ask("AgentService/ActivateAgent", json!({"id": id})).await;
            self.say(format_args!("activated {id} {}", state(&agent["agent"])));
        }
        let index = self.ask("EndpointService/IndexEndpoints", json!({})).await;
        for endpoint in index["endpoints"].as_array().unwrap() {
            let methods = endpoint["methods"].as_array().unwrap();
            let methods: Vec<_> = methods.iter().map(|method| text(&method["name"])).collect();
            let (name, methods) = (text(&endpoint["name"]), methods.join(","));
            let (agents, entities) = (&endpoint["agents"], &endpoint["entities"]);
            self.say(format_args!(
                "endpoint {name} on {agents} agents with {entities} entities: {methods}"
            ));
        }
    }

    async fn entity(&self) {
        let wishes = json!([
            {"name": "game", "protocol": "PROTOCOL_UDP"},
            {"name": "web", "port": 20050, "protocol": "PROTOCOL_TCP"},
        ]);
        let create = json!({"endpoint": "sample", "agentId": 1, "ports": wishes});
        let created = self.ask("EntityService/CreateEntity", create).await;
        let entity = &created["entity"];
        let (number, on) = (&entity["number"], &entity["agentId"]);
        let state = short(&entity["state"], "ENTITY_STATE_");
        let (ports, result) = (ports(&entity["ports"]), &created["result"]);
        self.say(format_args!("created sample:{number} on {on} {state} {ports} {result}"));

        let name = json!({"endpoint": "sample", "number": 1});
        let status = self.ask("EntityService/StatusEntity", name).await;
        let state = short(&status["entity"]["state"], "ENTITY_STATE_");
        assert!(status["result"]["pid"].is_number(), "{status}");
        self.say(format_args!("status sample:1 {state} alive={}", status["result"]["alive"]));

        let index = self.ask("PortService/IndexPorts", json!({"agentId": 1})).await;
        for port in index["ports"].as_array().unwrap() {
            let (number, protocol, name) = (&port["port"], protocol(port), text(&port["name"]));
            let (endpoint, entity) = (text(&port["endpoint"]), &port["entity"]);
            self.say(format_args!("port {number}/{protocol} {name} {endpoint}:{entity}"));
        }
    }

    async fn process(&self) {
        let running = |process: &Value| short(&process["state"], "PROCESS_STATE_");
        let choose = json!({"name": "clock", "weighters": ["entities"]});
        let best = self.ask("EndpointService/Choose", choose).await;
        let best = best["candidates"].as_array().unwrap().iter();
        let best: Vec<_> = best.map(|agent| agent["agentId"].to_string()).collect();
        self.say(format_args!("chosen for clock {}", best.join(",")));
        let created = self.ask("EntityService/CreateEntity", json!({"endpoint": "clock"})).await;
        let (number, on) = (&created["entity"]["number"], &created["entity"]["agentId"]);
        self.say(format_args!("created clock:{number} on {on}"));
        let name = json!({"endpoint": "clock", "number": number});
        let ask = async |method: &str| {
            let method = format!("EntityService/{method}Entity");
            self.ask(&method, name.clone()).await["process"].take()
        };
        let started = ask("Start").await;
        self.say(format_args!("started clock:1 {}", running(&started)));
        let status = ask("Status").await;
        assert_eq!(status["pid"], started["pid"]);
        assert_ne!(status["memoryBytes"], "0");
        let restarts = &status["restarts"];
        self.say(format_args!("status clock:1 {} restarts={restarts}", running(&status)));
        let again = ask("Restart").await;
        assert_ne!(again["pid"], started["pid"]);
        self.say(format_args!("restarted clock:1 {}", running(&again)));
        let stopped = ask("Stop").await;
        let (state, ended) = (running(&stopped), &stopped["lastExit"]);
        let (code, cause) = (&ended["code"], text(&ended["cause"]));
        self.say(format_args!("stopped clock:1 {state} code={code} cause={cause}"));
        ask("Start").await;
        let killed = ask("Kill").await;
        let (state, ended) = (running(&killed), &killed["lastExit"]);
        let (signal, cause) = (&ended["signal"], text(&ended["cause"]));
        self.say(format_args!("killed clock:1 {state} signal={signal} cause={cause}"));
        self.ask("EntityService/DeleteEntity", name.clone()).await;
        self.say(format_args!("deleted clock:1"));
    }

    async fn messages(&self) {
        let call = json!({"target": sample("dev1"), "method": "echo", "args": {"x": 1}});
        let called = self.ask("BridgeService/Call", call).await;
        let result = &called["result"];
        assert_eq!(result["message_id"], called["messageId"]);
        let (endpoint, method) = (text(&result["endpoint"]), text(&result["method"]));
        self.say(format_args!("called {endpoint}.{method} {}", result["args"]));

        let args = json!({"entity": 1, "text": "hello"});
        let cast = json!({"target": sample("dev1"), "method": "say", "args": args});
        let sent = self.ask("BridgeService/Cast", cast).await;
        self.say(format_args!("cast to sample:1 as {}", text(&sent["messageId"])));
        let said = self.said("dev1", json!({"entity": 1}), "hello").await;
        self.say(format_args!("said in sample:1 {said}"));

        let all = json!({"topic": "agent", "fanout": true, "namespace": "sample"});
        let cast = json!({"target": all, "method": "say", "args": {"text": "everyone"}});
        let sent = self.ask("BridgeService/Cast", cast).await;
        self.say(format_args!("cast to all as {}", text(&sent["messageId"])));
        for host in ["dev1", "dev2"] {
            let said = self.said(host, json!({}), "everyone").await;
            self.say(format_args!("said on {host} {said}"));
        }

        let notify = json!({"queue": "news", "payload": {"n": 1}});
        let sent = self.ask("BridgeService/Notify", notify).await;
        self.say(format_args!("notified news as {}", text(&sent["messageId"])));
        self.receive().await;
        self.queues().await;
    }

    /// What a CAST does is seen a moment later.
    async fn said(&self, host: &str, args: Value, last: &str) -> String {
        let mut said = json!({});
        poll_until(SOON, &format!("{last} is said on {host}"), async || {
            let call = json!({"target": sample(host), "method": "said", "args": args});
            said = self.ask("BridgeService/Call", call).await["result"].take();
            said["last"] == last
        })
        .await;
        format!("{} {}", said["lines"], text(&said["last"]))
    }

    async fn receive(&self) {
        let request = json!({"queue": "news"});
        let mut command = self.command("BridgeService/Receive", &request);
        let mut stream = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(stream.stdout.take().unwrap()).lines();
        let message = async {
            let mut message = String::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                message.push_str(&line);
                // grpcurl prints a message over several lines; the last one is this.
                if line == "}" {
                    return serde_json::from_str::<Value>(&message).unwrap();
                }
            }
            panic!("the stream has ended: {message}")
        };
        let message = tokio::time::timeout(SOON, message).await.expect("the message comes");
        let acknowledge = json!({"queue": "news", "ackTokens": [message["ackToken"]]});
        let unknown = self.ask("BridgeService/Acknowledge", acknowledge).await;
        assert_eq!(unknown["unknown"], json!([]));
        assert_eq!(message["redelivered"], false);
        let id = text(&message["messageId"]);
        self.say(format_args!("received {id} {}", message["payload"]));
        stream.kill().await.unwrap();
    }

    /// The stream has ended here, but the manager sees that a moment later.
    async fn queues(&self) {
        let mut index = json!({});
        poll_until(SOON, "the queue of news is at rest", async || {
            index = self.ask("BridgeService/IndexQueues", json!({})).await;
            let news = index["queues"].as_array().unwrap().iter();
            news.clone().any(|q| q["name"] == "notify.news" && q["consumers"] == 0)
        })
        .await;
        for queue in index["queues"].as_array().unwrap() {
            assert_eq!(queue["exists"], true, "{queue}");
            let (name, depth, consumers) =
                (text(&queue["name"]), &queue["depth"], &queue["consumers"]);
            self.say(format_args!("queue {name} {depth} {consumers}"));
        }
    }

    async fn back(&self) {
        let free = json!({"agentId": 1, "ports": [20050]});
        let freed = self.ask("PortService/FreePorts", free).await;
        assert_eq!(freed["unknown"], json!([]));
        self.say(format_args!("freed {}", ports(&freed["freed"])));
        let name = json!({"endpoint": "sample", "number": 1});
        let deleted = self.ask("EntityService/DeleteEntity", name).await;
        self.say(format_args!("deleted sample:1 {}", deleted["result"]));
        let deleted = self.ask("AgentService/DeleteAgent", json!({"id": 2})).await;
        self.say(format_args!("deleted agent 2 {}", state(&deleted["agent"])));
        let all = self.ask("AgentService/IndexAgents", json!({"showDeleted": true})).await;
        for agent in all["agents"].as_array().unwrap() {
            self.say(format_args!("agent {} {}", agent["id"], state(agent)));
        }
        let off = json!({"id": 1, "state": "AGENT_STATE_UNACTIVE"});
        let agent = self.ask("AgentService/ActivateAgent", off).await;
        self.say(format_args!("activated 1 {}", state(&agent["agent"])));

        let create = json!({"endpoint": "sample", "agentId": 1});
        let out = self.command("EntityService/CreateEntity", &create).output().await.unwrap();
        assert!(!out.status.success(), "{out:?}");
        let status: Value = serde_json::from_slice(&out.stderr).unwrap();
        assert_eq!(status["code"], i32::from(tonic::Code::FailedPrecondition));
        let info = status["details"].as_array().unwrap().iter();
        let kind = "type.googleapis.com/google.rpc.ErrorInfo";
        let info = info.clone().find(|detail| detail["@type"] == kind).expect("it is typed");
        let (reason, message) = (text(&info["reason"]), text(&status["message"]));
        self.say(format_args!("refused FAILED_PRECONDITION {reason}: {message}"));
    }
}
