//! Upgrades of agents.
//!
//! Invariant: one upgrade at a time of each agent is asked for through here; what became of it is
//! what the agent says, by its answer and by its syncs.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use goperation::{
    AgentStatus, Error, JsonObject, MANAGER_NAMESPACE, MessageId, Reason, Result, to_timestamp,
    v1::{
        AgentUpgrade, UpgradeAgentRequest, UpgradeAgentResponse, UpgradeAgentsRequest, UpgradeState,
    },
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    App,
    once::{Seal, message_id},
};
use crate::{
    bridge_link::Call,
    check::{self, Violations},
    record::AgentRecord,
};

/// How long an answer is kept back until the record says the same.
const TOLD: Duration = Duration::from_secs(2);
/// How often it is looked whether it does.
const LOOK: Duration = Duration::from_millis(20);

/// Upgrades that are being asked for: agent and message.
#[derive(Debug, Default)]
pub(crate) struct Upgrades(Mutex<HashMap<u32, String>>);

/// One of them; it is no longer when this is dropped.
#[derive(Debug)]
struct Asked<'a> {
    upgrades: &'a Upgrades,
    agent: u32,
}

impl Upgrades {
    /// Enters one; none when it is the repeat of the one that is there.
    fn ask(&self, agent: u32, message: &MessageId) -> Result<Option<Asked<'_>>> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(agent) {
            Entry::Occupied(there) if there.get() == message.as_str() => Ok(None),
            Entry::Occupied(there) => Err(refused(agent, there.get(), "is being asked for")),
            Entry::Vacant(free) => {
                free.insert(message.to_string());
                Ok(Some(Asked { upgrades: self, agent }))
            }
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.upgrades.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.agent);
    }
}

fn check_file(bad: &mut Violations, file: &str) {
    if file.starts_with('-') || file.contains('\0') {
        bad.add("file", "must be a path or URL, and not begin with a dash");
    }
}

impl App {
    /// Refuses what no agent may be asked to install.
    pub(crate) fn check_upgrades(q: &UpgradeAgentsRequest) -> Result<()> {
        let mut bad = Violations::default();
        check_file(&mut bad, &q.file);
        bad.finish()
    }

    pub(crate) async fn upgrade_agent(
        &self,
        q: UpgradeAgentRequest,
        now: u64,
        wait: Duration,
        seal: Option<&Seal>,
    ) -> Result<UpgradeAgentResponse> {
        let mut bad = Violations::default();
        let id = bad.take(check::number("id", q.id));
        let message = bad.take(match q.message_id.as_str() {
            "" => Ok(message_id(seal)),
            given => MessageId::parse("message_id", given),
        });
        let finish = bad.take(check::finish_time("finish_time", q.finish_time.as_ref(), now));
        check_file(&mut bad, &q.file);
        let (Some(id), Some(message), Some(finish)) = (id, message, finish) else {
            return Err(bad.error());
        };
        bad.finish()?;
        tracing::Span::current().record("message_id", message.as_str());

        let record = self.agent_record(id).await?;
        super::callable(&record)?;
        self.check_none_runs(&record, &message)?;
        let _asked = self.upgrades.ask(id, &message)?;
        let to = record.to();
        let call = Call {
            to: &to,
            namespace: MANAGER_NAMESPACE,
            method: "upgrade_agent",
            args: JsonObject::from_iter([("file".to_owned(), Value::from(q.file))]),
            id: &message,
            finish,
        };
        let until = Instant::now() + wait;
        let answer = self.link.call(call, now, wait).await;
        if answer.as_ref().err().is_none_or(|error| has_ended(error.reason)) {
            self.leases.answered(id);
            self.told(id, &message, until).await;
        }
        let upgrade = answer.and_then(|answer| {
            read(&message, &answer).ok_or_else(|| {
                Error::new(Reason::Internal, "the agent's answer to an upgrade cannot be read")
            })
        });
        match upgrade {
            Ok(upgrade) => Ok(UpgradeAgentResponse { upgrade: Some(upgrade) }),
            Err(error) => Err(error.with("agent", id).with_message_id(&message)),
        }
    }

    /// Another upgrade that runs is told of now; by the gate of the agent the caller would only
    /// learn that it is busy.
    fn check_none_runs(&self, record: &AgentRecord, message: &MessageId) -> Result<()> {
        let there = self.leases.seen(record.id).is_some_and(|seen| seen.online);
        match &record.upgrade {
            Some(upgrade)
                if there
                    && upgrade.state() == UpgradeState::Running
                    && upgrade.message_id != message.as_str() =>
            {
                Err(refused(record.id, &upgrade.message_id, "runs").with("file", &upgrade.file))
            }
            _ => Ok(()),
        }
    }

    /// Waits a little until the record says how the upgrade went, so that who asks next is told
    /// the same.
    async fn told(&self, id: u32, message: &MessageId, until: Instant) {
        let until = until.min(Instant::now() + TOLD);
        loop {
            let told = self.agent_record(id).await.is_ok_and(|record| {
                let upgrade = record.upgrade.unwrap_or_default();
                upgrade.message_id == message.as_str()
                    && upgrade.state() != UpgradeState::Running
                    && record.status != AgentStatus::HardBusy.number()
            });
            if told || Instant::now() >= until {
                return;
            }
            sleep(LOOK).await;
        }
    }
}

fn refused(agent: u32, running: &str, how: &str) -> Error {
    Error::new(Reason::StateRefused, format!("upgrade {running} of agent {agent} {how}"))
        .with("agent", agent)
        .with("upgrade", running)
}

/// Whether an upgrade that failed for that reason has been, and is over.
fn has_ended(reason: Reason) -> bool {
    matches!(reason, Reason::MethodFailed | Reason::Interrupted)
}

/// What an agent answers when its upgrade has succeeded.
fn read(message: &MessageId, answer: &JsonObject) -> Option<AgentUpgrade> {
    let text = |key| answer.get(key).and_then(Value::as_str).map(str::to_owned);
    let time = |key| answer.get(key).and_then(Value::as_u64).map(to_timestamp);
    Some(AgentUpgrade {
        state: UpgradeState::Succeeded.into(),
        message_id: message.to_string(),
        file: text("file")?,
        begin_time: time("begin_time"),
        end_time: time("end_time"),
        exit: text("exit")?,
        log: text("log")?,
        output: text("output")?,
        version_before: text("version_before")?,
        version_after: text("version_after")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> MessageId {
        MessageId::parse("id", text).unwrap()
    }

    #[test]
    fn one_upgrade_of_an_agent_is_asked_for_at_a_time() {
        let upgrades = Upgrades::default();
        let first = upgrades.ask(1, &id("a")).unwrap();
        assert!(first.is_some());
        // A repeat leaves the first where it is.
        assert!(upgrades.ask(1, &id("a")).unwrap().is_none());
        let refused = upgrades.ask(1, &id("b")).unwrap_err();
        assert_eq!(refused.reason, Reason::StateRefused);
        assert_eq!(refused.metadata["upgrade"], "a");
        assert!(upgrades.ask(2, &id("b")).unwrap().is_some());
        drop(first);
        assert!(upgrades.ask(1, &id("b")).unwrap().is_some());
    }
}
