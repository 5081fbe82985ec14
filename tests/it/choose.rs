//! Creation where a choice falls, on real agents: refusals, idempotency keys, and a manager that is
//! killed in between.

use std::{fs, path::Path};

use goperation::{Error, Reason, struct_to_json, v1};
use goperation_bridge::rabbit::CastQueue;
use goperation_harness::{free_ports, poll_for, poll_until};
use serde_json::json;
use tonic::{Request, transport::Channel};

use crate::{
    fleet::{Fleet, On, SOON, TestAgent, script},
    procs::Site,
};

type Endpoints = v1::endpoint_service_client::EndpointServiceClient<Channel>;

/// Two ports for an entity of `tt`, on the agent with the lowest number that has them.
fn request(key: &str) -> v1::CreateEntityRequest {
    v1::CreateEntityRequest {
        endpoint: "tt".to_owned(),
        weighters: vec!["id".to_owned()],
        ports: vec![v1::PortWish { count: 2, name: "p".to_owned(), ..v1::PortWish::default() }],
        labels: [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into(),
        idempotency_key: key.to_owned(),
        ..v1::CreateEntityRequest::default()
    }
}

async fn create(
    fleet: &Fleet,
    request: v1::CreateEntityRequest,
) -> Result<v1::CreateEntityResponse, Error> {
    let mut request = Request::new(request);
    request.set_timeout(SOON);
    let answer = fleet.entities().create_entity(request).await;
    answer.map(tonic::Response::into_inner).map_err(|s| Error::from_status(&s))
}

/// An agent that is ACTIVE and has reported.
async fn ready(fleet: &Fleet, host: &str, ports: &[u16], make: &Path, more: &str) -> TestAgent {
    let toml = format!(
        "ports_ranges = [\"{}-{}\"]\n[endpoints.tt]\n{more}\
         [endpoints.tt.methods.create]\nprogram = [{make:?}]\n",
        ports[0],
        ports[ports.len() - 1],
    );
    let agent = fleet.agent(host, &toml).await;
    fleet.activate(&agent).await;
    fleet.call(agent.target("manager"), "flush_report", json!({}), SOON).await.unwrap();
    agent
}

fn runs(fleet: &Fleet) -> usize {
    fs::read_to_string(fleet.path().join("runs")).unwrap_or_default().lines().count()
}

async fn placed(on: On) {
    let fleet = Fleet::start(on).await;
    let log = fleet.path().join("runs");
    let make = script(fleet.path(), "make", &format!("echo run >> {log:?}"));
    let ports = free_ports(9);
    // The first has too few ports, and the second may have one entity only.
    let small = ready(&fleet, "h1", &ports[..1], &make, "").await;
    let single = ready(&fleet, "h2", &ports[1..5], &make, "max_entities = 1\n").await;
    let large = ready(&fleet, "h3", &ports[5..], &make, "").await;

    let choose = v1::ChooseRequest {
        name: "tt".to_owned(),
        includes: vec!["cpu>=1".to_owned(), "left>0".to_owned(), "time<600".to_owned()],
        weighters: vec!["id/-1".to_owned()],
        limit: 2,
    };
    let mut endpoints = Endpoints::new(fleet.channel.clone());
    let chosen = endpoints.choose(choose).await.unwrap().into_inner();
    let ids: Vec<_> = chosen.candidates.iter().map(|c| c.agent_id).collect();
    assert_eq!(ids, [large.wire_id(), single.wire_id()], "{chosen:?}");

    let dry = v1::CreateEntityRequest { dry: true, ..request("") };
    let dry = create(&fleet, dry).await.unwrap();
    assert_eq!((dry.candidates.len(), dry.entity, runs(&fleet)), (3, None, 0));

    let first = create(&fleet, request("one")).await.unwrap();
    let entity = first.entity.clone().unwrap();
    assert_eq!((entity.agent_id, entity.number), (single.wire_id(), 2));
    let refused: Vec<_> = first.refused.iter().map(|r| (r.agent_id, r.reason.as_str())).collect();
    assert_eq!(refused, [(small.wire_id(), "PORTS_EXHAUSTED")]);
    assert_eq!(entity.ports.len(), 2);
    assert_eq!(create(&fleet, request("one")).await.unwrap(), first);
    let other = v1::CreateEntityRequest { description: "d".to_owned(), ..request("one") };
    assert_eq!(create(&fleet, other).await.unwrap_err().reason, Reason::KeyReused);

    // Of many at the same time one creates.
    let repeats = (0..12).map(|_| create(&fleet, request("two")));
    let repeats = futures::future::join_all(repeats).await;
    let second = repeats[0].clone().unwrap();
    assert!(repeats.iter().all(|repeat| repeat.as_ref() == Ok(&second)), "{repeats:?}");
    assert_eq!(second.entity.unwrap().agent_id, large.wire_id());
    let refused: Vec<_> = second.refused.iter().map(|r| r.reason.as_str()).collect();
    assert_eq!(refused, ["PORTS_EXHAUSTED", "STATE_REFUSED"]);
    assert_eq!(runs(&fleet), 2);

    let many = v1::PortWish { count: 50, ..v1::PortWish::default() };
    let error = create(&fleet, v1::CreateEntityRequest { ports: vec![many], ..request("three") });
    let error = error.await.unwrap_err();
    assert_eq!(error.reason, Reason::NoAgentSuits, "{error}");
    for (agent, reason) in
        [(&small, "PORTS_EXHAUSTED"), (&single, "STATE_REFUSED"), (&large, "PORTS_EXHAUSTED")]
    {
        assert_eq!(error.metadata[&format!("agent_{}", agent.id)], reason, "{error}");
        assert!(error.message.contains(&agent.host), "{error}");
    }

    // What is there in the end is what was said, and nothing else.
    let index = v1::IndexEntitiesRequest { endpoint: "tt".to_owned(), ..Default::default() };
    let all = fleet.entities().index_entities(index).await.unwrap().into_inner().entities;
    let all: Vec<_> = all.iter().map(|e| (e.agent_id, e.state(), e.ports.len())).collect();
    let is = |agent: &TestAgent| (agent.wire_id(), v1::EntityState::Ready, 2);
    assert_eq!(all, [is(&single), is(&large)]);
    for agent in [small, single, large] {
        agent.stop().await;
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_is_placed_on_the_embedded_transport() {
    placed(On::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_is_placed_over_rabbitmq() {
    placed(On::Rabbit(CastQueue::Classic)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_killed_while_it_creates_makes_one() {
    let mut site = Site::start().await;
    let (log, go) = (site.path().join("runs"), site.path().join("go"));
    let body = format!(
        "echo run >> {log:?}\nwhile [ ! -e {go:?} ]; do sleep 0.02; done\necho '{{\"made\": 7}}'"
    );
    let make = script(site.path(), "make", &body);
    let ports = free_ports(2);
    let toml = format!(
        "ports_ranges = [\"{}-{}\"]\n[endpoints.tt.methods.create]\nprogram = [{make:?}]\n",
        ports[0], ports[1]
    );
    let agent = site.active_agent("h1", &toml).await;
    site.call("h1", "manager", "flush_report", json!({}), SOON).await.unwrap();

    let timed = || {
        let mut request = Request::new(request("key"));
        request.set_timeout(SOON);
        request
    };
    let mut client = site.entities();
    let first = tokio::spawn(async move { client.create_entity(timed()).await });
    let begun = async || fs::exists(&log).unwrap();
    poll_until(SOON, "it is being created", begun).await;
    site.kill_manager();
    let lost = first.await.unwrap().unwrap_err();
    assert_ne!(Error::from_status(&lost).reason, Reason::NoAgentSuits, "{lost}");
    site.start_manager().await;
    fs::write(&go, "").unwrap();

    // The new manager may have to connect first.
    let answered = poll_for(2 * SOON, "a repeat is answered", async || {
        match site.entities().create_entity(timed()).await {
            Ok(answer) => Some(answer.into_inner()),
            Err(status) => {
                let error = Error::from_status(&status);
                let passing =
                    [Reason::Unavailable, Reason::BrokerUnavailable, Reason::OutcomeUnknown];
                assert!(passing.contains(&error.reason), "{error:?}");
                None
            }
        }
    })
    .await;
    let entity = answered.entity.clone().unwrap();
    assert_eq!((entity.agent_id, entity.number), (agent.id, 1));
    assert_eq!((entity.state(), entity.ports.len()), (v1::EntityState::Ready, 2));
    let result = struct_to_json("result", answered.result.as_ref()).unwrap();
    assert_eq!(result["made"], 7);
    assert_eq!(fs::read_to_string(&log).unwrap(), "run\n");
    let again = site.entities().create_entity(timed()).await.unwrap().into_inner();
    assert_eq!(again, answered);
    drop(agent);
    site.stop().await;
}
