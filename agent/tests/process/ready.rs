//! When a start is answered, and with what.

use std::time::Duration;

use goperation::Reason;
use serde_json::json;

use crate::stage::{Stage, pid, ranges, runs, server, toml};

const TIMEOUT: &str = "timeout = \"2s\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_port_counts_when_our_process_has_bound_it() {
    let stage = Stage::start().await;
    let program = server(&stage);
    let process = format!(
        "command = [{program:?}, \"udp:{{port.game}}\", \"tcp:{{port.game}}\"]\n\
         ports = [{{ name = \"game\" }}]\nready = {{ port = \"game\", timeout = \"50s\" }}\n"
    );
    let agent = stage.agent(&format!("{}{}", ranges(2), endpoint(&process))).await;
    let number = stage.create(&agent).await;
    let started = stage.does(&agent, "start_entity", number).await;
    assert_eq!(started["state"], "RUNNING");
    let bound = started["bound"].as_array().unwrap();
    assert_eq!(bound.len(), 2, "{started}");
    for (bound, protocol) in bound.iter().zip(["tcp", "udp"]) {
        assert_eq!(bound["protocol"], protocol);
        assert_eq!(bound["name"], "game");
        assert_eq!(
            (&bound["own"], &bound["reserved"], &bound["address"]),
            (&json!(true), &json!(true), &json!("127.0.0.1"))
        );
        assert_eq!(bound["pid"], started["pid"]);
    }
    stage.does(&agent, "stop_entity", number).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_port_than_the_given_one_is_told() {
    let stage = Stage::start().await;
    let program = server(&stage);
    let other = goperation_harness::free_port();
    let process = format!(
        "command = [{program:?}, \"udp:{other}\"]\n\
         ports = [{{ name = \"game\", protocol = \"udp\" }}]\n\
         ready = {{ port = \"game\", timeout = \"3s\" }}\n"
    );
    let agent = stage.agent(&format!("{}{}", ranges(1), endpoint(&process))).await;
    let number = stage.create(&agent).await;
    let error = stage.call(&agent, "start_entity", number).await.unwrap_err();
    assert_eq!(error.reason, Reason::MethodFailed);
    let said = format!("its processes have bound: 127.0.0.1:{other}/udp");
    assert!(error.message.contains(&said), "{error}");
    assert!(error.message.contains("was not ready within 3s and was killed"), "{error}");
    let status = stage.status(&agent, number).await;
    assert_eq!(status["state"], "CRASHED");
    assert_eq!(status["last_exit"]["cause"], "not ready");
    assert_eq!(stage.games(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_counts_when_this_run_has_written_it() {
    let stage = Stage::start().await;
    // The second run never writes it; its log has that of the first one still.
    let body = "if [ -e second ]; then echo no; else echo; echo 'game is up now'; fi\n\
                touch second; exec sleep 1000";
    let ready = format!("ready = {{ line = \"^game is .. now$\", {TIMEOUT} }}");
    let (agent, number) = stage.with(body, &ready).await;
    assert_eq!(stage.does(&agent, "start_entity", number).await["state"], "RUNNING");
    stage.does(&agent, "stop_entity", number).await;
    let error = stage.call(&agent, "start_entity", number).await.unwrap_err();
    assert_eq!(error.reason, Reason::MethodFailed);
    assert!(error.message.contains("a line that matches `^game is .. now$`"), "{error}");
    assert!(error.metadata["output"].ends_with("no\n"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_counts_when_it_succeeds() {
    let stage = Stage::start().await;
    let check = crate::fleet::script(
        stage.fleet.path(),
        "check",
        "echo \"$1 $GOP_ENTITY\" >>asked; test -e up",
    );
    let ready = format!(
        "ready = {{ script = [{check:?}, \"number {{number}}\"], interval = \"20ms\", \
         timeout = \"50s\" }}"
    );
    let (agent, number) = stage.with("sleep 0.3; touch up; exec sleep 1000", &ready).await;
    assert_eq!(stage.does(&agent, "start_entity", number).await["state"], "RUNNING");
    let home = agent.work_dir.join(format!("game/{number}"));
    let asked = std::fs::read_to_string(home.join("asked")).unwrap();
    assert!(asked.lines().count() > 1, "{asked}");
    assert!(asked.lines().all(|line| line == format!("number {number} {number}")), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_before_it_is_ready_is_told_with_its_log() {
    let stage = Stage::start().await;
    let ready = "ready = { line = \"up\", timeout = \"50s\" }";
    let (agent, number) = stage.with("echo no map; echo bad luck >&2; exit 3", ready).await;
    let error = stage.call(&agent, "start_entity", number).await.unwrap_err();
    assert_eq!(error.reason, Reason::MethodFailed);
    assert_eq!(
        error.message,
        format!("start of game {number}: it ended with exit code 3 before it was ready: bad luck")
    );
    assert_eq!(error.metadata["exit_code"], "3");
    assert_eq!(error.metadata["output"], "no map\nbad luck\n");
    let status = stage.status(&agent, number).await;
    assert_eq!((&status["state"], &status["last_exit"]["code"]), (&json!("CRASHED"), &json!(3)));
    // A failed start is no crash loop: it is tried when it is asked for, and only then.
    assert_eq!(status["restarts"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_is_told() {
    let stage = Stage::start().await;
    let program = stage.game("exit 0");
    let agent = stage.agent(&toml(&program, "")).await;
    let number = stage.create(&agent).await;
    std::fs::remove_file(&program).unwrap();
    let error = stage.call(&agent, "start_entity", number).await.unwrap_err();
    assert_eq!(error.reason, Reason::MethodFailed);
    assert!(error.message.contains("cannot run") && error.message.contains("game"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn children_of_a_game_count_and_go_with_it() {
    let stage = Stage::start().await;
    let body = "setsid sleep 1000 & sleep 1000 & (setsid sleep 1000 &) ; echo up; wait";
    let (agent, number) =
        stage.with(body, "ready = { line = \"up\" }\nstop = { grace = \"100ms\" }").await;
    let started = stage.does(&agent, "start_entity", number).await;
    assert_eq!(started["processes"], 4, "{started}");
    let games = stage.games();
    assert_eq!(games.len(), 4);
    tokio::time::timeout(Duration::from_secs(50), async {
        stage.does(&agent, "stop_entity", number).await;
    })
    .await
    .unwrap();
    assert!(!games.into_iter().any(runs), "the whole tree has ended");
    assert!(!runs(pid(&started)));
}

/// An endpoint `game` with that table.
fn endpoint(process: &str) -> String {
    format!("[endpoints.game]\ndriver = \"process\"\n[endpoints.game.process]\n{process}")
}
