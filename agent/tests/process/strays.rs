//! Processes that should not be: found at the start, reported, and killed where that is wished.

use std::{fs, process::Command};

use goperation::v1;

use crate::{
    fleet::TestAgent,
    stage::{Backup, LIVES, Stage, pid, runs, toml, until},
};

/// An agent whose store is older than what runs: its entity is not in it.
async fn with_stray(stage: &Stage, policy: &str) -> (TestAgent, i32) {
    let toml = format!("strays = {policy:?}\n{}", toml(&stage.game(LIVES), ""));
    let agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    let work_dir = agent.work_dir.clone();
    agent.stop().await;
    let former = Backup::of(&work_dir);
    let agent = stage.fleet.agent("h1", &toml).await;
    let game = pid(&stage.does(&agent, "start_entity", number).await);
    agent.stop().await;
    former.restore();
    (stage.fleet.agent("h1", &toml).await, game)
}

async fn strays(stage: &Stage, agent: &TestAgent) -> Vec<v1::StrayProcess> {
    let request = v1::ShowAgentRequest { id: agent.wire_id() };
    stage.fleet.agents().show_agent(request).await.unwrap().into_inner().agent.unwrap().strays
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_reported_and_left_alone() {
    let stage = Stage::start().await;
    let (agent, game) = with_stray(&stage, "report").await;
    let strays = strays(&stage, &agent).await;
    assert_eq!(strays.len(), 1, "{strays:?}");
    assert_eq!((strays[0].pid, strays[0].endpoint.as_str()), (game, "game"));
    assert_eq!(strays[0].why, "it is recorded as stopped");
    assert_eq!(strays[0].action, "left running");
    assert!(runs(game));
    // Nothing is started beside it, and a kill reaches it.
    let number = strays[0].entity;
    let refused = stage.call(&agent, "start_entity", number).await.unwrap_err();
    assert!(refused.message.contains(&format!("pid {game}")), "{refused}");
    stage.does(&agent, "kill_entity", number).await;
    until("it is gone", || !runs(game)).await;
    assert_eq!(stage.does(&agent, "start_entity", number).await["state"], "RUNNING");
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_killed_where_that_is_the_policy() {
    let stage = Stage::start().await;
    let (agent, game) = with_stray(&stage, "kill").await;
    let strays = strays(&stage, &agent).await;
    assert_eq!((strays.len(), strays[0].pid), (1, game));
    assert_eq!(strays[0].action, "killed");
    assert!(!runs(game));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_run_folder_it_is_known_and_another_agents_is_left_alone() {
    let stage = Stage::start().await;
    let toml = format!("strays = \"kill\"\n{}", toml(&stage.game(LIVES), ""));
    let agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    let (work_dir, run) = (agent.work_dir.clone(), stage.run(&agent, number));
    agent.stop().await;
    let former = Backup::of(&work_dir);
    let agent = stage.fleet.agent("h1", &toml).await;
    let game = pid(&stage.does(&agent, "start_entity", number).await);
    agent.stop().await;
    former.restore();
    fs::remove_dir_all(&run).unwrap();
    // The same of an agent that works in the same folder and keeps its data elsewhere.
    let environ = fs::read_to_string(format!("/proc/{game}/environ")).unwrap();
    let theirs =
        environ.split('\0').filter_map(|variable| variable.split_once('=')).map(|(name, value)| {
            match name {
                "GOP_RUN" => (name, value.replace("/.gop/", "/.other/")),
                "GOP_TOKEN" => (name, "another".to_owned()),
                _ => (name, value.to_owned()),
            }
        });
    let mut other = Command::new("sleep").arg("1000").env_clear().envs(theirs).spawn().unwrap();
    assert!(environ.contains(&format!("GOP_RUN={}\0", run.display())), "{environ}");

    let agent = stage.fleet.agent("h1", &toml).await;
    let strays = strays(&stage, &agent).await;
    let left = other.try_wait().unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(left, None, "nobody touched the other process");
    assert_eq!((strays.len(), strays[0].pid, strays[0].entity), (1, game, number), "{strays:?}");
    assert_eq!(strays[0].action, "killed");
    assert!(!runs(game));
}
