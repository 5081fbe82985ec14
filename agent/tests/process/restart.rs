//! What becomes of a process that ends by itself.

use serde_json::json;

use crate::stage::{LIVES, Stage, kill, pid};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_is_started_again_and_counted() {
    let stage = Stage::start().await;
    let (agent, number) = stage.with(LIVES, "restart = { delay = \"10ms\" }").await;
    let first = pid(&stage.does(&agent, "start_entity", number).await);
    kill(first);
    let again = stage
        .until(&agent, number, "it runs again", |s| s["state"] == "RUNNING" && s["restarts"] == 1)
        .await;
    assert_ne!(pid(&again), first);
    assert_eq!(again["last_exit"]["signal"], 9);
    assert_eq!(again["last_exit"]["cause"], "itself");
    assert_eq!(stage.games().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_ends_and_a_start_by_hand_begins_anew() {
    let stage = Stage::start().await;
    let body = "echo run >>../../runs; echo up; test -e good && exec sleep 1000\n\
                while ! test -e end; do sleep 0.01; done; exit 4";
    let process = "ready = { line = \"up\" }\nrestart = { delay = \"10ms\", max_delay = \"20ms\", \
                   max = 3, within = \"1h\" }";
    let (agent, number) = stage.with(body, process).await;
    assert_eq!(stage.does(&agent, "start_entity", number).await["state"], "RUNNING");
    let home = agent.work_dir.join(format!("game/{number}"));
    std::fs::write(home.join("end"), "").unwrap();
    let crashed = stage.until(&agent, number, "it stays down", |s| s["state"] == "CRASHED").await;
    assert_eq!(crashed["restarts"], 3, "{crashed}");
    assert_eq!(crashed["last_exit"]["code"], 4);
    let said = crashed["message"].as_str().unwrap();
    assert!(said.contains("exit code 4") && said.contains("3 times within 1h"), "{said}");
    let runs = std::fs::read_to_string(agent.work_dir.join("runs")).unwrap();
    assert_eq!(runs.lines().count(), 4, "the first, and three more");

    std::fs::write(home.join("good"), "").unwrap();
    let started = stage.does(&agent, "start_entity", number).await;
    assert_eq!((&started["state"], &started["restarts"]), (&json!("RUNNING"), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_says_when_it_stays_down() {
    for (policy, code) in [("on-failure", 0), ("never", 5)] {
        let stage = Stage::start().await;
        let body = format!("echo up; while ! test -e end; do sleep 0.01; done; exit {code}");
        let process = format!("ready = {{ line = \"up\" }}\nrestart = {{ policy = {policy:?} }}");
        let (agent, number) = stage.with(&body, &process).await;
        stage.does(&agent, "start_entity", number).await;
        std::fs::write(agent.work_dir.join(format!("game/{number}/end")), "").unwrap();
        let down = stage.until(&agent, number, "it is down", |s| s["state"] != "RUNNING").await;
        assert_eq!((&down["state"], &down["restarts"]), (&json!("STOPPED"), &json!(0)), "{policy}");
        assert_eq!(down["last_exit"]["code"], code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_before_a_restart_is_ended_by_hand() {
    let stage = Stage::start().await;
    let (agent, number) =
        stage.with(LIVES, "restart = { delay = \"1h\", max_delay = \"2h\" }").await;
    let first = pid(&stage.does(&agent, "start_entity", number).await);
    kill(first);
    let paused = stage.until(&agent, number, "it waits", |s| s["state"] == "BACKOFF").await;
    assert!(paused["message"].as_str().unwrap().contains("started again after 1h"), "{paused}");
    let second = stage.does(&agent, "start_entity", number).await;
    assert_eq!((&second["state"], &second["restarts"]), (&json!("RUNNING"), &json!(0)));
    kill(pid(&second));
    stage.until(&agent, number, "it waits", |s| s["state"] == "BACKOFF").await;
    assert_eq!(stage.does(&agent, "stop_entity", number).await["state"], "STOPPED");
    stage.call(&agent, "delete_entity", number).await.unwrap();
}
