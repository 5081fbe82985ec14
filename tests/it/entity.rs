//! Entities and their ports, from the API to the agent's host and back.

use std::net::{TcpListener, UdpSocket};

use goperation::{Error, Reason, v1};
use goperation_bridge::rabbit::CastQueue;
use goperation_harness::free_ports;

use crate::fleet::{Fleet, On, TestAgent, script};

fn wish(port: i32, protocol: v1::Protocol, name: &str) -> v1::PortWish {
    v1::PortWish { port, protocol: protocol.into(), count: 0, name: name.to_owned() }
}

async fn create(
    fleet: &Fleet,
    agent: &TestAgent,
    ports: Vec<v1::PortWish>,
) -> Result<v1::Entity, Error> {
    let request = v1::CreateEntityRequest {
        endpoint: "tt".to_owned(),
        agent_id: agent.wire_id(),
        ports,
        ..v1::CreateEntityRequest::default()
    };
    let answer =
        fleet.entities().create_entity(request).await.map_err(|s| Error::from_status(&s))?;
    Ok(answer.into_inner().entity.expect("the entity"))
}

async fn life(on: On) {
    let fleet = Fleet::start(on).await;
    let make = script(fleet.path(), "make", "cat > input.json");
    let first = free_ports(4)[0];
    let (held, last) = (first + 1, first + 3);
    let toml = format!(
        "ports_ranges = [\"{first}-{last}\"]\n[endpoints.tt.methods.create]\nprogram = [{make:?}]\n"
    );
    let agent = fleet.agent("h1", &toml).await;

    let error = create(&fleet, &agent, vec![]).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentNotActive, "{error}");
    fleet.activate(&agent).await;

    // A foreign holder is refused by name when its port is given, and skipped when any will do.
    let foreign = TcpListener::bind(("127.0.0.1", held)).unwrap();
    let given = vec![wish(held.into(), v1::Protocol::Tcp, "game")];
    let error = create(&fleet, &agent, given).await.unwrap_err();
    assert_eq!(error.reason, Reason::PortTaken, "{error}");
    assert!(error.message.contains(&std::process::id().to_string()), "who holds it: {error}");
    let any = v1::PortWish { count: 3, ..wish(0, v1::Protocol::Both, "p") };
    let entity = create(&fleet, &agent, vec![any]).await.unwrap();
    let numbers: Vec<_> = entity.ports.iter().map(|p| p.port).collect();
    let all_but_held: Vec<i32> = (first..=last).filter(|p| *p != held).map(Into::into).collect();
    assert_eq!(numbers, all_but_held);
    assert!(entity.ports.iter().all(|p| p.name.starts_with("p-")));
    // Numbers of refused creates are burnt.
    assert!(entity.number > 1);

    // The method ran in the entity's home and was told its ports.
    let home = agent.work_dir.join("tt").join(entity.number.to_string());
    let input = std::fs::read_to_string(home.join("input.json")).unwrap();
    assert!(input.contains(&format!("\"port\":{first}")), "{input}");

    // Nothing is left until the foreign holder goes.
    let reserve = |wishes| v1::CreatePortRequest {
        endpoint: "tt".to_owned(),
        entity: entity.number,
        wishes,
        message_id: String::new(),
    };
    let tcp = || vec![wish(0, v1::Protocol::Tcp, "")];
    let error = fleet.ports().create_port(reserve(tcp())).await.unwrap_err();
    assert_eq!(Error::from_status(&error).reason, Reason::PortsExhausted, "{error}");
    drop(foreign);
    let udp = UdpSocket::bind(("127.0.0.1", held)).unwrap();
    let more = fleet.ports().create_port(reserve(tcp())).await.unwrap().into_inner().ports;
    assert_eq!((more[0].port, more[0].protocol()), (held.into(), v1::Protocol::Tcp));
    drop(udp);

    // Freeing what is not reserved is told, not refused.
    let free = v1::FreePortsRequest {
        agent_id: agent.wire_id(),
        ports: vec![held.into(), 1],
        ..v1::FreePortsRequest::default()
    };
    let freed = fleet.ports().free_ports(free).await.unwrap().into_inner();
    assert_eq!((freed.freed.len(), freed.unknown.as_slice()), (1, [1].as_slice()));

    let delete = v1::DeleteEntityRequest {
        endpoint: "tt".to_owned(),
        number: entity.number,
        ..v1::DeleteEntityRequest::default()
    };
    fleet.entities().delete_entity(delete.clone()).await.unwrap();
    fleet.entities().delete_entity(delete).await.expect("a repeat succeeds");
    assert!(!home.exists());
    let index = v1::IndexPortsRequest { agent_id: agent.wire_id(), ..Default::default() };
    let left = fleet.ports().index_ports(index).await.unwrap().into_inner();
    assert_eq!(left.total_size, 0);
    let next = create(&fleet, &agent, vec![]).await.unwrap();
    assert!(next.number > entity.number, "a number was used twice");
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn life_embedded() {
    life(On::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn life_rabbit() {
    life(On::Rabbit(CastQueue::Classic)).await;
}
