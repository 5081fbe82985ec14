//! The last upgrade, as the store has it: one row, from its beginning to its end.
//!
//! Invariant: what is RUNNING here at a start is settled by that start, in the same transaction
//! that makes the agent INITIALIZING.

use goperation::{
    AgentStatus, Result, now_millis, to_timestamp,
    v1::{AgentUpgrade, UpgradeState},
};
use goperation_store::Txn;

use super::{
    Because, State,
    record::{VERSION, put, read},
};
use crate::endpoint::RunRecord;

/// Where it lies.
pub(super) const KEY: &[u8] = b"s/upgrade";

/// An upgrade.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Upgrade {
    /// As everybody is told.
    pub(crate) told: AgentUpgrade,
    /// The package command, for an agent that starts while it runs still.
    pub(crate) run: Option<RunRecord>,
    /// When the package command's time is over, in milliseconds since 1970 by this host's clock.
    pub(crate) limit: u64,
}

impl Upgrade {
    /// Whether the package command runs, or the agent is about to start anew.
    pub(crate) fn is_running(&self) -> bool {
        self.told.state() == UpgradeState::Running
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Row {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, optional, tag = "2")]
    told: Option<AgentUpgrade>,
    /// 0 while it is not known.
    #[prost(uint32, tag = "3")]
    pid: u32,
    #[prost(uint64, tag = "4")]
    start_time: u64,
    #[prost(string, tag = "5")]
    boot_id: String,
    #[prost(uint64, tag = "6")]
    limit: u64,
}

pub(super) fn load(state: &mut State, key: &[u8], value: &[u8]) -> Result<()> {
    let Row { told, pid, start_time, boot_id, limit, .. } =
        read(key, value, |row: &Row| row.version)?;
    let run = (pid > 0).then_some(RunRecord { pid, start_time, boot_id });
    state.upgrade = Some(Upgrade { told: told.unwrap_or_default(), run, limit });
    Ok(())
}

impl State {
    /// Writes the last upgrade; the manager will ask for it.
    pub(crate) fn put_upgrade(&mut self, upgrade: Upgrade, txn: &mut Txn) {
        let run = upgrade.run.clone();
        let row = Row {
            version: VERSION,
            told: Some(upgrade.told.clone()),
            pid: run.as_ref().map_or(0, |run| run.pid),
            start_time: run.as_ref().map_or(0, |run| run.start_time),
            boot_id: run.map(|run| run.boot_id).unwrap_or_default(),
            limit: upgrade.limit,
        };
        put(txn, KEY.to_vec(), &row);
        self.upgrade = Some(upgrade);
        self.raise_generation(txn);
    }

    /// At a start: an upgrade whose package command had succeeded is what starts now; any other
    /// that was open was interrupted.
    pub(crate) fn settle_upgrade(&mut self, now: u64, txn: &mut Txn) {
        let Some(mut upgrade) = self.upgrade.clone().filter(Upgrade::is_running) else { return };
        let told = &mut upgrade.told;
        // It is written together with the success, and with nothing else that leaves it RUNNING.
        if told.exit.is_empty() {
            told.set_state(UpgradeState::Interrupted);
        } else {
            told.set_state(UpgradeState::Succeeded);
        }
        env!("CARGO_PKG_VERSION").clone_into(&mut told.version_after);
        told.end_time = Some(to_timestamp(now));
        self.put_upgrade(upgrade, txn);
    }

    /// HARDBUSY with an upgrade that runs.
    ///
    /// # Errors
    /// `STATE_REFUSED` when the status does not allow it.
    pub(crate) fn begin_upgrade(&mut self, upgrade: Upgrade, txn: &mut Txn) -> Result<()> {
        let because = Because { cause: "upgrade_agent", actor: "operator", now: now_millis() };
        self.set_status(AgentStatus::HardBusy, because, txn)?;
        self.put_upgrade(upgrade, txn);
        Ok(())
    }

    /// The status from before, with an upgrade that did not succeed.
    pub(crate) fn fail_upgrade(&mut self, upgrade: Upgrade, txn: &mut Txn) {
        if self.status == AgentStatus::HardBusy {
            let paused = self.pause.is_some();
            let to = if paused { AgentStatus::SoftBusy } else { self.former };
            let because =
                Because { cause: "the upgrade failed", actor: "agent", now: now_millis() };
            self.force_status(to, because, txn);
        }
        self.put_upgrade(upgrade, txn);
    }
}

#[cfg(test)]
mod tests {
    use goperation::Reason;
    use goperation_store::{Row as StoreRow, Write};

    use super::*;
    use crate::ports::PortRanges;

    fn active() -> State {
        let mut state = State::new(PortRanges::default());
        state.status = AgentStatus::Active;
        state.former = AgentStatus::Active;
        state
    }

    /// What a start finds after these writes.
    fn stored(txn: Txn) -> State {
        let puts = txn.writes.into_iter().filter_map(|write| match write {
            Write::Put(key, value) => Some((key, value)),
            Write::Delete(_) => None,
        });
        let rows: std::collections::BTreeMap<_, _> = puts.collect();
        let rows: Vec<StoreRow> = rows.into_iter().collect();
        State::load(PortRanges::default(), &rows).unwrap()
    }

    fn running(exit: &str) -> Upgrade {
        let mut upgrade = Upgrade {
            run: Some(RunRecord { pid: 7, start_time: 8, boot_id: "b".to_owned() }),
            limit: 9,
            ..Upgrade::default()
        };
        upgrade.told.set_state(UpgradeState::Running);
        upgrade.told.message_id = "m1".to_owned();
        upgrade.told.exit = exit.to_owned();
        upgrade
    }

    #[test]
    fn a_start_settles_what_was_open_and_only_once() {
        for (exit, settled) in
            [("", UpgradeState::Interrupted), ("exit code 0", UpgradeState::Succeeded)]
        {
            let mut txn = Txn::new();
            active().begin_upgrade(running(exit), &mut txn).unwrap();
            let mut state = stored(txn);
            assert_eq!(state.status, AgentStatus::HardBusy);
            assert_eq!(state.upgrade, Some(running(exit)));
            let mut txn = Txn::new();
            let generation = state.generation;
            state.settle_upgrade(5000, &mut txn);
            assert!(state.generation > generation, "the manager will ask");
            let upgrade = stored(txn).upgrade.unwrap();
            assert_eq!(upgrade.told.state(), settled);
            assert_eq!(upgrade.told.end_time, Some(to_timestamp(5000)));
            assert_eq!(upgrade.told.version_after, env!("CARGO_PKG_VERSION"));
            let mut txn = Txn::new();
            state.settle_upgrade(6000, &mut txn);
            assert!(txn.writes.is_empty());
        }
    }

    #[test]
    fn a_failure_gives_the_status_from_before_back() {
        let mut state = active();
        let mut txn = Txn::new();
        state.begin_upgrade(running(""), &mut txn).unwrap();
        let refused = state.begin_upgrade(running(""), &mut txn).unwrap_err();
        assert_eq!(refused.reason, Reason::StateRefused);
        state.fail_upgrade(running("exit code 1"), &mut txn);
        assert_eq!(state.status, AgentStatus::Active);
        // Somebody has forced another status meanwhile: that stays.
        state.status = AgentStatus::Unactive;
        state.fail_upgrade(running("exit code 1"), &mut txn);
        assert_eq!(state.status, AgentStatus::Unactive);
    }
}
