//! How long our programs take from their start until they work.
//!
//! An agent: from the start of its process until the manager's record says that it is online and
//! ACTIVE. It was ACTIVE before and ended in peace, so the record said offline. `gop dev`: from the
//! start of its process until its line `ready` is read.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use goperation::v1::{
    Agent, AgentState, ShowAgentRequest, agent_service_client::AgentServiceClient,
};
use goperation_harness::gop;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::{sleep, timeout},
};

use super::Wanted;
use crate::{
    Result,
    bench::Bench,
    measure::millis,
    row::{Measured, Round, Row, Target, Unit},
    site::Site,
};

pub(super) const ROWS: &[Row] = &[AGENT, DEV];

const AGENT: Row = Row {
    name: "start.agent",
    what: "gop agent: from its start to ACTIVE on the manager's record, after a restart",
    against: "",
    unit: Unit::Millis,
    target: Target::AtMost(150.0),
};
const DEV: Row = Row {
    name: "start.dev",
    what: "gop dev: from its start to its line ready",
    against: "",
    unit: Unit::Millis,
    target: Target::AtMost(500.0),
};

/// What takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at the record: short beside what is measured, and a rest for the processors.
const LOOK: Duration = Duration::from_millis(1);

pub(super) async fn measure(bench: &Bench, wanted: &Wanted) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    if wanted.has(&AGENT) {
        measured.push(Measured::new(AGENT, agent(bench).await?));
    }
    if wanted.has(&DEV) {
        let mut rounds = Vec::new();
        // The first one reads the program from the disk.
        dev().await?;
        for _ in 0..bench.rounds() {
            rounds.push(Round::alone(millis(dev().await?)));
        }
        measured.push(Measured::new(DEV, rounds));
    }
    Ok(measured)
}

async fn agent(bench: &Bench) -> Result<Vec<Round>> {
    let site = Site::start(bench).await?;
    let file = site.agent_file("restarted", "")?;
    let mut running = start(bench, &file).await?;
    site.activate(1).await?;
    seen(&site, is_active).await?;
    let mut rounds = Vec::new();
    for _ in 0..bench.rounds() {
        running.term();
        running.wait(PATIENCE).await;
        seen(&site, |agent| !agent.online).await?;
        let began = Instant::now();
        // It is started when this is first polled; that the harness waits for its line takes
        // longer, and does not count.
        let process = start(bench, &file);
        let active = async {
            seen(&site, is_active).await?;
            Result::Ok(began.elapsed())
        };
        let (process, took) = tokio::try_join!(process, active)?;
        running = process;
        rounds.push(Round::alone(millis(took)));
    }
    Ok(rounds)
}

async fn start(bench: &Bench, file: &Path) -> Result<goperation_harness::GopProcess> {
    bench.gop(["agent".as_ref(), "--config".as_ref(), file.as_os_str()]).await
}

fn is_active(agent: &Agent) -> bool {
    agent.online && agent.state() == AgentState::Active
}

/// Waits until the record of the agent is such.
async fn seen(site: &Site, such: fn(&Agent) -> bool) -> Result<()> {
    let mut client = AgentServiceClient::new(site.channel.clone());
    let looks = async {
        loop {
            let shown = client.show_agent(ShowAgentRequest { id: 1 }).await?.into_inner();
            if shown.agent.as_ref().is_some_and(such) {
                return Ok(());
            }
            sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, looks).await?
}

/// Its folder is given, so that nothing is left when it is killed.
async fn dev() -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let began = Instant::now();
    let mut process = Command::new(gop())
        .args(["dev", "--listen", "127.0.0.1:0", "--no-games", "--data-dir"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = process.stdout.take().ok_or("gop dev has no stdout")?;
    let mut lines = BufReader::new(stdout).lines();
    let took = loop {
        match timeout(PATIENCE, lines.next_line()).await?? {
            Some(line) if line.starts_with("ready") => break began.elapsed(),
            Some(_) => {}
            None => return Err("gop dev ended before it was ready".into()),
        }
    };
    process.kill().await?;
    Ok(took)
}
