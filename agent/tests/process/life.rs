//! The verbs of one entity, one after the other.

use goperation::Reason;
use goperation_agent::Exit;
use serde_json::json;

use crate::stage::{LIVES, Stage, pid, runs, until};

#[tokio::test(flavor = "multi_thread")]
async fn it_is_started_shown_restarted_and_stopped() {
    let stage = Stage::start().await;
    let (agent, number) = stage.with(LIVES, "").await;
    let stopped = stage.status(&agent, number).await;
    assert_eq!(stopped, json!({"state": "STOPPED", "restarts": 0}));

    let started = stage.does(&agent, "start_entity", number).await;
    assert_eq!(started["state"], "RUNNING", "{started}");
    let first = pid(&started);
    assert!(runs(first));
    assert!(started["memory_bytes"].as_u64().unwrap() > 0, "{started}");
    assert_eq!(started["processes"], 1);
    assert_eq!(pid(&stage.does(&agent, "start_entity", number).await), first, "left alone");
    assert_eq!(pid(&stage.status(&agent, number).await), first);
    until("it has written", || stage.log(&agent, number) == "up\n").await;

    let refused = stage.call(&agent, "delete_entity", number).await.unwrap_err();
    assert_eq!(refused.reason, Reason::StateRefused, "{refused}");
    assert_eq!(refused.metadata["state"], "RUNNING");

    let restarted = stage.does(&agent, "restart_entity", number).await;
    let second = pid(&restarted);
    assert_ne!(first, second);
    assert!(!runs(first) && runs(second));
    assert_eq!(restarted["last_exit"]["signal"], 15);
    assert_eq!(restarted["last_exit"]["cause"], "stop");
    assert_eq!(restarted["restarts"], 0, "by hand");

    let stopped = stage.does(&agent, "stop_entity", number).await;
    assert_eq!(stopped["state"], "STOPPED");
    assert_eq!(stopped["pid"], json!(null));
    assert!(!runs(second));
    assert_eq!(stage.games(), [0; 0]);
    assert_eq!(stage.does(&agent, "stop_entity", number).await["state"], "STOPPED");
    assert_eq!(stage.does(&agent, "kill_entity", number).await["state"], "STOPPED");

    stage.call(&agent, "delete_entity", number).await.unwrap();
    assert!(!stage.run(&agent, number).exists());
    let gone = stage.call(&agent, "start_entity", number).await.unwrap_err();
    assert_eq!(gone.reason, Reason::EntityNotFound);
    assert_eq!(agent.stop().await, Exit::Stopped);
    stage.fleet.stop().await;
}
