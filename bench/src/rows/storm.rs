//! Very many agents that start at once, and whether the API answers meanwhile.
//!
//! Invariant: each storm meets a node of its own that has seen none before, and is over when every
//! agent is registered and consumes from its queues: so says the emulation's `ready`, for it waits
//! for the canary of each through its CALL queue and for the manager's record. Emulated agents stay
//! UNACTIVE here, as new ones are: to activate them is not part of it.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use goperation::v1::{
    IndexAgentsRequest, ShowAgentRequest, agent_service_client::AgentServiceClient,
};
use tokio::{
    task::JoinSet,
    time::{interval, timeout},
};
use tonic::{Code, transport::Channel};

use super::Wanted;
use crate::{
    Result,
    bench::Bench,
    measure::millis,
    row::{Measured, Part, Round, Row, Target, Unit},
    site::Site,
};

const STORM: Row = Row {
    name: "storm",
    what: "10,000 emulated agents connect and register at once",
    against: "bare connect (shared by 100), declare, bind, consume of the same queues",
    unit: Unit::Millis,
    target: Target::RatioAtMost(1.5),
};
const API: Row = Row {
    name: "storm.api",
    what: "show and list agents meanwhile, p99",
    against: "",
    unit: Unit::Millis,
    target: Target::AtMost(1000.0),
};

pub(super) const ROWS: &[Row] = &[STORM, API];

/// Agents, in full and in the short form.
const AGENTS: (u32, u32) = (10_000, 500);
/// Processes that they are in, on both sides.
const PROCESSES: u32 = 4;
/// A round takes minutes, so there are as few as a row may have.
const ROUNDS: usize = 5;
/// How often the API is asked something.
const ASKED: Duration = Duration::from_millis(50);
/// No answer is awaited longer; one that fails counts as much.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn measure(bench: &Bench, wanted: &Wanted) -> Result<Vec<Measured>> {
    let agents = bench.sized(AGENTS.0, AGENTS.1);
    let (mut storms, mut answers, mut slowest) = (Vec::new(), Vec::new(), 0_f64);
    for number in 0..ROUNDS {
        let bare_first = number % 2 == 1 && wanted.has(&STORM);
        let before = if bare_first { Some(bare(bench, agents).await?) } else { None };
        let ours = ours(bench, agents).await?;
        eprintln!("storm: {agents} agents in {:.1} s", ours.took / 1e3);
        slowest = slowest.max(ours.slowest);
        answers.push(Round::alone(ours.p99));
        if wanted.has(&STORM) {
            let limit = match before {
                Some(limit) => limit,
                None => bare(bench, agents).await?,
            };
            eprintln!("storm: bare in {:.1} s", limit / 1e3);
            storms.push(Round::of_times(ours.took, vec![Part::one("bare agents", limit)]));
        }
    }
    let note = format!("{agents} agents in {PROCESSES} processes");
    let api = Measured::new(API, answers)
        .noting(format!("asked every {} ms, max {slowest:.0} ms", ASKED.as_millis()));
    let all = [Measured::new(STORM, storms), api].map(|row| row.noting(note.clone()));
    Ok(all.into_iter().filter(|measured| wanted.has(&measured.row)).collect())
}

/// First number and count of each process.
fn shares(agents: u32) -> impl Iterator<Item = (u32, u32)> {
    let each = agents / PROCESSES;
    (0..PROCESSES).map(move |process| (1 + process * each, each))
}

/// A storm of ours; times in milliseconds.
struct Storm {
    took: f64,
    p99: f64,
    slowest: f64,
}

async fn ours(bench: &Bench, agents: u32) -> Result<Storm> {
    let node = Bench::start(bench.short, None).await?;
    let site = Site::start(&node).await?;
    let began = Instant::now();
    let fleets = shares(agents).map(async |(first, count)| {
        let first = first.to_string();
        let more = ["--first", &first, "--status", "unactive=100%"];
        site.emulate(&node, usize::try_from(count)?, &more).await
    });
    let mut fleets = pin!(try_join_all(fleets));
    let (mut asked, mut number, mut tick) = (JoinSet::new(), 0_usize, interval(ASKED));
    let fleets = loop {
        tokio::select! {
            fleets = &mut fleets => break fleets?,
            _ = tick.tick() => {
                asked.spawn(ask(site.channel.clone(), number));
                number += 1;
            }
        }
    };
    let took = millis(began.elapsed());
    let mut times = asked.join_all().await;
    times.sort_by(f64::total_cmp);
    let q =
        IndexAgentsRequest { filter: "online = true".to_owned(), page_size: 1, ..<_>::default() };
    let online = AgentServiceClient::new(site.channel.clone()).index_agents(q).await?;
    let online = online.into_inner().total_size;
    if u32::try_from(online)? != agents {
        return Err(format!("of {agents} agents only {online} are online").into());
    }
    drop(fleets);
    let at = |rank: usize| times.get(rank).copied().unwrap_or(f64::NAN);
    Ok(Storm { took, p99: at(times.len() * 99 / 100), slowest: at(times.len().saturating_sub(1)) })
}

/// Shows an agent and lists some in turn; how long the answer took.
async fn ask(channel: Channel, number: usize) -> f64 {
    let asked = Instant::now();
    let mut agents = AgentServiceClient::new(channel);
    let answer = timeout(PATIENCE, async {
        if number.is_multiple_of(2) {
            agents.show_agent(ShowAgentRequest { id: 1 }).await.map(drop)
        } else {
            let q = IndexAgentsRequest { page_size: 10, ..IndexAgentsRequest::default() };
            agents.index_agents(q).await.map(drop)
        }
    });
    let answered = match answer.await {
        Ok(Ok(())) => true,
        // Nobody has registered yet.
        Ok(Err(status)) => status.code() == Code::NotFound,
        Err(_) => false,
    };
    millis(if answered { asked.elapsed() } else { PATIENCE })
}

/// As many bare agents, in as many processes; milliseconds.
async fn bare(bench: &Bench, agents: u32) -> Result<f64> {
    let node = Bench::start(bench.short, None).await?;
    let vhost = node.vhost().await;
    let began = Instant::now();
    let crowds = shares(agents).map(async |(first, count)| {
        let (first, count) = (first.to_string(), count.to_string());
        let crowd = ["crowd", "--uri", &vhost.uri, "--first", &first, "--agents", &count];
        node.role(crowd).await
    });
    let crowds = try_join_all(crowds).await?;
    let took = millis(began.elapsed());
    drop(crowds);
    Ok(took)
}
