//! `upgrade_agent`: the operator's package command under HARDBUSY, then a new start.
//!
//! Invariant: the store has the upgrade from its beginning to its end. The outcome of one that
//! asks for a new start is told only after that start; one that the agent's death broke off is
//! INTERRUPTED, its package command is left to end, and the status from before comes back.

use std::time::Duration;

use goperation::{
    AgentStatus, Error, JsonObject, MANAGER_NAMESPACE, MessageId, Reason, Result, from_timestamp,
    now_millis, to_timestamp,
    v1::{AgentUpgrade, UpgradeState},
};
use goperation_bridge::Message;
use serde_json::Value;
use tokio::{task::spawn_blocking, time::timeout};
use tracing::{info, warn};

use crate::{
    agent::Agent,
    core::Core,
    endpoint::{RunRecord, kill_orphan, leader_for, leader_runs},
    job::{Ended, interrupted},
    journal::{Outcome, Phase},
    life,
    lock::Operation,
    methods::Method,
    package::{Plan, Ran, Running},
    state::Upgrade,
    waiters::Waiter,
};

/// How long an outcome waits until those who get it can call the agent.
const CONNECT: Duration = Duration::from_secs(5);
/// Characters of the command's output that an error carries: it travels in a header.
const OUTPUT: usize = 2048;

impl Agent {
    /// Runs the package command.
    pub(crate) async fn upgrade(&self, id: &MessageId, file: &str) -> Ended {
        match self.begin(id, file).await {
            Ok((upgrade, running)) => self.attend(upgrade, running).await,
            Err(error) => Ended::Outcome(Err(error)),
        }
    }

    /// Starts the package command under HARDBUSY. The log is on record before it is written.
    async fn begin(&self, id: &MessageId, file: &str) -> Result<(Upgrade, Running)> {
        let plan = Plan::new(&self.config, file)?;
        self.end_former().await?;
        let now = now_millis();
        let limit = u64::try_from(plan.limit().as_millis()).unwrap_or(u64::MAX);
        let mut upgrade = Upgrade {
            told: AgentUpgrade {
                state: UpgradeState::Running.into(),
                message_id: id.to_string(),
                file: file.to_owned(),
                begin_time: Some(to_timestamp(now)),
                log: plan.log().display().to_string(),
                version_before: env!("CARGO_PKG_VERSION").to_owned(),
                ..AgentUpgrade::default()
            },
            run: None,
            limit: now.saturating_add(limit),
        };
        self.core.begin_upgrade(upgrade.clone()).await?;
        info!(file, log = %upgrade.told.log, "upgrade begins");
        match plan.start(id).await {
            Ok(running) => {
                upgrade.run = running.record().cloned();
                self.core.put_upgrade(upgrade.clone()).await?;
                Ok((upgrade, running))
            }
            Err(error) => {
                upgrade.told.exit.clone_from(&error.message);
                self.core.fail_upgrade(upgrade).await?;
                warn!(%error, "upgrade failed");
                Err(error)
            }
        }
    }

    /// Waits for the end of the package command, and starts anew when it has succeeded.
    async fn attend(&self, mut upgrade: Upgrade, running: Running) -> Ended {
        let Ran { ok, exit, tail, .. } = running.end().await;
        upgrade.told.exit = exit;
        upgrade.told.output = tail;
        let id = upgrade.told.message_id.clone();
        if ok {
            if let Err(error) = self.core.put_upgrade(upgrade).await {
                return Ended::Outcome(Err(error));
            }
            info!(message_id = id, "upgrade succeeded, starting anew");
            self.restart.cancel();
            return Ended::AfterRestart;
        }
        match self.core.fail_upgrade(upgrade).await {
            Ok(told) => {
                warn!(message_id = id, exit = told.exit, log = told.log, "upgrade failed");
                Ended::Outcome(Err(failure(&told)))
            }
            Err(error) => Ended::Outcome(Err(error)),
        }
    }

    /// A package command that outlived the agent that began it goes on until its time is over:
    /// until then there is no other one beside it.
    async fn end_former(&self) -> Result<()> {
        let former = self.core.look(Operation::UpgradeAgent, |state| Ok(state.upgrade.clone()));
        let Some(Upgrade { told, run, limit }) = former.await? else { return Ok(()) };
        if told.state() != UpgradeState::Interrupted {
            return Ok(());
        }
        let Some(run) = self.still_running(run, told.message_id.clone()).await? else {
            return Ok(());
        };
        let now = now_millis();
        if now >= limit {
            warn!(pid = run.pid, "the package command of an interrupted upgrade is killed");
            kill_orphan(&run).await;
            return Ok(());
        }
        let left = humantime::format_duration(Duration::from_secs((limit - now).div_ceil(1000)));
        Err(Error::new(
            Reason::StateRefused,
            format!(
                "the package command of upgrade {} was interrupted and runs still as pid {}; it \
                 has {left} to end",
                told.message_id, run.pid
            ),
        )
        .with("upgrade", told.message_id)
        .with("pid", run.pid))
    }

    /// The package command of an upgrade, if it runs. One that the agent had no time to record is
    /// known by its environment.
    async fn still_running(&self, run: Option<RunRecord>, id: String) -> Result<Option<RunRecord>> {
        let agent = self.config.data_dir.clone();
        let look = move || match run {
            Some(run) => leader_runs(&run).then_some(run),
            None => leader_for(&agent, &id),
        };
        spawn_blocking(look).await.map_err(|e| {
            Error::new(Reason::Internal, format!("the former upgrade was not looked at: {e}"))
        })
    }

    /// Answers the upgrades that the last run of this agent left open, when the manager knows of
    /// their end and callers can reach this agent again.
    ///
    /// # Errors
    /// When the journal cannot be read or written.
    pub(crate) async fn answer_upgrades(&self) -> Result<()> {
        for (id, mut entry) in self.journal.open().await? {
            if entry.phase() != Phase::Started {
                continue;
            }
            let message = entry.message(id)?;
            if !is_upgrade(&message) {
                continue;
            }
            let outcome = self.settled(&message).await?;
            self.journal.done(&message.id, &mut entry, &outcome, self.manager.agent_id()).await?;
            // Both only for those who ask next: the outcome itself does not depend on them.
            if let Some(mut connected) = self.connected.get().cloned() {
                let _ = timeout(CONNECT, connected.wait_for(|connected| *connected)).await;
            }
            if let Err(error) = life::renew(self).await {
                warn!(%error, "the manager does not know of the upgrade's end yet");
            }
            self.reply(&message, Waiter::of(&message).into_iter().collect(), &outcome).await;
        }
        Ok(())
    }

    /// How an upgrade that was open at the start has ended.
    async fn settled(&self, message: &Message) -> Result<Outcome> {
        let told = self
            .core
            .look(Operation::UpgradeAgent, |state| Ok(state.upgrade.clone()))
            .await?
            .map(|upgrade| upgrade.told)
            .filter(|told| told.message_id == message.id.as_str());
        Ok(match told {
            Some(told) => match told.state() {
                UpgradeState::Succeeded => Ok(success(&told)),
                UpgradeState::Failed => Err(failure(&told)),
                _ => Err(interrupted(message).with("log", told.log)),
            },
            // It never began.
            None => Err(interrupted(message)),
        })
    }
}

impl Core {
    /// `upgrade_agent`: HARDBUSY through `set_status`; what it was before is kept.
    ///
    /// # Errors
    /// `STATE_REFUSED` when the status does not allow it, naming the upgrade that runs if one does.
    pub(crate) async fn begin_upgrade(&self, upgrade: Upgrade) -> Result<()> {
        self.change(Operation::UpgradeAgent, |state, txn| {
            if state.status < AgentStatus::SoftBusy {
                let running = state.upgrade.as_ref().filter(|upgrade| upgrade.is_running());
                return Err(match running {
                    Some(Upgrade { told, .. }) => state
                        .refused(&format!("upgrade {} of {:?} runs", told.message_id, told.file))
                        .with("upgrade", &told.message_id),
                    None => state.refused("it cannot be upgraded"),
                });
            }
            if state.status > AgentStatus::SoftBusy {
                state.former = state.status;
            }
            state.begin_upgrade(upgrade, txn)
        })
        .await
    }

    /// Writes how the upgrade stands.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store has failed.
    async fn put_upgrade(&self, upgrade: Upgrade) -> Result<()> {
        self.change(Operation::UpgradeAgent, |state, txn| {
            state.put_upgrade(upgrade, txn);
            Ok(())
        })
        .await
    }

    /// The upgrade did not succeed: HARDBUSY is left with the status from before.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store has failed.
    pub(crate) async fn fail_upgrade(&self, mut upgrade: Upgrade) -> Result<AgentUpgrade> {
        upgrade.told.set_state(UpgradeState::Failed);
        upgrade.told.end_time = Some(to_timestamp(now_millis()));
        let told = upgrade.told.clone();
        self.change(Operation::ForceStatus, |state, txn| {
            state.fail_upgrade(upgrade, txn);
            Ok(told)
        })
        .await
    }
}

/// Whether a message is one that upgrades.
pub(crate) fn is_upgrade(message: &Message) -> bool {
    message.namespace == MANAGER_NAMESPACE && message.method == Method::UpgradeAgent.name()
}

/// What the caller of an upgrade that succeeded gets.
fn success(told: &AgentUpgrade) -> JsonObject {
    let millis = |time: Option<&_>| Value::from(time.map_or(0, from_timestamp));
    JsonObject::from_iter([
        ("file".to_owned(), told.file.clone().into()),
        ("begin_time".to_owned(), millis(told.begin_time.as_ref())),
        ("end_time".to_owned(), millis(told.end_time.as_ref())),
        ("exit".to_owned(), told.exit.clone().into()),
        ("log".to_owned(), told.log.clone().into()),
        ("output".to_owned(), told.output.clone().into()),
        ("version_before".to_owned(), told.version_before.clone().into()),
        ("version_after".to_owned(), told.version_after.clone().into()),
    ])
}

/// What the caller of an upgrade that failed gets.
fn failure(told: &AgentUpgrade) -> Error {
    let skipped = told.output.chars().count().saturating_sub(OUTPUT);
    let output: String = told.output.chars().skip(skipped).collect();
    Error::new(
        Reason::MethodFailed,
        format!("the package command failed: {}; see {}", told.exit, told.log),
    )
    .with("exit", &told.exit)
    .with("log", &told.log)
    .with("output", output)
    .with_message_id(&told.message_id)
}
