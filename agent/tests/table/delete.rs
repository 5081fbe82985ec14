//! `delete_agent_precommit` and `delete_agent_postcommit`.

use serde_json::json;

use super::*;
use crate::fleet::On;

const TOML: &str = "[endpoints.game]\n";
const SECRET: &str = "the-secret-of-the-precommit";
const OTHER: &str = "the-secret-of-somebody-else";

const PRECOMMIT: &str = "delete_agent_precommit";
const POSTCOMMIT: &str = "delete_agent_postcommit";

fn with(agent: &TestAgent, secret: &str) -> Value {
    json!({"agent_id": agent.id, "secret": secret})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_precommit_changes_nothing() {
    let fleet = Fleet::start(On::Embedded).await;
    let agent = fleet.agent("h1", TOML).await;
    fleet.activate(&agent).await;

    let wrong = json!({"agent_id": agent.id + 1, "secret": SECRET});
    refused(&fleet, &agent, PRECOMMIT, wrong, Reason::StateRefused).await;
    refused(&fleet, &agent, PRECOMMIT, with(&agent, "short"), Reason::InvalidArgument).await;
    assert_eq!(status(&agent), AgentStatus::Active);

    // With an entity; its endpoint is not frozen.
    let number = create_entity(&fleet, &agent).await;
    refused(&fleet, &agent, PRECOMMIT, with(&agent, SECRET), Reason::EntitiesRemain).await;
    assert_eq!(status(&agent), AgentStatus::Active);
    let second = create_entity(&fleet, &agent).await;
    for number in [number, second] {
        let delete = v1::DeleteEntityRequest {
            endpoint: "game".to_owned(),
            number,
            ..v1::DeleteEntityRequest::default()
        };
        fleet.entities().delete_entity(delete).await.unwrap();
    }

    // Paused: the gate holds it until the caller's wait ends.
    call(&fleet, &agent, "pause_agent", json!({})).await.unwrap();
    let held = fleet
        .call(agent.target("manager"), PRECOMMIT, with(&agent, SECRET), SHORT)
        .await
        .unwrap_err();
    assert_eq!(held.reason, Reason::AgentBusy, "{held}");
    assert_eq!(status(&agent), AgentStatus::SoftBusy);
    call(&fleet, &agent, "resume_agent", json!({})).await.unwrap();
    assert_eq!(status(&agent), AgentStatus::Active);

    // The second phase without the first.
    refused(&fleet, &agent, POSTCOMMIT, with(&agent, SECRET), Reason::StateRefused).await;
    assert_eq!(status(&agent), AgentStatus::Active);
    assert_eq!(agent.stop().await, Exit::Stopped);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_phases_end_the_agent() {
    let fleet = Fleet::start(On::Embedded).await;
    let agent = fleet.agent("h1", TOML).await;
    fleet.activate(&agent).await;

    call(&fleet, &agent, PRECOMMIT, with(&agent, SECRET)).await.unwrap();
    assert_eq!(status(&agent), AgentStatus::PerDelete);
    call(&fleet, &agent, PRECOMMIT, with(&agent, SECRET)).await.unwrap();
    refused(&fleet, &agent, PRECOMMIT, with(&agent, OTHER), Reason::StateRefused).await;
    refused(&fleet, &agent, POSTCOMMIT, with(&agent, OTHER), Reason::StateRefused).await;
    let method = fleet.call(agent.target("game"), "play", json!({}), WAIT).await.unwrap_err();
    assert_eq!(method.reason, Reason::AgentNotActive, "{method}");
    assert_eq!(status(&agent), AgentStatus::PerDelete);

    // It survives a restart, with its secret.
    assert_eq!(agent.stop().await, Exit::Stopped);
    let agent = fleet.agent("h1", TOML).await;
    assert_eq!(status(&agent), AgentStatus::PerDelete);
    refused(&fleet, &agent, POSTCOMMIT, with(&agent, OTHER), Reason::StateRefused).await;
    call(&fleet, &agent, POSTCOMMIT, with(&agent, SECRET)).await.unwrap();
    assert_eq!(agent.ended().await, Exit::Deleted);
    // It does not come back by itself.
    assert_eq!(end_of(&fleet, "h1", TOML).await, Exit::Deleted);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_precommit_that_is_not_followed_up_lapses() {
    let fleet = Fleet::start(On::Embedded).await;
    let agent = fleet.agent("h1", "precommit_lapse = \"500ms\"\n[endpoints.game]\n").await;
    fleet.activate(&agent).await;
    call(&fleet, &agent, PRECOMMIT, with(&agent, SECRET)).await.unwrap();
    becomes(&agent, AgentStatus::Active).await;
    refused(&fleet, &agent, POSTCOMMIT, with(&agent, SECRET), Reason::StateRefused).await;
    create_entity(&fleet, &agent).await;
    agent.stop().await;
    fleet.stop().await;
}
