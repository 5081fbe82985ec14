//! What an agent that starts makes of what its former self has left running.
//!
//! Invariant: nothing is started before the run folder has said that nothing of the last start
//! runs or can still come to run.

use std::{io, time::Duration};

use goperation::{Error, Result, now_millis, v1::ProcessState};
use goperation_launcher::{Look, Process};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    launch::{blocking, failed, look, still_runs, token_of},
    row::{Cause, LastExit, Wished},
    supervisor::{By, Command, Ending, Event, Phase, Supervisor, answer},
};

/// How often a run folder is looked into that does not say yet what runs.
const AGAIN: Duration = Duration::from_millis(20);
/// How long a launcher of the former agent may take until its game is there.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a run folder is tried that cannot be read, or that said nothing before.
const TRY: Duration = Duration::from_secs(2);
/// And how long until it is tried again.
const LATER: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Takes up where the former agent was.
    pub(super) async fn adopt(&mut self, looked: oneshot::Sender<()>) -> Result<Phase> {
        let by = if self.row.by_hand { By::Hand } else { By::Policy };
        // What ended while this process was replaced by a new program is ours to reap.
        goperation_launcher::reap(self.row.launcher);
        let Some(token) = self.row.token.clone() else {
            drop(looked);
            return Ok(match (self.row.state(), self.row.wished()) {
                (ProcessState::Backoff, Wished::Running) => {
                    let left = self.row.due.saturating_sub(now_millis());
                    let most = u64::try_from(self.config.restart.max_delay.as_millis());
                    let left = left.min(most.unwrap_or(u64::MAX));
                    Phase::Backoff(Instant::now() + Duration::from_millis(left))
                }
                (_, Wished::Running) => Phase::Start(by),
                _ => Phase::Down,
            });
        };
        let look = self.settled(&token, PATIENCE).await;
        drop(looked);
        self.seen(&token, look, by).await
    }

    /// What runs could not be found out: it may run, so it stays on record. It is looked for again,
    /// and whenever a verb comes; that is answered with the trouble if there is still one.
    pub(super) async fn unknown(&mut self, error: Error) -> Result<Phase> {
        warn!(endpoint = %self.key.endpoint, entity = self.key.number, %error,
            "what runs is not known");
        let by = if self.row.by_hand { By::Hand } else { By::Policy };
        self.answer_up(|| Err(error.clone()));
        self.answer_down(|| Err(error.clone()));
        let Some(token) = self.row.token.clone() else { return Ok(Phase::Down) };
        if self.row.message != error.message {
            self.change(|row, _| row.message.clone_from(&error.message)).await?;
        }
        match self.event(None, Some(Instant::now() + LATER)).await {
            Event::Leave => return Ok(Phase::Over),
            Event::Verb(command) => self.pending.later.push_front(command),
            Event::Ended | Event::Due => {}
        }
        let look = self.settled(&token, TRY).await;
        if let Some(Err(error)) = &look {
            let error = unknown(error);
            for Command { reply, .. } in std::mem::take(&mut self.pending.later) {
                answer(reply, Err(error.clone()));
            }
        }
        self.seen(&token, look, by).await
    }

    /// What is next, by what a run folder says of the last start. None: the agent ends.
    async fn seen(&mut self, token: &str, look: Option<io::Result<Look>>, by: By) -> Result<Phase> {
        let Some(look) = look else { return Ok(Phase::Over) };
        match look {
            // That start can run no more: another one has the folder, of which the store is
            // ignorant.
            Ok(Look::Running(process) | Look::Orphaned(process)) if process.token != token => {
                self.start_failed(By::Hand, still_runs(process.game.pid), None).await
            }
            Ok(Look::Running(process)) => self.take_over(process, false, by).await,
            Ok(Look::Orphaned(process)) => self.take_over(process, true, by).await,
            Ok(Look::Ended(exit)) => {
                let cause = self.row.ending();
                self.ended_meanwhile(LastExit::of(exit, cause), by).await
            }
            Ok(Look::Vanished(process)) => {
                if let Err(error) = self.kill_tree(process).await {
                    warn!(%error, "what a process left behind is not killed");
                }
                self.ended_meanwhile(LastExit::unseen(now_millis()), by).await
            }
            // A start that was given up.
            Ok(Look::Nothing | Look::Starting)
                if self.row.state() == ProcessState::Stopping
                    && self.row.ending() == Cause::NotReady =>
            {
                let error = self.failure.take();
                let error = error.unwrap_or_else(|| failed("its start was given up"));
                self.start_failed(by, error, None).await
            }
            Ok(Look::Nothing | Look::Starting) if self.row.wished() == Wished::Running => {
                Ok(Phase::Start(by))
            }
            Ok(Look::Nothing | Look::Starting) => {
                self.stopped(None, "").await?;
                Ok(Phase::Down)
            }
            Err(error) => Ok(Phase::Unknown(unknown(&error))),
        }
    }

    /// What became of the start with that token, when nothing of it is on its way any more. None:
    /// the agent ends.
    async fn settled(&self, token: &str, patience: Duration) -> Option<io::Result<Look>> {
        let (began, mut unread) = (Instant::now(), None);
        let look = async {
            loop {
                let (error, until) = match self.looked(token).await {
                    Ok(Some(look)) => return Ok(look),
                    Ok(None) => {
                        unread = None;
                        let held = "its lock is held, and nobody says by whom";
                        (io::Error::other(held), began + patience)
                    }
                    Err(error) => (error, *unread.get_or_insert_with(Instant::now) + TRY),
                };
                if Instant::now() >= until {
                    return Err(error);
                }
                sleep(AGAIN).await;
            }
        };
        tokio::select! {
            biased;
            () = self.processes.stopping() => None,
            look = look => Some(look),
        }
    }

    /// None: its launcher has not come far, or another one has the folder's lock.
    async fn looked(&self, token: &str) -> io::Result<Option<Look>> {
        let look = look(&self.dir).await?;
        match (&look, token_of(&look)) {
            (Look::Starting, _) => return Ok(None),
            (_, Some(seen)) if seen == token => return Ok(Some(look)),
            (Look::Running(_) | Look::Orphaned(_), _) => return Ok(Some(look)),
            _ => {}
        }
        // Its launcher may have been spawned and not have come far: without a spec it ends.
        let dir = self.dir.clone();
        match blocking(move || dir.revoke()).await {
            Ok(()) => Ok(Some(Look::Nothing)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn take_over(&mut self, process: Process, orphaned: bool, by: By) -> Result<Phase> {
        info!(endpoint = %self.key.endpoint, entity = self.key.number, pid = process.game.pid,
            orphaned, "process adopted");
        let live = self.watch(process, orphaned);
        self.runs_as(&live).await?;
        Ok(match (self.row.state(), self.row.ending()) {
            (ProcessState::Stopping, Cause::Kill | Cause::NotReady) => Ending::Kill.with(live),
            (ProcessState::Stopping, _) => self.ask(&live, self.config.stop.grace).await.with(live),
            (ProcessState::Starting, _) => Phase::Unready(live, by),
            _ => Phase::Running(live),
        })
    }

    /// It ended while the agent was away.
    async fn ended_meanwhile(&mut self, exit: LastExit, by: By) -> Result<Phase> {
        match self.row.state() {
            ProcessState::Starting => self.ended_unready(by, exit).await,
            ProcessState::Stopping => self.down_after(exit).await,
            _ => self.ended_by_itself(exit).await,
        }
    }
}

fn unknown(error: &io::Error) -> Error {
    failed(format!("what runs is not known, its run folder does not say: {error}"))
}
