//! `upgrade_agent`.

use std::fs;

use serde_json::json;

use super::*;
use crate::fleet::{On, script};

/// A package command that ends when `go` is there, with the exit code that it names.
fn package(fleet: &Fleet) -> String {
    let folder = fleet.path();
    let go = folder.join("go").display().to_string();
    let body = format!(
        "echo \"package $1\"; while [ ! -e {go} ]; do sleep 0.05; done; exit \"$(cat {go})\""
    );
    let command = script(folder, "package", &body);
    format!("[endpoints.game]\n[package]\ncommand = [{command:?}, \"{{file}}\"]\n")
}

/// Lets the package command end.
fn go(fleet: &Fleet, exit: &str) {
    fs::write(fleet.path().join("go.new"), exit).unwrap();
    fs::rename(fleet.path().join("go.new"), fleet.path().join("go")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_command_that_fails_gives_the_status_back() {
    let fleet = Fleet::start(On::Embedded).await;
    let agent = fleet.agent("h1", &package(&fleet)).await;
    fleet.activate(&agent).await;
    let upgrade =
        fleet.call(target("h1", "manager"), "upgrade_agent", json!({"file": "new.rpm"}), SOON);
    let meanwhile = async {
        becomes(&agent, AgentStatus::HardBusy).await;
        let play = fleet.call(agent.target("game"), "play", json!({}), SHORT).await.unwrap_err();
        assert_eq!(play.reason, Reason::AgentBusy, "{play}");
        assert_eq!(status(&agent), AgentStatus::HardBusy);
        go(&fleet, "3");
    };
    let (failed, ()) = tokio::join!(upgrade, meanwhile);
    let failed = failed.unwrap_err();
    assert_eq!(failed.reason, Reason::MethodFailed, "{failed}");
    assert_eq!(failed.metadata["exit"], "exit code 3");
    assert!(failed.metadata["output"].contains("package new.rpm"), "{:?}", failed.metadata);
    assert_eq!(status(&agent), AgentStatus::Active);
    let play = fleet.call(agent.target("game"), "play", json!({}), WAIT).await.unwrap_err();
    assert_eq!(play.reason, Reason::MethodNotFound, "{play}");
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_command_that_succeeds_restarts_and_is_answered_after_that() {
    let fleet = Fleet::start(On::Embedded).await;
    let toml = package(&fleet);
    let agent = fleet.agent("h1", &toml).await;
    fleet.activate(&agent).await;
    let id = agent.id;
    let upgrade = fleet.call_as(
        target("h1", "manager"),
        "upgrade_agent",
        json!({"file": "new.rpm"}),
        SOON,
        "upgrade-1",
    );
    let restart = async {
        becomes(&agent, AgentStatus::HardBusy).await;
        go(&fleet, "0");
        assert_eq!(agent.ended().await, Exit::Restart);
        fleet.agent("h1", &toml).await
    };
    let (outcome, agent) = tokio::join!(upgrade, restart);
    let outcome = outcome.unwrap();
    assert_eq!(outcome["exit"], "exit code 0");
    assert!(outcome.contains_key("version_after"), "{outcome:?}");
    assert_eq!((agent.id, status(&agent)), (id, AgentStatus::Active));
    // The same message again gets the stored outcome; nothing is run.
    let target = agent.target("manager");
    let again =
        fleet.call_as(target, "upgrade_agent", json!({"file": "new.rpm"}), WAIT, "upgrade-1").await;
    assert_eq!(again.unwrap(), outcome);
    assert_eq!(status(&agent), AgentStatus::Active);
    agent.stop().await;
    fleet.stop().await;
}
