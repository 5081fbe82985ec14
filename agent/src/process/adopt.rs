//! What an agent that starts makes of what its former self has left running.
//!
//! Invariant: nothing is started before the run folder has said that nothing of the last start
//! runs or can still come to run.

use std::{io, time::Duration};

use goperation::{Result, now_millis, v1::ProcessState};
use goperation_launcher::{Look, Process};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    launch::{await_started, blocking, failed, token_of},
    row::{Cause, LastExit, Wished},
    supervisor::{By, Ending, ORPHANED, Phase, Supervisor},
    watch::Live,
};

/// How often a folder is looked at whose launcher is only beginning.
const AGAIN: Duration = Duration::from_millis(20);
/// And how many times.
const TRIES: usize = 50;

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
        let look = self.settled(&token).await;
        drop(looked);
        match look {
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
            Ok(Look::Nothing | Look::Starting) if self.row.wished() == Wished::Running => {
                Ok(Phase::Start(by))
            }
            Ok(Look::Nothing | Look::Starting) => {
                self.stopped(None, "").await?;
                Ok(Phase::Down)
            }
            // The lock keeps it from being started twice all the same.
            Err(error) => {
                let why = format!("its run folder cannot be read: {error}");
                self.start_failed(By::Hand, failed(why), None).await
            }
        }
    }

    /// What became of the start with that token: nothing is on its way any more.
    async fn settled(&self, token: &str) -> io::Result<Look> {
        for _ in 0..TRIES {
            let look = await_started(&self.dir, token).await.map_err(io::Error::other)?;
            if token_of(&look) == Some(token) {
                return Ok(look);
            }
            // Its launcher may have been spawned and not have come far: without a spec it ends.
            let dir = self.dir.clone();
            match blocking(move || dir.revoke()).await {
                Ok(()) => return Ok(Look::Nothing),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(AGAIN).await,
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("its lock is held, and nobody says by whom"))
    }

    async fn take_over(&mut self, process: Process, orphaned: bool, by: By) -> Result<Phase> {
        info!(endpoint = %self.key.endpoint, entity = self.key.number, pid = process.game.pid,
            orphaned, "process adopted");
        self.change(|row, _| {
            row.pid = process.game.pid;
            row.launcher = process.launcher.pid;
            row.started = process.started;
            if orphaned && row.state() != ProcessState::Starting {
                ORPHANED.clone_into(&mut row.message);
            }
        })
        .await?;
        let live = Live::watch(process, orphaned);
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
