//! An agent from start to exit (contract §6).
//!
//! Invariant: it works without the manager and without the broker on what its store says, and
//! reconciles when they return. A DELETED agent consumes nothing.

use std::{io, sync::Arc, time::Duration};

use goperation::{
    AgentStatus, Error, MessageId, Reason, Result, from_timestamp, now_millis, to_timestamp, v1,
};
use goperation_bridge::{Body, Kind, Message, Source};
use rand::RngExt as _;
use tokio::{
    task::spawn_blocking,
    time::{Instant, interval, interval_at, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    Exit, agent::Agent, config::ProcessConfig, dispatch::Dispatcher, error::RunError,
    journal::SWEEP_BATCH, lock::Operation, outbox, ports::Reserved, process::cgroup, report,
    state::EntityPhase,
};

/// How often the lease is renewed, unless a third of what the manager grants is shorter.
const RENEW: Duration = Duration::from_secs(5);
/// It is never renewed more often.
const RENEW_SHORTEST: Duration = Duration::from_millis(100);
/// How long after a change of a process the manager is told of it, with all others until then.
const NEWS: Duration = Duration::from_millis(500);
/// How long a start waits for the manager before it goes on from the store.
const START_PATIENCE: Duration = Duration::from_secs(2);
/// Longest time between two tries to reach the manager.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// How often the journal is swept.
const SWEEP: Duration = Duration::from_secs(60);
/// A clock that is further off than this is told in the log.
const MAX_SKEW_MILLIS: u64 = 5000;

/// What ends the agent's life.
enum End {
    Stop,
    Deleted,
    Restart,
    StoreFailed,
}

/// A message that the agent sends to itself.
pub(crate) fn internal_message() -> Message {
    Message::new(Kind::Cast, MessageId::generate(), Body::Object(goperation::JsonObject::new()))
}

/// Lives until `shutdown`, a delete, an upgrade or a failed store.
pub(crate) async fn live(
    agent: Arc<Agent>,
    shutdown: CancellationToken,
) -> std::result::Result<Exit, RunError> {
    if agent.core.status() == AgentStatus::Deleted {
        return Ok(Exit::Deleted);
    }
    leave_the_cgroup(&agent).await;
    // Before anything else: what runs is minded also while the manager and the broker are away.
    // What cannot be looked at now may keep it for a while, and nobody from stopping it.
    let exit = match shutdown.run_until_cancelled(agent.processes.adopt()).await {
        Some(Ok(())) => Box::pin(live_on(&agent, shutdown)).await,
        Some(Err(error)) => Err(RunError::Start(error)),
        None => Ok(Exit::Stopped),
    };
    agent.processes.close().await;
    exit
}

/// Where entities have cgroups of their own, nothing may be started in the one above them.
async fn leave_the_cgroup(agent: &Agent) {
    let has_limits = |process: &ProcessConfig| process.cgroup.is_some();
    let mut endpoints = agent.config.endpoints.values();
    if !endpoints.any(|endpoint| endpoint.process.as_ref().is_some_and(has_limits)) {
        return;
    }
    let left = spawn_blocking(cgroup::step_down).await.unwrap_or_else(|e| Err(io::Error::other(e)));
    if let Err(error) = left {
        // What is started with limits tries once more, and is refused with the reason.
        warn!(%error, "the agent stays in the cgroup in which those of the entities are made");
    }
}

async fn live_on(
    agent: &Arc<Agent>,
    shutdown: CancellationToken,
) -> std::result::Result<Exit, RunError> {
    let recorded = tokio::select! {
        () = shutdown.cancelled() => return Ok(Exit::Stopped),
        recorded = begin(agent) => recorded?,
    };
    let Some(recorded) = recorded else { return Ok(Exit::Deleted) };
    let jobs = agent.recover_jobs().await.map_err(RunError::Start)?;
    agent.core.post_start(recorded).await.map_err(RunError::Start)?;
    let subscription = agent
        .transport
        .subscribe(Source::Agent(agent.address.clone()), agent.config.prefetch)
        .await
        .map_err(|e| RunError::Start(Error::new(Reason::BrokerUnavailable, e.to_string())))?;
    // Set once: an agent lives once.
    let _ = agent.connected.set(subscription.connected.clone());
    agent.answer_upgrades().await.map_err(RunError::Start)?;
    let unanswered = agent.outbox.load().await.map_err(RunError::Start)?;
    if unanswered > 0 {
        info!(unanswered, "answers to requests are to be sent still");
    }
    let stop = CancellationToken::new();
    let dispatcher =
        tokio::spawn(Dispatcher::new(Arc::clone(agent)).run(jobs, subscription, stop.clone()));
    info!(agent = agent.manager.agent_id(), status = %agent.core.status(), "agent started");
    let reports = tokio::spawn(report::reports(Arc::clone(agent), stop.clone()));
    let all_said = CancellationToken::new();
    let outbox = tokio::spawn(outbox::send(Arc::clone(agent), all_said.clone()));

    let end = until_the_end(agent, &shutdown).await;

    agent.stopping.cancel();
    stop.cancel();
    if let Err(error) = reports.await {
        warn!(%error, "the reports ended badly");
    }
    if let Err(error) = dispatcher.await {
        warn!(%error, "the dispatcher ended badly");
    }
    // What has ended until now may still be answered.
    all_said.cancel();
    if let Err(error) = outbox.await {
        warn!(%error, "the outbox ended badly");
    }
    let goodbye = renewal(agent, true).await;
    if let Ok(goodbye) = goodbye
        && let Err(error) = agent.manager.renew(goodbye).await
    {
        debug!(%error, "the manager was not told of the exit");
    }
    match end {
        End::Stop => Ok(Exit::Stopped),
        End::Deleted => Ok(Exit::Deleted),
        End::Restart => Ok(Exit::Restart),
        End::StoreFailed => Err(RunError::Store(goperation_store::Error::Closed)),
    }
}

/// Registers or takes up the saved identity, and syncs when the manager is there. Answers the
/// status that `post_start` sets; none when the agent is deleted.
async fn begin(agent: &Agent) -> std::result::Result<Option<AgentStatus>, RunError> {
    let known = agent.manager.agent_id().is_some();
    if !known {
        match register(agent).await {
            Ok(()) => {}
            Err(error) if is_deleted(&error) => {
                agent.core.deleted_by_record().await.map_err(RunError::Start)?;
                return Ok(None);
            }
            Err(error) => return Err(RunError::Refused(error)),
        }
    }
    let patience = Instant::now() + START_PATIENCE;
    loop {
        match sync(agent).await {
            Ok(Synced::Deleted) => return Ok(None),
            Ok(Synced::Status(status)) => return Ok(Some(status)),
            Err(error) if error.reason == Reason::PermissionDenied => {
                return Err(RunError::Refused(error));
            }
            Err(error) if known && Instant::now() >= patience => {
                warn!(%error, "the manager is away: going on from the store");
                let former = agent.core.look(Operation::PostStart, |state| Ok(state.former)).await;
                return Ok(Some(former.map_err(RunError::Start)?));
            }
            Err(error) => {
                debug!(%error, "sync failed");
                back_off(0).await;
            }
        }
    }
}

fn is_deleted(error: &Error) -> bool {
    error.reason == Reason::StateRefused
        && error.metadata.get("state").is_some_and(|s| s == AgentStatus::Deleted.name())
}

/// Registers, for as long as it takes the manager to be there.
async fn register(agent: &Agent) -> Result<()> {
    for attempt in 0.. {
        let registration = v1::CreateAgentRequest {
            r#type: agent.address.agent_type.to_string(),
            host: agent.address.host.to_string(),
            secret: String::new(),
            address: agent.config.address.clone(),
            ports_ranges: agent.config.ports_ranges.to_strings(),
            facts: agent.facts.facts().await,
            ..v1::CreateAgentRequest::default()
        };
        match agent.manager.register(registration).await {
            Ok(id) => return agent.core.set_agent_id(id).await,
            Err(error) if is_passing(&error) => {
                if attempt % 15 == 0 {
                    warn!(%error, "the manager cannot be reached, trying on");
                }
                back_off(attempt).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_passing(error: &Error) -> bool {
    matches!(error.reason, Reason::Unavailable | Reason::OutcomeUnknown | Reason::Internal)
}

/// Growing up to two seconds, jittered, so that a fleet does not come back in step.
pub(crate) fn back_off_step(attempt: u32) -> Duration {
    let step = Duration::from_millis(100).saturating_mul(1 << attempt.min(5)).min(MAX_BACKOFF);
    step.mul_f64(rand::rng().random_range(0.5..1.0))
}

async fn back_off(attempt: u32) {
    sleep(back_off_step(attempt)).await;
}

enum Synced {
    Status(AgentStatus),
    Deleted,
}

/// Gives the manager the inventory and does what it answers. What it is given is durable: after a
/// crash the same generation never stands for another inventory.
async fn sync(agent: &Agent) -> Result<Synced> {
    let (generation, entities, upgrade) = agent
        .core
        .change(Operation::IsActive, |state, _| {
            let entities = state
                .entities
                .iter()
                .map(|(key, phase)| v1::AgentEntity {
                    endpoint: key.endpoint.to_string(),
                    number: i32::try_from(key.number).unwrap_or(i32::MAX),
                    ready: *phase == EntityPhase::Ready,
                    failed: *phase == EntityPhase::Failed,
                    ports: state.ports.of_entity(key).iter().map(port_to_wire).collect(),
                    process: agent.processes.to_wire(key, state.processes.get(key)),
                })
                .collect();
            let upgrade = state.upgrade.as_ref().map(|upgrade| upgrade.told.clone());
            Ok((state.generation, entities, upgrade))
        })
        .await?;
    let answer = agent
        .manager
        .sync(v1::SyncAgentRequest {
            id: 0,
            secret: String::new(),
            generation,
            endpoints: agent.endpoints.to_wire(),
            entities,
            ports_ranges: agent.config.ports_ranges.to_strings(),
            facts: agent.facts.facts().await,
            address: agent.config.address.clone(),
            upgrade,
            strays: agent.processes.strays(),
        })
        .await?;
    if answer.deleted {
        agent.core.deleted_by_record().await?;
        return Ok(Synced::Deleted);
    }
    agent.seen_manager_generation(answer.manager_generation);
    for name in &answer.remove {
        let number = u32::try_from(name.number).unwrap_or(0);
        agent.removals.ask((name.endpoint.clone(), number));
    }
    AgentStatus::from_number(answer.status).map(Synced::Status).ok_or_else(|| {
        Error::new(Reason::Internal, format!("the manager holds a status {}", answer.status))
    })
}

fn port_to_wire(reserved: &Reserved) -> v1::Port {
    v1::Port {
        agent_id: 0,
        port: reserved.port.into(),
        protocol: v1::Protocol::from(reserved.protocol).into(),
        endpoint: reserved.entity.endpoint.to_string(),
        entity: i32::try_from(reserved.entity.number).unwrap_or(i32::MAX),
        name: reserved.name.clone(),
        create_time: Some(to_timestamp(reserved.since)),
    }
}

/// What it tells is durable, as in [`sync`].
async fn renewal(agent: &Agent, stopping: bool) -> Result<v1::RenewAgentRequest> {
    agent
        .core
        .change(Operation::IsActive, |state, _| {
            Ok(v1::RenewAgentRequest {
                id: 0,
                secret: String::new(),
                status: state.status.number(),
                generation: state.generation,
                manager_generation: agent.manager_generation(),
                time: Some(to_timestamp(now_millis())),
                transitions: state.unreported.iter().map(v1::AgentTransition::from).collect(),
                clock_offset: offset_to_wire(agent.core.clock_offset()),
                stopping,
            })
        })
        .await
}

fn offset_to_wire(millis: i64) -> Option<prost_types::Duration> {
    let nanos = i32::try_from(millis % 1000 * 1_000_000).unwrap_or(0);
    Some(prost_types::Duration { seconds: millis / 1000, nanos })
}

/// Renews the lease once. Answers when to do so again; none when the agent is deleted.
pub(crate) async fn renew(agent: &Agent) -> Result<Option<Duration>> {
    let last = agent
        .core
        .look(Operation::IsActive, |state| Ok(state.unreported.back().map(|t| t.sequence)))
        .await?;
    let renewal = renewal(agent, false).await?;
    let before = now_millis();
    let answer = agent.manager.renew(renewal).await?;
    let after = now_millis();
    if let Some(time) = &answer.time {
        measure_offset(agent, before, from_timestamp(time), after);
    }
    if let Some(last) = last {
        agent
            .core
            .change(Operation::AgentId, |state, txn| {
                state.reported(last, txn);
                Ok(())
            })
            .await?;
    }
    if answer.deleted {
        agent.core.deleted_by_record().await?;
        return Ok(None);
    }
    if (answer.sync || agent.wants_sync()) && matches!(sync(agent).await?, Synced::Deleted) {
        return Ok(None);
    }
    Ok(Some(next_renewal(answer.lease)))
}

/// Two renewals may fail before the lease is over.
fn next_renewal(lease: Option<prost_types::Duration>) -> Duration {
    let lease = lease.and_then(|lease| Duration::try_from(lease).ok());
    lease.map_or(RENEW, |lease| (lease / 3).clamp(RENEW_SHORTEST, RENEW))
}

/// The manager's time belongs to the middle of the round trip.
fn measure_offset(agent: &Agent, before: u64, manager: u64, after: u64) {
    let middle = before.midpoint(after);
    let offset = i64::try_from(i128::from(middle) - i128::from(manager)).unwrap_or(0);
    if offset.unsigned_abs() > MAX_SKEW_MILLIS
        && agent.core.clock_offset().unsigned_abs() <= MAX_SKEW_MILLIS
    {
        warn!(offset_ms = offset, "CLOCK_SKEW: this host's clock is off");
    }
    agent.core.set_clock_offset(offset);
}

async fn until_the_end(agent: &Arc<Agent>, shutdown: &CancellationToken) -> End {
    let mut status = agent.core.watch_status();
    let mut renewals = interval(RENEW);
    let mut sweeps = interval(SWEEP);
    let mut lapse = Instant::now();
    let mut deleted = None;
    let mut news: Option<Instant> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return End::Stop,
            () = agent.core.failed().cancelled() => return End::StoreFailed,
            () = agent.restart.cancelled() => return End::Restart,
            () = sleep_until(deleted.unwrap_or_else(Instant::now)), if deleted.is_some() => {
                return End::Deleted;
            }
            Ok(()) = status.changed() => {
                let is_deleted = *status.borrow_and_update() == AgentStatus::Deleted;
                deleted = is_deleted.then(|| Instant::now() + agent.config.deleted_linger);
                lapse = Instant::now();
                renewals.reset_immediately();
            }
            () = agent.processes.news(), if news.is_none() => news = Some(Instant::now() + NEWS),
            () = sleep_until(news.unwrap_or_else(Instant::now)), if news.is_some() => {
                news = None;
                renewals.reset_immediately();
            }
            _ = renewals.tick() => match shutdown.run_until_cancelled(renew(agent)).await {
                None => return End::Stop,
                Some(Ok(Some(next))) if next == renewals.period() => {}
                Some(Ok(Some(next))) => renewals = interval_at(Instant::now() + next, next),
                Some(Ok(None)) => return End::Deleted,
                Some(Err(error)) => warn!(%error, "the lease was not renewed"),
            },
            _ = sweeps.tick() => match agent.journal.sweep(agent.core.manager_now()).await {
                Ok(0) => {}
                Ok(swept) => {
                    debug!(swept, "journal swept");
                    // One sweep takes so many at most: what comes in must not outrun it.
                    if swept >= SWEEP_BATCH {
                        sweeps.reset_immediately();
                    }
                }
                Err(error) => warn!(%error, "the journal was not swept"),
            },
            () = sleep_until(lapse) => lapse = next_lapse(agent).await,
        }
    }
}

/// Lets a precommit lapse that is due; answers when to look again.
async fn next_lapse(agent: &Agent) -> Instant {
    match agent.core.lapse().await {
        Ok(Some(due)) => Instant::now() + Duration::from_millis(due.saturating_sub(now_millis())),
        Ok(None) => Instant::now() + Duration::from_secs(3600),
        Err(error) => {
            warn!(%error, "the precommit was not looked at");
            Instant::now() + Duration::from_secs(1)
        }
    }
}
