//! Two-phase delete of agents, broken off at each step.

use std::time::Duration;

use futures::FutureExt as _;
use goperation::{Error, Reason, v1::*};

use crate::{
    fake::args,
    harness::{Manager, answer, has, renewal, secret, until},
};

async fn delete(manager: &Manager, id: i32, force: bool) -> Result<Agent, Error> {
    let request = DeleteAgentRequest { id, force, etag: String::new() };
    answer(manager.agents().delete_agent(request).await).map(|answer| answer.agent.unwrap())
}

async fn quick() -> Manager {
    Manager::with(|config| config.lease = Duration::from_millis(500)).await
}

fn has_queues(manager: &Manager) -> bool {
    manager.fake.look(|seen| seen.queues.contains_key("application.h1"))
}

#[tokio::test]
async fn a_delete_goes_through_both_phases_and_the_queues_go_with_it() {
    let manager = quick().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.renew(renewal(id, "h1")).await.unwrap();
    let agent = delete(&manager, id, false).await.unwrap();
    assert_eq!((agent.status, agent.state()), (-127, AgentState::Deleted));

    let precommit = args(&manager.fake.calls("delete_agent_precommit")[0]);
    assert_eq!(precommit["agent_id"], id);
    until("the agent is told", || async {
        manager.fake.look(|seen| seen.casts.iter().any(|c| c.method == "delete_agent_postcommit"))
    })
    .await;
    let cast = manager.fake.look(|seen| seen.casts[0].clone());
    let postcommit = goperation::struct_to_json("args", cast.args.as_ref()).unwrap();
    assert_eq!(postcommit["secret"], precommit["secret"]);
    assert!(precommit["secret"].as_str().unwrap().len() >= 16);

    assert!(manager.renew(renewal(id, "h1")).await.unwrap().deleted);
    assert!(manager.sync(id, "h1", 1, &["db"], &[]).await.unwrap().deleted);
    until("the queues are removed", || async { !has_queues(&manager) }).await;
    // Told under one id, however often.
    manager.fake.look(|seen| assert!(seen.casts.iter().all(|c| c.message_id == cast.message_id)));

    // Again succeeds, one that never was is not found.
    assert_eq!(delete(&manager, id, false).await.unwrap().status, -127);
    assert_eq!(delete(&manager, id, true).await.unwrap().status, -127);
    assert_eq!(delete(&manager, 99, false).await.unwrap_err().reason, Reason::AgentNotFound);
    assert_eq!(manager.fake.calls("delete_agent_precommit").len(), 1);
    assert_eq!(manager.try_create(id, "db").await.unwrap_err().reason, Reason::StateRefused);
    let show = ShowEndpointRequest { name: "db".to_owned(), agent_id: 0 };
    let error = answer(manager.endpoints().show_endpoint(show).await).unwrap_err();
    assert_eq!(error.reason, Reason::EndpointNotFound);
}

#[tokio::test]
async fn a_refused_precommit_changes_nothing() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    for reason in [Reason::EntitiesRemain, Reason::StateRefused, Reason::OutcomeUnknown] {
        manager.fake.refuse(reason);
        let before = manager.show(id).await.unwrap();
        assert_eq!(delete(&manager, id, false).await.unwrap_err().reason, reason);
        assert_eq!(manager.show(id).await.unwrap(), before);
        assert!(!manager.renew(renewal(id, "h1")).await.unwrap().deleted);
    }
    assert!(manager.fake.look(|seen| seen.casts.is_empty()));
    let secrets: std::collections::BTreeSet<_> = manager
        .fake
        .calls("delete_agent_precommit")
        .iter()
        .map(|call| args(call)["secret"].to_string())
        .collect();
    assert_eq!(secrets.len(), 3, "each delete has a secret of its own");
    manager.fake.agree();
    delete(&manager, id, false).await.unwrap();
}

#[tokio::test]
async fn killed_in_the_first_phase_it_is_as_if_it_had_not_begun() {
    let manager = quick().await;
    let id = manager.agent("h1", &[]).await;
    manager.fake.answer_later(|_| std::future::pending().boxed());
    let mut client = manager.agents();
    let request = DeleteAgentRequest { id, ..DeleteAgentRequest::default() };
    let waiting = tokio::spawn(async move { client.delete_agent(request).await });
    until("the agent is asked", || async {
        !manager.fake.calls("delete_agent_precommit").is_empty()
    })
    .await;
    // Meanwhile another one is refused.
    let error = delete(&manager, id, false).await.unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused);

    let manager = manager.crash().await;
    waiting.await.unwrap().unwrap_err();
    let agent = manager.show(id).await.unwrap();
    assert_eq!(agent.status, 0);
    assert!(!manager.renew(renewal(id, "h1")).await.unwrap().deleted);
    assert!(has_queues(&manager));
    // The agent lets its precommit lapse; then it can be deleted.
    manager.fake.agree();
    delete(&manager, id, false).await.unwrap();
}

#[tokio::test]
async fn killed_in_the_second_phase_it_is_carried_through() {
    let manager = quick().await;
    let id = manager.agent("h1", &[]).await;
    manager.renew(renewal(id, "h1")).await.unwrap();
    // The broker goes away between the phases.
    let fake = manager.fake.clone();
    manager.fake.answer(move |request| {
        fake.look(|seen| seen.down = true);
        crate::fake::willing(request)
    });
    delete(&manager, id, false).await.unwrap();
    let manager = manager.crash().await;
    assert_eq!(manager.show(id).await.unwrap().status, -127);
    assert!(manager.fake.look(|seen| seen.casts.is_empty()));
    manager.fake.look(|seen| seen.down = false);
    // Its lease may be held for all that the new manager knows.
    until("the queues are removed", || async { !has_queues(&manager) }).await;
    assert!(manager.renew(renewal(id, "h1")).await.unwrap().deleted);
    let manager = manager.crash().await;
    assert_eq!(
        manager.try_register("h1", &secret("h1")).await.unwrap_err().reason,
        Reason::StateRefused
    );
}

#[tokio::test]
async fn an_agent_that_is_still_there_is_told_again() {
    let manager = Manager::with(|config| config.lease = Duration::from_secs(3)).await;
    let id = manager.agent("h1", &[]).await;
    manager.renew(renewal(id, "h1")).await.unwrap();
    delete(&manager, id, false).await.unwrap();
    until("it is told again", || async { manager.fake.look(|seen| seen.casts.len() >= 2) }).await;
    assert!(has_queues(&manager), "what it is told would be lost with its queues");
    // It says good-bye: no need to wait for its lease.
    let bye = RenewAgentRequest { stopping: true, ..renewal(id, "h1") };
    assert!(manager.renew(bye).await.unwrap().deleted);
    until("the queues are removed", || async { !has_queues(&manager) }).await;
}

#[tokio::test]
async fn force_removes_the_record_of_a_dead_host_with_its_entities() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    let entities: Vec<_> = (1..=20).map(|number| has("db", number)).collect();
    manager.sync(id, "h1", 2, &["db"], &entities).await.unwrap();
    let agent = delete(&manager, id, true).await.unwrap();
    assert_eq!((agent.status, agent.entities), (-127, 0));
    assert!(manager.fake.look(|seen| seen.calls.is_empty()), "nobody is asked");
    assert!(!has_queues(&manager));
    assert_eq!(manager.entity("db", 1).await.unwrap_err().reason, Reason::EntityNotFound);

    // Alive after all, and adopted: what it runs is on record again, under its new number.
    manager.try_register("h1", &secret("adopted")).await.unwrap();
    let synced = answer(
        manager
            .agents()
            .sync_agent(SyncAgentRequest {
                id: 2,
                secret: secret("adopted"),
                generation: 1,
                entities,
                ..SyncAgentRequest::default()
            })
            .await,
    );
    assert!(synced.unwrap().remove.is_empty());
    assert_eq!(manager.entity("db", 1).await.unwrap().agent_id, 2);
}

#[tokio::test]
async fn force_works_while_the_broker_is_away() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.fake.look(|seen| seen.down = true);
    assert_eq!(delete(&manager, id, true).await.unwrap().status, -127);
    let manager = manager.crash().await;
    manager.fake.look(|seen| seen.down = false);
    until("the queues are removed", || async { !has_queues(&manager) }).await;
}

#[tokio::test]
async fn only_the_record_of_a_deleted_agent_is_cleaned() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let clean = |id| {
        let mut client = manager.agents();
        async move { answer(client.clean_agent(CleanAgentRequest { id }).await) }
    };
    let error = clean(id).await.unwrap_err();
    assert_eq!(
        (error.reason, error.metadata["state"].as_str()),
        (Reason::StateRefused, "UNACTIVE")
    );
    delete(&manager, id, true).await.unwrap();
    clean(id).await.unwrap();
    assert_eq!(manager.show(id).await.unwrap_err().reason, Reason::AgentNotFound);
    // A delete of it still succeeds: it is deleted.
    assert_eq!(delete(&manager, id, false).await.unwrap().status, -127);
    assert_eq!(clean(id).await.unwrap_err().reason, Reason::AgentNotFound);
}
