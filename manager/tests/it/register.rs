//! Registration and identity.

use goperation::{Reason, v1::*};

use crate::harness::{Manager, answer, secret, until};

#[tokio::test]
async fn the_same_claimant_gets_its_number_again() {
    let manager = Manager::start().await;
    let first = manager.try_register("H1", &secret("h1")).await.unwrap();
    assert!(!first.known);
    let agent = first.agent.unwrap();
    assert_eq!((agent.id, agent.host.as_str(), agent.status), (1, "h1", 0));
    assert!(!agent.online);
    let again = manager.try_register("h1", &secret("h1")).await.unwrap();
    assert!(again.known);
    assert_eq!(again.agent.unwrap().id, 1);
    assert_eq!(manager.register("h2").await, 2);
    let manager = manager.restart().await;
    assert_eq!(manager.register("h1").await, 1);
    assert_eq!(manager.register("h3").await, 3);
}

#[tokio::test]
async fn another_claimant_is_refused() {
    let manager = Manager::start().await;
    manager.register("h1").await;
    let error = manager.try_register("h1", &secret("somebody")).await.unwrap_err();
    assert_eq!(error.reason, Reason::IdentityTaken);
    assert_eq!(error.metadata["host"], "h1");
    assert_eq!(error.metadata["type"], "application");
    assert!(error.message.contains("gop agent delete --force 1"), "{}", error.message);
    // Another type on the same host is another agent.
    let other = CreateAgentRequest {
        r#type: "scheduler".to_owned(),
        host: "h1".to_owned(),
        secret: secret("somebody"),
        ..CreateAgentRequest::default()
    };
    assert_eq!(answer(manager.agents().create_agent(other).await).unwrap().agent.unwrap().id, 2);
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let manager = Manager::start().await;
    let request = CreateAgentRequest {
        r#type: "1".to_owned(),
        host: "-".to_owned(),
        secret: "short".to_owned(),
        ports_ranges: vec!["7000-8000".to_owned(), "80".to_owned()],
        ..CreateAgentRequest::default()
    };
    let error = answer(manager.agents().create_agent(request).await).unwrap_err();
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["type", "host", "secret", "ports_ranges[1]"]);
}

#[tokio::test]
async fn queues_are_made_at_once_or_when_the_broker_is_back() {
    let manager = Manager::start().await;
    manager.register("h1").await;
    assert!(manager.fake.look(|seen| seen.queues.contains_key("application.h1")));

    manager.fake.look(|seen| seen.down = true);
    let id = manager.register("h2").await;
    assert!(!manager.fake.look(|seen| seen.queues.contains_key("application.h2")));
    // The registration stands, and what is to be done survives too.
    let manager = manager.crash().await;
    assert_eq!(manager.register("h2").await, id);
    manager.fake.look(|seen| seen.down = false);
    until("the queues are made", || async {
        manager.fake.look(|seen| seen.queues.contains_key("application.h2"))
    })
    .await;
}

#[tokio::test]
async fn a_deleted_agent_does_not_come_back_but_a_new_one_may() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let force = DeleteAgentRequest { id, force: true, etag: String::new() };
    answer(manager.agents().delete_agent(force).await).unwrap();

    let error = manager.try_register("h1", &secret("h1")).await.unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused);
    assert_eq!(error.metadata["state"], "DELETED");

    let adopted = manager.try_register("h1", &secret("adopted")).await.unwrap();
    assert!(!adopted.known);
    assert_eq!(adopted.agent.unwrap().id, 2);
    // The new one has the identity now; the old one's secret is a stranger's.
    let error = manager.try_register("h1", &secret("h1")).await.unwrap_err();
    assert_eq!(error.reason, Reason::IdentityTaken);
    assert_eq!(manager.show(1).await.unwrap().state(), AgentState::Deleted);
}

#[tokio::test]
async fn a_new_agent_does_not_get_what_was_for_the_deleted_one() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    manager.fake.look(|seen| seen.down = true);
    let force = DeleteAgentRequest { id, force: true, etag: String::new() };
    answer(manager.agents().delete_agent(force).await).unwrap();
    manager.try_register("h1", &secret("adopted")).await.unwrap();
    manager.fake.look(|seen| {
        seen.changes.clear();
        seen.down = false;
    });
    until("the old queues are drained before new ones are made", || async {
        manager.fake.look(|seen| {
            let changes: Vec<_> = seen.changes.iter().map(String::as_str).collect();
            changes.starts_with(&["delete application.h1", "create application.h1 [] -[]"])
        })
    })
    .await;
}
