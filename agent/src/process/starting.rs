//! From the wish to start until it is ready, and what becomes of a start that fails.
//!
//! Invariant: by hand it is tried once: what fails is CRASHED and stays down. By the policy a
//! failed start counts as one more end by itself.

use std::sync::Arc;

use goperation::{Error, Reason, Result, Secret, v1::ProcessState};
use goperation_launcher::{Look, Spec};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    cgroup, failure,
    launch::{self, failed},
    ready,
    restart::{Decision, decide},
    row::{Cause, LastExit, Wished},
    spec,
    supervisor::{By, Command, End, Ending, Event, Phase, Supervisor, Verb},
    watch::Live,
};

impl Supervisor {
    /// Starts it, up to where it has a process.
    pub(super) async fn start(&mut self, by: By) -> Result<Phase> {
        let spec = match self.prepare().await {
            Ok(spec) => spec,
            Err(error) => return self.start_failed(by, error, None).await,
        };
        let token = spec.token.clone();
        self.change(|row, now| {
            row.ended(None);
            row.set_wished(Wished::Running);
            row.token = Some(token);
            row.by_hand = by == By::Hand;
            if by == By::Hand {
                row.restarts = 0;
                row.history.clear();
            }
            row.message.clear();
            row.enter(ProcessState::Starting, now);
        })
        .await?;
        let launcher = self.processes.launcher();
        match launch::launch(launcher, &self.dir, spec).await {
            Ok(look) => self.started(look, by).await,
            Err(error) => {
                // Nothing of this token runs later: a launcher that comes late finds no spec.
                let dir = self.dir.clone();
                if let Err(error) = launch::blocking(move || dir.revoke()).await {
                    warn!(%error, "a start that failed was not revoked");
                }
                self.start_failed(by, error, None).await
            }
        }
    }

    /// What came of a start.
    pub(super) async fn started(&mut self, look: Look, by: By) -> Result<Phase> {
        let (process, orphaned) = match look {
            Look::Running(process) => (process, false),
            Look::Orphaned(process) => (process, true),
            Look::Ended(exit) => {
                let exit = LastExit::of(exit, Cause::Itself);
                return self.ended_unready(by, exit).await;
            }
            Look::Nothing | Look::Starting | Look::Vanished(_) => {
                let exit = LastExit::unseen(goperation::now_millis());
                return self.ended_unready(by, exit).await;
            }
        };
        self.change(|row, _| {
            row.pid = process.game.pid;
            row.launcher = process.launcher.pid;
            row.started = process.started;
        })
        .await?;
        Ok(Phase::Unready(Live::watch(process, orphaned), by))
    }

    /// Reserved ports that are free on the host, and the spec of a new run.
    async fn prepare(&self) -> Result<Spec> {
        let ports = self.free_ports().await?;
        self.check(&ports)?;
        let (config, token) = (Arc::clone(&self.config), Secret::generate());
        self.apart(ports, move |about| {
            let spec = spec::spec(&config, about, token.reveal())?;
            if let (Some(path), Some(limits)) = (&spec.cgroup, &config.cgroup) {
                cgroup::make(path, limits).map_err(|e| failed(format!("no cgroup: {e}")))?;
            }
            Ok(spec)
        })
        .await
    }

    /// Waits until it is ready.
    pub(super) async fn unready(&mut self, mut live: Live, mut by: By) -> Result<Phase> {
        let mut check = Box::pin(ready::until_ready(self.readiness(&live).await?));
        let due = self.config.ready.as_ref().map(|ready| Instant::now() + ready.timeout);
        loop {
            let event = tokio::select! {
                biased;
                event = self.event(Some(&live), due) => event,
                () = &mut check => {
                    self.ready().await?;
                    return Ok(Phase::Running(live));
                }
            };
            match event {
                Event::Leave => return Ok(Phase::Over),
                Event::Ended => match self.ended(live).await {
                    End::Orphaned(orphan) => live = orphan,
                    End::Exit(exit) => return self.ended_unready(by, exit).await,
                },
                Event::Due => return self.not_ready(live, by).await,
                Event::Verb(Command { verb: Verb::Start, reply }) => {
                    self.pending.up.push(reply);
                    by = By::Hand;
                }
                Event::Verb(Command { verb, reply }) => {
                    if let Some(ending) = self.end(&live, verb, reply).await? {
                        return Ok(ending.with(live));
                    }
                }
            }
        }
    }

    async fn ready(&mut self) -> Result<()> {
        self.change(|row, now| {
            row.by_hand = false;
            row.message.clear();
            row.enter(ProcessState::Running, now);
        })
        .await?;
        info!(endpoint = %self.key.endpoint, entity = self.key.number, pid = self.row.pid,
            "process runs");
        self.answer_up(|| Ok(()));
        Ok(())
    }

    /// It took too long: it is killed.
    async fn not_ready(&mut self, live: Live, by: By) -> Result<Phase> {
        let readiness = self.readiness(&live).await?;
        let error = self.with_log(readiness.missed().await).await;
        warn!(endpoint = %self.key.endpoint, entity = self.key.number, %error, "process not ready");
        let message = error.message.clone();
        self.failure = Some(error);
        self.change(|row, now| {
            row.ending = Cause::NotReady.into();
            row.by_hand = by == By::Hand;
            row.message = message;
            row.enter(ProcessState::Stopping, now);
        })
        .await?;
        Ok(Ending::Kill.with(live))
    }

    /// It ended before it was ready.
    pub(super) async fn ended_unready(&mut self, by: By, exit: LastExit) -> Result<Phase> {
        // Another process may have taken a port between our look and its own.
        let error = match self.first_held().await {
            Ok(None) | Err(_) => {
                let error = failure::ended_early(&self.key, &exit);
                self.with_log(error).await
            }
            Ok(Some(taken)) => taken,
        };
        self.start_failed(by, error, Some(exit)).await
    }

    /// A start failed, and nothing runs.
    pub(super) async fn start_failed(
        &mut self,
        by: By,
        error: Error,
        exit: Option<LastExit>,
    ) -> Result<Phase> {
        let message = error.message.clone();
        // Its own refusals, such as a port that is taken, pass; those of the agent's store do not.
        if error.reason == Reason::Unavailable {
            return Err(error);
        }
        warn!(endpoint = %self.key.endpoint, entity = self.key.number, %error, "start failed");
        if by == By::Policy && self.pending.up.is_empty() {
            return self.decide(exit, message).await;
        }
        self.change(|row, now| {
            row.ended(exit);
            row.set_wished(Wished::Stopped);
            row.message = message;
            row.enter(ProcessState::Crashed, now);
        })
        .await?;
        self.answer_up(|| Err(error.clone()));
        self.answer_down(|| Ok(()));
        Ok(self.at_rest())
    }

    /// It ended by itself after it was ready.
    pub(super) async fn ended_by_itself(&mut self, exit: LastExit) -> Result<Phase> {
        info!(endpoint = %self.key.endpoint, entity = self.key.number, exit = exit.text(),
            "process ended by itself");
        let message = exit.text();
        self.decide(Some(exit), message).await
    }

    /// The restart policy.
    async fn decide(&mut self, exit: Option<LastExit>, why: String) -> Result<Phase> {
        let restart = self.config.restart.clone();
        let mut history = self.row.history.clone();
        let now = goperation::now_millis();
        match decide(&restart, &mut history, exit.as_ref(), now) {
            Decision::Stopped => self.stopped(exit, &why).await?,
            Decision::Crashed => {
                warn!(endpoint = %self.key.endpoint, entity = self.key.number, "crash loop");
                let max = restart.max;
                let within = humantime::format_duration(restart.within);
                self.change(|row, now| {
                    row.ended(exit);
                    row.set_wished(Wished::Stopped);
                    row.history = history;
                    row.message = format!(
                        "{why}; it was started again {max} times within {within}, and stays down \
                         until it is started by hand"
                    );
                    row.enter(ProcessState::Crashed, now);
                })
                .await?;
            }
            Decision::Again(pause) => {
                let shown = humantime::format_duration(pause);
                self.change(|row, now| {
                    row.ended(exit);
                    row.history = history;
                    row.restarts = row.restarts.saturating_add(1);
                    row.due = now.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(0));
                    row.message = format!("{why}; it is started again after {shown}");
                    row.enter(ProcessState::Backoff, now);
                })
                .await?;
                self.answer_down(|| Ok(()));
                return Ok(Phase::Backoff(Instant::now() + pause));
            }
        }
        self.answer_down(|| Ok(()));
        Ok(self.at_rest())
    }

    /// The phase of what is down.
    pub(super) fn at_rest(&self) -> Phase {
        if self.leaving { Phase::Over } else { Phase::Down }
    }
}
