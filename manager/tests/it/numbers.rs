//! Numbers of agents and entities: each is given out once.

use std::collections::BTreeSet;

use futures::future::join_all;
use goperation::{Error, Reason, v1::*};

use crate::harness::{Manager, answer, has, secret};

#[tokio::test]
async fn agents_registered_at_once_get_numbers_of_their_own() {
    let manager = Manager::start().await;
    let hosts: Vec<String> = (0..64).map(|i| format!("h{i}")).collect();
    let ids = join_all(hosts.iter().map(|host| manager.register(host))).await;
    assert_eq!(ids.iter().copied().collect::<BTreeSet<_>>(), (1..=64).collect());
    let manager = manager.crash().await;
    for (host, id) in hosts.iter().zip(ids) {
        assert_eq!(manager.register(host).await, id);
    }
    assert_eq!(manager.register("another").await, 65);
}

#[tokio::test]
async fn a_number_of_an_agent_is_not_used_again() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let force = DeleteAgentRequest { id, force: true, etag: String::new() };
    answer(manager.agents().delete_agent(force).await).unwrap();
    answer(manager.agents().clean_agent(CleanAgentRequest { id }).await).unwrap();
    assert_eq!(manager.show(id).await.unwrap_err().reason, Reason::AgentNotFound);
    assert_eq!(manager.register("h1").await, 2);
    let manager = manager.crash().await;
    assert_eq!(manager.register("h2").await, 3);
}

#[tokio::test]
async fn entities_created_at_once_get_numbers_of_their_own() {
    let manager = Manager::start().await;
    let a = manager.agent("h1", &["db", "game"]).await;
    let b = manager.agent("h2", &["db"]).await;
    let created =
        join_all((0..64).map(|i| manager.try_create(if i % 2 == 0 { a } else { b }, "db"))).await;
    let numbers: BTreeSet<i32> = created.into_iter().map(|e| e.unwrap().number).collect();
    assert_eq!(numbers, (1..=64).collect());
    // Each endpoint counts for itself.
    assert_eq!(manager.try_create(a, "game").await.unwrap().number, 1);
}

#[tokio::test]
async fn a_failed_number_is_burnt() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.fake.refuse(Reason::AgentNotActive);
    let error = manager.try_create(id, "db").await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentNotActive);
    assert_eq!(error.metadata["entity"], "1");
    assert_eq!(manager.entity("db", 1).await.unwrap_err().reason, Reason::EntityNotFound);
    manager.fake.agree();
    let manager = manager.crash().await;
    assert_eq!(manager.try_create(id, "db").await.unwrap().number, 2);
}

#[tokio::test]
async fn counters_are_raised_above_what_agents_have() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.sync(id, "h1", 2, &["db"], &[has("db", 40), has("db", 7)]).await.unwrap();
    assert_eq!(manager.try_create(id, "db").await.unwrap().number, 41);
    assert_eq!(manager.entity("db", 7).await.unwrap().state(), EntityState::Ready);
}

#[tokio::test]
async fn killed_at_any_moment_no_number_is_used_twice() {
    let mut manager = Manager::start().await;
    let mut known = std::collections::BTreeMap::new();
    for round in 0..5 {
        let hosts: Vec<String> = (0..40).map(|i| format!("r{round}h{i}")).collect();
        let answered = {
            let work = hosts.iter().map(|host| async {
                let result = manager.try_register(host, &secret(host)).await;
                (host.clone(), result.ok().and_then(|answer| answer.agent).map(|agent| agent.id))
            });
            let mut work: futures::stream::FuturesUnordered<_> = work.collect();
            let mut answered = Vec::new();
            // The rest is cut off by the kill.
            while answered.len() < 7 * (round + 1) {
                answered.push(futures::StreamExt::next(&mut work).await.unwrap());
            }
            answered
        };
        for (host, id) in answered {
            known.insert(host, id.unwrap());
        }
        manager = manager.crash().await;
    }
    for (host, &id) in &known {
        assert_eq!(manager.register(host).await, id, "{host}");
    }
    let ids: BTreeSet<i32> = known.values().copied().collect();
    assert_eq!(ids.len(), known.len());
}

async fn create_as(manager: &Manager, agent_id: i32, number: i32) -> Result<i32, Error> {
    let request = CreateEntityRequest {
        endpoint: "db".to_owned(),
        agent_id,
        number,
        ..CreateEntityRequest::default()
    };
    answer(manager.entities().create_entity(request).await).map(|a| a.entity.unwrap().number)
}

#[tokio::test]
async fn a_number_may_be_given_from_the_next_one_on() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    assert_eq!(create_as(&manager, id, 0).await.unwrap(), 1);
    assert_eq!(create_as(&manager, id, 2).await.unwrap(), 2);
    assert_eq!(create_as(&manager, id, 10).await.unwrap(), 10);
    assert_eq!(create_as(&manager, id, 0).await.unwrap(), 11);
    for used in [1, 5, 11] {
        let error = create_as(&manager, id, used).await.unwrap_err();
        assert_eq!(error.reason, Reason::InvalidArgument);
        assert_eq!(error.violations[0].field, "number");
        assert_eq!(error.metadata["next"], "12");
        assert!(error.message.contains("at least 12"), "{error}");
    }
    for bad in [-1, 1_000_000_001, i32::MAX] {
        let error = create_as(&manager, id, bad).await.unwrap_err();
        assert_eq!(error.violations[0].field, "number", "{bad}");
    }
    // What failed has used its number too.
    manager.fake.refuse(Reason::MethodFailed);
    create_as(&manager, id, 20).await.unwrap_err();
    manager.fake.agree();
    let manager = manager.crash().await;
    assert_eq!(create_as(&manager, id, 0).await.unwrap(), 21);
}
