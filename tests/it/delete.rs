//! Delete of an agent (contract §5, §6): refused, lapsed, and for good.

use std::time::Duration;

use goperation::{AgentStatus, Reason, Secret, v1};
use goperation_harness::poll_until;
use serde_json::json;

use crate::{
    fleet::SOON,
    procs::{AgentProcess, Site, WAIT},
};

/// What every agent here can run.
pub(crate) const TOML: &str = "ports_ranges = [\"20000-20999\"]\n[endpoints.tt.methods.note]\n\
                    program = [\"/bin/cat\"]\n";
/// Exit code of a deleted agent.
pub(crate) const DELETED: Option<i32> = Some(3);
pub(crate) const SHORT: Duration = Duration::from_secs(3);

pub(crate) async fn status(site: &Site, host: &str) -> Option<AgentStatus> {
    let answer = site.call(host, "manager", "status_agent", json!({}), SHORT).await;
    let number = answer.ok()?.get("status")?.as_i64()?;
    AgentStatus::from_number(number.try_into().ok()?)
}

async fn becomes(site: &Site, host: &str, wanted: AgentStatus) {
    poll_until(SOON, &format!("{host} becomes {wanted}"), async || {
        status(site, host).await == Some(wanted)
    })
    .await;
}

/// The record says so too.
async fn recorded(site: &Site, id: i32, wanted: AgentStatus) {
    poll_until(SOON, &format!("agent {id} is recorded as {wanted}"), async || {
        site.show(id).await.is_ok_and(|agent| agent.status == wanted.number())
    })
    .await;
}

async fn create(site: &Site, agent: &AgentProcess) -> v1::Entity {
    let request = v1::CreateEntityRequest {
        endpoint: "tt".to_owned(),
        agent_id: agent.id,
        ports: vec![v1::PortWish { count: 2, protocol: 1, ..Default::default() }],
        ..Default::default()
    };
    site.entities().create_entity(request).await.unwrap().into_inner().entity.unwrap()
}

async fn reserve(site: &Site, entity: &v1::Entity) -> Vec<v1::Port> {
    let request = v1::CreatePortRequest {
        endpoint: entity.endpoint.clone(),
        entity: entity.number,
        wishes: vec![v1::PortWish { count: 1, protocol: 1, ..Default::default() }],
        message_id: String::new(),
    };
    site.ports().create_port(request).await.unwrap().into_inner().ports
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_precommit_changes_nothing() {
    let site = Site::start().await;
    let agent = site.active_agent("h1", TOML).await;
    let entity = create(&site, &agent).await;
    let before = site.show(agent.id).await.unwrap();

    // An entity remains.
    let error = site.delete(agent.id).await.unwrap_err();
    assert_eq!(error.reason, Reason::EntitiesRemain, "{error}");
    assert_eq!(status(&site, "h1").await, Some(AgentStatus::Active));
    let after = site.show(agent.id).await.unwrap();
    assert_eq!((after.status, after.entities), (before.status, 1));
    // The endpoint is not frozen: ports, methods and entities as before.
    assert_eq!(reserve(&site, &entity).await.len(), 1);
    let args = json!({"entity": entity.number});
    site.call("h1", "tt", "note", args, WAIT).await.unwrap();
    let more = create(&site, &agent).await;
    for number in [entity.number, more.number] {
        let request = v1::DeleteEntityRequest {
            endpoint: "tt".to_owned(),
            number,
            ..v1::DeleteEntityRequest::default()
        };
        site.entities().delete_entity(request).await.unwrap();
    }

    // Paused: it is not even asked, and stays paused.
    site.agents().pause_agent(v1::PauseAgentRequest { id: agent.id }).await.unwrap();
    let error = site.delete(agent.id).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentBusy, "{error}");
    recorded(&site, agent.id, AgentStatus::SoftBusy).await;
    site.agents().resume_agent(v1::ResumeAgentRequest { id: agent.id }).await.unwrap();
    assert_eq!(status(&site, "h1").await, Some(AgentStatus::Active));

    // Nothing of the refused ones is in the way of the one that is agreed to.
    let deleted = site.delete(agent.id).await.unwrap();
    assert_eq!(deleted.status, AgentStatus::Deleted.number());
    let mut agent = agent;
    assert_eq!(agent.exit_code().await, DELETED);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfollowed_precommit_lapses() {
    let mut site = Site::start().await;
    // What is looked at before it lapses takes far less, also on a busy machine.
    site.lapse = Duration::from_secs(10);
    let mut agent = site.active_agent("h1", TOML).await;
    let secret = Secret::generate();
    let args = json!({"agent_id": agent.id, "secret": secret.reveal()});
    let wrong = json!({"agent_id": agent.id, "secret": Secret::generate().reveal()});
    let other = json!({"agent_id": agent.id + 1, "secret": secret.reveal()});

    // For another number: nothing happens.
    let error = site
        .call("h1", "manager", "delete_agent_precommit", other.clone(), WAIT)
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused, "{error}");
    // Without a first phase there is no second.
    let error = site
        .call("h1", "manager", "delete_agent_postcommit", args.clone(), WAIT)
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused, "{error}");
    assert_eq!(status(&site, "h1").await, Some(AgentStatus::Active));

    site.call("h1", "manager", "delete_agent_precommit", args.clone(), WAIT).await.unwrap();
    // The wrong secret, and the wrong number.
    for bad in [wrong, other] {
        let error =
            site.call("h1", "manager", "delete_agent_postcommit", bad, WAIT).await.unwrap_err();
        assert_eq!(error.reason, Reason::StateRefused, "{error}");
        assert_eq!(
            error.metadata.get("state").map(String::as_str).unwrap_or("PERDELETE"),
            "PERDELETE"
        );
    }
    let error = site.call("h1", "tt", "note", json!({}), WAIT).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentNotActive, "{error}");
    recorded(&site, agent.id, AgentStatus::PerDelete).await;

    // It lapses: the former status is back, and the secret is worth nothing.
    becomes(&site, "h1", AgentStatus::Active).await;
    recorded(&site, agent.id, AgentStatus::Active).await;
    site.call("h1", "tt", "note", json!({}), WAIT).await.unwrap();
    let error = site
        .call("h1", "manager", "delete_agent_postcommit", args.clone(), WAIT)
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused, "{error}");

    // It survives a kill until it lapses.
    site.call("h1", "manager", "delete_agent_precommit", args, WAIT).await.unwrap();
    agent.kill();
    agent.start().await;
    let now = status(&site, "h1").await;
    let log = agent.process().stderr_text();
    assert!(
        now == Some(AgentStatus::PerDelete) || log.contains("status=PERDELETE"),
        "it came back as {now:?}"
    );
    becomes(&site, "h1", AgentStatus::Active).await;
    recorded(&site, agent.id, AgentStatus::Active).await;
    assert!(!site.show(agent.id).await.unwrap().etag.is_empty());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_agent_comes_back_only_by_adoption() {
    let site = Site::start().await;
    let mut agent = site.active_agent("h1", TOML).await;
    let first = agent.id;

    // With entities only by force: the host is dead, the record goes.
    let mut entities = vec![create(&site, &agent).await, create(&site, &agent).await];
    agent.kill();
    let force = v1::DeleteAgentRequest { id: first, force: true, etag: String::new() };
    site.agents().delete_agent(force).await.unwrap();
    assert_eq!(site.show(first).await.unwrap().status, AgentStatus::Deleted.number());
    let error = site.entity("tt", entities[0].number).await.unwrap_err();
    assert_eq!(error.reason, Reason::EntityNotFound, "{error}");
    // The broker sees a moment later that the connection of the killed one has gone.
    poll_until(SOON, "no queue is left", async || !site.has_queues("h1").await).await;

    // The host lives after all: it says why it ends, each time.
    for _ in 0..2 {
        let ended = agent.start_that_ends().await;
        assert_eq!(ended.status.code(), DELETED, "{}", ended.stderr);
        assert!(ended.stderr.contains("DELETED"), "{}", ended.stderr);
        assert!(!site.has_queues("h1").await, "a deleted agent made queues");
    }

    // Made new: another number, and what it has is recorded again.
    let adopted = agent.adopt().await;
    assert!(adopted.status.success(), "{}", adopted.stderr);
    agent.start().await;
    assert!(agent.id > first, "number {} again", agent.id);
    entities.sort_by_key(|entity| entity.number);
    for entity in &entities {
        let now = site.entity("tt", entity.number).await.unwrap();
        let ports = |entity: &v1::Entity| -> Vec<i32> {
            entity.ports.iter().map(|port| port.port).collect()
        };
        assert_eq!(now.agent_id, agent.id);
        assert_eq!(now.state(), v1::EntityState::Ready);
        assert_eq!(ports(&now), ports(entity));
    }
    site.activate(agent.id).await;
    let next = create(&site, &agent).await;
    assert!(next.number > entities[1].number, "number {} again", next.number);

    // In two phases when it has none any more.
    for number in [entities[0].number, entities[1].number, next.number] {
        let request = v1::DeleteEntityRequest {
            endpoint: "tt".to_owned(),
            number,
            ..v1::DeleteEntityRequest::default()
        };
        site.entities().delete_entity(request).await.unwrap();
    }
    let second = agent.id;
    site.delete(second).await.unwrap();
    assert_eq!(agent.exit_code().await, DELETED);
    let ended = agent.start_that_ends().await;
    assert_eq!(ended.status.code(), DELETED, "{}", ended.stderr);
    poll_until(SOON, "the queues are removed", async || !site.has_queues("h1").await).await;
    // Again is no failure, as one that never was is one.
    site.delete(second).await.unwrap();
    let error = site.delete(second + 1000).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentNotFound, "{error}");
    site.stop().await;
}
