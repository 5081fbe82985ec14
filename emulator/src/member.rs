//! One emulated agent from its first start to the end of the emulation.
//!
//! Invariant: it is started again when it asks for it, and not after a delete. One that shall be
//! offline registers once and stays away after that, also in later runs of the folder.

use std::{path::Path, sync::Arc, time::Duration};

use goperation_agent::{Exit, RunError, Shared, SharedFacts, start_shared};
use goperation_bridge::Transport;
use goperation_store::{SledStore, Store as _, Txn};
use tokio::{
    sync::{Semaphore, watch},
    task::{JoinError, spawn_blocking},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::{
    Config, Error, Role, Standing,
    ledger::Ledger,
    settle::{gone, settle},
    stub::{Conductor, METHODS},
};

/// First port of the first agent, and how many each has: 1,250 agents have ports of their own, and
/// no game ever binds one.
const FIRST_PORT: u32 = 10_000;
const PORTS: u32 = 40;
const AGENTS_WITH_PORTS: u32 = 1250;
/// After a failure an agent is started again this much later.
const AGAIN: Duration = Duration::from_secs(1);

/// How far an agent is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stage {
    /// Its number at the manager, once it is known.
    pub(crate) agent_id: Option<u32>,
    /// While it runs.
    pub(crate) running: Option<goperation_agent::Handle>,
    /// Whether it stands where it shall.
    pub(crate) settled: bool,
}

/// What all agents of an emulation share.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) config: Config,
    pub(crate) store: SledStore,
    pub(crate) facts: Arc<SharedFacts>,
    pub(crate) ledger: Arc<Ledger>,
    /// Places for agents that start.
    pub(crate) starting: Semaphore,
    pub(crate) stop: CancellationToken,
}

/// What one agent works with.
#[derive(Debug, Clone)]
pub(crate) struct Ways {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) manager: Channel,
}

impl Site {
    /// Keeps one agent.
    pub(crate) async fn keep(
        &self,
        role: Role,
        ways: Ways,
        stage: watch::Sender<Stage>,
    ) -> Result<(), Error> {
        if role.standing == Standing::Offline
            && let Some(agent_id) = self.away(role).await?
        {
            // That it left is on record before its lease is over.
            if self.stop.run_until_cancelled(gone(agent_id, &ways.manager)).await.is_none() {
                return Ok(());
            }
            let agent_id = Some(agent_id);
            stage.send_replace(Stage { agent_id, running: None, settled: true });
            return Ok(());
        }
        let mut place = tokio::select! {
            place = self.starting.acquire() => place.ok(),
            () = self.stop.cancelled() => return Ok(()),
        };
        let config = self.agent(role).await?;
        loop {
            let alone = self.stop.child_token();
            let parts = goperation_agent::Parts {
                transport: Arc::clone(&ways.transport),
                manager: ways.manager.clone(),
                launcher: Vec::new(),
            };
            let started = start_shared(config.clone(), parts, self.shared(role), alone.clone());
            let failed = |source| Error::Run { host: role.host(), source: Box::new(source) };
            let (running, mut living) = started.await.map_err(failed)?;
            stage.send_modify(|stage| stage.running = Some(running.clone()));
            let early = tokio::select! {
                ended = &mut living => Some(ended),
                () = settle(&running, role.standing, &ways.manager) => None,
            };
            if early.is_none() {
                stage.send_modify(|stage| {
                    stage.agent_id = running.agent_id();
                    // These only once they have gone.
                    stage.settled = !matches!(role.standing, Standing::Offline | Standing::Deleted);
                });
                if role.standing == Standing::Offline {
                    self.leave(role, running.agent_id()).await?;
                    alone.cancel();
                }
                // One that shall be gone keeps its place until it is.
                if stage.borrow().settled {
                    place.take();
                }
            }
            let ended = match early {
                Some(ended) => ended,
                None => living.await,
            };
            stage.send_modify(|stage| {
                stage.agent_id = running.agent_id().or(stage.agent_id);
                stage.running = None;
            });
            if !self.is_again(role, ended).await? {
                if role.standing == Standing::Offline
                    && let Some(agent_id) = running.agent_id()
                {
                    self.stop.run_until_cancelled(gone(agent_id, &ways.manager)).await;
                }
                // One that ended because all shall end has not come to where it shall stand.
                let stopped = self.stop.is_cancelled();
                stage.send_modify(|stage| stage.settled |= !stopped);
                return Ok(());
            }
        }
    }

    /// Whether an agent that ended is started again, when that is due.
    async fn is_again(
        &self,
        role: Role,
        ended: Result<Result<Exit, RunError>, JoinError>,
    ) -> Result<bool, Error> {
        let host = role.host();
        match ended {
            Ok(Ok(Exit::Stopped)) => Ok(false),
            Ok(Ok(Exit::Deleted)) => {
                info!(host, "deleted");
                Ok(false)
            }
            Ok(Ok(Exit::Restart)) => Ok(true),
            Ok(Err(RunError::Start(error))) => {
                warn!(host, %error, "starting again");
                Ok(self.stop.run_until_cancelled(sleep(AGAIN)).await.is_some())
            }
            Ok(Err(source)) => Err(Error::Run { host, source: Box::new(source) }),
            Err(panic) => Err(Error::Broken(format!("{host} ended badly: {panic}"))),
        }
    }

    fn shared(&self, role: Role) -> Shared {
        let Config { latency, late_by, .. } = self.config;
        let ledger = Arc::clone(&self.ledger);
        Shared {
            store: self.store.clone(),
            prefix: format!("a/{:05}/", role.number).into_bytes(),
            stub: Arc::new(Conductor { conduct: role.conduct, latency, late_by, ledger }),
            facts: Arc::clone(&self.facts),
        }
    }

    /// The configuration of an agent; its folders are made.
    async fn agent(&self, role: Role) -> Result<goperation_agent::Config, Error> {
        let host = role.host();
        let text = self.text(role);
        let read = spawn_blocking(move || {
            goperation_agent::Config::from_toml(Path::new(&host), &text)
                .map_err(|source| Error::Agent { host, source: Box::new(source) })
        });
        read.await.map_err(|panic| Error::Broken(panic.to_string()))?
    }

    fn text(&self, role: Role) -> String {
        let host = role.host();
        let folder = self.config.folder.join("agents").join(&host);
        let quoted = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
        let first = FIRST_PORT + (role.number - 1) % AGENTS_WITH_PORTS * PORTS;
        format!(
            "host = \"{host}\"\naddress = \"127.0.0.1\"\nwork_dir = {}\ndata_dir = {}\n\
             ports_ranges = [\"{first}-{}\"]\n\
             drain = \"1s\"\nprefetch = 32\nmax_in_flight = 1000\nmax_journal = 1000\n\
             [metadata]\nemulated = true\n\
             [package]\ncommand = [\"true\", \"{{file}}\"]\n{METHODS}",
            quoted(&folder.join("work")),
            quoted(&folder.join("data")),
            first + PORTS - 1,
        )
    }

    /// The number of an agent that went away in an earlier run, or in this one.
    async fn away(&self, role: Role) -> Result<Option<u32>, Error> {
        let value = self.store.get(away(role)).await?;
        Ok(value.and_then(|value| Some(u32::from_be_bytes(value.try_into().ok()?))))
    }

    async fn leave(&self, role: Role, agent_id: Option<u32>) -> Result<(), Error> {
        let number = agent_id.unwrap_or(0).to_be_bytes();
        self.store.commit(Txn::new().put(away(role), number)).await?;
        Ok(())
    }
}

/// Key of what is known of an agent that is away.
fn away(role: Role) -> Vec<u8> {
    format!("e/away/{:05}", role.number).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Conduct;

    #[tokio::test]
    async fn every_agent_has_a_good_configuration_with_ports_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::new(2, folder.path().join("a \"folder\""));
        let store = goperation_store::Options::new(folder.path().join("store"));
        let site = Site {
            store: SledStore::open(store).unwrap(),
            facts: Arc::new(SharedFacts::new(folder.path())),
            ledger: Arc::new(Ledger::open(&folder.path().join("ledger")).unwrap()),
            starting: Semaphore::new(1),
            stop: CancellationToken::new(),
            config,
        };
        let of = |number| Role { number, standing: Standing::Active, conduct: Conduct::Good };
        for (number, ports) in [(1, "10000-10039"), (1250, "59960-59999"), (1251, "10000-10039")] {
            let agent = site.agent(of(number)).await.unwrap();
            assert_eq!(agent.ports_ranges.to_strings(), [ports]);
            assert_eq!(agent.host.as_str(), of(number).host());
            assert!(agent.work_dir.is_dir() && agent.data_dir.is_dir());
        }
        assert_eq!(site.away(of(7)).await.unwrap(), None);
        site.leave(of(7), Some(12)).await.unwrap();
        assert_eq!(site.away(of(7)).await.unwrap(), Some(12));
        site.ledger.close().await;
        site.store.close().await;
    }
}
