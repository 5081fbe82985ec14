//! Upgrades (contract §5) with real programs: the agent is HARDBUSY while the package command
//! runs and messages are held, the outcome comes after the new start, and games go on throughout.

mod dpkg;
mod stage;

use std::{fs, time::Duration};

use goperation::{
    Reason,
    v1::{AgentState, UpgradeState},
};
use goperation_harness::{is_alive, poll_until};

use self::stage::{Stage, id_of};
use crate::fleet::SOON;

/// The status and the upgrade that everybody is told in the end.
async fn ends(stage: &Stage, state: UpgradeState) -> goperation::v1::AgentUpgrade {
    let agent = stage.show().await;
    assert_eq!(agent.state(), AgentState::Active, "{agent:?}");
    let upgrade = agent.upgrade.expect("the agent has told of its upgrade");
    assert_eq!(upgrade.state(), state, "{upgrade:?}");
    assert!(upgrade.end_time.is_some(), "{upgrade:?}");
    upgrade
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_succeeds_starts_what_it_installed() {
    let mut stage = Stage::start("").await;
    let pid = stage.agent.process().pid();
    assert!(!stage.runs_new(pid));
    let package = stage.package("new", &stage.installs());

    let upgrade = stage.upgrade(&package, "up-1");
    let running = stage.is_upgrading("up-1").await;
    assert!(running.log.contains("/upgrade."), "{running:?}");
    let held = stage.hold_messages().await;
    stage.repeat_is_refused("up-2", "up-1").await;
    stage.let_go();

    let told = upgrade.await.unwrap().unwrap();
    assert_eq!(told.state(), UpgradeState::Succeeded, "{told:?}");
    assert_eq!((told.exit.as_str(), told.file.as_str()), ("exit code 0", package.as_str()));
    assert_eq!(told.version_before, env!("CARGO_PKG_VERSION"));
    assert_eq!(told.version_after, env!("CARGO_PKG_VERSION"));
    // What everybody is told is what the caller was told, and at once.
    assert_eq!(ends(&stage, UpgradeState::Succeeded).await, told);
    assert!(fs::read_to_string(&told.log).unwrap().contains("installed"), "{told:?}");
    // The process is the same one, and runs the new file.
    assert!(stage.agent.runs());
    assert_eq!(stage.agent.process().pid(), pid);
    assert!(stage.runs_new(pid));
    stage.game_is_minded().await;
    stage.were_delivered(held).await;

    // The same message again gets the outcome and does nothing.
    let again = stage.upgrade(&package, "up-1").await.unwrap().unwrap();
    assert_eq!(again, told);
    assert_eq!(stage.package_runs(), 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_exits_is_told_to_by_its_code() {
    let mut stage = Stage::start("restart = \"exit\"").await;
    let package = stage.package("new", "exit 0");
    let upgrade = stage.upgrade(&package, "up-1");
    stage.is_upgrading("up-1").await;
    stage.let_go();
    assert_eq!(stage.agent.exit_code().await, Some(4));
    stage.game_goes_on();
    // What a service manager does then.
    stage.agent.start().await;
    let told = upgrade.await.unwrap().unwrap();
    assert_eq!(told.state(), UpgradeState::Succeeded, "{told:?}");
    assert_eq!(ends(&stage, UpgradeState::Succeeded).await, told);
    stage.game_is_minded().await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_changes_nothing() {
    let mut stage = Stage::start("").await;
    let pid = stage.agent.process().pid();
    for (name, body, exit) in [
        ("bad", "echo no such thing >&2; exit 1", "exit code 1"),
        ("dies", "kill -9 $$", "signal 9"),
    ] {
        let package = stage.package(name, body);
        let upgrade = stage.upgrade(&package, name);
        stage.is_upgrading(name).await;
        let held = stage.hold_messages().await;
        stage.let_go();
        let error = upgrade.await.unwrap().unwrap_err();
        assert_eq!(error.reason, Reason::MethodFailed, "{error:?}");
        assert_eq!(error.metadata["exit"], exit);
        assert_eq!(id_of(&error), name);
        let told = ends(&stage, UpgradeState::Failed).await;
        assert_eq!((told.exit.as_str(), told.message_id.as_str()), (exit, name));
        assert_eq!(told.output, fs::read_to_string(&told.log).unwrap());
        assert!(told.output.contains(&format!("package {package}")), "{told:?}");
        stage.were_delivered(held).await;
        stage.stop_going();
    }
    assert!(stage.agent.runs());
    assert_eq!(stage.agent.process().pid(), pid);
    stage.game_is_minded().await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_hangs_is_killed_with_its_group() {
    let mut stage = Stage::start("timeout = \"10s\"").await;
    let package = stage.package("hangs", &stage.hangs());
    stage.let_go();
    let upgrade = stage.upgrade(&package, "up-1");
    let group = stage.hung_group().await;
    stage.is_upgrading("up-1").await;
    let held = stage.hold_messages().await;
    let error = upgrade.await.unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::MethodFailed, "{error:?}");
    assert_eq!(error.metadata["exit"], "timed out after 10s and was killed");
    let told = ends(&stage, UpgradeState::Failed).await;
    assert_eq!(told.exit, "timed out after 10s and was killed");
    poll_until(SOON, "the whole group is gone", async || !group.iter().any(|&p| is_alive(p))).await;
    assert!(stage.agent.runs());
    stage.game_is_minded().await;
    stage.were_delivered(held).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_in_the_middle_leaves_the_command_and_says_interrupted() {
    let mut stage = Stage::start("").await;
    let package = stage.package("new", "exit 0");
    let upgrade = stage.upgrade(&package, "up-1");
    stage.is_upgrading("up-1").await;
    let held = stage.hold_messages().await;
    let command = stage.package_pid();
    stage.agent.kill();
    stage.game_goes_on();
    stage.agent.start().await;
    let error = upgrade.await.unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::Interrupted, "{error:?}");
    assert_eq!(id_of(&error), "up-1");
    let told = ends(&stage, UpgradeState::Interrupted).await;
    assert_eq!(told.message_id, "up-1");
    assert!(fs::read_to_string(&told.log).unwrap().contains("package"), "{told:?}");
    stage.were_delivered(held).await;

    // Half an installation would be worse: the command goes on, and there is none beside it.
    assert!(is_alive(command));
    let error = stage.upgrade(&package, "up-2").await.unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused, "{error:?}");
    assert_eq!(
        (&*error.metadata["upgrade"], &*error.metadata["pid"]),
        ("up-1", &*command.to_string())
    );
    assert_eq!(ends(&stage, UpgradeState::Interrupted).await, told);
    stage.let_go();
    poll_until(SOON, "the command ends", async || !is_alive(command)).await;
    let told = stage.upgrade(&package, "up-3").await.unwrap().unwrap();
    assert_eq!(told.state(), UpgradeState::Succeeded, "{told:?}");
    assert_eq!(stage.package_runs(), 2);
    stage.game_is_minded().await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_does_not_wait_learns_of_it_later() {
    let stage = Stage::start("").await;
    let package = stage.package("new", "exit 0");
    let wait = Duration::from_secs(3);
    let error = stage.upgrade_within(&package, "up-1", wait).await.unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::OutcomeUnknown, "{error:?}");
    assert_eq!(id_of(&error), "up-1");
    stage.is_upgrading("up-1").await;
    stage.repeat_is_refused("up-2", "up-1").await;
    stage.let_go();
    poll_until(SOON, "Agent.upgrade tells the outcome", async || {
        let agent = stage.show().await;
        agent.state() == AgentState::Active
            && agent.upgrade.is_some_and(|told| told.state() == UpgradeState::Succeeded)
    })
    .await;
    let told = stage.upgrade(&package, "up-1").await.unwrap().unwrap();
    assert_eq!(ends(&stage, UpgradeState::Succeeded).await, told);
    assert_eq!(stage.package_runs(), 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_begun_changes_nothing() {
    let stage = Stage::start("").await;
    for file in ["", "--root=/"] {
        let error = stage.upgrade(file, "").await.unwrap().unwrap_err();
        assert_eq!(error.reason, Reason::InvalidArgument, "{error:?}");
        assert!(error.violations[0].field.ends_with("file"), "{error:?}");
    }
    let agent = stage.show().await;
    assert_eq!((agent.state(), agent.upgrade), (AgentState::Active, None));
    assert_eq!(stage.package_runs(), 0);
    stage.end().await;
}
