//! What the manager knows of a process, and what becomes of one whose entity is not on record.

use goperation::{
    Reason,
    v1::{self, ProcessState},
};
use goperation_harness::poll_until;

use crate::stage::{Backup, LIVES, LONG, Stage, kill, pid, toml};

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
    let request = v1::DeleteEntityRequest {
        endpoint: "game".into(),
        number,
        ..v1::DeleteEntityRequest::default()
    };
    stage.fleet.entities().delete_entity(request).await.unwrap();
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
