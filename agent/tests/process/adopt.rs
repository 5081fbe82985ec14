//! An agent that ends and comes back, as itself.

use std::fs;

use goperation::Reason;
use serde_json::{Value, json};

use crate::{
    fleet::TestAgent,
    stage::{LIVES, Stage, kill, pid, runs, toml, until},
};

impl Stage {
    /// Ends the agent in an orderly way and starts it anew.
    async fn again(&self, agent: TestAgent, toml: &str) -> TestAgent {
        agent.stop().await;
        self.fleet.agent("h1", toml).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_goes_on_and_is_minded_again() {
    let stage = Stage::start().await;
    let toml = toml(&stage.game(LIVES), "restart = { delay = \"10ms\" }");
    let mut agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    let first = stage.does(&agent, "start_entity", number).await;
    for _ in 0..3 {
        agent = stage.again(agent, &toml).await;
        let now = stage.status(&agent, number).await;
        assert_eq!((&now["state"], &now["pid"]), (&json!("RUNNING"), &first["pid"]));
        assert_eq!((&now["since"], &now["start_time"]), (&first["since"], &first["start_time"]));
    }
    kill(pid(&first));
    let next = stage
        .until(&agent, number, "it is started again", |s| {
            s["state"] == "RUNNING" && s["restarts"] == 1
        })
        .await;
    assert_eq!(next["last_exit"]["signal"], 9);
    stage.does(&agent, "stop_entity", number).await;
    assert_eq!(stage.games(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_while_the_agent_was_away_is_known() {
    let stage = Stage::start().await;
    let body = "echo up; while ! test -e end; do sleep 0.01; done; exit 6";
    let toml = toml(
        &stage.game(body),
        "ready = { line = \"up\" }\nrestart = { delay = \"1h\", max_delay = \"1h\" }",
    );
    let agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    let game = pid(&stage.does(&agent, "start_entity", number).await);
    let (home, run) = (agent.work_dir.join(format!("game/{number}")), stage.run(&agent, number));
    agent.stop().await;
    assert!(runs(game));
    fs::write(home.join("end"), "").unwrap();
    until("its launcher has said how it ended", || {
        serde_json::from_slice::<Value>(&fs::read(run.join("exit.json")).unwrap_or_default())
            .is_ok_and(|exit| exit["code"] == 6)
    })
    .await;
    let agent = stage.fleet.agent("h1", &toml).await;
    let status = stage.status(&agent, number).await;
    assert_eq!(status["state"], "BACKOFF", "{status}");
    assert_eq!(status["last_exit"]["code"], 6);
    assert_eq!(status["last_exit"]["cause"], "itself");
    // The pause survives the agent too.
    let agent = stage.again(agent, &toml).await;
    assert_eq!(stage.status(&agent, number).await["state"], "BACKOFF");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_pid_is_not_adopted() {
    let stage = Stage::start().await;
    let toml = toml(&stage.game(LIVES), "restart = { delay = \"10ms\" }");
    let agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    let game = pid(&stage.does(&agent, "start_entity", number).await);
    let (launcher, run) = (stage.launcher(&agent, number), stage.run(&agent, number));
    agent.stop().await;
    kill(launcher);
    kill(game);
    until("both are gone", || !runs(game) && !runs(launcher)).await;
    // Another process has the pids now.
    let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let file = run.join("process.json");
    let mut process: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    process["game"]["pid"] = other.id().into();
    process["launcher"]["pid"] = other.id().into();
    fs::write(&file, process.to_string()).unwrap();
    let _ = fs::remove_file(run.join("exit.json"));

    let agent = stage.fleet.agent("h1", &toml).await;
    let status = stage
        .until(&agent, number, "it is started anew", |s| {
            s["state"] == "RUNNING" && s["restarts"] == 1
        })
        .await;
    let left = other.try_wait().unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(left, None, "nobody touched the other process");
    assert_ne!(pid(&status), i32::try_from(other.id()).unwrap());
    assert_eq!(status["last_exit"]["cause"], "unknown");
    assert_eq!(stage.games().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_launcher_costs_only_the_exit_status() {
    let stage = Stage::start().await;
    let toml = toml(&stage.game(LIVES), "restart = { delay = \"1h\", max_delay = \"1h\" }");
    let agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    let game = pid(&stage.does(&agent, "start_entity", number).await);
    kill(stage.launcher(&agent, number));
    let status = stage.until(&agent, number, "the loss is seen", lost).await;
    assert_eq!((&status["state"], &status["pid"]), (&json!("RUNNING"), &json!(game)));
    // And after a restart of the agent it is adopted.
    let agent = stage.again(agent, &toml).await;
    let status = stage.status(&agent, number).await;
    assert!(lost(&status), "{status}");
    assert_eq!(pid(&status), game);
    // It can be restarted, and is whole again.
    let status = stage.does(&agent, "restart_entity", number).await;
    assert!(!runs(game));
    assert_eq!((&status["state"], lost(&status)), (&json!("RUNNING"), false));
    assert_eq!(status["last_exit"]["cause"], "unknown");
    // And killed.
    kill(stage.launcher(&agent, number));
    stage.until(&agent, number, "the loss is seen", lost).await;
    assert_eq!(stage.does(&agent, "kill_entity", number).await["state"], "STOPPED");
    assert_eq!(stage.games(), [0; 0]);
}

/// What a process says of itself whose launcher was lost.
fn lost(status: &Value) -> bool {
    status["message"].as_str().is_some_and(|message| message.contains("launcher was lost"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launcher_lost_before_the_game_is_ready_costs_no_line() {
    let body = "while ! test -e up; do sleep 0.01; done; echo up; exec sleep 1000";
    let stage = Stage::start().await;
    let (agent, number) = stage.with(body, "ready = { line = \"up\", timeout = \"10m\" }").await;
    let start = async { stage.does(&agent, "start_entity", number).await };
    let lose = async {
        let recorded = |s: &Value| s["state"] == "STARTING" && s["pid"].is_number();
        stage.until(&agent, number, "it starts", recorded).await;
        kill(stage.launcher(&agent, number));
        let starting = stage.until(&agent, number, "the loss is seen", lost).await;
        assert_eq!(starting["state"], "STARTING");
        fs::write(agent.work_dir.join(format!("game/{number}/up")), "").unwrap();
    };
    let (started, ()) = tokio::join!(start, lose);
    assert_eq!((&started["state"], lost(&started)), (&json!("RUNNING"), true), "{started}");
    assert_eq!(stage.log(&agent, number), "up\n");
    stage.does(&agent, "stop_entity", number).await;
    assert_eq!(stage.games(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launcher_lost_while_the_game_is_stopped_leaves_it_read() {
    let body = "trap '' TERM; echo up; while ! test -e more; do sleep 0.01; done; \
                head -c 1000000 /dev/zero | tr '\\0' x; echo; echo said more; \
                while :; do sleep 1000; done";
    let stage = Stage::start().await;
    let process = "ready = { line = \"up\" }\nstop = { grace = \"10m\" }";
    let (agent, number) = stage.with(body, process).await;
    stage.does(&agent, "start_entity", number).await;
    let stop = async { stage.does(&agent, "stop_entity", number).await };
    let lose = async {
        stage.until_row(&agent, number, "STOPPING").await;
        kill(stage.launcher(&agent, number));
        let stopping = stage.until(&agent, number, "the loss is seen", lost).await;
        assert_eq!(stopping["state"], "STOPPING");
        fs::write(agent.work_dir.join(format!("game/{number}/more")), "").unwrap();
        until("it is read on", || stage.log(&agent, number).contains("said more")).await;
        stage.does(&agent, "kill_entity", number).await
    };
    let (stopped, killed) = tokio::join!(stop, lose);
    assert_eq!((&stopped["state"], &killed["state"]), (&json!("STOPPED"), &json!("STOPPED")));
    assert_eq!(stage.games(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_folder_that_cannot_be_read_loses_no_game() {
    let stage = Stage::start().await;
    let toml = format!("strays = \"kill\"\n{}", toml(&stage.game(LIVES), ""));
    let agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    let first = stage.does(&agent, "start_entity", number).await;
    let file = stage.run(&agent, number).join("process.json");
    let away = file.with_extension("away");
    agent.stop().await;
    fs::rename(&file, &away).unwrap();
    fs::create_dir(&file).unwrap();

    let agent = stage.fleet.agent("h1", &toml).await;
    let status = stage.status(&agent, number).await;
    assert_eq!((&status["state"], &status["pid"]), (&json!("RUNNING"), &first["pid"]));
    assert!(status["message"].as_str().unwrap().contains("is not known"), "{status}");
    for verb in ["start_entity", "stop_entity", "kill_entity"] {
        let refused = stage.call(&agent, verb, number).await.unwrap_err();
        assert_eq!(refused.reason, Reason::MethodFailed, "{verb}: {refused}");
        assert!(refused.message.contains("is not known"), "{verb}: {refused}");
    }
    assert!(runs(pid(&first)));
    // It is read again, and the game is minded as before.
    fs::remove_dir(&file).unwrap();
    fs::rename(&away, &file).unwrap();
    let known = |s: &Value| s["message"].is_null();
    let status = stage.until(&agent, number, "it is adopted", known).await;
    assert_eq!((&status["state"], &status["pid"]), (&json!("RUNNING"), &first["pid"]));
    let stopped = stage.does(&agent, "stop_entity", number).await;
    assert_eq!(stopped["last_exit"]["signal"], 15);
    assert_eq!(stage.games(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launcher_lost_while_the_run_folder_cannot_be_read_costs_no_game() {
    let stage = Stage::start().await;
    let (agent, number) = stage.with(LIVES, "").await;
    let game = pid(&stage.does(&agent, "start_entity", number).await);
    let launcher = stage.launcher(&agent, number);
    let file = stage.run(&agent, number).join("process.json");
    let away = file.with_extension("away");
    fs::rename(&file, &away).unwrap();
    fs::create_dir(&file).unwrap();
    kill(launcher);
    let unknown =
        |s: &Value| s["message"].as_str().is_some_and(|message| message.contains("is not known"));
    stage.until(&agent, number, "the folder was tried", unknown).await;
    assert!(runs(game));
    fs::remove_dir(&file).unwrap();
    fs::rename(&away, &file).unwrap();
    let status = stage.until(&agent, number, "it is adopted", lost).await;
    assert_eq!((&status["state"], &status["pid"]), (&json!("RUNNING"), &json!(game)));
    assert_eq!(stage.does(&agent, "stop_entity", number).await["state"], "STOPPED");
    assert_eq!(stage.games(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_game_without_its_launcher_is_read_on() {
    // Each time far more than a pipe holds: unread, the game would wait for ever.
    let body = "echo up; for word in first second; do \
                while ! test -e $word; do sleep 0.01; done; \
                head -c 1000000 /dev/zero | tr '\\0' x; echo; echo said $word; done; \
                exec sleep 1000";
    let stage = Stage::start().await;
    let toml = toml(&stage.game(body), "ready = { line = \"up\" }");
    let agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    stage.does(&agent, "start_entity", number).await;
    let home = agent.work_dir.join(format!("game/{number}"));
    kill(stage.launcher(&agent, number));
    fs::write(home.join("first"), "").unwrap();
    until("it is read on", || stage.log(&agent, number).contains("said first")).await;
    // The reader is not the agent's either.
    agent.stop().await;
    fs::write(home.join("second"), "").unwrap();
    let agent = stage.fleet.agent("h1", &toml).await;
    until("it is read on", || stage.log(&agent, number).contains("said second")).await;
    stage.does(&agent, "kill_entity", number).await;
    assert_eq!(stage.games(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_was_broken_off_is_done() {
    let stage = Stage::start().await;
    let body = "trap '' TERM; echo up; while :; do sleep 1000; done";
    let process = "ready = { line = \"up\" }\nstop = { grace = \"2s\" }";
    let toml = format!("drain = \"100ms\"\n{}", toml(&stage.game(body), process));
    let agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    let game = pid(&stage.does(&agent, "start_entity", number).await);
    let stop = stage.fleet.cast(
        agent.target("game"),
        "stop_entity",
        json!({"entity": number, "grace_ms": 600_000}),
        None,
    );
    stop.await.unwrap();
    stage.until_row(&agent, number, "STOPPING").await;
    let agent = stage.again(agent, &toml).await;
    let status = stage.until(&agent, number, "it is stopped", |s| s["state"] == "STOPPED").await;
    assert_eq!(status["last_exit"]["cause"], "stop");
    assert!(!runs(game));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_was_broken_off_is_gone_on_with() {
    let stage = Stage::start().await;
    let body = "echo run >>../../runs; while ! test -e up; do sleep 0.01; done; echo up; \
                exec sleep 1000";
    let toml = format!(
        "drain = \"100ms\"\n{}",
        toml(&stage.game(body), "ready = { line = \"up\", timeout = \"10m\" }")
    );
    let agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    let start = json!({"entity": number});
    stage.fleet.cast(agent.target("game"), "start_entity", start, None).await.unwrap();
    let starting = stage
        .until(&agent, number, "it starts", |s| s["state"] == "STARTING" && s["pid"].is_number())
        .await;
    let agent = stage.again(agent, &toml).await;
    let now = stage.status(&agent, number).await;
    assert_eq!((&now["state"], &now["pid"]), (&json!("STARTING"), &starting["pid"]));
    fs::write(agent.work_dir.join(format!("game/{number}/up")), "").unwrap();
    let up = stage.until(&agent, number, "it is ready", |s| s["state"] == "RUNNING").await;
    assert_eq!(up["pid"], starting["pid"]);
    let runs = fs::read_to_string(agent.work_dir.join("runs")).unwrap();
    assert_eq!(runs, "run\n", "it was started once");
}
