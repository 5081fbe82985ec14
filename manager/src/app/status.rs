//! The operator's commands to an agent about its status.

use std::time::Duration;

use goperation::{
    AgentStatus, Error, JsonObject, MANAGER_NAMESPACE, MessageId, Result, now_millis,
    v1::{ActivateAgentRequest, Agent, AgentState},
};
use serde_json::Value;

use super::{
    App,
    once::{Seal, message_id},
};
use crate::{
    bridge_link::{Call, had_no_effect},
    check, keys,
};

/// A command, and what it does when the agent has agreed.
struct Command {
    method: &'static str,
    args: JsonObject,
    /// What an operator wants from now on.
    desired: Option<AgentStatus>,
    /// The status when the answer does not say it.
    status: Option<AgentStatus>,
}

impl App {
    pub(crate) async fn activate_agent(
        &self,
        q: ActivateAgentRequest,
        wait: Duration,
        seal: Option<&Seal>,
    ) -> Result<Agent> {
        let id = check::number("id", q.id)?;
        let status = match q.state() {
            AgentState::Unspecified | AgentState::Active => AgentStatus::Active,
            AgentState::Unactive => AgentStatus::Unactive,
            _ => {
                return Err(Error::invalid(
                    "state",
                    "must be AGENT_STATE_ACTIVE or AGENT_STATE_UNACTIVE",
                ));
            }
        };
        let record = self.agent_record(id).await?;
        let mut args = JsonObject::new();
        args.insert("agent_id".to_owned(), id.into());
        args.insert("status".to_owned(), status.number().into());
        if !record.address.is_empty() {
            args.insert("address".to_owned(), record.address.into());
        }
        let command =
            Command { method: "active_agent", args, desired: Some(status), status: Some(status) };
        self.command(id, command, wait, message_id(seal)).await
    }

    pub(crate) async fn pause_agent(
        &self,
        id: i32,
        wait: Duration,
        seal: Option<&Seal>,
    ) -> Result<Agent> {
        let command = Command {
            method: "pause_agent",
            args: JsonObject::new(),
            desired: None,
            status: Some(AgentStatus::SoftBusy),
        };
        self.command(check::number("id", id)?, command, wait, message_id(seal)).await
    }

    pub(crate) async fn resume_agent(
        &self,
        id: i32,
        wait: Duration,
        seal: Option<&Seal>,
    ) -> Result<Agent> {
        let command = Command {
            method: "resume_agent",
            args: JsonObject::new(),
            desired: None,
            status: None,
        };
        self.command(check::number("id", id)?, command, wait, message_id(seal)).await
    }

    async fn command(
        &self,
        id: u32,
        command: Command,
        wait: Duration,
        message: MessageId,
    ) -> Result<Agent> {
        let Command { method, args, desired, status } = command;
        let record = self.agent_record(id).await?;
        super::callable(&record)?;
        let to = record.to();
        let call = Call {
            to: &to,
            namespace: MANAGER_NAMESPACE,
            method,
            args,
            id: &message,
            finish: None,
        };
        let answer = match self.link.call(call, now_millis(), wait).await {
            Ok(answer) => answer,
            Err(error) => {
                if !had_no_effect(error.reason) {
                    super::raise_generation(self, id).await;
                }
                return Err(error.with("agent", id));
            }
        };
        self.leases.answered(id);
        let answered = answer
            .get("status")
            .and_then(Value::as_i64)
            .and_then(|number| AgentStatus::from_number(i32::try_from(number).ok()?));

        let now = now_millis();
        let mut tx = self.db.begin();
        let record = loop {
            let mut record = super::live_agent(&mut tx, id).await?;
            // Resumed without saying to what: the status from before.
            let former = AgentStatus::from_number(record.settled);
            if let Some(status) = answered.or(status).or(former)
                && record.status != status.number()
            {
                record.set_status(status, method, now);
            }
            if let Some(desired) = desired {
                record.desired = Some(desired.number());
            }
            record.touch(now);
            tx.put(keys::agent(id), &record);
            if tx.commit().await? {
                break record;
            }
        };
        self.agent_view(&record).await
    }
}
