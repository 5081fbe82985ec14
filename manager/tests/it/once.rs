//! Idempotency keys of everything that creates or commands: one effect and one answer for each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use goperation::{Error, MessageId, Reason, json_to_struct, v1::*};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Request;

use crate::{
    fake::{Answer, object, willing},
    harness::{Manager, answer, until},
};

fn keyed<Q>(key: &str, q: Q) -> Request<Q> {
    let mut request = Request::new(q);
    request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

/// A host whose agent has a journal: what was done under a message id is answered again.
#[derive(Debug, Clone, Default)]
struct Host(Arc<Mutex<Done>>);

#[derive(Debug, Default)]
struct Done {
    journal: HashMap<String, Answer>,
    /// How often each method had its effect.
    effects: HashMap<String, usize>,
    /// Whether nobody hears the answers.
    silent: bool,
}

impl Host {
    fn on(manager: &Manager) -> Self {
        let agent = Self::default();
        let all = agent.clone();
        manager.fake.answer_later(move |call| {
            let answered = all.run(&call);
            let silent = all.look(|done| done.silent);
            async move { if silent { std::future::pending().await } else { answered } }.boxed()
        });
        agent
    }

    fn look<T>(&self, look: impl FnOnce(&mut Done) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    fn run(&self, call: &CallRequest) -> Answer {
        self.look(|done| {
            if let Some(answered) = done.journal.get(&call.message_id) {
                return answered.clone();
            }
            let effect = done.effects.entry(call.method.clone()).or_default();
            *effect += 1;
            let answered = match call.method.as_str() {
                "upgrade_agent" => Ok(object(json!({
                    "file": "f", "exit": "0", "log": "l", "output": "o", "version_before": "1",
                    "version_after": "2", "begin_time": 1, "end_time": 2,
                }))),
                "echo" => Ok(object(json!({"effect": effect}))),
                _ => willing(call),
            };
            done.journal.insert(call.message_id.clone(), answered.clone());
            answered
        })
    }

    fn effects(&self, method: &str) -> usize {
        self.look(|done| done.effects.get(method).copied().unwrap_or_default())
    }
}

/// Asks with the key `key`, for the same or for something else.
type Ask = Box<dyn Fn(&Manager, &str, bool) -> BoxFuture<'static, Result<Vec<u8>, Error>> + Send>;

/// An answer so that two of them can be compared: maps have no order of their own, so neither has
/// their encoding.
fn comparable(answer: &impl prost::Message) -> Vec<u8> {
    let mut bytes = answer.encode_to_vec();
    bytes.sort_unstable();
    bytes
}

/// A case: method, what the agent calls it if it is asked, and how to ask.
struct Case {
    method: &'static str,
    effect: &'static str,
    ask: Ask,
}

macro_rules! case {
    ($client:ident.$method:ident, $effect:literal, $q:expr, |$other:ident| $change:expr) => {{
        let q = $q;
        Case {
            method: stringify!($method),
            effect: $effect,
            ask: Box::new(move |manager: &Manager, key: &str, other: bool| {
                let mut q = q.clone();
                if other {
                    let $other = &mut q;
                    $change;
                }
                let (mut client, q) = (manager.$client(), keyed(key, q));
                async move { answer(client.$method(q).await).map(|a| comparable(&a)) }.boxed()
            }),
        }
    }};
}

fn cache(key: &str, value: i32) -> Cache {
    let value = json_to_struct("value", &object(json!({"v": value}))).unwrap();
    let ttl = Some(prost_types::Duration { seconds: 600, nanos: 0 });
    Cache { key: key.to_owned(), value: Some(value), ttl, ..Cache::default() }
}

fn target() -> Target {
    Target {
        topic: "agent.application".to_owned(),
        host: "h1".to_owned(),
        fanout: false,
        namespace: "db".to_owned(),
    }
}

/// Every method that asks the agent `h1`, which has entity 1 of `db` with port 7001.
fn commands(id: i32) -> Vec<Case> {
    let db = || "db".to_owned();
    vec![
        case!(agents.activate_agent, "active_agent", ActivateAgentRequest { id, state: 0 }, |q| {
            q.id += 1
        }),
        case!(agents.pause_agent, "pause_agent", PauseAgentRequest { id }, |q| q.id += 1),
        case!(agents.resume_agent, "resume_agent", ResumeAgentRequest { id }, |q| q.id += 1),
        case!(
            entities.start_entity,
            "start_entity",
            StartEntityRequest { endpoint: db(), number: 1, finish_time: None },
            |q| q.number = 2
        ),
        case!(
            entities.stop_entity,
            "stop_entity",
            StopEntityRequest { endpoint: db(), number: 1, ..StopEntityRequest::default() },
            |q| q.grace = Some(prost_types::Duration { seconds: 1, nanos: 0 })
        ),
        case!(
            entities.restart_entity,
            "restart_entity",
            RestartEntityRequest { endpoint: db(), number: 1, ..RestartEntityRequest::default() },
            |q| q.number = 2
        ),
        case!(
            entities.kill_entity,
            "kill_entity",
            KillEntityRequest { endpoint: db(), number: 1 },
            |q| q.number = 2
        ),
        case!(
            ports.create_port,
            "frozen_port",
            CreatePortRequest {
                endpoint: db(),
                entity: 1,
                wishes: vec![PortWish { name: "game".to_owned(), ..PortWish::default() }],
                message_id: String::new(),
            },
            |q| q.wishes[0].name = "query".to_owned()
        ),
        case!(
            ports.free_ports,
            "free_ports",
            FreePortsRequest { agent_id: id, ports: vec![7001], ..FreePortsRequest::default() },
            |q| q.strict = true
        ),
        case!(
            bridge.call,
            "echo",
            CallRequest {
                target: Some(target()),
                method: "echo".to_owned(),
                ..CallRequest::default()
            },
            |q| q.method = "other".to_owned()
        ),
        case!(
            agents.upgrade_agent,
            "upgrade_agent",
            UpgradeAgentRequest { id, file: "f".to_owned(), ..UpgradeAgentRequest::default() },
            |q| q.file = "g".to_owned()
        ),
    ]
}

/// Methods that change only the record, with what must be there for them.
async fn records(manager: &Manager, id: i32) -> Vec<Case> {
    let agent = reserve(manager, "spare").await;
    let create = CreateCacheRequest { cache: Some(cache("known", 1)) };
    manager.caches().create_cache(create).await.unwrap();
    let labels =
        || HashMap::from([("a", "1"), ("b", "2")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    vec![
        case!(agents.create_agent, "", reserved("new"), |q| q.host = "newer".to_owned()),
        case!(
            agents.edit_agent,
            "",
            EditAgentRequest {
                agent: Some(Agent { id, labels: labels(), ..Agent::default() }),
                update_mask: Some(prost_types::FieldMask { paths: vec!["labels".to_owned()] }),
            },
            |q| q.update_mask = None
        ),
        case!(
            endpoints.create_endpoints,
            "",
            CreateEndpointsRequest { agent_id: agent, names: vec!["db".to_owned()] },
            |q| q.names.push("game".to_owned())
        ),
        case!(
            endpoints.delete_endpoints,
            "",
            DeleteEndpointsRequest { agent_id: agent, names: "db".to_owned() },
            |q| q.names += ",game"
        ),
        case!(caches.create_cache, "", CreateCacheRequest { cache: Some(cache("", 1)) }, |q| q
            .cache =
            Some(cache("", 2))),
        case!(
            caches.edit_cache,
            "",
            EditCacheRequest { cache: Some(cache("known", 2)), update_mask: None },
            |q| q.cache = Some(cache("known", 3))
        ),
        case!(
            entities.edit_entity,
            "",
            EditEntityRequest {
                entity: Some(Entity {
                    endpoint: "db".to_owned(),
                    number: 1,
                    labels: labels(),
                    ..Entity::default()
                }),
                update_mask: None,
            },
            |q| q.update_mask = Some(prost_types::FieldMask { paths: vec!["labels".to_owned()] })
        ),
    ]
}

fn reserved(host: &str) -> CreateAgentRequest {
    let metadata = (0..8).map(|i| (format!("k{i}"), "v".to_owned())).collect();
    CreateAgentRequest {
        r#type: "application".to_owned(),
        host: host.to_owned(),
        reserve: true,
        facts: Some(AgentFacts { cpu: 1, metadata, ..AgentFacts::default() }),
        ..CreateAgentRequest::default()
    }
}

async fn reserve(manager: &Manager, host: &str) -> i32 {
    let created = answer(manager.agents().create_agent(reserved(host)).await).unwrap();
    created.agent.unwrap().id
}

/// An agent with an entity that has a port.
async fn fleet(manager: &Manager) -> i32 {
    let id = manager.agent("h1", &["db"]).await;
    let request = CreateEntityRequest {
        endpoint: "db".to_owned(),
        agent_id: id,
        ports: vec![PortWish::default()],
        ..CreateEntityRequest::default()
    };
    answer(manager.entities().create_entity(request).await).unwrap();
    id
}

fn answered(case: &Case, answer: Result<Vec<u8>, Error>) -> Vec<u8> {
    answer.unwrap_or_else(|error| panic!("{}: {error:?}", case.method))
}

async fn together(manager: &Manager, case: &Case) -> Vec<u8> {
    let answers = join_all((0..50).map(|_| (case.ask)(manager, case.method, false))).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answered(case, answer)).collect();
    let first = answers[0].clone();
    assert!(answers.iter().all(|answer| *answer == first), "{}", case.method);
    first
}

#[tokio::test]
async fn fifty_at_once_are_one_and_again_after_a_crash() {
    let manager = Manager::start().await;
    let id = fleet(&manager).await;
    let agent = Host::on(&manager);
    let mut cases = commands(id);
    cases.extend(records(&manager, id).await);
    cases.push(case!(
        bridge.cast,
        "",
        CastRequest { target: Some(target()), method: "tell".to_owned(), ..CastRequest::default() },
        |q| q.method = "other".to_owned()
    ));
    cases.push(case!(
        bridge.notify,
        "",
        NotifyRequest { queue: "q".to_owned(), ..NotifyRequest::default() },
        |q| q.queue = "r".to_owned()
    ));
    cases.push(case!(
        ports.delete_port,
        "",
        DeletePortRequest { agent_id: id, port: 7001, ..DeletePortRequest::default() },
        |q| q.port = 7002
    ));
    cases.push(case!(
        entities.delete_entity,
        "delete_entity",
        DeleteEntityRequest {
            endpoint: "db".to_owned(),
            number: 1,
            ..DeleteEntityRequest::default()
        },
        |q| q.token = "t".to_owned()
    ));
    cases.push(case!(
        agents.delete_agent,
        "delete_agent_precommit",
        DeleteAgentRequest { id, ..DeleteAgentRequest::default() },
        |q| q.force = true
    ));
    let mut answers = Vec::new();
    for case in &cases {
        answers.push(together(&manager, case).await);
    }
    let manager = manager.crash().await;
    for (case, first) in cases.iter().zip(&answers) {
        let again = (case.ask)(&manager, case.method, false).await;
        assert_eq!(again.as_ref(), Ok(first), "{}", case.method);
        let other = (case.ask)(&manager, case.method, true).await.unwrap_err();
        assert_eq!(other.reason, Reason::KeyReused, "{}", case.method);
        assert_eq!(other.metadata["idempotency_key"], case.method);
        if !case.effect.is_empty() {
            let expected = if case.effect == "free_ports" { 2 } else { 1 };
            assert_eq!(agent.effects(case.effect), expected, "{}", case.method);
        }
    }
    // A key is one over all methods.
    let first = &cases[0];
    let error = (first.ask)(&manager, cases[1].method, false).await.unwrap_err();
    assert_eq!(error.reason, Reason::KeyReused);
    manager.fake.look(|seen| {
        assert_eq!(seen.casts.iter().filter(|cast| cast.method == "tell").count(), 1);
        assert_eq!(seen.notifies.len(), 1);
    });
    let request = IndexCachesRequest::default();
    let caches = answer(manager.caches().index_caches(request).await).unwrap();
    assert_eq!(caches.total_size, 2);
    let request = IndexAgentsRequest { filter: "host = new".to_owned(), ..Default::default() };
    assert_eq!(answer(manager.agents().index_agents(request).await).unwrap().total_size, 1);
}

#[tokio::test]
async fn a_command_that_a_crash_broke_off_is_asked_again_under_its_id() {
    let mut manager = Manager::start().await;
    let id = fleet(&manager).await;
    let agent = Host::on(&manager);
    for case in commands(id) {
        agent.look(|done| done.silent = true);
        let waiting = tokio::spawn((case.ask)(&manager, case.method, false));
        until("it is asked for", || async { agent.effects(case.effect) == 1 }).await;
        manager = manager.crash().await;
        waiting.abort();
        agent.look(|done| done.silent = false);
        // Another request may not take the key of one that is open.
        let error = (case.ask)(&manager, case.method, true).await.unwrap_err();
        assert_eq!(error.reason, Reason::KeyReused, "{}", case.method);
        let first = answered(&case, (case.ask)(&manager, case.method, false).await);
        assert_eq!((case.ask)(&manager, case.method, false).await, Ok(first), "{}", case.method);
        let calls = manager.fake.calls(case.effect);
        assert_eq!(calls.len(), 2, "{}", case.method);
        assert_eq!(calls[0].message_id, calls[1].message_id, "{}", case.method);
        assert_eq!(agent.effects(case.effect), 1, "{}", case.method);
    }
}

#[tokio::test]
async fn a_manager_killed_anywhere_leaves_one_effect_on_record() {
    let mut manager = Manager::start().await;
    let agent = reserve(&manager, "spare").await;
    for round in 0..8_i32 {
        let cases = [
            case!(caches.create_cache, "", CreateCacheRequest { cache: Some(cache("", 1)) }, |q| {
                q.cache = None
            }),
            case!(agents.create_agent, "", reserved(&format!("new{round}")), |q| q.host.clear()),
            case!(
                endpoints.create_endpoints,
                "",
                CreateEndpointsRequest { agent_id: agent, names: vec![format!("e{round}x")] },
                |q| q.names.clear()
            ),
        ];
        let key = |case: &Case| format!("{}-{round}", case.method);
        for _ in 0..2 {
            let asked = cases.iter().map(|case| (case.ask)(&manager, &key(case), false));
            let waiting = tokio::spawn(join_all(asked.collect::<Vec<_>>()));
            // Somewhere in it: each takes a few milliseconds.
            tokio::time::sleep(Duration::from_micros(rand::random_range(0..4000))).await;
            manager = manager.crash().await;
            waiting.abort();
            let _ = waiting.await;
        }
        for case in &cases {
            let first = answered(case, (case.ask)(&manager, &key(case), false).await);
            assert_eq!((case.ask)(&manager, &key(case), false).await, Ok(first));
        }
        let request = IndexCachesRequest::default();
        let caches = answer(manager.caches().index_caches(request).await).unwrap();
        assert_eq!(caches.total_size, round + 1);
    }
}

#[tokio::test]
async fn what_had_no_effect_leaves_the_key_free_and_what_had_one_keeps_it() {
    let manager = Manager::start().await;
    fleet(&manager).await;
    let start = async |key: &str, number: i32| {
        let q = StartEntityRequest { endpoint: "db".to_owned(), number, finish_time: None };
        answer(manager.entities().start_entity(keyed(key, q)).await)
    };
    let ids = || -> Vec<_> {
        manager.fake.calls("start_entity").into_iter().map(|call| call.message_id).collect()
    };
    for reason in [Reason::AgentOffline, Reason::AgentBusy, Reason::BrokerUnavailable] {
        manager.fake.refuse(reason);
        assert_eq!(start("free", 1).await.unwrap_err().reason, reason);
    }
    // Checked before anything is sent: nothing of it stays either.
    assert_eq!(start("free", 0).await.unwrap_err().reason, Reason::InvalidArgument);
    manager.fake.agree();
    start("free", 1).await.unwrap();
    let sent = ids();
    // Each was a try of its own: the agent may keep its refusals.
    assert!((1..sent.len()).all(|i| !sent[..i].contains(&sent[i])), "{sent:?}");
    assert!(sent.iter().all(|id| MessageId::parse("id", id).is_ok() && id.len() == 36));

    for reason in [Reason::MethodFailed, Reason::Interrupted] {
        manager.fake.refuse(reason);
        let error = start(reason.as_str(), 1).await.unwrap_err();
        manager.fake.agree();
        assert_eq!(start(reason.as_str(), 1).await.unwrap_err(), error);
        assert_eq!(start(reason.as_str(), 2).await.unwrap_err().reason, Reason::KeyReused);
    }

    let before = ids().len();
    manager.fake.refuse(Reason::OutcomeUnknown);
    assert_eq!(start("open", 1).await.unwrap_err().reason, Reason::OutcomeUnknown);
    // A refusal of the repeat says nothing of the first.
    manager.fake.refuse(Reason::AgentOffline);
    assert_eq!(start("open", 1).await.unwrap_err().reason, Reason::AgentOffline);
    assert_eq!(start("open", 2).await.unwrap_err().reason, Reason::KeyReused);
    manager.fake.agree();
    start("open", 1).await.unwrap();
    let sent = ids().split_off(before);
    assert!(sent.len() == 3 && sent.iter().all(|id| *id == sent[0]), "{sent:?}");
}

#[tokio::test]
async fn who_waits_too_short_for_the_one_before_is_told() {
    let manager = Manager::start().await;
    fleet(&manager).await;
    let agent = Host::on(&manager);
    agent.look(|done| done.silent = true);
    let q = StartEntityRequest { endpoint: "db".to_owned(), number: 1, finish_time: None };
    let (mut client, first) = (manager.entities(), keyed("k", q.clone()));
    let waiting = tokio::spawn(async move { client.start_entity(first).await });
    until("it is asked for", || async { agent.effects("start_entity") == 1 }).await;
    let mut second = keyed("k", q);
    second.set_timeout(Duration::from_secs(1));
    let error = answer(manager.entities().start_entity(second).await).unwrap_err();
    assert_eq!(error.reason, Reason::OutcomeUnknown);
    waiting.abort();
    assert_eq!(agent.effects("start_entity"), 1);
}

#[tokio::test]
async fn a_bad_key_is_refused_and_a_header_is_a_key() {
    let manager = Manager::start().await;
    let q = CreateCacheRequest { cache: Some(cache("", 1)) };
    let mut two = keyed("k", q.clone());
    two.metadata_mut().append("idempotency-key", "l".parse().unwrap());
    for request in [two, keyed(&"k".repeat(129), q)] {
        let error = answer(manager.caches().create_cache(request).await).unwrap_err();
        assert_eq!(error.violations[0].field, "idempotency_key");
    }
    let body = r#"{"value": {"v": 1}, "ttl": "600s"}"#;
    let post = async |key: &str| {
        let mut stream = TcpStream::connect(manager.address()).await.unwrap();
        let request = format!(
            "POST /v1/caches HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nIdempotency-Key: {key}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    };
    let first = post("a").await;
    assert!(first.contains("cache-"), "{first}");
    assert_eq!(post("a").await, first);
    assert_ne!(post("b").await, first);
}
