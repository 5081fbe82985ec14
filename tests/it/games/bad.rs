//! Games that misbehave: the documented outcome of each.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use goperation::{Reason, v1};
use goperation_harness::{free_port, holders, is_alive, poll_for, poll_until};
use rustix::process::{Pid, Signal, kill_process};
use tonic::Request;

use super::{Hold, Stage, agent_dies::kill9, exit_of, process_of, stage::LONG};
use crate::fleet::SOON;

const READY: &str = "ready = { port = \"game\", timeout = \"60s\" }\n";
const KILLED: Option<i32> = Some(Signal::KILL.as_raw());

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ignores_sigterm_is_killed_after_its_grace() {
    let stage = Stage::start().await;
    let process = format!("{READY}stop = {{ grace = \"1s\" }}");
    let hold = Hold { flags: &["--ignore-term"], port: true, process: &process };
    let agent = stage.agent("h1", 4, &hold.toml(&stage)).await;
    let entity = stage.create("hold", agent.id).await.unwrap();
    let (_, pid) = process_of(&stage.start_entity(&entity).await.unwrap());
    let began = Instant::now();
    let stopped = stage.stop_entity(&entity).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "the grace is given");
    assert_eq!(process_of(&stopped), (v1::ProcessState::Stopped, 0));
    assert_eq!(exit_of(&stopped), (None, KILLED, "stop".to_owned()));
    assert_eq!(stage.told("term", entity.number), [pid], "it was asked first");
    assert!(!is_alive(pid));
    stage.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_overtakes_a_stop_that_waits() {
    let stage = Stage::start().await;
    let hold = Hold { flags: &["--ignore-term"], port: true, process: READY };
    let agent = stage.agent("h1", 4, &hold.toml(&stage)).await;
    let entity = stage.create("hold", agent.id).await.unwrap();
    let (_, pid) = process_of(&stage.start_entity(&entity).await.unwrap());
    // The grace is longer than the whole test may take.
    let mut stop = Request::new(v1::StopEntityRequest {
        endpoint: "hold".to_owned(),
        number: entity.number,
        grace: Some(Duration::from_secs(3600).try_into().unwrap()),
        finish_time: None,
    });
    stop.set_timeout(LONG);
    let mut entities = stage.site.entities();
    let stopping = tokio::spawn(async move { entities.stop_entity(stop).await });
    poll_until(SOON, "it was asked to end", async || stage.told("term", entity.number) == [pid])
        .await;
    let shown = stage.status(&entity).await.unwrap();
    assert_eq!(process_of(&shown), (v1::ProcessState::Stopping, pid));
    let killed = tokio::time::timeout(SOON, stage.kill_entity(&entity)).await.unwrap().unwrap();
    assert_eq!(process_of(&killed), (v1::ProcessState::Stopped, 0));
    assert_eq!(exit_of(&killed), (None, KILLED, "kill".to_owned()));
    assert!(!is_alive(pid));
    // What it overtook ends too: what it wished is so.
    let overtaken = tokio::time::timeout(SOON, stopping).await.unwrap().unwrap();
    let stopped = overtaken.unwrap().into_inner().process.unwrap();
    assert_eq!(process_of(&stopped), (v1::ProcessState::Stopped, 0));
    // Again there is nothing to do.
    let again = stage.kill_entity(&entity).await.unwrap();
    assert_eq!(process_of(&again), (v1::ProcessState::Stopped, 0));
    stage.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn children_with_sessions_of_their_own_end_with_their_game() {
    const FORKS: usize = 4;
    let stage = Stage::start().await;
    let process = format!("{READY}restart = {{ policy = \"never\" }}");
    let forks = FORKS.to_string();
    let hold = Hold { flags: &["--forks", &forks], port: true, process: &process };
    let mut agent = stage.agent("h1", 4, &hold.toml(&stage)).await;
    let entity = stage.create("hold", agent.id).await.unwrap();
    for (round, end) in ["stop", "kill", "itself", "adopted"].into_iter().enumerate() {
        let (_, pid) = process_of(&stage.start_entity(&entity).await.unwrap());
        let children = poll_for(SOON, "all children", async || {
            let told = stage.told("child", entity.number);
            (told.len() == (round + 1) * FORKS).then(|| told[round * FORKS..].to_vec())
        })
        .await;
        assert!(children.iter().all(|child| is_alive(*child)));
        // Those between them and the game may be on their way out still.
        poll_until(SOON, "the game and its children are counted", async || {
            let shown = stage.status(&entity).await.unwrap();
            usize::try_from(shown.processes) == Ok(1 + FORKS)
        })
        .await;
        let ended = match end {
            "stop" => stage.stop_entity(&entity).await.unwrap(),
            "kill" => stage.kill_entity(&entity).await.unwrap(),
            "adopted" => {
                kill9(&mut agent, true).await;
                agent.start().await;
                assert!(children.iter().all(|child| is_alive(*child)));
                stage.stop_entity(&entity).await.unwrap()
            }
            _ => {
                kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::USR1).unwrap();
                poll_for(SOON, "it has ended by itself", async || {
                    let shown = stage.status(&entity).await.unwrap();
                    (shown.state() == v1::ProcessState::Stopped).then_some(shown)
                })
                .await
            }
        };
        assert_eq!(process_of(&ended), (v1::ProcessState::Stopped, 0), "{end}");
        let left: Vec<_> = children.iter().filter(|child| is_alive(**child)).collect();
        assert!(left.is_empty(), "{left:?} of {children:?} after {end}");
    }
    stage.assert_no_violation();
    stage.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ends_at_once_says_why() {
    let stage = Stage::start().await;
    let process = format!("{READY}restart = {{ policy = \"never\" }}");
    let hold = Hold {
        flags: &["--say", "no such map: dm17", "--exit", "3"],
        port: true,
        process: &process,
    };
    let agent = stage.agent("h1", 4, &hold.toml(&stage)).await;
    let entity = stage.create("hold", agent.id).await.unwrap();
    let error = stage.start_entity(&entity).await.unwrap_err();
    assert_eq!(error.reason, Reason::MethodFailed, "{error}");
    assert!(error.message.contains("exit code 3"), "how it ended: {error}");
    assert!(error.message.contains("no such map: dm17"), "the end of its log: {error}");
    let shown = stage.status(&entity).await.unwrap();
    assert_eq!((shown.pid, exit_of(&shown)), (0, (Some(3), None, "itself".to_owned())));
    assert_eq!(stage.starts(entity.number).len(), 1);
    stage.delete_entity(&entity).await.unwrap();
    stage.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_ends() {
    const MAX: usize = 3;
    let stage = Stage::start().await;
    let restart = format!("max = {MAX}, within = \"1h\", delay = \"20ms\", max_delay = \"50ms\"");
    let process = format!("{READY}restart = {{ policy = \"on-failure\", {restart} }}");
    let hold = Hold { flags: &[], port: true, process: &process };
    let agent = stage.agent("h1", 4, &hold.toml(&stage)).await;
    let entity = stage.create("hold", agent.id).await.unwrap();
    stage.start_entity(&entity).await.unwrap();
    for life in 0..=MAX {
        // Up, so that the signal ends it as it should.
        let pid = poll_for(SOON, &format!("life {life}"), async || {
            let shown = stage.status(&entity).await.unwrap();
            let up = shown.state() == v1::ProcessState::Running
                && usize::try_from(shown.restarts) == Ok(life);
            up.then(|| Pid::from_raw(shown.pid).unwrap())
        })
        .await;
        kill_process(pid, Signal::USR1).unwrap();
    }
    stage.recorded(&entity, "CRASHED", |p| p.state() == v1::ProcessState::Crashed).await;
    let shown = stage.status(&entity).await.unwrap();
    assert_eq!(process_of(&shown), (v1::ProcessState::Crashed, 0), "{shown:?}");
    assert_eq!(exit_of(&shown), (Some(7), None, "itself".to_owned()));
    assert_eq!(stage.starts(entity.number).len(), MAX + 1);
    // By hand it starts again, and the count begins anew.
    let started = stage.start_entity(&entity).await.unwrap();
    assert_eq!((started.state(), started.restarts), (v1::ProcessState::Running, 0));
    assert_eq!(stage.starts(entity.number).len(), MAX + 2);
    stage.assert_no_violation();
    stage.site.stop().await;
}

/// What all files of a folder take; a file that is renamed meanwhile counts once or not at all.
fn size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_flood_of_output_takes_bounded_room() {
    const MIB: u64 = 1 << 20;
    const KEEP: u64 = 2;
    const FLOOD: u32 = 1024;
    let stage = Stage::start().await;
    let process = format!("{READY}log = {{ max_size = \"1MiB\", keep = {KEEP} }}");
    let hold = Hold { flags: &["--flood"], port: true, process: &process };
    let agent = stage.agent("h1", 4, &hold.toml(&stage)).await;
    let entity = stage.create("hold", agent.id).await.unwrap();
    stage.start_entity(&entity).await.unwrap();
    let began = Instant::now();
    let log = stage.log(&agent, "hold", entity.number);
    let folder = log.parent().unwrap();
    let (mut most, mut slowest, mut asked) = (0, Duration::ZERO, 0);
    poll_until(LONG, "a gigabyte of output", async || {
        most = most.max(size(folder));
        let before = Instant::now();
        let shown = stage.status(&entity).await.unwrap();
        slowest = slowest.max(before.elapsed());
        asked += 1;
        assert_eq!(shown.state(), v1::ProcessState::Running);
        stage.told("flooded", entity.number).last().is_some_and(|mib| *mib >= FLOOD)
    })
    .await;
    let rate = f64::from(FLOOD) / began.elapsed().as_secs_f64();
    println!("{rate:.0} MiB/s, at most {most} bytes, {asked} answers, the slowest {slowest:?}");
    assert!(most > MIB, "it did not get into the log: {most}");
    assert!(most <= (KEEP + 1) * MIB, "{most} bytes of log");
    let stopped = stage.stop_entity(&entity).await.unwrap();
    assert_eq!(process_of(&stopped), (v1::ProcessState::Stopped, 0));
    assert!(size(folder) <= (KEEP + 1) * MIB);
    stage.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_binds_another_port_is_not_ready() {
    let stage = Stage::start().await;
    let other = free_port();
    let process = "ready = { port = \"game\", timeout = \"12s\" }\n\
                   restart = { policy = \"never\" }";
    let hold = Hold { flags: &["--udp", &other.to_string()], port: false, process };
    let agent = stage.agent("h1", 4, &hold.toml(&stage)).await;
    let entity = stage.create("hold", agent.id).await.unwrap();
    let (error, ()) = tokio::join!(stage.start_entity(&entity), async {
        poll_until(SOON, "it has the wrong port", async || !holders(false, other).is_empty()).await;
    });
    let error = error.unwrap_err();
    assert_eq!(error.reason, Reason::MethodFailed, "{error}");
    let wanted = entity.ports[0].port.to_string();
    for text in [wanted, other.to_string()] {
        assert!(error.message.contains(&text), "names {text}: {error}");
    }
    assert!(stage.games(entity.number).is_empty());
    assert!(holders(false, other).is_empty());
    let shown = stage.status(&entity).await.unwrap();
    assert_eq!((shown.pid, exit_of(&shown).2.as_str()), (0, "not ready"));
    stage.site.stop().await;
}
