//! Creation of entities, and what is asked of them.

use futures::FutureExt as _;
use goperation::{Reason, v1::*};
use serde_json::json;

use crate::{
    fake::{args, object},
    harness::{Manager, answer, has, until},
};

#[tokio::test]
async fn an_entity_is_numbered_asked_for_and_ready() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    let request = CreateEntityRequest {
        endpoint: "DB".to_owned(),
        agent_id: id,
        ports: vec![
            PortWish { port: 7100, protocol: Protocol::Tcp.into(), name: "q".into(), count: 0 },
            PortWish { count: 2, ..PortWish::default() },
        ],
        args: Some(goperation::json_to_struct("args", &object(json!({"size": 3}))).unwrap()),
        description: "first".to_owned(),
        labels: [("a".to_owned(), "1".to_owned())].into(),
        ..CreateEntityRequest::default()
    };
    let created = answer(manager.entities().create_entity(request).await).unwrap();
    let entity = created.entity.unwrap();
    assert_eq!((entity.endpoint.as_str(), entity.number, entity.agent_id), ("db", 1, id));
    assert_eq!(entity.state(), EntityState::Ready);
    let ports: Vec<_> = entity.ports.iter().map(|p| (p.port, p.protocol(), &*p.name)).collect();
    assert_eq!(
        ports,
        [(7002, Protocol::Both, ""), (7003, Protocol::Both, ""), (7100, Protocol::Tcp, "q")]
    );
    let result = goperation::struct_to_json("result", created.result.as_ref()).unwrap();
    assert_eq!(result, object(json!({"made": 1})));

    let call = &manager.fake.calls("create_entity")[0];
    assert_eq!(call.target.as_ref().unwrap().namespace, "db");
    assert!(call.finish_time.is_some());
    assert_eq!(
        args(call),
        object(json!({
            "entity": 1,
            "ports": [
                {"port": 7100, "protocol": "tcp", "name": "q"}, {"count": 2, "protocol": "both"},
            ],
            "args": {"size": 3},
        }))
    );
    let manager = manager.crash().await;
    let kept = manager.entity("db", 1).await.unwrap();
    assert_eq!((kept.description.as_str(), kept.ports.len()), ("first", 3));
}

#[tokio::test]
async fn what_cannot_be_created_is_refused_before_it_has_a_number() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    let request = CreateEntityRequest {
        endpoint: "manager".to_owned(),
        agent_id: -1,
        ports: vec![PortWish { port: 7000, count: 2, ..PortWish::default() }],
        labels: [("bad key".to_owned(), String::new())].into(),
        ..CreateEntityRequest::default()
    };
    let error = answer(manager.entities().create_entity(request).await).unwrap_err();
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["endpoint", "agent_id", "ports[0].count", "labels.bad key"]);

    let error = manager.try_create(9, "db").await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentNotFound);
    let error = manager.try_create(id, "game").await.unwrap_err();
    assert_eq!(error.reason, Reason::EndpointNotFound);
    assert!(manager.fake.calls("create_entity").is_empty());
    assert_eq!(manager.try_create(id, "db").await.unwrap().number, 1);
}

#[tokio::test]
async fn a_refusal_leaves_nothing_but_a_used_number() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    for (i, reason) in [
        Reason::AgentOffline,
        Reason::AgentBusy,
        Reason::AgentNotActive,
        Reason::BrokerUnavailable,
        Reason::PortTaken,
        Reason::PortsExhausted,
        Reason::MethodFailed,
        Reason::OverFinishtime,
        Reason::Locked,
    ]
    .into_iter()
    .enumerate()
    {
        manager.fake.refuse(reason);
        let error = manager.try_create(id, "db").await.unwrap_err();
        assert_eq!(error.reason, reason);
        let number = i32::try_from(i).unwrap() + 1;
        assert_eq!(error.metadata["entity"], number.to_string());
        let error = manager.entity("db", number).await.unwrap_err();
        assert_eq!(error.reason, Reason::EntityNotFound);
    }
    assert_eq!(manager.show(id).await.unwrap().entities, 0);
}

#[tokio::test]
async fn an_unknown_outcome_stays_until_a_sync_shows_it() {
    let manager = Manager::with(|config| {
        config.call_timeout = std::time::Duration::from_millis(200);
        config.lease = std::time::Duration::from_millis(300);
    })
    .await;
    let id = manager.agent("h1", &["db"]).await;
    manager.fake.refuse(Reason::OutcomeUnknown);
    for number in 1..=3 {
        let error = manager.try_create(id, "db").await.unwrap_err();
        assert_eq!(error.reason, Reason::OutcomeUnknown);
        assert!(error.metadata.contains_key("message_id"));
        assert_eq!(manager.entity("db", number).await.unwrap().state(), EntityState::Creating);
    }
    let failed = AgentEntity { ready: false, failed: true, ..has("db", 2) };
    let inventory = [has("db", 1), failed];
    // The third never arrived; it is dropped when it cannot arrive any more.
    until("the third is dropped", || async {
        manager.sync(id, "h1", 2, &["db"], &inventory).await.unwrap();
        manager.entity("db", 3).await.is_err()
    })
    .await;
    assert_eq!(manager.entity("db", 1).await.unwrap().state(), EntityState::Ready);
    assert_eq!(manager.entity("db", 2).await.unwrap().state(), EntityState::Failed);
}

#[tokio::test]
async fn an_interrupted_creation_has_failed() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.fake.refuse(Reason::Interrupted);
    assert_eq!(manager.try_create(id, "db").await.unwrap_err().reason, Reason::Interrupted);
    assert_eq!(manager.entity("db", 1).await.unwrap().state(), EntityState::Failed);
}

#[tokio::test]
async fn a_manager_killed_while_it_waits_leaves_it_creating() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.fake.answer_later(|_| std::future::pending().boxed());
    let mut client = manager.entities();
    let request = CreateEntityRequest {
        endpoint: "db".to_owned(),
        agent_id: id,
        ..CreateEntityRequest::default()
    };
    let waiting = tokio::spawn(async move { client.create_entity(request).await });
    until("the agent is asked", || async { !manager.fake.calls("create_entity").is_empty() }).await;
    let manager = manager.crash().await;
    waiting.await.unwrap().unwrap_err();
    assert_eq!(manager.entity("db", 1).await.unwrap().state(), EntityState::Creating);
    // The agent had created it all the same.
    manager.sync(id, "h1", 2, &["db"], &[has("db", 1)]).await.unwrap();
    assert_eq!(manager.entity("db", 1).await.unwrap().state(), EntityState::Ready);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing_half_done() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    let (go, gate) = tokio::sync::watch::channel(false);
    manager.fake.answer_later(move |request| {
        let mut gate = gate.clone();
        async move {
            let _ = gate.wait_for(|open| *open).await;
            crate::fake::willing(&request)
        }
        .boxed()
    });
    let mut client = manager.entities();
    let request = CreateEntityRequest {
        endpoint: "db".to_owned(),
        agent_id: id,
        ..CreateEntityRequest::default()
    };
    let waiting = tokio::spawn(async move { client.create_entity(request).await });
    until("the agent is asked", || async { !manager.fake.calls("create_entity").is_empty() }).await;
    waiting.abort();
    let _ = waiting.await;
    go.send(true).unwrap();
    until("it is ready", || async {
        manager.entity("db", 1).await.unwrap().state() == EntityState::Ready
    })
    .await;
}

#[tokio::test]
async fn the_callers_deadline_bounds_the_wait() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    let mut request = tonic::Request::new(CreateEntityRequest {
        endpoint: "db".to_owned(),
        agent_id: id,
        ..CreateEntityRequest::default()
    });
    request.set_timeout(std::time::Duration::from_secs(2));
    manager.entities().create_entity(request).await.unwrap();
    let wait = manager.fake.calls("create_entity")[0].timeout.unwrap();
    let millis = wait.seconds * 1000 + i64::from(wait.nanos) / 1_000_000;
    assert!((1_500..=1_800).contains(&millis), "{millis}");
}

#[tokio::test]
async fn the_status_of_an_entity_is_asked_from_its_agent() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.try_create(id, "db").await.unwrap();
    let request = StatusEntityRequest { endpoint: "db".to_owned(), number: 1 };
    let status = answer(manager.entities().status_entity(request.clone()).await).unwrap();
    assert_eq!(status.entity.unwrap().number, 1);
    let result = goperation::struct_to_json("result", status.result.as_ref()).unwrap();
    assert_eq!(result, object(json!({"up": true})));
    manager.fake.refuse(Reason::AgentOffline);
    let error = answer(manager.entities().status_entity(request).await).unwrap_err();
    assert_eq!(error.reason, Reason::AgentOffline);
    let request = StatusEntityRequest { endpoint: "db".to_owned(), number: 2 };
    let error = answer(manager.entities().status_entity(request).await).unwrap_err();
    assert_eq!(error.reason, Reason::EntityNotFound);
}
