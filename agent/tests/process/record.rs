//! What the manager knows of a process, and what becomes of one whose entity is not on record.

use std::fs;

use goperation::{
    Reason,
    v1::{self, ProcessState},
};
use goperation_harness::poll_until;
use serde_json::json;

use crate::stage::{Backup, LIVES, LONG, Stage, kill, pid, runs, toml, until};

/// The endpoint of [`toml`] after its driver was changed.
const SCRIPT: &str = "[endpoints.game]\ndriver = \"script\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_record_follows_and_its_etag_does_not() {
    let stage = Stage::start().await;
    let (agent, number) =
        stage.with(LIVES, "restart = { delay = \"1h\", max_delay = \"1h\" }").await;
    let show = async || {
        let request = v1::ShowEntityRequest { endpoint: "game".into(), number };
        stage.fleet.entities().show_entity(request).await.unwrap().into_inner().entity.unwrap()
    };
    let before = show().await;
    let started = stage.does(&agent, "start_entity", number).await;
    poll_until(LONG, "the record says that it runs", async || {
        let process = show().await.process.unwrap_or_default();
        process.state() == ProcessState::Running && process.pid == pid(&started)
    })
    .await;
    kill(pid(&started));
    poll_until(LONG, "the record says that it waits", async || {
        let process = show().await.process.unwrap_or_default();
        let exit = process.last_exit.clone().unwrap_or_default();
        process.state() == ProcessState::Backoff && exit.signal == Some(9)
    })
    .await;
    assert_eq!(show().await.etag, before.etag);
}

impl Stage {
    async fn delete(&self, number: i32) -> Result<(), tonic::Status> {
        let request = v1::DeleteEntityRequest {
            endpoint: "game".into(),
            number,
            ..v1::DeleteEntityRequest::default()
        };
        self.fleet.entities().delete_entity(request).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_on_record_is_killed_and_deleted() {
    let stage = Stage::start().await;
    let toml = toml(&stage.game("trap '' TERM; while :; do sleep 1000; done"), "");
    let agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    stage.does(&agent, "start_entity", number).await;
    let work_dir = agent.work_dir.clone();
    agent.stop().await;
    let former = Backup::of(&work_dir);
    let agent = stage.fleet.agent("h1", &toml).await;
    stage.does(&agent, "kill_entity", number).await;
    stage.delete(number).await.unwrap();
    agent.stop().await;
    // The agent has the entity again, wished to run, and its process is not there.
    former.restore();
    let agent = stage.fleet.agent("h1", &toml).await;
    poll_until(LONG, "the entity is gone", async || {
        let status = stage.call(&agent, "status_entity", number).await;
        status.is_err_and(|error| error.reason == Reason::EntityNotFound)
    })
    .await;
    assert_eq!(stage.games(), [0; 0]);
    assert!(!stage.run(&agent, number).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_driver_left_running_is_not_deleted() {
    let stage = Stage::start().await;
    let (agent, number) = stage.with(LIVES, "").await;
    let game = pid(&stage.does(&agent, "start_entity", number).await);
    let (home, run) = (agent.work_dir.join(format!("game/{number}")), stage.run(&agent, number));
    agent.stop().await;
    let agent = stage.fleet.agent("h1", SCRIPT).await;
    let refused = stage.delete(number).await.unwrap_err();
    assert!(refused.message().contains(&format!("pid {game} running")), "{refused:?}");
    assert!(runs(game) && home.exists() && run.exists());
    kill(game);
    until("it is gone", || !runs(game)).await;
    stage.delete(number).await.unwrap();
    assert!(!home.exists() && !run.exists());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_driver_left_running_is_killed_when_it_is_not_on_record() {
    let stage = Stage::start().await;
    let toml = toml(&stage.game(LIVES), "");
    let agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    let game = pid(&stage.does(&agent, "start_entity", number).await);
    let (work_dir, run) = (agent.work_dir.clone(), stage.run(&agent, number));
    agent.stop().await;
    // The entity is deleted while the agent knows nothing of what runs.
    let (former, aside) = (Backup::of(&work_dir), work_dir.join(".gop/aside"));
    fs::rename(&run, &aside).unwrap();
    let agent = stage.fleet.agent("h1", &toml).await;
    stage.does(&agent, "kill_entity", number).await;
    stage.delete(number).await.unwrap();
    agent.stop().await;
    former.restore();
    fs::rename(&aside, &run).unwrap();
    assert!(runs(game));

    let agent = stage.fleet.agent("h1", SCRIPT).await;
    poll_until(LONG, "the entity is gone", async || {
        let status = stage.call(&agent, "status_entity", number).await;
        status.is_err_and(|error| error.reason == Reason::EntityNotFound)
    })
    .await;
    assert!(!runs(game) && !run.exists());
    assert_eq!(stage.games(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_no_process_takes_are_refused() {
    let stage = Stage::start().await;
    let (agent, number) = stage.with(LIVES, "").await;
    for verb in ["start_entity", "stop_entity", "restart_entity", "kill_entity"] {
        let args = json!({"entity": number, "args": {"map": "dm1"}});
        let error = stage.call_with(&agent, verb, args).await.unwrap_err();
        assert_eq!(error.reason, Reason::InvalidArgument, "{verb}: {error}");
        assert_eq!(error.violations[0].field, "args.args", "{verb}");
    }
    assert_eq!(stage.status(&agent, number).await["state"], "STOPPED");
    let none = json!({"entity": number, "args": {}});
    stage.call_with(&agent, "start_entity", none).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_fails_takes_no_home_that_was_there() {
    let stage = Stage::start().await;
    let create = stage.game("echo new >made; exit 1");
    let toml = format!("{SCRIPT}[endpoints.game.methods.create]\nprogram = [{create:?}]\n");
    let agent = stage.agent(&toml).await;
    let home = |number: i32| agent.work_dir.join(format!("game/{number}"));
    // From before the manager's record was lost.
    fs::create_dir_all(home(1)).unwrap();
    fs::write(home(1).join("saves"), "dear").unwrap();
    for number in 1..=2 {
        let request = v1::CreateEntityRequest {
            endpoint: "game".into(),
            agent_id: agent.wire_id(),
            ..v1::CreateEntityRequest::default()
        };
        stage.fleet.entities().create_entity(request).await.unwrap_err();
        assert_eq!(home(number).exists(), number == 1);
    }
    assert_eq!(fs::read_to_string(home(1).join("saves")).unwrap(), "dear");
    assert!(home(1).join("made").exists(), "its program ran there");
}
