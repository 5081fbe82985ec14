//! Kill waits for nothing, and whoever it overtakes is told.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use goperation::Reason;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::runtime::Handle;

use crate::{
    fleet::{TestAgent, script},
    stage::{LIVES, Stage, pid, runs, toml, until},
};

/// Ignores SIGTERM; it says so, because only then may it be sent.
const STUBBORN: &str = "trap '' TERM; echo up; while :; do sleep 1000; done";
const STUCK: &str = "ready = { line = \"up\" }\nstop = { grace = \"10m\" }";

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_stop_is_overtaken() {
    let stage = Stage::start().await;
    // One place for endpoint methods: the stop has it.
    let agent = {
        let toml = toml(&stage.game(STUBBORN), STUCK);
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
async fn a_launcher_that_is_stopped_holds_up_no_verb() {
    let stage = Stage::start().await;
    let agent = stage.agent(&toml(&stage.game(LIVES), "ready = { line = \"up\" }")).await;
    let mut games = Vec::new();
    for _ in 0..3 {
        let number = stage.create(&agent).await;
        games.push((number, pid(&stage.does(&agent, "start_entity", number).await)));
        let launcher = Pid::from_raw(stage.launcher(&agent, number)).unwrap();
        kill_process(launcher, Signal::STOP).unwrap();
    }
    let does = async |method: &str, number: i32| {
        let args = match method {
            "kill_entity" => json!({"entity": number}),
            _ => json!({"entity": number, "grace_ms": 100}),
        };
        stage.call_with(&agent, method, args).await.unwrap()["process"].clone()
    };
    let (killed, stopped, restarted) = tokio::join!(
        does("kill_entity", games[0].0),
        does("stop_entity", games[1].0),
        does("restart_entity", games[2].0),
    );
    assert_eq!(killed["state"], "STOPPED");
    assert_eq!(stopped["state"], "STOPPED");
    assert_eq!(restarted["state"], "RUNNING");
    for status in [&killed, &stopped, &restarted] {
        assert_eq!(status["last_exit"]["cause"], "unknown", "{status}");
    }
    assert!(!games.iter().any(|(_, game)| runs(*game)));
    assert_eq!(stage.games(), [pid(&restarted)]);
}

/// Launchers that do nothing as long as the file `hold` is there; each leaves its pid in `came`.
struct Held {
    hold: PathBuf,
    came: PathBuf,
}

impl Held {
    async fn agent(stage: &Stage) -> (Self, TestAgent) {
        let (hold, came) = (stage.fleet.path().join("hold"), stage.fleet.path().join("came"));
        fs::write(&hold, "").unwrap();
        let mut parts = stage.fleet.parts(stage.fleet.channel.clone());
        let body = format!(
            "echo $$ >{came:?}.new; mv {came:?}.new {came:?}\n\
             while test -e {hold:?}; do sleep 0.01; done\nexec {:?} \"$@\"",
            parts.launcher[0]
        );
        parts.launcher = vec![script(stage.fleet.path(), "launcher", &body).into()];
        let toml = toml(&stage.game(LIVES), "ready = { line = \"up\" }");
        let agent = stage.fleet.agent_on("h1", &toml, parts, &Handle::current()).await;
        stage.fleet.activate(&agent).await;
        (Self { hold, came }, agent)
    }

    async fn launcher(&self) -> i32 {
        until("the launcher has come", || self.came.exists()).await;
        fs::read_to_string(&self.came).unwrap().trim().parse().unwrap()
    }

    fn let_go(&self) {
        fs::remove_file(&self.hold).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_is_under_way_is_overtaken() {
    let stage = Stage::start().await;
    let (held, agent) = Held::agent(&stage).await;
    let number = stage.create(&agent).await;
    let start = async { stage.call(&agent, "start_entity", number).await };
    let kill = async {
        let launcher = held.launcher().await;
        let killed = stage.does(&agent, "kill_entity", number).await;
        assert!(!runs(launcher), "its launcher has gone with it");
        killed
    };
    let (started, killed) = tokio::join!(start, kill);
    let refused = started.unwrap_err();
    assert_eq!(refused.reason, Reason::StateRefused, "{refused}");
    assert!(refused.message.contains("was killed meanwhile"), "{refused}");
    assert_eq!(killed["state"], "STOPPED");
    held.let_go();
    assert_eq!(stage.does(&agent, "start_entity", number).await["state"], "RUNNING");
    assert_eq!(stage.games().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launcher_that_does_nothing_is_given_up_and_starts_nothing() {
    let stage = Stage::start().await;
    let (held, agent) = Held::agent(&stage).await;
    let number = stage.create(&agent).await;
    let start = async { stage.call(&agent, "start_entity", number).await };
    let (started, launcher) = tokio::join!(start, held.launcher());
    let failed = started.unwrap_err();
    assert_eq!(failed.reason, Reason::MethodFailed, "{failed}");
    assert!(failed.message.contains("did not start it within"), "{failed}");
    assert!(!runs(launcher));
    assert!(procfs::process::Process::new(launcher).is_err(), "it is reaped");
    assert_eq!(stage.status(&agent, number).await["state"], "CRASHED");
    held.let_go();
    assert_eq!(stage.does(&agent, "start_entity", number).await["state"], "RUNNING");
    assert_eq!(stage.games().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_of_scripts_are_their_programs_or_not_there() {
    let stage = Stage::start().await;
    let start = script(stage.fleet.path(), "start", "cat");
    let toml = format!("[endpoints.game.methods.start]\nprogram = [{start:?}]\n");
    let agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    let answer = stage.call(&agent, "start_entity", number).await.unwrap();
    assert_eq!(answer["result"]["entity"], number);
    assert!(!answer.contains_key("process"));
    let error = stage.call(&agent, "stop_entity", number).await.unwrap_err();
    assert_eq!(error.reason, Reason::MethodNotFound);
}
