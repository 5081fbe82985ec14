//! `agent_id`, `force_status`, `post_start`, `set_status`, `active_agent` and `is_active`.

use serde_json::json;

use super::*;
use crate::fleet::On;

const TOML: &str = "[endpoints.game]\n";

fn active(agent: &TestAgent, status: AgentStatus) -> Value {
    json!({"agent_id": agent.id, "address": "127.0.0.1", "status": status.number()})
}

#[tokio::test(flavor = "multi_thread")]
async fn active_agent_and_is_active() {
    let fleet = Fleet::start(On::Embedded).await;
    let agent = fleet.agent("h1", TOML).await;
    assert_eq!(status(&agent), AgentStatus::Unactive, "the default of a new agent");
    let play =
        async || fleet.call(agent.target("game"), "play", json!({}), WAIT).await.unwrap_err();
    assert_eq!(play().await.reason, Reason::AgentNotActive);

    let id = agent.id;
    for (args, reason) in [
        (json!({"agent_id": id + 1, "status": 1}), Reason::StateRefused),
        (json!({"agent_id": id, "address": "10.9.8.7", "status": 1}), Reason::StateRefused),
        (json!({"agent_id": id, "status": -10}), Reason::InvalidArgument),
        (json!({"agent_id": id, "status": 7}), Reason::InvalidArgument),
        (json!({"agent_id": id, "status": 1, "more": 1}), Reason::InvalidArgument),
    ] {
        refused(&fleet, &agent, "active_agent", args, reason).await;
        assert_eq!(status(&agent), AgentStatus::Unactive);
    }
    let answer = call(&fleet, &agent, "active_agent", active(&agent, AgentStatus::Active)).await;
    assert_eq!(answer.unwrap()["status"], 1);
    assert_eq!(status(&agent), AgentStatus::Active);
    // Through the gate and `is_active`; it has no such method.
    assert_eq!(play().await.reason, Reason::MethodNotFound);
    call(&fleet, &agent, "active_agent", active(&agent, AgentStatus::Unactive)).await.unwrap();
    assert_eq!(status(&agent), AgentStatus::Unactive);
    assert_eq!(play().await.reason, Reason::AgentNotActive);
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_status_is_refused_below_softbusy_and_force_status_is_not() {
    let fleet = Fleet::start(On::Embedded).await;
    let agent = fleet.agent("h1", TOML).await;
    // The one state below SOFTBUSY whose messages run.
    agent.handle.force_status(AgentStatus::PerDelete, "test").await.unwrap();
    let to_active = active(&agent, AgentStatus::Active);
    for (method, args) in [
        ("active_agent", to_active.clone()),
        ("pause_agent", json!({})),
        ("resume_agent", json!({})),
        ("upgrade_agent", json!({"file": "x"})),
    ] {
        refused(&fleet, &agent, method, args, Reason::StateRefused).await;
        assert_eq!(status(&agent), AgentStatus::PerDelete);
    }
    for busy in [AgentStatus::HardBusy, AgentStatus::Initializing] {
        agent.handle.force_status(busy, "test").await.unwrap();
        let error = fleet
            .call(agent.target("manager"), "active_agent", to_active.clone(), SHORT)
            .await
            .unwrap_err();
        assert_eq!(error.reason, Reason::AgentBusy, "{error}");
        assert_eq!(status(&agent), busy);
    }
    agent.handle.force_status(AgentStatus::Unactive, "test").await.unwrap();
    // From SOFTBUSY it is allowed.
    call(&fleet, &agent, "pause_agent", json!({})).await.unwrap();
    call(&fleet, &agent, "resume_agent", json!({})).await.unwrap();
    call(&fleet, &agent, "active_agent", to_active).await.unwrap();
    assert_eq!(status(&agent), AgentStatus::Active);
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_id_stays_and_post_start_sets_what_the_manager_holds() {
    let fleet = Fleet::start(On::Embedded).await;
    let other = fleet.agent("h0", TOML).await;
    let agent = fleet.agent("h1", TOML).await;
    let id = agent.id;
    assert_ne!(id, other.id);
    fleet.activate(&agent).await;
    assert_eq!(agent.stop().await, Exit::Stopped);
    let agent = fleet.agent("h1", TOML).await;
    assert_eq!((agent.id, status(&agent)), (id, AgentStatus::Active));
    let unactive = v1::AgentState::Unactive.into();
    let request = v1::ActivateAgentRequest { id: agent.wire_id(), state: unactive };
    fleet.agents().activate_agent(request).await.unwrap();
    assert_eq!(agent.stop().await, Exit::Stopped);
    let agent = fleet.agent("h1", TOML).await;
    assert_eq!((agent.id, status(&agent)), (id, AgentStatus::Unactive));
    fleet.activate(&agent).await;
    assert_eq!(agent.stop().await, Exit::Stopped);
    let agent = fleet.agent("h1", TOML).await;
    assert_eq!((agent.id, status(&agent)), (id, AgentStatus::Active));

    // An operator's pause goes through a start, and so does the status under it.
    call(&fleet, &agent, "pause_agent", json!({})).await.unwrap();
    agent.stop().await;
    let agent = fleet.agent("h1", TOML).await;
    assert_eq!((agent.id, status(&agent)), (id, AgentStatus::SoftBusy));
    call(&fleet, &agent, "resume_agent", json!({})).await.unwrap();
    assert_eq!(status(&agent), AgentStatus::Active);
    agent.stop().await;
    other.stop().await;
    fleet.stop().await;
}
