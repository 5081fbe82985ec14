//! Syncs: the inventory of an agent meets the record.

use std::time::Duration;

use goperation::{Reason, v1::*};

use crate::harness::{Manager, answer, has, renewal, until};

fn name(endpoint: &str, number: i32) -> EntityName {
    EntityName { endpoint: endpoint.to_owned(), number }
}

async fn quick() -> Manager {
    Manager::with(|config| config.lease = Duration::from_millis(300)).await
}

#[tokio::test]
async fn an_entity_that_its_agent_lost_is_lost_and_found_again() {
    let manager = quick().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.try_create(id, "db").await.unwrap();
    until("it is lost", || async {
        manager.sync(id, "h1", 2, &["db"], &[]).await.unwrap();
        manager.entity("db", 1).await.unwrap().state() == EntityState::Lost
    })
    .await;
    manager.sync(id, "h1", 3, &["db"], &[has("db", 1)]).await.unwrap();
    assert_eq!(manager.entity("db", 1).await.unwrap().state(), EntityState::Ready);
}

#[tokio::test]
async fn an_old_inventory_does_not_lose_what_was_just_created() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.try_create(id, "db").await.unwrap();
    // Taken before the creation, arriving after it.
    manager.sync(id, "h1", 1, &["db"], &[]).await.unwrap();
    assert_eq!(manager.entity("db", 1).await.unwrap().state(), EntityState::Ready);
}

#[tokio::test]
async fn an_old_inventory_does_not_bring_back_what_was_deleted() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.try_create(id, "db").await.unwrap();
    let delete =
        DeleteEntityRequest { endpoint: "db".into(), number: 1, ..DeleteEntityRequest::default() };
    manager.entities().delete_entity(delete).await.unwrap();
    let manager = manager.crash().await;
    let synced = manager.sync(id, "h1", 2, &["db"], &[has("db", 1)]).await.unwrap();
    assert_eq!(synced.remove, [name("db", 1)]);
    assert!(manager.entity("db", 1).await.is_err());
}

#[tokio::test]
async fn what_belongs_to_another_agent_is_removed() {
    let manager = Manager::start().await;
    let a = manager.agent("h1", &["db"]).await;
    let b = manager.agent("h2", &["db"]).await;
    manager.try_create(a, "db").await.unwrap();
    let synced = manager.sync(b, "h2", 2, &["db"], &[has("db", 1), has("db", 2)]).await.unwrap();
    assert_eq!(synced.remove, [name("db", 1)]);
    assert_eq!(manager.entity("db", 1).await.unwrap().agent_id, a);
    assert_eq!(manager.entity("db", 2).await.unwrap().agent_id, b);
}

#[tokio::test]
async fn a_deletion_that_was_lost_is_told_again_and_ends_with_the_agents_word() {
    let manager = Manager::with(|config| config.call_timeout = Duration::from_millis(100)).await;
    let id = manager.agent("h1", &["db"]).await;
    manager.try_create(id, "db").await.unwrap();
    manager.fake.refuse(Reason::OutcomeUnknown);
    let delete =
        DeleteEntityRequest { endpoint: "db".into(), number: 1, ..DeleteEntityRequest::default() };
    manager.entities().delete_entity(delete).await.unwrap_err();
    // Not while the message itself may still arrive; a renewal asks for the next sync then.
    let sync = async || manager.sync(id, "h1", 1, &["db"], &[has("db", 1)]).await.unwrap().remove;
    let mut remove = sync().await;
    if remove.is_empty() {
        until("the agent is asked to sync", || async {
            let renewal = RenewAgentRequest { manager_generation: 2, ..renewal(id, "h1") };
            manager.renew(renewal).await.unwrap().sync
        })
        .await;
        remove = sync().await;
    }
    assert_eq!(remove, [name("db", 1)]);
    manager.sync(id, "h1", 2, &["db"], &[]).await.unwrap();
    assert!(manager.entity("db", 1).await.is_err());
}

#[tokio::test]
async fn ports_are_mirrored() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    let port = |port, protocol: Protocol| Port {
        port,
        protocol: protocol.into(),
        name: "q".to_owned(),
        ..Port::default()
    };
    let entity = AgentEntity {
        ports: vec![port(7002, Protocol::Udp), port(7001, Protocol::Both)],
        ..has("db", 1)
    };
    manager.sync(id, "h1", 2, &["db"], &[entity]).await.unwrap();
    let ports = manager.entity("db", 1).await.unwrap().ports;
    let ports: Vec<_> = ports.iter().map(|p| (p.port, p.protocol(), p.agent_id)).collect();
    assert_eq!(ports, [(7001, Protocol::Both, id), (7002, Protocol::Udp, id)]);
    manager.sync(id, "h1", 3, &["db"], &[has("db", 1)]).await.unwrap();
    assert!(manager.entity("db", 1).await.unwrap().ports.is_empty());
}

#[tokio::test]
async fn broadcasts_are_bound_to_exactly_the_endpoints_that_there_are() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db", "game"]).await;
    manager.sync(id, "h1", 2, &["cdn", "game"], &[]).await.unwrap();
    manager.fake.look(|seen| {
        assert_eq!(seen.queues["application.h1"], ["cdn", "game"]);
        assert_eq!(seen.changes.last().unwrap(), "create application.h1 [cdn,game] -[db]");
    });
    // While the broker is away it is remembered, over several changes.
    manager.fake.look(|seen| seen.down = true);
    manager.sync(id, "h1", 3, &["cdn"], &[]).await.unwrap();
    manager.sync(id, "h1", 4, &["db"], &[]).await.unwrap();
    let manager = manager.crash().await;
    manager.fake.look(|seen| seen.down = false);
    until("the broadcasts are bound", || async {
        manager.fake.look(|seen| {
            seen.changes.last().is_some_and(|last| last == "create application.h1 [db] -[cdn,game]")
        })
    })
    .await;
    // A broker that lost everything gets it again with the next sync.
    manager.fake.look(|seen| seen.queues.clear());
    manager.sync(id, "h1", 5, &["db"], &[]).await.unwrap();
    assert!(manager.fake.look(|seen| seen.queues.contains_key("application.h1")));
}

#[tokio::test]
async fn a_bad_inventory_is_refused_whole() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let bad = [has("manager", 1), has("db", 0)];
    let error = manager.sync(id, "h1", 1, &["a-b", "db"], &bad).await.unwrap_err();
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["endpoints[0].name", "entities[0].endpoint", "entities[1].number"]);
    assert!(manager.show(id).await.unwrap().endpoints.is_empty());
}

#[tokio::test]
async fn an_agent_with_much_syncs_at_once() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let entities: Vec<_> = (1..=1000).map(|number| has("db", number)).collect();
    manager.sync(id, "h1", 1, &["db"], &entities).await.unwrap();
    assert_eq!(manager.show(id).await.unwrap().entities, 1000);
    let show = ShowEndpointRequest { name: "db".to_owned(), agent_id: 0 };
    let endpoint = answer(manager.endpoints().show_endpoint(show).await).unwrap().endpoint;
    assert_eq!(endpoint.unwrap().entities, 1000);
}
