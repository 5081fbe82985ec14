//! Ports: asked from the agent, mirrored on record.

use goperation::{Error, Reason, v1::*};
use serde_json::json;

use crate::{
    fake::{args, object},
    harness::{Manager, answer},
};

async fn with_entity() -> (Manager, i32) {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.try_create(id, "db").await.unwrap();
    (manager, id)
}

fn reserve(wishes: Vec<PortWish>) -> CreatePortRequest {
    CreatePortRequest {
        endpoint: "db".to_owned(),
        entity: 1,
        wishes,
        message_id: "reserve-1".to_owned(),
    }
}

fn wish(port: i32, protocol: Protocol) -> PortWish {
    PortWish { port, protocol: protocol.into(), ..PortWish::default() }
}

async fn ports(manager: &Manager, agent_id: i32, filter: &str) -> Vec<(i32, Protocol)> {
    let request =
        IndexPortsRequest { agent_id, filter: filter.to_owned(), ..IndexPortsRequest::default() };
    let answer = answer(manager.ports().index_ports(request).await).unwrap();
    answer.ports.iter().map(|port| (port.port, port.protocol())).collect()
}

async fn show(manager: &Manager, agent_id: i32, port: i32, p: Protocol) -> Result<Port, Error> {
    let request = ShowPortRequest { agent_id, port, protocol: p.into() };
    answer(manager.ports().show_port(request).await).map(|answer| answer.port.unwrap())
}

#[tokio::test]
async fn ports_are_reserved_shown_and_listed() {
    let (manager, id) = with_entity().await;
    let request = reserve(vec![wish(7200, Protocol::Udp), wish(7100, Protocol::Both)]);
    let granted = answer(manager.ports().create_port(request.clone()).await).unwrap().ports;
    let granted: Vec<_> = granted.iter().map(|port| (port.port, port.entity)).collect();
    assert_eq!(granted, [(7200, 1), (7100, 1)]);
    let call = &manager.fake.calls("frozen_port")[0];
    assert_eq!(call.message_id, "reserve-1");
    assert_eq!(call.target.as_ref().unwrap().namespace, "manager");
    assert_eq!(args(call)["endpoint"], "db");

    // The same again gets the same answer and changes nothing.
    answer(manager.ports().create_port(request).await).unwrap();
    let manager = manager.crash().await;
    assert_eq!(ports(&manager, id, "").await, [(7100, Protocol::Both), (7200, Protocol::Udp)]);
    assert_eq!(ports(&manager, id, "port > 7100 AND protocol = UDP").await.len(), 1);
    assert_eq!(show(&manager, id, 7200, Protocol::Unspecified).await.unwrap().endpoint, "db");
    assert_eq!(show(&manager, id, 7100, Protocol::Tcp).await.unwrap().port, 7100);
    let error = show(&manager, id, 7200, Protocol::Tcp).await.unwrap_err();
    assert_eq!(error.reason, Reason::PortNotFound);
    let request =
        IndexPortsRequest { endpoint: "db".into(), entity: 1, ..IndexPortsRequest::default() };
    assert_eq!(answer(manager.ports().index_ports(request).await).unwrap().total_size, 2);
}

#[tokio::test]
async fn what_cannot_be_reserved_is_refused() {
    let (manager, _) = with_entity().await;
    let mut bad = reserve(vec![PortWish { count: 2, ..wish(7000, Protocol::Tcp) }]);
    bad.entity = 0;
    bad.message_id = "a b".to_owned();
    let error = answer(manager.ports().create_port(bad).await).unwrap_err();
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["entity", "message_id", "wishes[0].count"]);
    let error = answer(manager.ports().create_port(reserve(vec![])).await).unwrap_err();
    assert_eq!(error.violations[0].field, "wishes");
    let other = CreatePortRequest { entity: 2, ..reserve(vec![wish(7000, Protocol::Tcp)]) };
    let error = answer(manager.ports().create_port(other).await).unwrap_err();
    assert_eq!(error.reason, Reason::EntityNotFound);
    for reason in [Reason::AgentOffline, Reason::PortTaken, Reason::PortOutOfRange] {
        manager.fake.refuse(reason);
        let request = reserve(vec![wish(7000, Protocol::Tcp)]);
        assert_eq!(answer(manager.ports().create_port(request).await).unwrap_err().reason, reason);
    }
    assert!(manager.entity("db", 1).await.unwrap().ports.is_empty());
}

#[tokio::test]
async fn ports_are_freed_whole_or_by_protocol() {
    let (manager, id) = with_entity().await;
    let wishes = vec![wish(7100, Protocol::Both), wish(7101, Protocol::Tcp)];
    answer(manager.ports().create_port(reserve(wishes)).await).unwrap();

    manager.fake.answer(|_| {
        Ok(object(json!({"freed": [{"port": 7100, "protocol": "tcp"}], "unknown": [7999]})))
    });
    let request = FreePortsRequest {
        agent_id: id,
        ports: vec![7100, 7999],
        protocol: Protocol::Tcp.into(),
        ..FreePortsRequest::default()
    };
    let freed = answer(manager.ports().free_ports(request).await).unwrap();
    assert_eq!((freed.freed[0].port, freed.freed[0].protocol()), (7100, Protocol::Tcp));
    assert_eq!((freed.freed[0].endpoint.as_str(), freed.freed[0].entity), ("db", 1));
    assert_eq!(freed.unknown, [7999]);
    assert_eq!(
        args(&manager.fake.calls("free_ports")[0]),
        object(json!({"ports": [7100, 7999], "protocol": "tcp"}))
    );
    assert_eq!(ports(&manager, id, "").await, [(7100, Protocol::Udp), (7101, Protocol::Tcp)]);

    manager.fake.answer(|_| {
        Ok(object(json!({"freed": [{"port": 7101, "protocol": "tcp"}], "unknown": []})))
    });
    let delete = DeletePortRequest { agent_id: id, port: 7101, protocol: 0 };
    let freed = answer(manager.ports().delete_port(delete).await).unwrap().freed;
    assert_eq!(freed.len(), 1);
    assert_eq!(ports(&manager, id, "").await, [(7100, Protocol::Udp)]);

    let strict = FreePortsRequest {
        agent_id: id,
        ports: vec![7100],
        strict: true,
        ..FreePortsRequest::default()
    };
    manager.fake.refuse(Reason::PortNotFound);
    let error = answer(manager.ports().free_ports(strict).await).unwrap_err();
    assert_eq!(error.reason, Reason::PortNotFound);
    let call = manager.fake.calls("free_ports").pop().unwrap();
    assert_eq!(args(&call), object(json!({"ports": [7100], "protocol": "both", "strict": true})));
    assert_eq!(ports(&manager, id, "").await, [(7100, Protocol::Udp)]);

    // Free already: fine.
    manager.fake.answer(|_| Ok(object(json!({"freed": [], "unknown": [7101]}))));
    assert!(answer(manager.ports().delete_port(delete).await).unwrap().freed.is_empty());
    manager.fake.refuse(Reason::AgentOffline);
    let error = answer(manager.ports().delete_port(delete).await).unwrap_err();
    assert_eq!(error.reason, Reason::AgentOffline);
}
