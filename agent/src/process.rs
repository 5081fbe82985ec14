//! The driver `process`: an entity has a process, which a launcher keeps and a supervisor minds.
//!
//! Where a verb goes: `verbs` (the endpoint's methods) → [`Processes`] → `supervisor` (one task an
//! entity: `starting`, `ending`, `adopt`) → `launch` → the launcher. What is remembered is a `row`.
//!
//! Invariant: an entity has one supervisor at most, and only that one touches its process. When
//! the agent ends, supervisors end and processes go on.

mod about;
mod adopt;
mod bound;
pub(crate) mod cgroup;
mod ending;
mod failure;
pub(crate) mod files;
mod launch;
pub(crate) mod placeholder;
mod ready;
mod restart;
mod row;
pub(crate) mod spec;
mod starting;
mod status;
mod strays;
mod supervisor;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod user;
mod verbs;
mod watch;

use std::{
    collections::HashMap,
    ffi::OsString,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use goperation::{Error, Reason, Result, v1};
use goperation_launcher::{Process, RunDir};
use goperation_store::Txn;
use tokio::sync::{Notify, mpsc, oneshot, watch as channel};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use self::{
    launch::blocking,
    status::Sample,
    supervisor::{Command, Pending, Phase, Supervisor, Verb},
};
use crate::{
    config::{Config, ProcessConfig},
    core::Core,
    endpoint::Endpoints,
    lock::Operation,
    ports::Reserved,
    reserve::not_found,
    state::{EntityKey, State},
};

pub(crate) use about::{About, wishes};
pub(crate) use row::ProcessRow;
pub(crate) use verbs::{Called, KILL, answer};

/// Verbs that wait for a supervisor that is busy, at most.
const COMMANDS: usize = 16;

/// The processes of an agent's entities.
#[derive(Debug)]
pub(crate) struct Processes {
    core: Arc<Core>,
    endpoints: Arc<Endpoints>,
    launcher: Arc<[OsString]>,
    /// Folder of the run folders, `<run_dir>/<endpoint>/<number>`.
    run_dir: PathBuf,
    address: String,
    policy: crate::config::Strays,
    slots: Mutex<HashMap<EntityKey, Slot>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    strays: Mutex<Vec<v1::StrayProcess>>,
    /// Something changed that the manager wants to know.
    news: Notify,
}

/// The way to one supervisor.
#[derive(Debug, Clone)]
struct Slot {
    commands: mpsc::Sender<Command>,
    /// What runs.
    view: channel::Receiver<Option<Process>>,
    /// Processor time when it was last asked for.
    sample: Arc<Mutex<Option<Sample>>>,
}

impl Processes {
    pub(crate) fn new(
        core: Arc<Core>,
        endpoints: Arc<Endpoints>,
        launcher: Vec<OsString>,
        config: &Config,
    ) -> Self {
        Self {
            core,
            endpoints,
            launcher: launcher.into(),
            run_dir: config.data_dir.join("run"),
            address: config.address.clone(),
            policy: config.strays,
            slots: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            strays: Mutex::default(),
            news: Notify::new(),
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<EntityKey, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn launcher(&self) -> Arc<[OsString]> {
        Arc::clone(&self.launcher)
    }

    /// Waits until the agent ends.
    async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    fn dir(&self, key: &EntityKey) -> RunDir {
        RunDir::new(self.run_dir.join(key.endpoint.as_str()).join(key.number.to_string()))
    }

    /// The configuration of an entity's process; none when its driver starts none.
    fn config(&self, key: &EntityKey) -> Option<Arc<ProcessConfig>> {
        self.endpoints.get(key.endpoint.as_str()).ok()?.process()
    }

    /// Looks at every process that the former agent left, and takes it up; then for what should
    /// not be there. Nothing is started or ended by a verb before that.
    ///
    /// # Errors
    /// `INTERNAL` when the state cannot be looked at.
    pub(crate) async fn adopt(self: &Arc<Self>) -> Result<()> {
        let rows = self.core.look(Operation::Process, |state| Ok(state.processes.clone())).await?;
        let mut looks = Vec::new();
        for (key, row) in &rows {
            let (looked, look) = oneshot::channel();
            if self.supervise(key, row.clone(), Phase::Adopt(looked)).is_some() {
                looks.push(look);
            }
        }
        for look in looks {
            // It is dropped when it was looked.
            let _ = look.await;
        }
        // Emulated agents start no programs, and a thousand of them would look through all processes
        // of the host a thousand times.
        if self.endpoints.stub().is_none() {
            self.find_strays(&rows).await;
        }
        Ok(())
    }

    /// Ends the supervisors; all processes go on.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Has the output of a game read on whose launcher was lost: unread, it would stop the game. The
    /// reader ends with the game, and goes on without this agent.
    fn pump(self: &Arc<Self>, dir: RunDir) {
        let processes = Arc::clone(self);
        self.tasks.spawn(async move {
            let launcher = processes.launcher();
            match blocking(move || goperation_launcher::spawn_pump(&launcher, &dir)).await {
                Ok(id) => tokio::select! {
                    () = processes.stopping() => {}
                    () = watch::gone(&id) => goperation_launcher::reap(id.pid),
                },
                Err(error) => warn!(%error, "the output of a game without a launcher is not read"),
            }
        });
    }

    /// Starts the supervisor of an entity, unless there is one. None: its endpoint has no process.
    fn supervise(self: &Arc<Self>, key: &EntityKey, row: ProcessRow, phase: Phase) -> Option<Slot> {
        let config = self.config(key)?;
        let home = self.endpoints.get(key.endpoint.as_str()).ok()?.home(key.number);
        let mut slots = self.slots();
        if let Some(slot) = slots.get(key).filter(|slot| !slot.commands.is_closed()) {
            return Some(slot.clone());
        }
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (view, seen) = channel::channel(None);
        let supervisor = Supervisor {
            processes: Arc::clone(self),
            key: key.clone(),
            config,
            home,
            dir: self.dir(key),
            commands: receiver,
            view,
            row,
            pending: Pending::default(),
            failure: None,
            leaving: false,
        };
        self.tasks.spawn(supervisor.run(phase));
        let slot = Slot { commands, view: seen, sample: Arc::default() };
        slots.insert(key.clone(), slot.clone());
        Some(slot)
    }

    /// The way to the supervisor of an entity, which is there then.
    async fn slot(self: &Arc<Self>, key: &EntityKey) -> Result<Slot> {
        let known = self.slots().get(key).filter(|slot| !slot.commands.is_closed()).cloned();
        if let Some(slot) = known {
            return Ok(slot);
        }
        // Within the change, so that a deletion comes before it or finds what was made.
        let supervised = |state: &mut State, _: &mut Txn| {
            if !state.entities.contains_key(key) {
                return Err(not_found(key));
            }
            let row = state.processes.get(key).cloned().unwrap_or_default();
            self.supervise(key, row, Phase::Adopt(oneshot::channel().0)).ok_or_else(|| {
                Error::new(Reason::Internal, format!("endpoint {} has no process", key.endpoint))
            })
        };
        self.core.change(Operation::Process, supervised).await
    }

    /// Ends the supervisor of an entity that is deleted; called within the change that deletes it.
    pub(crate) fn forget(&self, key: &EntityKey) {
        self.slots().remove(key);
    }

    /// Asks the supervisor of an entity, and waits for its answer.
    async fn ask(self: &Arc<Self>, key: &EntityKey, verb: Verb) -> Result<()> {
        let ending = || Error::new(Reason::Unavailable, "the agent is stopping");
        // It may just have ended with the entity's former life.
        for _ in 0..3 {
            let slot = self.slot(key).await?;
            let (reply, answer) = oneshot::channel();
            if slot.commands.send(Command { verb, reply }).await.is_err() {
                if self.stop.is_cancelled() {
                    return Err(ending());
                }
                continue;
            }
            match answer.await {
                Ok(answer) => return answer,
                Err(_) if self.stop.is_cancelled() => return Err(ending()),
                // It ended before it came to this verb; every verb may be asked for again.
                Err(_) => {}
            }
        }
        let message = "what minds the process has ended badly: ask for its status";
        Err(Error::new(Reason::Internal, message))
    }

    /// Gives a new entity's home to its user, and writes its files.
    ///
    /// # Errors
    /// `INTERNAL` naming the file or folder.
    pub(crate) async fn furnish(
        &self,
        key: &EntityKey,
        config: Arc<ProcessConfig>,
        ports: Vec<Reserved>,
    ) -> Result<()> {
        let home = self.endpoints.get(key.endpoint.as_str())?.home(key.number);
        let (key, address) = (key.clone(), self.address.clone());
        let write = move || {
            let about = About {
                endpoint: key.endpoint.as_str(),
                number: key.number,
                home: &home,
                ports: &ports,
                address: &address,
            };
            Ok(files::write(&config, &about))
        };
        blocking(write).await.unwrap_or_else(|e| Err(Error::new(Reason::Internal, e.to_string())))
    }

    /// Makes sure that nothing of an entity runs, so that it can be deleted: kills it, or refuses.
    ///
    /// # Errors
    /// `STATE_REFUSED` when it runs.
    pub(crate) async fn leave(self: &Arc<Self>, key: &EntityKey, kill: bool) -> Result<()> {
        if self.config(key).is_none() {
            return self.leave_unminded(key, kill).await;
        }
        self.ask(key, Verb::Leave { kill }).await
    }

    /// Removes what the processes of an entity that has left keep: run folder and cgroup.
    ///
    /// # Errors
    /// `INTERNAL` naming the folder.
    pub(crate) async fn remove(&self, key: &EntityKey) -> Result<()> {
        let cgroup = self.config(key).map(|config| (config, key.clone()));
        let dir = self.dir(key);
        let path = dir.path().display().to_string();
        blocking(move || {
            // Also where the endpoint has no process any more: it may have had one.
            dir.remove()?;
            match cgroup.and_then(|(config, key)| cgroup::of(&config, &key)) {
                Some(path) => cgroup::remove(&path),
                None => Ok(()),
            }
        })
        .await
        .map_err(|e| {
            let message = format!("run folder {path} cannot be removed: {e}");
            Error::new(Reason::Internal, message).with("folder", path)
        })
    }

    /// The process of an entity as the manager is told of it; none when its driver starts none.
    pub(crate) fn to_wire(
        &self,
        key: &EntityKey,
        row: Option<&ProcessRow>,
    ) -> Option<v1::EntityProcess> {
        self.config(key)?;
        Some(row.map_or_else(|| ProcessRow::default().to_wire(), ProcessRow::to_wire))
    }

    /// Waits until something changed that the manager wants to know.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// What was found at the start and should not be there.
    pub(crate) fn strays(&self) -> Vec<v1::StrayProcess> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stray(&self, stray: v1::StrayProcess) {
        warn!(
            endpoint = stray.endpoint,
            entity = stray.entity,
            pid = stray.pid,
            why = stray.why,
            action = stray.action,
            "stray process"
        );
        self.strays.lock().unwrap_or_else(PoisonError::into_inner).push(stray);
    }
}
