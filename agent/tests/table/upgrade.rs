//! `upgrade_agent`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use goperation::v1::{AgentUpgrade, UpgradeState};
use goperation_harness::{guard::Swept, poll_until};
use goperation_store::{Options, SledStore, Store as _, Txn};
use prost::Message as _;
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

/// The row of the last upgrade, as the agent keeps it: without what names the package command.
#[derive(Clone, PartialEq, prost::Message)]
struct Row {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, optional, tag = "2")]
    told: Option<AgentUpgrade>,
    #[prost(uint64, tag = "6")]
    limit: u64,
}

/// Makes the store of an agent that is down what it would be had the agent died just after it had
/// started the package command.
async fn forget_command(work_dir: &Path, over: bool) {
    const KEY: &[u8] = b"s/upgrade";
    let store = SledStore::open(Options::new(work_dir.join(".gop/store"))).unwrap();
    let value = store.get(KEY.to_vec()).await.unwrap().expect("an upgrade");
    let mut row = Row::decode(value.as_slice()).unwrap();
    assert_eq!(row.told.as_ref().unwrap().state(), UpgradeState::Running);
    if over {
        row.limit = 1;
    }
    store.commit(Txn::new().put(KEY, row.encode_to_vec())).await.unwrap();
    store.close().await;
}

/// A fleet whose agent died in the middle of `upgrade-1`, before it had recorded the command; the
/// command's pid, and where each command notes its own.
async fn died_early(over: bool) -> (Swept, Fleet, TestAgent, i32, PathBuf) {
    let fleet = Fleet::start(On::Embedded).await;
    let swept = Swept::folder(fleet.path());
    let pids = fleet.path().join("pids");
    let go = fleet.path().join("go");
    // Its folder in the arguments, for the guard.
    let body = format!(
        "echo $$ >>{pids:?}; while [ ! -e {go:?} ]; do sleep 0.05; done; exit \"$(cat {go:?})\""
    );
    let command = script(fleet.path(), "package", &body);
    let toml = format!(
        "drain = \"100ms\"\n[endpoints.game]\n[package]\ncommand = [{command:?}, \"{{file}}\"]\n"
    );
    let agent = fleet.agent("h1", &toml).await;
    fleet.activate(&agent).await;
    let new = json!({"file": "new.rpm"});
    fleet.cast(agent.target("manager"), "upgrade_agent", new, None).await.unwrap();
    poll_until(SOON, "the command runs", async || noted(&pids).len() == 1).await;
    let command = noted(&pids)[0];
    let work_dir = agent.work_dir.clone();
    agent.stop().await;
    forget_command(&work_dir, over).await;
    let agent = fleet.agent("h1", &toml).await;
    assert!(runs(command), "nothing but its limit kills it");
    (swept, fleet, agent, command, pids)
}

/// Whether a process is there and not dead.
fn runs(pid: i32) -> bool {
    procfs::process::Process::new(pid)
        .and_then(|process| process.stat())
        .is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// Pids of the package commands that were started.
fn noted(pids: &Path) -> Vec<i32> {
    let text = fs::read_to_string(pids).unwrap_or_default();
    text.lines().map(|pid| pid.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_upgrade_is_begun_beside_a_command_that_was_not_recorded() {
    let (_swept, fleet, agent, command, pids) = died_early(false).await;
    assert_eq!(status(&agent), AgentStatus::Active);
    let next = json!({"file": "next.rpm"});
    let error = call(&fleet, &agent, "upgrade_agent", next.clone()).await.unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused, "{error}");
    assert_eq!(error.metadata["pid"], command.to_string());
    assert_eq!((noted(&pids), runs(command)), (vec![command], true));
    assert_eq!(status(&agent), AgentStatus::Active);
    go(&fleet, "3");
    poll_until(SOON, "it ends", async || !runs(command)).await;
    let failed = fleet.call(agent.target("manager"), "upgrade_agent", next, SOON).await;
    assert_eq!(failed.unwrap_err().metadata["exit"], "exit code 3");
    assert_eq!(noted(&pids).len(), 2);
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_not_recorded_is_killed_when_its_time_is_over() {
    let (_swept, fleet, agent, command, pids) = died_early(true).await;
    let next = json!({"file": "next.rpm"});
    let upgrade = fleet.call(agent.target("manager"), "upgrade_agent", next, SOON);
    let meanwhile = async {
        poll_until(SOON, "the next one runs", async || noted(&pids).len() == 2).await;
        assert!(!runs(command), "there are never two");
        go(&fleet, "3");
    };
    let (failed, ()) = tokio::join!(upgrade, meanwhile);
    assert_eq!(failed.unwrap_err().metadata["exit"], "exit code 3");
    agent.stop().await;
    fleet.stop().await;
}
