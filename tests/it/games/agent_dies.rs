//! A game outlives its agent: it is adopted, never started twice, and how it ended is known.

use std::{collections::BTreeMap, fs, process::Command};

use goperation::v1;
use goperation_harness::{guard::Guarded, is_alive, poll_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Hold, Stage, exit_of, ports_of, process_of};
use crate::{fleet::SOON, procs::AgentProcess};

const PLAIN: Hold<'_> = Hold {
    flags: &[],
    port: true,
    process: "ready = { port = \"game\", timeout = \"60s\" }\nrestart = { policy = \"never\" }",
};

/// Kills the agent's process, and its group only when it is to be worse.
pub(super) async fn kill9(agent: &mut AgentProcess, group: bool) {
    if !group {
        agent.process().signal(Signal::KILL);
        agent.exit_code().await;
    }
    agent.kill();
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn games_outlive_ten_kills_of_their_agent() {
    let stage = Stage::start().await;
    let mut agent = stage.agent("h1", 6, &PLAIN.toml(&stage)).await;
    let mut games = BTreeMap::new();
    for _ in 0..3 {
        let entity = stage.create("hold", agent.id).await.unwrap();
        let started = stage.start_entity(&entity).await.unwrap();
        games.insert(process_of(&started).1, entity);
    }
    for kill in 0..10 {
        kill9(&mut agent, kill % 2 == 1).await;
        assert!(games.keys().all(|pid| is_alive(*pid)), "a game died with its agent");
        agent.start().await;
        for (pid, entity) in &games {
            let shown = stage.status(entity).await.unwrap();
            assert_eq!(process_of(&shown), (v1::ProcessState::Running, *pid), "kill {kill}");
            assert_eq!(shown.restarts, 0);
            let bound: Vec<_> = shown.bound.iter().map(|b| (b.port, b.pid, b.own)).collect();
            assert_eq!(bound, [(entity.ports[0].port, pid.cast_signed(), true)]);
            let record = stage.site.entity("hold", entity.number).await.unwrap();
            assert_eq!(ports_of(&record), ports_of(entity));
            // Still the same when it is asked for again.
            let again = stage.start_entity(entity).await.unwrap();
            assert_eq!(process_of(&again), (v1::ProcessState::Running, *pid));
        }
    }
    for (pid, entity) in &games {
        assert_eq!(stage.starts(entity.number), [*pid], "a second start");
    }
    // Adopted games obey like any other.
    for (pid, entity) in &games {
        let stopped = stage.stop_entity(entity).await.unwrap();
        assert_eq!(process_of(&stopped), (v1::ProcessState::Stopped, 0));
        assert_eq!(exit_of(&stopped), (Some(0), None, "stop".to_owned()));
        assert_eq!(stage.told("term", entity.number), [*pid]);
        stage.delete_entity(entity).await.unwrap();
    }
    assert!(stage.ports(&agent).await.is_empty());
    let record = stage.site.show(agent.id).await.unwrap();
    assert!(record.strays.is_empty(), "{record:?}");
    stage.assert_no_violation();
    stage.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_while_the_agent_is_dead_is_known() {
    let stage = Stage::start().await;
    let mut agent = stage.agent("h1", 6, &PLAIN.toml(&stage)).await;
    let mut games = Vec::new();
    for (sent, code, by) in
        [(Signal::USR1, Some(7), None), (Signal::ALARM, None, Some(Signal::ALARM.as_raw()))]
    {
        let entity = stage.create("hold", agent.id).await.unwrap();
        let started = stage.start_entity(&entity).await.unwrap();
        games.push((process_of(&started).1, entity, sent, (code, by, "itself".to_owned())));
    }
    kill9(&mut agent, false).await;
    for (pid, entity, sent, _) in &games {
        signal(*pid, *sent);
        stage.ended(&agent, entity.number).await;
    }
    agent.start().await;
    for (_, entity, _, exit) in &games {
        let shown = stage.status(entity).await.unwrap();
        assert_eq!(process_of(&shown), (v1::ProcessState::Stopped, 0), "{shown:?}");
        assert_eq!(exit_of(&shown), *exit);
        stage
            .recorded(entity, "how it ended", |process| {
                process.last_exit.is_some() && exit_of(process) == *exit
            })
            .await;
        assert_eq!(stage.starts(entity.number).len(), 1);
        let started = stage.start_entity(entity).await.unwrap();
        assert_eq!(process_of(&started).0, v1::ProcessState::Running);
    }
    stage.assert_no_violation();
    stage.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_while_the_agent_is_dead_follows_the_restart_policy() {
    let stage = Stage::start().await;
    let policy = "ready = { port = \"game\", timeout = \"60s\" }\n\
                  restart = { policy = \"on-failure\", delay = \"50ms\" }";
    let hold = Hold { process: policy, ..PLAIN };
    let mut agent = stage.agent("h1", 6, &hold.toml(&stage)).await;
    let entity = stage.create("hold", agent.id).await.unwrap();
    let (_, first) = process_of(&stage.start_entity(&entity).await.unwrap());
    kill9(&mut agent, false).await;
    signal(first, Signal::USR1);
    stage.ended(&agent, entity.number).await;
    agent.start().await;
    stage
        .recorded(&entity, "RUNNING again", |process| {
            process.state() == v1::ProcessState::Running && process.restarts == 1
        })
        .await;
    let shown = stage.status(&entity).await.unwrap();
    let (state, second) = process_of(&shown);
    assert_eq!(state, v1::ProcessState::Running);
    assert_eq!(exit_of(&shown), (Some(7), None, "itself".to_owned()));
    assert_eq!(stage.starts(entity.number), [first, second]);
    stage.assert_no_violation();
    stage.site.stop().await;
}

/// A game whose launcher died too, and whose pid somebody else has now.
#[tokio::test(flavor = "multi_thread")]
async fn a_reused_pid_is_not_adopted() {
    let stage = Stage::start().await;
    let mut agent = stage.agent("h1", 6, &PLAIN.toml(&stage)).await;
    let entity = stage.create("hold", agent.id).await.unwrap();
    let (_, pid) = process_of(&stage.start_entity(&entity).await.unwrap());
    kill9(&mut agent, false).await;
    // The launcher first, so that nobody says how the game ended.
    let named = stage.named(&agent, "hold", entity.number);
    assert_eq!(named.len(), 2, "{named:?}: the game and its launcher");
    for launcher in named.iter().filter(|other| **other != pid) {
        signal(*launcher, Signal::KILL);
        poll_until(SOON, "the launcher is gone", async || !is_alive(*launcher)).await;
    }
    signal(pid, Signal::KILL);
    stage.ended(&agent, entity.number).await;

    let mut foreign = Guarded::spawn(Command::new("sleep").arg("600")).unwrap();
    let [_, run] = stage.folders(&agent, "hold", entity.number);
    let file = run.join("process.json");
    let mut process: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for which in ["game", "launcher"] {
        assert!(process[which]["pid"].is_u64(), "{process}");
        process[which]["pid"] = foreign.id().into();
    }
    fs::write(&file, process.to_string()).unwrap();

    agent.start().await;
    let shown = stage.status(&entity).await.unwrap();
    assert_eq!(process_of(&shown), (v1::ProcessState::Stopped, 0), "{shown:?}");
    assert_eq!(exit_of(&shown), (None, None, "unknown".to_owned()));
    stage.kill_entity(&entity).await.unwrap();
    let started = stage.start_entity(&entity).await.unwrap();
    let (state, second) = process_of(&started);
    assert_eq!(state, v1::ProcessState::Running);
    assert_eq!(stage.starts(entity.number), [pid, second]);
    stage.stop_entity(&entity).await.unwrap();
    stage.delete_entity(&entity).await.unwrap();
    assert!(foreign.try_wait().unwrap().is_none(), "somebody else's process was killed");
    stage.assert_no_violation();
    stage.site.stop().await;
}
