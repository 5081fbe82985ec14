//! Delete of an agent (contract §5, §6): refused, lapsed, broken off anywhere, and for good.
//! Manager and agents are processes; whoever is killed is started again on its own data.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use goperation::{AgentStatus, Error, Reason, Secret, v1};
use goperation_harness::poll_until;
use rustix::process::Signal;
use serde_json::json;
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    fleet::SOON,
    procs::{AgentProcess, LAPSE, LEASE, Site, WAIT},
};

/// What every agent here can run.
const TOML: &str = "ports_ranges = [\"20000-20999\"]\n[endpoints.tt.methods.note]\n\
                    program = [\"/bin/cat\"]\n";
/// Exit code of a deleted agent.
const DELETED: Option<i32> = Some(3);
const SHORT: Duration = Duration::from_secs(3);

async fn status(site: &Site, host: &str) -> Option<AgentStatus> {
    let answer = site.call(host, "manager", "status_agent", json!({}), SHORT).await;
    let number = answer.ok()?.get("status")?.as_i64()?;
    AgentStatus::from_number(number.try_into().ok()?)
}

async fn becomes(site: &Site, host: &str, wanted: AgentStatus) {
    poll_until(SOON, &format!("{host} becomes {wanted}"), async || {
        status(site, host).await == Some(wanted)
    })
    .await;
}

/// The record says so too.
async fn recorded(site: &Site, id: i32, wanted: AgentStatus) {
    poll_until(SOON, &format!("agent {id} is recorded as {wanted}"), async || {
        site.show(id).await.is_ok_and(|agent| agent.status == wanted.number())
    })
    .await;
}

async fn create(site: &Site, agent: &AgentProcess) -> v1::Entity {
    let request = v1::CreateEntityRequest {
        endpoint: "tt".to_owned(),
        agent_id: agent.id,
        ports: vec![v1::PortWish { count: 2, protocol: 1, ..Default::default() }],
        ..Default::default()
    };
    site.entities().create_entity(request).await.unwrap().into_inner().entity.unwrap()
}

async fn reserve(site: &Site, entity: &v1::Entity) -> Vec<v1::Port> {
    let request = v1::CreatePortRequest {
        endpoint: entity.endpoint.clone(),
        entity: entity.number,
        wishes: vec![v1::PortWish { count: 1, protocol: 1, ..Default::default() }],
        message_id: String::new(),
    };
    site.ports().create_port(request).await.unwrap().into_inner().ports
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_precommit_changes_nothing() {
    let site = Site::start().await;
    let agent = site.active_agent("h1", TOML).await;
    let entity = create(&site, &agent).await;
    let before = site.show(agent.id).await.unwrap();

    // An entity remains.
    let error = site.delete(agent.id).await.unwrap_err();
    assert_eq!(error.reason, Reason::EntitiesRemain, "{error}");
    assert_eq!(status(&site, "h1").await, Some(AgentStatus::Active));
    let after = site.show(agent.id).await.unwrap();
    assert_eq!((after.status, after.entities), (before.status, 1));
    // The endpoint is not frozen: ports, methods and entities as before.
    assert_eq!(reserve(&site, &entity).await.len(), 1);
    let args = json!({"entity": entity.number});
    site.call("h1", "tt", "note", args, WAIT).await.unwrap();
    let more = create(&site, &agent).await;
    for number in [entity.number, more.number] {
        let request = v1::DeleteEntityRequest {
            endpoint: "tt".to_owned(),
            number,
            ..v1::DeleteEntityRequest::default()
        };
        site.entities().delete_entity(request).await.unwrap();
    }

    // Paused: it is not even asked, and stays paused.
    site.agents().pause_agent(v1::PauseAgentRequest { id: agent.id }).await.unwrap();
    let error = site.delete(agent.id).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentBusy, "{error}");
    recorded(&site, agent.id, AgentStatus::SoftBusy).await;
    site.agents().resume_agent(v1::ResumeAgentRequest { id: agent.id }).await.unwrap();
    assert_eq!(status(&site, "h1").await, Some(AgentStatus::Active));

    // Nothing of the refused ones is in the way of the one that is agreed to.
    let deleted = site.delete(agent.id).await.unwrap();
    assert_eq!(deleted.status, AgentStatus::Deleted.number());
    let mut agent = agent;
    assert_eq!(agent.exit_code().await, DELETED);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfollowed_precommit_lapses() {
    let site = Site::start().await;
    let mut agent = site.active_agent("h1", TOML).await;
    let secret = Secret::generate();
    let args = json!({"agent_id": agent.id, "secret": secret.reveal()});
    let wrong = json!({"agent_id": agent.id, "secret": Secret::generate().reveal()});
    let other = json!({"agent_id": agent.id + 1, "secret": secret.reveal()});

    // For another number: nothing happens.
    let error = site
        .call("h1", "manager", "delete_agent_precommit", other.clone(), WAIT)
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused, "{error}");
    // Without a first phase there is no second.
    let error = site
        .call("h1", "manager", "delete_agent_postcommit", args.clone(), WAIT)
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused, "{error}");
    assert_eq!(status(&site, "h1").await, Some(AgentStatus::Active));

    site.call("h1", "manager", "delete_agent_precommit", args.clone(), WAIT).await.unwrap();
    // The wrong secret, and the wrong number.
    for bad in [wrong, other] {
        let error =
            site.call("h1", "manager", "delete_agent_postcommit", bad, WAIT).await.unwrap_err();
        assert_eq!(error.reason, Reason::StateRefused, "{error}");
        assert_eq!(
            error.metadata.get("state").map(String::as_str).unwrap_or("PERDELETE"),
            "PERDELETE"
        );
    }
    let error = site.call("h1", "tt", "note", json!({}), WAIT).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentNotActive, "{error}");
    recorded(&site, agent.id, AgentStatus::PerDelete).await;

    // It lapses: the former status is back, and the secret is worth nothing.
    becomes(&site, "h1", AgentStatus::Active).await;
    recorded(&site, agent.id, AgentStatus::Active).await;
    site.call("h1", "tt", "note", json!({}), WAIT).await.unwrap();
    let error = site
        .call("h1", "manager", "delete_agent_postcommit", args.clone(), WAIT)
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused, "{error}");

    // It survives a kill until it lapses.
    site.call("h1", "manager", "delete_agent_precommit", args, WAIT).await.unwrap();
    agent.kill();
    agent.start().await;
    let now = status(&site, "h1").await;
    let log = agent.process().stderr_text();
    assert!(
        now == Some(AgentStatus::PerDelete) || log.contains("status=PERDELETE"),
        "it came back as {now:?}"
    );
    becomes(&site, "h1", AgentStatus::Active).await;
    recorded(&site, agent.id, AgentStatus::Active).await;
    assert!(!site.show(agent.id).await.unwrap().etag.is_empty());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_agent_comes_back_only_by_adoption() {
    let site = Site::start().await;
    let mut agent = site.active_agent("h1", TOML).await;
    let first = agent.id;

    // With entities only by force: the host is dead, the record goes.
    let mut entities = vec![create(&site, &agent).await, create(&site, &agent).await];
    agent.kill();
    let force = v1::DeleteAgentRequest { id: first, force: true, etag: String::new() };
    site.agents().delete_agent(force).await.unwrap();
    assert_eq!(site.show(first).await.unwrap().status, AgentStatus::Deleted.number());
    let error = site.entity("tt", entities[0].number).await.unwrap_err();
    assert_eq!(error.reason, Reason::EntityNotFound, "{error}");
    assert!(!site.has_queues("h1").await, "queues are left");

    // The host lives after all: it says why it ends, each time.
    for _ in 0..2 {
        let ended = agent.start_that_ends().await;
        assert_eq!(ended.status.code(), DELETED, "{}", ended.stderr);
        assert!(ended.stderr.contains("DELETED"), "{}", ended.stderr);
        assert!(!site.has_queues("h1").await, "a deleted agent made queues");
    }

    // Made new: another number, and what it has is recorded again.
    let adopted = agent.adopt().await;
    assert!(adopted.status.success(), "{}", adopted.stderr);
    agent.start().await;
    assert!(agent.id > first, "number {} again", agent.id);
    entities.sort_by_key(|entity| entity.number);
    for entity in &entities {
        let now = site.entity("tt", entity.number).await.unwrap();
        let ports = |entity: &v1::Entity| -> Vec<i32> {
            entity.ports.iter().map(|port| port.port).collect()
        };
        assert_eq!(now.agent_id, agent.id);
        assert_eq!(now.state(), v1::EntityState::Ready);
        assert_eq!(ports(&now), ports(entity));
    }
    site.activate(agent.id).await;
    let next = create(&site, &agent).await;
    assert!(next.number > entities[1].number, "number {} again", next.number);

    // In two phases when it has none any more.
    for number in [entities[0].number, entities[1].number, next.number] {
        let request = v1::DeleteEntityRequest {
            endpoint: "tt".to_owned(),
            number,
            ..v1::DeleteEntityRequest::default()
        };
        site.entities().delete_entity(request).await.unwrap();
    }
    let second = agent.id;
    site.delete(second).await.unwrap();
    assert_eq!(agent.exit_code().await, DELETED);
    let ended = agent.start_that_ends().await;
    assert_eq!(ended.status.code(), DELETED, "{}", ended.stderr);
    poll_until(SOON, "the queues are removed", async || !site.has_queues("h1").await).await;
    // Again is no failure, as one that never was is one.
    site.delete(second).await.unwrap();
    let error = site.delete(second + 1000).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentNotFound, "{error}");
    site.stop().await;
}

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
    const AGENTS: u64 = 6;
    const ROUNDS: u64 = 8;
    /// Between the begins of two deletes, in milliseconds.
    const APART: u64 = 7;
    let mut site = Site::start().await;
    let mut agents = agents(&site, AGENTS.try_into().unwrap()).await;
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
                    sleep(Duration::from_millis(APART * place as u64 + 1)).await;
                    let request = v1::DeleteAgentRequest { id, force: false, etag: String::new() };
                    client.delete_agent(request).await.is_ok()
                })
            })
            .collect();
        // The last one is just begun when it dies, the first may have ended; in the last round
        // all have.
        let late = if round + 1 < ROUNDS { 3 * round } else { 400 };
        sleep(Duration::from_millis(APART * (AGENTS - 1) + late)).await;
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
    site.stop().await;
}

/// The agent dies while its delete is on its way, at another moment each time.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_agent_killed_at_each_step_of_delete() {
    const AGENTS: usize = 3;
    const ROUNDS: u32 = 10;
    /// How much later the next one dies. A delete takes about thirty of these.
    const STEP: Duration = Duration::from_micros(700);
    let site = Site::start().await;
    let mut agents = agents(&site, AGENTS).await;
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
            sleep(STEP * (round * AGENTS as u32 + place as u32)).await;
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
