//! Kill waits for nothing, and whoever it overtakes is told.

use std::time::{Duration, Instant};

use goperation::Reason;
use serde_json::json;

use crate::stage::{Stage, pid, runs};

/// Ignores SIGTERM; it says so, because only then may it be sent.
const STUBBORN: &str = "trap '' TERM; echo up; while :; do sleep 1000; done";
const STUCK: &str = "ready = { line = \"up\" }\nstop = { grace = \"10m\" }";

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_stop_is_overtaken() {
    let stage = Stage::start().await;
    // One place for endpoint methods: the stop has it.
    let agent = {
        let toml = crate::stage::toml(&stage.game(STUBBORN), STUCK);
        stage.agent(&format!("max_in_flight = 1\n{toml}")).await
    };
    let number = stage.create(&agent).await;
    let game = pid(&stage.does(&agent, "start_entity", number).await);
    let began = Instant::now();
    let stop = async { stage.does(&agent, "stop_entity", number).await };
    let kill = async {
        stage.until_row(&agent, number, "STOPPING").await;
        stage.does(&agent, "kill_entity", number).await
    };
    let (stopped, killed) = tokio::join!(stop, kill);
    assert!(began.elapsed() < Duration::from_secs(55), "{:?}", began.elapsed());
    assert_eq!(killed["state"], "STOPPED");
    assert_eq!(killed["last_exit"]["cause"], "kill");
    assert_eq!(stopped["state"], "STOPPED", "it is stopped, as was asked");
    assert!(!runs(game));
    assert_eq!(stage.games(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_is_kept_and_then_it_is_killed() {
    let stage = Stage::start().await;
    let (agent, number) = stage.with(STUBBORN, STUCK).await;
    stage.does(&agent, "start_entity", number).await;
    let began = Instant::now();
    let answer = stage
        .call_with(&agent, "stop_entity", json!({"entity": number, "grace_ms": 700}))
        .await
        .unwrap();
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    assert_eq!(answer["process"]["state"], "STOPPED");
    assert_eq!(answer["process"]["last_exit"]["signal"], 9);
    assert_eq!(answer["process"]["last_exit"]["cause"], "stop");
    assert_eq!(stage.games(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_is_overtaken() {
    let stage = Stage::start().await;
    let ready = "ready = { line = \"never\", timeout = \"10m\" }";
    let (agent, number) = stage.with("exec sleep 1000", ready).await;
    let start = async { stage.call(&agent, "start_entity", number).await };
    let kill = async {
        stage.until_row(&agent, number, "STARTING").await;
        stage.does(&agent, "kill_entity", number).await
    };
    let (started, killed) = tokio::join!(start, kill);
    let refused = started.unwrap_err();
    assert_eq!(refused.reason, Reason::StateRefused, "{refused}");
    assert!(refused.message.contains("was killed meanwhile"), "{refused}");
    assert_eq!(killed["state"], "STOPPED");
    assert_eq!(stage.games(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_is_stuck_is_overtaken_and_starts_nothing() {
    let stage = Stage::start().await;
    let (agent, number) = stage.with(STUBBORN, STUCK).await;
    stage.does(&agent, "start_entity", number).await;
    let restart = async { stage.call(&agent, "restart_entity", number).await };
    let kill = async {
        stage.until_row(&agent, number, "STOPPING").await;
        stage.does(&agent, "kill_entity", number).await
    };
    let (restarted, killed) = tokio::join!(restart, kill);
    assert_eq!(restarted.unwrap_err().reason, Reason::StateRefused);
    assert_eq!(killed["state"], "STOPPED");
    assert_eq!(stage.games(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_of_scripts_are_their_programs_or_not_there() {
    let stage = Stage::start().await;
    let start = crate::fleet::script(stage.fleet.path(), "start", "cat");
    let toml = format!("[endpoints.game.methods.start]\nprogram = [{start:?}]\n");
    let agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    let answer = stage.call(&agent, "start_entity", number).await.unwrap();
    assert_eq!(answer["result"]["entity"], number);
    assert!(!answer.contains_key("process"));
    let error = stage.call(&agent, "stop_entity", number).await.unwrap_err();
    assert_eq!(error.reason, Reason::MethodNotFound);
}
