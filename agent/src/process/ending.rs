//! How a process is ended: asked, then killed with all that it started.
//!
//! Invariant: who waits for it to be down is answered within the grace and the time that a kill
//! takes; one who is overtaken by a kill is told at once.

use std::{io, sync::Arc, time::Duration};

use goperation::{Error, Reason, Result, now_millis, v1::ProcessState};
use goperation_launcher::{Look, Process, ProcessId, Signal, kill_all, signal};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{
    cgroup,
    launch::{blocking, failed, look},
    row::{Cause, LastExit, Wished},
    supervisor::{By, Command, End, Ending, Event, Phase, Reply, Supervisor, Verb, answer, note},
    watch::{Live, end_launcher, launcher_ended},
};

/// How long, after all was killed, the launcher may take to say how it ended.
const SETTLE: Duration = Duration::from_secs(10);
/// How often a run folder is tried that somebody holds.
const AGAIN: Duration = Duration::from_millis(20);
/// How often a run folder is looked into that cannot be read.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// And how many times.
const LOOKS: usize = 25;

impl Supervisor {
    /// Begins to end what runs; none when the verb is refused.
    pub(super) async fn end(
        &mut self,
        live: &Live,
        verb: Verb,
        reply: Reply,
    ) -> Result<Option<Ending>> {
        let (cause, wished, grace) = match verb {
            Verb::Start => return Ok(None),
            Verb::Leave { kill: false } => {
                answer(reply, Err(self.runs()));
                return Ok(None);
            }
            Verb::Stop(grace) => (Cause::Stop, Wished::Stopped, grace),
            Verb::Restart(grace) => (Cause::Stop, Wished::Running, grace),
            Verb::Kill | Verb::Leave { kill: true } => (Cause::Kill, Wished::Stopped, None),
        };
        self.leaving = matches!(verb, Verb::Leave { .. });
        self.overtaken(cause);
        match wished {
            Wished::Running => self.pending.up.push(reply),
            Wished::Stopped => self.pending.down.push(reply),
        }
        self.enter_stopping(cause, wished, note(live.orphaned)).await?;
        if cause == Cause::Kill {
            return Ok(Some(Ending::Kill));
        }
        Ok(Some(self.ask(live, grace.unwrap_or(self.config.stop.grace)).await))
    }

    /// Records that it is ended by hand.
    pub(super) async fn enter_stopping(
        &mut self,
        cause: Cause,
        wished: Wished,
        message: String,
    ) -> Result<()> {
        self.change(|row, now| {
            row.set_wished(wished);
            row.set_ending(cause);
            row.by_hand = true;
            row.message = message;
            row.enter(ProcessState::Stopping, now);
        })
        .await
    }

    /// Asks it to end.
    pub(super) async fn ask(&self, live: &Live, grace: Duration) -> Ending {
        let (game, signal_) = (live.process.game.clone(), self.config.stop.signal);
        match blocking(move || signal(&game, signal_)).await {
            Ok(_) => Ending::Asked(Instant::now() + grace),
            Err(error) => {
                warn!(endpoint = %self.key.endpoint, entity = self.key.number, %error,
                    "a process cannot be asked to end");
                Ending::Kill
            }
        }
    }

    /// Waits for the end of what was asked or killed.
    pub(super) async fn stopping(&mut self, mut live: Live, ending: Ending) -> Result<Phase> {
        let mut kills = 0;
        let mut until = match ending {
            Ending::Asked(until) => until,
            Ending::Kill => self.kill(&live, &mut kills).await,
        };
        loop {
            match self.event(Some(&live), Some(until)).await {
                Event::Leave => return Ok(Phase::Over),
                Event::Ended => match self.ended(live).await? {
                    End::GoesOn(other) => live = other,
                    End::Unknown(error) => return Ok(Phase::Unknown(error)),
                    End::Exit(exit) => return self.down_after(exit).await,
                },
                Event::Due => until = self.kill(&live, &mut kills).await,
                Event::Verb(Command { verb, reply }) => {
                    // One that is being killed is killed again when that is due, not sooner.
                    if self.while_stopping(verb, reply).await? && kills == 0 {
                        until = self.kill(&live, &mut kills).await;
                    }
                }
            }
        }
    }

    /// A verb while it is being ended. Says whether it is to be killed now.
    async fn while_stopping(&mut self, verb: Verb, reply: Reply) -> Result<bool> {
        match verb {
            Verb::Start | Verb::Restart(_) => {
                self.pending.up.push(reply);
                if self.row.wished() == Wished::Stopped || self.row.ending() == Cause::NotReady {
                    self.change(|row, _| {
                        row.set_wished(Wished::Running);
                        row.set_ending(Cause::Stop);
                    })
                    .await?;
                }
                Ok(false)
            }
            Verb::Stop(_) => {
                self.pending.down.push(reply);
                self.wish_stopped(Cause::Stop).await?;
                Ok(false)
            }
            Verb::Leave { kill: false } => {
                answer(reply, Err(self.runs()));
                Ok(false)
            }
            Verb::Kill | Verb::Leave { kill: true } => {
                self.leaving |= verb != Verb::Kill;
                self.pending.down.push(reply);
                self.wish_stopped(Cause::Kill).await?;
                Ok(true)
            }
        }
    }

    async fn wish_stopped(&mut self, cause: Cause) -> Result<()> {
        self.overtaken(cause);
        let cause = if cause == Cause::Kill { cause } else { self.row.ending() };
        self.change(|row, _| {
            row.set_wished(Wished::Stopped);
            row.set_ending(if cause == Cause::NotReady { Cause::Stop } else { cause });
        })
        .await
    }

    /// Kills the game with all that it started. Answers when to do so again, should it not help:
    /// then also the launcher, which may be stopped or stuck and so never tells the end.
    async fn kill(&mut self, live: &Live, kills: &mut u32) -> Instant {
        let mut killed = self.kill_tree(live.process.clone()).await;
        if killed.is_ok() && *kills > 0 && !live.orphaned {
            warn!(endpoint = %self.key.endpoint, entity = self.key.number,
                pid = live.process.launcher.pid, "a launcher does not tell the end: it is killed");
            let launcher = live.process.launcher.clone();
            killed = blocking(move || signal(&launcher, Signal::KILL)).await.map(drop);
        }
        if killed.is_ok() {
            *kills += 1;
        }
        let why = match killed {
            Err(error) => format!("some of its processes do not die: {error}"),
            // Killed once already, the time before.
            Ok(()) if *kills > 2 => "its launcher does not die".to_owned(),
            Ok(()) => return Instant::now() + SETTLE,
        };
        warn!(endpoint = %self.key.endpoint, entity = self.key.number, why, "not killed");
        let error = failed(format!("{why}; it is killed again"));
        self.answer_down(|| Err(error.clone()));
        self.answer_up(|| Err(error.clone()));
        Instant::now() + SETTLE
    }

    /// It is down: what is next.
    pub(super) async fn down_after(&mut self, exit: LastExit) -> Result<Phase> {
        info!(endpoint = %self.key.endpoint, entity = self.key.number, exit = exit.text(),
            cause = self.row.ending().name(), "process ended");
        let cause = self.row.ending();
        if cause == Cause::NotReady {
            let by = if self.row.by_hand { By::Hand } else { By::Policy };
            let error = self.failure.take().unwrap_or_else(|| {
                super::launch::failed("it was not ready in time, and was killed")
            });
            return self.start_failed(by, error, Some(exit)).await;
        }
        self.failure = None;
        if self.row.wished() == Wished::Running {
            self.change(|row, _| row.ended(Some(exit))).await?;
            self.answer_down(|| Ok(()));
            return Ok(Phase::Start(By::Hand));
        }
        self.stopped(Some(exit), "").await?;
        self.answer_down(|| Ok(()));
        Ok(self.at_rest())
    }

    /// What was watched has ended: how, and whether it was the game.
    pub(super) async fn ended(&mut self, live: Live) -> Result<End> {
        let Live { process, orphaned, .. } = live;
        if !orphaned {
            goperation_launcher::reap(process.launcher.pid);
            match self.look_hard().await {
                Some(Look::Ended(exit)) if exit.token == process.token => {
                    return Ok(End::Exit(LastExit::of(exit, self.row.ending())));
                }
                Some(Look::Orphaned(process)) => {
                    let live = self.watch(process, true);
                    self.change(|row, _| row.noted(note(true))).await?;
                    return Ok(End::GoesOn(live));
                }
                Some(Look::Running(process)) => {
                    return Ok(End::GoesOn(self.watch(process, false)));
                }
                None => return Ok(End::Unknown(unread())),
                _ => {}
            }
        }
        // Nobody has seen how it ended; nothing of it is left behind.
        if let Err(error) = self.kill_tree(process).await {
            warn!(endpoint = %self.key.endpoint, entity = self.key.number, %error, "not killed");
        }
        Ok(End::Exit(LastExit::unseen(now_millis())))
    }

    /// What is in the run folder; none when it cannot be read for long.
    pub(super) async fn look_hard(&self) -> Option<Look> {
        for _ in 0..LOOKS {
            match look(&self.dir).await {
                Ok(look) => return Some(look),
                Err(error) => {
                    warn!(endpoint = %self.key.endpoint, entity = self.key.number, %error,
                        "a run folder cannot be read");
                    sleep(LOOK_AGAIN).await;
                }
            }
        }
        None
    }

    /// Makes sure that nothing runs in place of what is down: a store from a backup knows less
    /// than the host.
    pub(super) async fn nothing_runs(&self) -> Result<()> {
        let process = match self.look_hard().await {
            Some(Look::Running(process) | Look::Orphaned(process)) => process,
            Some(_) => return Ok(()),
            None => return Err(unread()),
        };
        let pid = process.game.pid;
        warn!(endpoint = %self.key.endpoint, entity = self.key.number, pid, "killed: not recorded");
        self.kill_tree(process.clone()).await.map_err(|e| {
            Error::new(Reason::MethodFailed, format!("pid {pid} is not killed: {e}"))
        })?;
        launcher_ended(&process).await;
        Ok(())
    }

    /// Makes sure that nothing of a start that is given up runs, now or later.
    pub(super) async fn nothing_comes(&self, launcher: Option<ProcessId>) -> Result<()> {
        if let Some(id) = launcher
            && !end_launcher(&id, Duration::ZERO).await
        {
            return Err(failed(format!("its launcher, pid {}, does not die", id.pid)));
        }
        let deadline = Instant::now() + SETTLE;
        loop {
            // A launcher that comes late finds no spec.
            let dir = self.dir.clone();
            let Err(error) = blocking(move || dir.revoke()).await else { return Ok(()) };
            let killed = self.nothing_runs().await;
            if Instant::now() >= deadline {
                killed?;
                return Err(failed(format!("its run folder is held still: {error}")));
            }
            sleep(AGAIN).await;
        }
    }

    /// Kills a game and all that it started.
    pub(super) async fn kill_tree(&self, process: Process) -> io::Result<()> {
        let (config, key) = (Arc::clone(&self.config), self.key.clone());
        blocking(move || kill_all(&process, cgroup::of(&config, &key).as_deref())).await
    }
}

fn unread() -> Error {
    failed("what runs is not known, its run folder cannot be read")
}
