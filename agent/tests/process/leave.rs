//! An agent that is told to end while it looks at what its former self has left.

use std::{fs, path::Path, time::Duration};

use goperation_agent::{Config, Exit};
use rustix::fs::{FlockOperation, flock};
use tokio_util::sync::CancellationToken;

use crate::stage::{LIVES, Stage, kill, pid, runs, toml, until};

/// Far less than it would look on.
const ENDS: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_looked_at_keeps_no_agent_from_ending() {
    let stage = Stage::start().await;
    let lines = toml(&stage.game(LIVES), "");
    let agent = stage.agent(&lines).await;
    let number = stage.create(&agent).await;
    let game = pid(&stage.does(&agent, "start_entity", number).await);
    let (launcher, run) = (stage.launcher(&agent, number), stage.run(&agent, number));
    let work_dir = agent.work_dir.clone();
    agent.stop().await;
    kill(launcher);
    kill(game);
    until("both are gone", || !runs(game) && !runs(launcher)).await;
    // As it is while a launcher has only begun: the lock is held, and nothing is said.
    fs::remove_file(run.join("process.json")).unwrap();
    let _ = fs::remove_file(run.join("exit.json"));
    let lock = fs::File::options().write(true).open(run.join("lock")).unwrap();
    until("the lock is had", || flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok())
        .await;
    let text = format!("work_dir = {work_dir:?}\nhost = \"h1\"\naddress = \"127.0.0.1\"\n{lines}");
    // Whenever it is told: no time is waited for, every one is good.
    for millis in [0, 1, 10, 100, 1000] {
        let config = Config::from_toml(Path::new("test.toml"), &text).unwrap();
        let stop = CancellationToken::new();
        let parts = stage.fleet.parts(stage.fleet.channel.clone());
        let (_, living) = goperation_agent::start(config, parts, stop.clone()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(millis)).await;
        stop.cancel();
        let ended = tokio::time::timeout(ENDS, living).await.expect("it ends in time");
        assert_eq!(ended.unwrap().unwrap(), Exit::Stopped, "after {millis} ms");
    }
    // Nothing was made of what was not seen.
    drop(lock);
    let agent = stage.fleet.agent("h1", &lines).await;
    stage.until(&agent, number, "it runs again", |seen| seen["state"] == "RUNNING").await;
}
