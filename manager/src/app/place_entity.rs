//! Where an entity is created: on the agent that was named, or on the first of a choice that does
//! not refuse.
//!
//! Invariant: an agent is left for the next one only when it is known that nothing was done there,
//! so there is never a second entity of one request.

use std::time::{Duration, Instant};

use goperation::{
    Error, Reason, Result, now_millis,
    v1::{Candidate, CreateEntityResponse, LeftOut},
};

use super::{
    App,
    create_entity::{Place, Try, Wanted},
};
use crate::{
    placement::{Choice, Wish},
    record::int,
};

/// What a try gets at least while others are left, if there is so much: a busy agent looks again
/// after half a second, and an answer takes its way.
const SHORTEST: Duration = Duration::from_secs(2);
/// A try with less time than this could not be answered.
pub(super) const LEAST: Duration = Duration::from_millis(1);
/// Agents of a choice that are kept with its answer.
const KEPT: usize = 100;
/// Agents that an error tells about.
const TOLD: usize = 10;
/// What it tells of each, in characters.
const TOLD_LENGTH: usize = 160;
const NO_TIME: &str = "no time was left to ask others than those that refused an entity";

impl App {
    /// Creates it; `refused` are agents that have refused already.
    pub(super) async fn place(
        &self,
        wanted: &Wanted,
        refused: Vec<LeftOut>,
        begun: Instant,
        wait: Duration,
    ) -> Result<CreateEntityResponse> {
        match &wanted.place {
            Place::Best(wish) => self.place_best(wanted, wish, refused, begun, wait).await,
            Place::On(agent) => {
                let left = left(wanted, begun, wait)?;
                let until = wanted.finish.unwrap_or(now_millis() + super::millis(left));
                let (agent, candidates, refused) = (*agent, &[][..], &[][..]);
                let how = Try { agent, until, wait: left, candidates, refused };
                self.try_create(wanted, &how).await
            }
        }
    }

    async fn place_best(
        &self,
        wanted: &Wanted,
        wish: &Wish,
        mut refused: Vec<LeftOut>,
        begun: Instant,
        wait: Duration,
    ) -> Result<CreateEntityResponse> {
        let endpoint = wanted.endpoint.as_str();
        let Choice { candidates, left_out } = self.choice(endpoint, wish, now_millis()).await?;
        if wanted.dry {
            return Ok(CreateEntityResponse { candidates, ..CreateEntityResponse::default() });
        }
        let kept = &candidates[..candidates.len().min(KEPT)];
        let mut order: Vec<&Candidate> = candidates.iter().collect();
        order.retain(|candidate| refused.iter().all(|r| r.agent_id != candidate.agent_id));
        if wanted.number != 0 {
            // A number is used once, so there is only one try with it.
            order.truncate(1);
        }
        for (i, candidate) in order.iter().enumerate() {
            let left = match left(wanted, begun, wait) {
                Ok(left) => left,
                Err(error) if refused.is_empty() => return Err(error),
                Err(_) => return Err(nobody(endpoint, &refused, NO_TIME)),
            };
            let others = u32::try_from(order.len() - i).unwrap_or(u32::MAX);
            let agent = u32::try_from(candidate.agent_id).unwrap_or_default();
            let how = Try {
                agent,
                until: until(wanted, left, others, now_millis()),
                // What has begun is waited for as long as there is time: it may end well.
                wait: left,
                candidates: kept,
                refused: &refused,
            };
            match self.try_create(wanted, &how).await {
                Err(error) if left_to_next(error.reason) => {
                    tracing::info!(agent, endpoint, reason = %error.reason, "refused an entity");
                    refused.push(refusal((agent, candidate.host.clone()), &error));
                }
                ended => return ended,
            }
        }
        if refused.is_empty() {
            return Err(nobody(endpoint, &left_out, "no agent suits an entity"));
        }
        Err(nobody(endpoint, &refused, "every agent that was asked refused an entity"))
    }
}

/// The time that is left of the request's.
fn left(wanted: &Wanted, begun: Instant, wait: Duration) -> Result<Duration> {
    let left = wait.saturating_sub(begun.elapsed());
    let over = wanted.finish.is_some_and(|finish| finish <= now_millis());
    if left >= LEAST && !over {
        return Ok(left);
    }
    Err(Error::new(
        Reason::OverFinishtime,
        "its time was over before it was begun; nothing is left of it",
    )
    .with("endpoint", &wanted.endpoint))
}

/// Until when one of so many agents may begin with it. The time is shared, so that one that is busy
/// does not use it all up.
fn until(wanted: &Wanted, left: Duration, agents: u32, now: u64) -> u64 {
    let share = (left / agents.max(1)).max(SHORTEST).min(left);
    let end = now + super::millis(share);
    match wanted.finish {
        Some(finish) if agents <= 1 => finish,
        Some(finish) => finish.min(end),
        None => end,
    }
}

/// Whether a refusal leaves the entity to the next agent.
pub(super) fn left_to_next(reason: Reason) -> bool {
    match reason {
        // It is not there, or cannot now.
        Reason::AgentOffline
        | Reason::AgentBusy
        | Reason::AgentNotActive
        | Reason::QueueNotFound
        | Reason::QueueFull
        | Reason::OverFinishtime
        | Reason::ClockSkew
        // It has no room.
        | Reason::PortTaken
        | Reason::PortsExhausted
        | Reason::PortOutOfRange
        | Reason::StateRefused
        | Reason::Locked
        // It is not what its record says: it was reconfigured, or deleted, or has a number that
        // the record does not know of.
        | Reason::AgentNotFound
        | Reason::EndpointNotFound
        | Reason::NamespaceNotFound
        | Reason::MethodNotFound
        | Reason::AlreadyExists => true,
        // The bridge cannot send or wait, to whomever.
        Reason::BrokerUnavailable
        | Reason::RateLimited
        | Reason::Unavailable
        // The request is wrong, or what it runs: that is so everywhere. The agent has undone it.
        | Reason::InvalidArgument
        | Reason::TooLarge
        | Reason::MethodFailed
        // Something was done, or that is not known: the next agent would make two.
        | Reason::OutcomeUnknown
        | Reason::Interrupted
        | Reason::Internal => false,
        // Not of a creation.
        _ => false,
    }
}

/// A refusal, as the next ones are told of it.
pub(super) fn refusal((agent, host): (u32, String), error: &Error) -> LeftOut {
    LeftOut {
        agent_id: int(agent),
        host,
        reason: error.reason.to_string(),
        why: short(&error.message),
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(TOLD_LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn nobody(endpoint: &str, agents: &[LeftOut], why: &str) -> Error {
    let mut parts: Vec<_> = agents
        .iter()
        .take(TOLD)
        .map(|agent| format!("agent {} on {}: {}", agent.agent_id, agent.host, short(&agent.why)))
        .collect();
    if agents.len() > TOLD {
        parts.push(format!("and {} more", agents.len() - TOLD));
    }
    let what = format!("{why} of {endpoint}: {}", parts.join("; "));
    let error = Error::new(Reason::NoAgentSuits, what).with("endpoint", endpoint);
    agents.iter().take(TOLD).fold(error, |error, agent| {
        let why = if agent.reason.is_empty() { short(&agent.why) } else { agent.reason.clone() };
        error.with(&format!("agent_{}", agent.agent_id), why)
    })
}

#[cfg(test)]
mod tests {
    use goperation::v1::CreateEntityRequest;

    use super::*;

    const SECOND: u64 = 1000;

    fn wanted(finish: Option<u64>) -> Wanted {
        let q = CreateEntityRequest {
            endpoint: "arena".to_owned(),
            finish_time: finish.map(goperation::to_timestamp),
            ..CreateEntityRequest::default()
        };
        Wanted::read(q, None, true, 0).unwrap()
    }

    #[test]
    fn the_time_is_shared_until_the_last_one_has_what_is_left() {
        let until = |finish, seconds, agents| {
            until(&wanted(finish), Duration::from_secs(seconds), agents, SECOND) / SECOND
        };
        assert_eq!(until(None, 15, 3), 6);
        assert_eq!(until(None, 15, 1), 16);
        assert_eq!(until(None, 15, 100), 3);
        assert_eq!(until(None, 1, 100), 2);
        assert_eq!(until(Some(4 * SECOND), 15, 3), 4);
        assert_eq!(until(Some(100 * SECOND), 15, 3), 6);
        assert_eq!(until(Some(100 * SECOND), 15, 1), 100);
    }

    #[test]
    fn nothing_that_may_have_been_done_is_left_to_the_next() {
        for &reason in Reason::ALL {
            let never = crate::bridge_link::had_no_effect(reason);
            assert!(never || !left_to_next(reason), "{reason}");
        }
    }

    #[test]
    fn an_error_tells_of_a_few_and_not_too_much() {
        let left = |agent_id| LeftOut { agent_id, why: "ü".repeat(500), ..LeftOut::default() };
        let agents: Vec<_> = (1..40).map(left).collect();
        let error = nobody("arena", &agents, "no agent suits");
        assert_eq!(error.metadata.len(), 11);
        assert!(error.message.ends_with("; and 29 more"));
        assert!(error.message.len() < 4096);
    }
}
