//! Delete of an agent, broken off at each of its steps: whoever is killed is started again on its
//! own data, and in the end the record and the agent agree.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use goperation::{AgentStatus, Error, Reason, Secret, v1};
use goperation_harness::poll_until;
use rustix::process::Signal;
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    delete::{DELETED, SHORT, TOML, status},
    fleet::SOON,
    procs::{AgentProcess, LAPSE, LEASE, Site, WAIT},
};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Deleted,
    Alive,
}

/// Waits until record and agent agree: both deleted, with no queue left, or both alive and
/// working.
async fn agreed(site: &Site, agent: &mut AgentProcess) -> End {
    let deadline = tokio::time::Instant::now() + SOON;
    let mut last = String::new();
    while tokio::time::Instant::now() < deadline {
        let runs = agent.runs();
        let record = site.show(agent.id).await;
        let queues = site.has_queues(&agent.host).await;
        let Ok(record) = record else { continue };
        let deleted = record.status == AgentStatus::Deleted.number();
        last = format!("runs {runs}, queues {queues}, record {record:?}");
        if !runs && deleted && !queues {
            assert_eq!(agent.exit_code().await, DELETED, "{last}");
            let again = agent.start_that_ends().await;
            assert_eq!(again.status.code(), DELETED, "{}", again.stderr);
            return End::Deleted;
        }
        if runs && record.online && record.status == AgentStatus::Active.number() {
            let works = site.call(&agent.host, "tt", "note", json!({}), SHORT).await;
            if works.is_ok() && status(site, &agent.host).await == Some(AgentStatus::Active) {
                return End::Alive;
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{} and its record do not agree: {last}", agent.host);
}

/// A new process for one that was deleted.
async fn renew(site: &Site, agent: &mut AgentProcess) {
    let adopted = agent.adopt().await;
    assert!(adopted.status.success(), "{}", adopted.stderr);
    agent.start().await;
    site.activate(agent.id).await;
}

async fn agents(site: &Site, count: usize) -> Vec<AgentProcess> {
    let mut agents = Vec::new();
    for number in 0..count {
        agents.push(site.active_agent(&format!("h{number}"), TOML).await);
    }
    agents
}

/// How long a delete takes here and now: the kills are spread over that time. The shortest of one
/// for each agent, for one may have met a stall.
async fn time_of_delete(site: &Site, agents: &mut [AgentProcess]) -> Duration {
    let mut shortest = Duration::MAX;
    for agent in agents {
        let begun = Instant::now();
        site.delete(agent.id).await.unwrap();
        shortest = shortest.min(begun.elapsed());
        assert_eq!(agreed(site, agent).await, End::Deleted);
        renew(site, agent).await;
    }
    println!("a delete takes {shortest:?}");
    shortest
}

/// How often a run was broken off in each state.
#[derive(Debug, Default)]
struct Coverage(BTreeMap<&'static str, usize>);

impl Coverage {
    fn count(&mut self, state: &'static str) {
        *self.0.entry(state).or_default() += 1;
    }
}

/// What the agent says of itself while the manager is dead.
async fn agent_state(site: &Site, agent: &mut AgentProcess) -> Option<AgentStatus> {
    let wait = Duration::from_millis(700);
    let answer = site.call(&agent.host, "manager", "status_agent", json!({}), wait).await;
    match answer {
        Ok(answer) => {
            let number = answer.get("status")?.as_i64()?;
            AgentStatus::from_number(number.try_into().ok()?)
        }
        // DELETED lets nothing run any more; neither does an agent that has exited.
        Err(_) => Some(AgentStatus::Deleted),
    }
}

/// The manager dies while several deletes are on their way, each begun at another moment.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_manager_killed_at_each_step_of_delete() {
    const AGENTS: u32 = 6;
    const ROUNDS: u32 = 8;
    let mut site = Site::start().await;
    let mut agents = agents(&site, AGENTS as usize).await;
    let whole = time_of_delete(&site, &mut agents[..3]).await;
    // Between the begins of two deletes.
    let apart = whole / 2;
    let mut coverage = Coverage::default();
    for round in 0..ROUNDS {
        let mut client = site.agents();
        // Connects before the clock runs.
        client.show_agent(v1::ShowAgentRequest { id: agents[0].id }).await.unwrap();
        let deletes: Vec<_> = agents
            .iter()
            .enumerate()
            .map(|(place, agent)| {
                let (mut client, id) = (client.clone(), agent.id);
                tokio::spawn(async move {
                    sleep(apart * place as u32 + Duration::from_millis(1)).await;
                    let request = v1::DeleteAgentRequest { id, force: false, etag: String::new() };
                    client.delete_agent(request).await.is_ok()
                })
            })
            .collect();
        // The last one is just begun when it dies, the first may have ended; in the last round
        // all have.
        let late = if round + 1 < ROUNDS { whole * round / 3 } else { 40 * whole };
        sleep(apart * (AGENTS - 1) + late).await;
        site.kill_manager();
        let mut answered = Vec::new();
        for delete in deletes {
            answered.push(delete.await.unwrap());
        }
        let states = {
            let mut states = Vec::new();
            for agent in &mut agents {
                let queues = site.has_queues(&agent.host).await;
                states.push((agent_state(&site, agent).await, queues));
            }
            states
        };
        site.start_manager().await;
        let mut ids = Vec::new();
        for (agent, (state, queues)) in agents.iter().zip(&states) {
            let deleted = site.show(agent.id).await.unwrap().status == -127;
            let intent = site.manager_log().lines().any(|line| {
                line.contains("a broken-off delete is given up")
                    && line.contains(&format!("agent={}", agent.id))
            });
            let at = match (deleted, intent, state) {
                (false, false, _) => "not begun, or refused",
                (false, true, Some(AgentStatus::PerDelete)) => "precommit run, not recorded",
                (false, true, _) => "intent recorded, precommit not run",
                (true, _, Some(AgentStatus::PerDelete)) => "DELETED recorded, postcommit not run",
                (true, _, _) if *queues => "postcommit run, queues there",
                (true, _, _) => "queues removed",
            };
            coverage.count(at);
            ids.push((agent.id, deleted));
        }
        for (place, agent) in agents.iter_mut().enumerate() {
            let end = agreed(&site, agent).await;
            let (id, deleted) = ids[place];
            assert_eq!(end == End::Deleted, deleted, "agent {id} changed its mind");
            assert!(!answered[place] || deleted, "agent {id} was deleted by its answer");
        }
        for agent in &mut agents {
            if !agent.runs() {
                renew(&site, agent).await;
            }
        }
    }
    println!("the manager was killed in: {coverage:#?}");
    assert!(coverage.0.len() >= 3, "the kills did not spread over the steps");
    site.stop().await;
}

/// The agent dies while its delete is on its way, at another moment each time.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_agent_killed_at_each_step_of_delete() {
    const AGENTS: usize = 3;
    const ROUNDS: u32 = 10;
    let site = Site::start().await;
    let mut agents = agents(&site, AGENTS).await;
    // How much later the next one dies: the last of all when its delete has long ended.
    let step = time_of_delete(&site, &mut agents).await * 2 / (ROUNDS * AGENTS as u32);
    let mut coverage = Coverage::default();
    for round in 0..ROUNDS {
        // Each agent of a round dies a little later than the one before.
        let runs = agents.into_iter().enumerate().map(async |(place, mut agent)| {
            let (mut client, id) = (site.agents(), agent.id);
            client.show_agent(v1::ShowAgentRequest { id }).await.unwrap();
            let delete = tokio::spawn(async move {
                let request = v1::DeleteAgentRequest { id, force: false, etag: String::new() };
                client.delete_agent(request).await.map(drop)
            });
            sleep(step * (round * AGENTS as u32 + place as u32)).await;
            agent.kill();
            let at = if delete.is_finished() { "answered" } else { "on its way" };
            let record = site.show(id).await.unwrap().status;
            // Again on its data, while the manager may still be waiting.
            let started = agent.start_or_end().await;
            let answer = delete.await.unwrap();
            let state = match (record, started, at) {
                (-127, _, "answered") => "after the answer",
                (-127, _, _) => "DELETED recorded",
                (_, DELETED, _) => "before DELETED was recorded, and it was before the start",
                _ => "before DELETED was recorded",
            };
            (agent, state, answer)
        });
        agents = Vec::new();
        for (mut agent, state, answer) in join_all(runs).await {
            coverage.count(state);
            let end = agreed(&site, &mut agent).await;
            // A typed answer that is not OK may come of a delete that goes on; OK is for good.
            assert!(answer.is_err() || end == End::Deleted, "answered OK, and it lives");
            let record = site.show(agent.id).await.unwrap().status;
            assert_eq!(record == -127, end == End::Deleted);
            if end == End::Deleted {
                renew(&site, &mut agent).await;
            }
            agents.push(agent);
        }
    }
    println!("the agent was killed: {coverage:#?}");
    assert!(coverage.0.len() >= 2, "the kills did not spread over the steps");
    site.stop().await;
}

/// A delete of an agent that stands still: its intent is recorded, for a second one was refused.
async fn begun(site: &Site, id: i32) -> JoinHandle<Result<(), Error>> {
    let mut deletes = [(); 2].map(|()| {
        let mut client = site.agents();
        tokio::spawn(async move {
            let request = v1::DeleteAgentRequest { id, force: false, etag: String::new() };
            let deleted = client.delete_agent(request).await;
            deleted.map(drop).map_err(|status| Error::from_status(&status))
        })
    });
    poll_until(SOON, "one of two deletes ends", async || {
        deletes.iter().any(JoinHandle::is_finished)
    })
    .await;
    if deletes[1].is_finished() {
        deletes.swap(0, 1);
    }
    let [refused, waiting] = deletes;
    let error = refused.await.unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused, "{error}");
    waiting
}

/// One side stands still while the other dies: the states that a sweep hits only by luck.
#[tokio::test(flavor = "multi_thread")]
async fn one_side_stopped_the_other_killed() {
    let mut site = Site::start().await;
    let mut agent = site.active_agent("h1", TOML).await;

    // The intent is recorded and the precommit is on its way when the manager dies.
    agent.process().signal(Signal::STOP);
    let delete = begun(&site, agent.id).await;
    site.kill_manager();
    delete.await.unwrap().unwrap_err();
    site.start_manager().await;
    assert!(site.manager_log().contains("a broken-off delete is given up"));
    agent.process().signal(Signal::CONT);
    // It may have run the precommit; it lapses then.
    assert_eq!(agreed(&site, &mut agent).await, End::Alive);

    // The agent dies with the precommit unread; started again it gets it once more, and the
    // delete that waits goes on.
    agent.process().signal(Signal::STOP);
    let delete = begun(&site, agent.id).await;
    agent.kill();
    agent.start_or_end().await;
    let answer = delete.await.unwrap();
    let end = agreed(&site, &mut agent).await;
    assert_eq!(answer.is_ok(), end == End::Deleted, "{answer:?}");
    if end == End::Deleted {
        renew(&site, &mut agent).await;
    }

    // DELETED is recorded while the agent stands still in PERDELETE: it learns it when it goes on,
    // after its precommit has lapsed and over a manager that was killed meanwhile.
    let secret = Secret::generate();
    let args = json!({"agent_id": agent.id, "secret": secret.reveal()});
    site.call("h1", "manager", "delete_agent_precommit", args, WAIT).await.unwrap();
    agent.process().signal(Signal::STOP);
    let force = v1::DeleteAgentRequest { id: agent.id, force: true, etag: String::new() };
    site.agents().delete_agent(force).await.unwrap();
    site.kill_manager();
    site.start_manager().await;
    sleep(LAPSE).await;
    agent.process().signal(Signal::CONT);
    assert_eq!(agreed(&site, &mut agent).await, End::Deleted);
    renew(&site, &mut agent).await;

    // The manager dies after its answer and before the queues are removed; the lease is over when
    // nobody can believe in it any more.
    agent.process().signal(Signal::STOP);
    let delete = begun(&site, agent.id).await;
    agent.process().signal(Signal::CONT);
    delete.await.unwrap().unwrap();
    site.kill_manager();
    let queues = site.has_queues("h1").await;
    let before = tokio::time::Instant::now();
    site.start_manager().await;
    assert_eq!(agreed(&site, &mut agent).await, End::Deleted);
    println!(
        "queues left at the kill: {queues}; agreed after {:?} (lease {LEASE:?})",
        before.elapsed()
    );
    site.stop().await;
}
