//! From the wish to start until it is ready, and what becomes of a start that fails.
//!
//! Invariant: by hand it is tried once: what fails is CRASHED and stays down. By the policy a
//! failed start counts as one more end by itself. A start has failed only when nothing of it can
//! come to run any more; before that it stays on record.

use std::{pin::pin, sync::Arc};

use goperation::{Error, Reason, Result, Secret, v1::ProcessState};
use goperation_launcher::{Look, Spec};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    cgroup, failure,
    launch::{self, Launched, failed},
    ready,
    restart::{Decision, decide},
    row::{Cause, LastExit, Wished},
    spec,
    supervisor::{By, Command, End, Ending, Event, Phase, Reply, Supervisor, Verb, answer, note},
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
        self.launch(spec, by).await
    }

    /// Has it launched. A kill gives that up, all else is for later.
    async fn launch(&mut self, spec: Spec, by: By) -> Result<Phase> {
        let give_up = CancellationToken::new();
        let launcher = self.processes.launcher();
        let launch = launch::launch(launcher, self.dir.clone(), spec, give_up.clone());
        let mut launch = pin!(launch);
        let launched = loop {
            let command = tokio::select! {
                biased;
                () = self.processes.stopping(), if !give_up.is_cancelled() => {
                    give_up.cancel();
                    continue;
                }
                command = self.commands.recv(), if !self.commands.is_closed() => command,
                launched = &mut launch => break launched,
            };
            match command {
                Some(Command { verb: verb @ (Verb::Kill | Verb::Leave { kill: true }), reply }) => {
                    self.leaving |= verb != Verb::Kill;
                    self.kill_overtakes(reply);
                    self.enter_stopping(Cause::Kill, Wished::Stopped, String::new()).await?;
                    give_up.cancel();
                }
                Some(command) => self.pending.later.push_back(command),
                None => {}
            }
        };
        if self.processes.stop.is_cancelled() {
            // The next agent sees what came of it.
            return Ok(Phase::Over);
        }
        let killed = self.row.ending() == Cause::Kill;
        match launched {
            Launched::Look(look) => self.started(look, by).await,
            Launched::Failed(error) => self.not_started(by, error, killed).await,
            Launched::Loose(error, launcher) => match self.nothing_comes(launcher).await {
                Ok(()) => self.not_started(by, error, killed).await,
                Err(left) => self.loose(by, error, &left, killed).await,
            },
        }
    }

    /// A kill overtakes all that waits for the launch, or for later.
    fn kill_overtakes(&mut self, reply: Reply) {
        for Command { verb, reply } in std::mem::take(&mut self.pending.later) {
            match verb {
                Verb::Start | Verb::Restart(_) => self.pending.up.push(reply),
                Verb::Leave { kill: false } => answer(reply, Err(self.runs())),
                Verb::Stop(_) | Verb::Kill | Verb::Leave { .. } => self.pending.down.push(reply),
            }
        }
        self.overtaken(Cause::Kill);
        self.pending.down.push(reply);
    }

    /// A launch failed, or was given up for a kill. Nothing of it runs.
    async fn not_started(&mut self, by: By, error: Error, killed: bool) -> Result<Phase> {
        if !killed {
            return self.start_failed(by, error, None).await;
        }
        self.stopped(None, "").await?;
        self.answer_down(|| Ok(()));
        Ok(self.at_rest())
    }

    /// A start failed, and may run all the same: it stays on record until it is known to be dead.
    async fn loose(&mut self, by: By, error: Error, left: &Error, killed: bool) -> Result<Phase> {
        let error = failed(format!("{}; {}", error.message, left.message));
        warn!(endpoint = %self.key.endpoint, entity = self.key.number, %error, "start failed");
        if !killed {
            self.change(|row, now| {
                row.set_ending(Cause::NotReady);
                row.by_hand = by == By::Hand;
                row.enter(ProcessState::Stopping, now);
            })
            .await?;
            self.failure = Some(error.clone());
        }
        Ok(Phase::Unknown(error))
    }

    /// What came of a start.
    pub(super) async fn started(&mut self, look: Look, by: By) -> Result<Phase> {
        let ended = match look {
            Look::Running(process) => Err((process, false)),
            Look::Orphaned(process) => Err((process, true)),
            Look::Ended(exit) => Ok(LastExit::of(exit, self.row.ending())),
            Look::Nothing | Look::Starting | Look::Vanished(_) => {
                Ok(LastExit::unseen(goperation::now_millis()))
            }
        };
        let (process, orphaned) = match ended {
            Err(runs) => runs,
            Ok(exit) if self.row.ending() == Cause::Kill => return self.down_after(exit).await,
            Ok(exit) => return self.ended_unready(by, exit).await,
        };
        let live = self.watch(process, orphaned);
        self.runs_as(&live).await?;
        Ok(match self.row.ending() {
            Cause::Kill => Ending::Kill.with(live),
            _ => Phase::Unready(live, by),
        })
    }

    /// Records what runs.
    pub(super) async fn runs_as(&mut self, live: &Live) -> Result<()> {
        let (process, note) = (live.process.clone(), note(live.orphaned));
        self.change(|row, _| {
            row.pid = process.game.pid;
            row.launcher = process.launcher.pid;
            row.started = process.started;
            row.noted(note);
        })
        .await
    }

    /// Reserved ports that are free on the host, and the spec of a new run.
    async fn prepare(&mut self) -> Result<Spec> {
        let ports = self.free_ports().await?;
        self.check(&ports)?;
        let (config, token) = (Arc::clone(&self.config), Secret::generate());
        let dir = self.dir.clone();
        self.apart(ports, move |about| {
            let spec = spec::spec(&config, about, dir.path(), token.reveal())?;
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
                    self.ready(&live).await?;
                    return Ok(Phase::Running(live));
                }
            };
            match event {
                Event::Leave => return Ok(Phase::Over),
                Event::Ended => match self.ended(live).await? {
                    End::GoesOn(other) => live = other,
                    End::Unknown(error) => return Ok(Phase::Unknown(error)),
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

    async fn ready(&mut self, live: &Live) -> Result<()> {
        self.change(|row, now| {
            row.by_hand = false;
            row.message = note(live.orphaned);
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
