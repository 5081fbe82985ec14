//! The rows of the work lock's table (contract §5) that change the agent's status.
//!
//! Invariant: each is one change under the lock at its own priority; refused means nothing changed.

use std::time::Duration;

use goperation::{AgentStatus, Error, Reason, Result, Secret, now_millis};

use crate::{
    core::Core,
    lock::Operation,
    state::{Because, Pause, Precommit, State},
};

const OPERATOR: &str = "operator";
const AGENT: &str = "agent";
const MANAGER: &str = "manager";

fn because<'a>(cause: &'a str, actor: &'static str) -> Because<'a> {
    Because { cause, actor, now: now_millis() }
}

impl Core {
    /// `agent_id`: sets the number once.
    ///
    /// # Errors
    /// `STATE_REFUSED` when it has another one.
    pub(crate) async fn set_agent_id(&self, id: u32) -> Result<()> {
        self.change(Operation::AgentId, |state, txn| state.set_agent_id(id, txn)).await
    }

    /// `post_start`: the first status after a start, through `force_status`. An open precommit
    /// and an operator's pause survive the start.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store has failed.
    pub(crate) async fn post_start(&self, recorded: AgentStatus) -> Result<()> {
        self.change(Operation::PostStart, |state, txn| {
            let to = if state.precommit.is_some() {
                AgentStatus::PerDelete
            } else if state.pause == Some(Pause::Operator) {
                AgentStatus::SoftBusy
            } else {
                state.pause = None;
                recorded
            };
            if to == recorded {
                state.former = recorded;
            }
            state.force_status(to, because("post_start", AGENT), txn);
            Ok(())
        })
        .await
    }

    /// `active_agent`: ACTIVE or UNACTIVE, through `set_status`; number and address must match.
    ///
    /// # Errors
    /// `STATE_REFUSED` when they do not, or when the status does not allow it.
    pub(crate) async fn active_agent(&self, to: AgentStatus, agent_id: u32) -> Result<AgentStatus> {
        self.change(Operation::ActiveAgent, |state, txn| {
            check_agent_id(state, agent_id)?;
            if state.status < AgentStatus::SoftBusy {
                return Err(state.refused(&format!("it cannot become {to}")));
            }
            state.former = to;
            state.pause = None;
            state.set_status(to, because("active_agent", OPERATOR), txn)?;
            Ok(state.status)
        })
        .await
    }

    /// SOFTBUSY, by an operator or by a bound; what it was before is kept for [`Core::resume`].
    ///
    /// # Errors
    /// `STATE_REFUSED` when the status does not allow it.
    pub(crate) async fn pause(&self, by: Pause) -> Result<AgentStatus> {
        let (cause, actor) = match by {
            Pause::Operator => ("pause_agent", OPERATOR),
            Pause::Bound => ("journal bound reached", AGENT),
        };
        self.change(Operation::Pause, |state, txn| {
            if state.status < AgentStatus::SoftBusy {
                return Err(state.refused("it cannot be paused"));
            }
            if state.status > AgentStatus::SoftBusy {
                state.former = state.status;
                state.pause = Some(by);
                state.set_status(AgentStatus::SoftBusy, because(cause, actor), txn)?;
            } else if by == Pause::Operator {
                state.pause = Some(by);
                state.put_status(txn);
            }
            Ok(state.status)
        })
        .await
    }

    /// Ends SOFTBUSY. A bound ends only what a bound began; an operator ends either.
    ///
    /// # Errors
    /// `STATE_REFUSED` when an operator resumes an agent below SOFTBUSY.
    pub(crate) async fn resume(&self, by: Pause) -> Result<AgentStatus> {
        self.change(Operation::Resume, |state, txn| {
            if by == Pause::Operator && state.status < AgentStatus::SoftBusy {
                return Err(state.refused("it is not paused"));
            }
            let mine = by == Pause::Operator || state.pause == Some(Pause::Bound);
            if state.status == AgentStatus::SoftBusy && mine {
                state.pause = None;
                let (cause, actor) = match by {
                    Pause::Operator => ("resume_agent", OPERATOR),
                    Pause::Bound => ("journal below its bound", AGENT),
                };
                state.force_status(state.former, because(cause, actor), txn);
            }
            Ok(state.status)
        })
        .await
    }

    /// `delete_agent_precommit`: above SOFTBUSY and without entities, then PERDELETE until it
    /// lapses. The same secret again is the same precommit.
    ///
    /// # Errors
    /// `STATE_REFUSED` or `ENTITIES_REMAIN`; nothing changed then.
    pub(crate) async fn precommit(
        &self,
        agent_id: u32,
        secret: Secret,
        lapse: Duration,
    ) -> Result<()> {
        self.change(Operation::DeletePrecommit, |state, txn| {
            check_agent_id(state, agent_id)?;
            let open = state.status == AgentStatus::PerDelete;
            if open && state.precommit.as_ref().is_some_and(|p| p.secret == secret) {
                return Ok(());
            }
            if state.status <= AgentStatus::SoftBusy {
                return Err(state.refused("it must be above SOFTBUSY to be deleted"));
            }
            check_no_entities(state)?;
            let lapse = u64::try_from(lapse.as_millis()).unwrap_or(u64::MAX);
            state.former = state.status;
            state.precommit =
                Some(Precommit { secret, lapses: now_millis().saturating_add(lapse) });
            let because = because("delete_agent_precommit", OPERATOR);
            state.set_status(AgentStatus::PerDelete, because, txn)
        })
        .await
    }

    /// `delete_agent_postcommit`: PERDELETE with the same secret, then DELETED. A repeat on a
    /// DELETED agent is done already.
    ///
    /// # Errors
    /// `STATE_REFUSED` when it is not PERDELETE, or the secret is another one.
    pub(crate) async fn postcommit(&self, agent_id: u32, secret: &Secret) -> Result<()> {
        self.change(Operation::DeletePostcommit, |state, txn| {
            check_agent_id(state, agent_id)?;
            let Some(precommit) = &state.precommit else {
                return Err(state.refused("no precommit is open"));
            };
            if precommit.secret != *secret {
                return Err(state.refused("the secret is not the one of the precommit"));
            }
            match state.status {
                AgentStatus::PerDelete => {
                    let because = because("delete_agent_postcommit", OPERATOR);
                    state.force_status(AgentStatus::Deleted, because, txn);
                    Ok(())
                }
                AgentStatus::Deleted => Ok(()),
                _ => Err(state.refused("it must be PERDELETE to become DELETED")),
            }
        })
        .await
    }

    /// The record says DELETED: the record wins.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store has failed.
    pub(crate) async fn deleted_by_record(&self) -> Result<()> {
        self.change(Operation::ForceStatus, |state, txn| {
            if state.status != AgentStatus::Deleted {
                let because = because("the manager's record says DELETED", MANAGER);
                state.force_status(AgentStatus::Deleted, because, txn);
            }
            Ok(())
        })
        .await
    }

    /// Gives the former status back when the precommit's time is over. Answers when it will be,
    /// if one is still open.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store has failed.
    pub(crate) async fn lapse(&self) -> Result<Option<u64>> {
        let due = self
            .look(Operation::Lapse, |state| {
                let open = state.status == AgentStatus::PerDelete;
                Ok(state.precommit.as_ref().filter(|_| open).map(|p| p.lapses))
            })
            .await?;
        if due.is_none_or(|due| now_millis() < due) {
            return Ok(due);
        }
        self.change(Operation::Lapse, |state, txn| {
            let open = state.status == AgentStatus::PerDelete;
            if open && state.precommit.as_ref().is_some_and(|p| p.lapses <= now_millis()) {
                state.precommit = None;
                state.force_status(state.former, because("the precommit lapsed", AGENT), txn);
            }
            Ok(None)
        })
        .await
    }

    /// `is_active`: whether endpoint methods may start.
    ///
    /// # Errors
    /// `AGENT_NOT_ACTIVE` when it is not.
    pub(crate) async fn is_active(&self) -> Result<()> {
        self.look(Operation::IsActive, |state| check_active(state)).await
    }
}

/// Whether the agent is ACTIVE, for operations that check it under a guard they hold already.
pub(crate) fn check_active(state: &State) -> Result<()> {
    if state.status == AgentStatus::Active {
        return Ok(());
    }
    let mut error = Error::new(
        Reason::AgentNotActive,
        format!("the agent is {}; endpoint methods run only on an ACTIVE one", state.status),
    )
    .with("state", state.status);
    if let Some(id) = state.agent_id {
        error = error.with("agent", id);
    }
    Err(error)
}

fn check_agent_id(state: &State, agent_id: u32) -> Result<()> {
    if state.agent_id == Some(agent_id) {
        return Ok(());
    }
    Err(Error::new(
        Reason::StateRefused,
        format!("the message is for agent {agent_id}, this is {:?}", state.agent_id),
    ))
}

fn check_no_entities(state: &State) -> Result<()> {
    let Some((first, _)) = state.entities.first_key_value() else { return Ok(()) };
    let count = state.entities.len();
    Err(Error::new(
        Reason::EntitiesRemain,
        format!(
            "the agent still has {count} {}, {} {} among them; delete them first",
            if count == 1 { "entity" } else { "entities" },
            first.endpoint,
            first.number,
        ),
    )
    .with("entities", count)
    .with("endpoint", &first.endpoint)
    .with("entity", first.number))
}

#[cfg(test)]
mod tests;
