//! Who keeps the process of one entity: one task that alone starts it, sees it end and ends it.
//!
//! Invariant: it is the only writer of its entity's row, and each step is durable before its
//! effect: a crash of the agent at any moment leaves what `adopt` can go on from. It answers verbs
//! at any time: nothing here waits for a process without also listening. It ends with the agent,
//! and then touches nothing.

use std::{collections::VecDeque, path::PathBuf, sync::Arc, time::Duration};

use goperation::{Error, Reason, Result, now_millis, v1::ProcessState};
use goperation_launcher::{Process, RunDir};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tracing::{error, info};

use super::{
    Processes,
    row::{Cause, LastExit, ProcessRow, Wished},
    watch::Live,
};
use crate::{config::ProcessConfig, lock::Operation, reserve::not_found, state::EntityKey};

/// What a verb is answered with.
pub(super) type Reply = oneshot::Sender<Result<()>>;

/// What is asked of a supervisor.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) verb: Verb,
    pub(super) reply: Reply,
}

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Start,
    Stop(Option<Duration>),
    Restart(Option<Duration>),
    Kill,
    /// The entity is about to be deleted. Killed where it runs, or else refused.
    Leave {
        kill: bool,
    },
}

/// Who asked for a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Hand,
    Policy,
}

/// What the process does, as far as the next step depends on it.
#[derive(Debug)]
pub(super) enum Phase {
    /// The agent has started: what runs is not known yet.
    Adopt(oneshot::Sender<()>),
    Down,
    Start(By),
    Unready(Live, By),
    Running(Live),
    Stopping(Live, Ending),
    /// What runs could not be found out, for this reason: it is looked for again.
    Unknown(Error),
    Backoff(Instant),
    Over,
}

/// How far an ending is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    /// It was asked, and has until then.
    Asked(Instant),
    /// It is to be killed.
    Kill,
}

/// What happened.
pub(super) enum Event {
    Verb(Command),
    /// What is watched has ended.
    Ended,
    Due,
    /// The agent ends: everything is left as it is.
    Leave,
}

/// Verbs that wait for the process to be up, or down.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) up: Vec<Reply>,
    pub(super) down: Vec<Reply>,
    /// What came in the middle of a launch, and is for later.
    pub(super) later: VecDeque<Command>,
}

/// The supervisor of one entity.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) processes: Arc<Processes>,
    pub(super) key: EntityKey,
    pub(super) config: Arc<ProcessConfig>,
    pub(super) home: PathBuf,
    pub(super) dir: RunDir,
    pub(super) commands: mpsc::Receiver<Command>,
    /// What runs, for `status_entity`.
    pub(super) view: watch::Sender<Option<Process>>,
    pub(super) row: ProcessRow,
    pub(super) pending: Pending,
    /// Why a start by hand failed whose process is being killed.
    pub(super) failure: Option<Error>,
    /// The entity is about to be deleted.
    pub(super) leaving: bool,
}

impl Supervisor {
    /// Keeps the process until the agent ends or the entity is deleted.
    pub(super) async fn run(mut self, mut phase: Phase) {
        loop {
            let live = match &phase {
                Phase::Unready(live, _) | Phase::Running(live) | Phase::Stopping(live, _) => {
                    Some(live)
                }
                _ => None,
            };
            let live = live.map(|live| live.process.clone());
            self.view.send_if_modified(|view| std::mem::replace(view, live.clone()) != live);
            let next = match phase {
                Phase::Adopt(looked) => self.adopt(looked).await,
                Phase::Down => self.down().await,
                Phase::Start(by) => self.start(by).await,
                Phase::Unready(live, by) => self.unready(live, by).await,
                Phase::Running(live) => self.running(live).await,
                Phase::Stopping(live, ending) => self.stopping(live, ending).await,
                Phase::Unknown(error) => self.unknown(error).await,
                Phase::Backoff(until) => self.backoff(until).await,
                Phase::Over => return,
            };
            match next {
                Ok(next) => phase = next,
                // The store has failed, and the agent ends: only the disk is right.
                Err(error) => {
                    error!(endpoint = %self.key.endpoint, entity = self.key.number, %error,
                        "what a process does could not be recorded");
                    self.answer_up(|| Err(error.clone()));
                    self.answer_down(|| Err(error.clone()));
                    return;
                }
            }
        }
    }

    /// Waits for what happens next.
    pub(super) async fn event(&mut self, live: Option<&Live>, due: Option<Instant>) -> Event {
        if !self.processes.stop.is_cancelled()
            && let Some(command) = self.pending.later.pop_front()
        {
            return Event::Verb(command);
        }
        let ended = async {
            match live {
                Some(live) => live.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.processes.stopping() => Event::Leave,
            command = self.commands.recv() => command.map_or(Event::Leave, Event::Verb),
            () = ended => Event::Ended,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Event::Due,
        }
    }

    /// Changes the row, durably.
    pub(super) async fn change(&mut self, change: impl FnOnce(&mut ProcessRow, u64)) -> Result<()> {
        change(&mut self.row, now_millis());
        let row = self.row.clone();
        let key = &self.key;
        self.processes
            .core
            .change(Operation::Process, |state, txn| {
                if !state.entities.contains_key(key) {
                    return Err(not_found(key));
                }
                state.put_process(key, row, txn);
                Ok(())
            })
            .await?;
        self.processes.news.notify_one();
        Ok(())
    }

    async fn down(&mut self) -> Result<Phase> {
        loop {
            let Event::Verb(Command { verb, reply }) = self.event(None, None).await else {
                return Ok(Phase::Over);
            };
            match verb {
                Verb::Start | Verb::Restart(_) => {
                    self.pending.up.push(reply);
                    return Ok(Phase::Start(By::Hand));
                }
                Verb::Stop(_) | Verb::Kill => {
                    let nothing = self.nothing_runs().await;
                    if nothing.is_ok() && self.row.state() == ProcessState::Crashed {
                        self.change(|row, now| row.enter(ProcessState::Stopped, now)).await?;
                    }
                    answer(reply, nothing);
                }
                Verb::Leave { kill } => {
                    let nothing = self.nothing_runs().await;
                    let over = kill || nothing.is_ok();
                    answer(reply, nothing);
                    if over {
                        return Ok(Phase::Over);
                    }
                }
            }
        }
    }

    async fn running(&mut self, live: Live) -> Result<Phase> {
        loop {
            match self.event(Some(&live), None).await {
                Event::Leave => return Ok(Phase::Over),
                Event::Due => {}
                Event::Ended => {
                    return match self.ended(live).await? {
                        End::GoesOn(live) => Ok(Phase::Running(live)),
                        End::Unknown(error) => Ok(Phase::Unknown(error)),
                        End::Exit(exit) => self.ended_by_itself(exit).await,
                    };
                }
                Event::Verb(Command { verb, reply }) => match verb {
                    Verb::Start => answer(reply, Ok(())),
                    verb => {
                        if let Some(phase) = self.end(&live, verb, reply).await? {
                            return Ok(phase.with(live));
                        }
                    }
                },
            }
        }
    }

    /// Begins to watch what runs. One without its launcher is kept all the same: it is read on.
    pub(super) fn watch(&self, process: Process, orphaned: bool) -> Live {
        if orphaned {
            info!(endpoint = %self.key.endpoint, entity = self.key.number,
                pid = process.game.pid, "the launcher of a process was lost");
            self.processes.pump(self.dir.clone());
        }
        Live::watch(process, orphaned)
    }

    async fn backoff(&mut self, until: Instant) -> Result<Phase> {
        loop {
            match self.event(None, Some(until)).await {
                Event::Leave => return Ok(Phase::Over),
                Event::Due => return Ok(Phase::Start(By::Policy)),
                Event::Ended => {}
                Event::Verb(Command { verb, reply }) => match verb {
                    Verb::Start | Verb::Restart(_) => {
                        self.pending.up.push(reply);
                        return Ok(Phase::Start(By::Hand));
                    }
                    Verb::Leave { kill: false } => answer(reply, Err(self.runs())),
                    Verb::Stop(_) | Verb::Kill | Verb::Leave { kill: true } => {
                        self.stopped(None, "").await?;
                        answer(reply, Ok(()));
                        let over = matches!(verb, Verb::Leave { .. });
                        return Ok(if over { Phase::Over } else { Phase::Down });
                    }
                },
            }
        }
    }

    /// Records that it is down and shall be.
    pub(super) async fn stopped(&mut self, exit: Option<LastExit>, message: &str) -> Result<()> {
        self.change(|row, now| {
            row.ended(exit);
            row.set_wished(Wished::Stopped);
            row.enter(ProcessState::Stopped, now);
            message.clone_into(&mut row.message);
        })
        .await
    }

    /// That it runs, and so cannot be deleted.
    pub(super) fn runs(&self) -> Error {
        let state = self.row.shown();
        let state = state.as_str_name().trim_start_matches("PROCESS_STATE_");
        Error::new(
            Reason::StateRefused,
            format!("{} {} is {state}: stop it first", self.key.endpoint, self.key.number),
        )
        .with("state", state)
    }

    /// Answers those who wait for it to be up.
    pub(super) fn answer_up(&mut self, with: impl Fn() -> Result<()>) {
        self.pending.up.drain(..).for_each(|reply| answer(reply, with()));
    }

    /// Answers those who wait for it to be down.
    pub(super) fn answer_down(&mut self, with: impl Fn() -> Result<()>) {
        self.pending.down.drain(..).for_each(|reply| answer(reply, with()));
    }

    /// Answers those who wait for it to be up that somebody has brought it down.
    pub(super) fn overtaken(&mut self, cause: Cause) {
        let how = if cause == Cause::Stop { "stopped" } else { "killed" };
        let (endpoint, number) = (self.key.endpoint.clone(), self.key.number);
        self.answer_up(|| {
            let message = format!("{endpoint} {number} was {how} meanwhile");
            Err(Error::new(Reason::StateRefused, message).with("state", "STOPPED"))
        });
    }
}

/// What a process says of itself while there is nothing else to say.
pub(super) fn note(orphaned: bool) -> String {
    let orphan = "its launcher was lost: how it ends will not be known";
    if orphaned { orphan.to_owned() } else { String::new() }
}

/// What the end of what was watched means.
pub(super) enum End {
    /// Only the launcher has ended, or something else has to be watched now.
    GoesOn(Live),
    /// It cannot be seen, for this reason.
    Unknown(Error),
    Exit(LastExit),
}

impl Ending {
    /// The phase of that ending.
    pub(super) fn with(self, live: Live) -> Phase {
        Phase::Stopping(live, self)
    }
}

/// Whoever asked may have gone.
pub(super) fn answer(reply: Reply, with: Result<()>) {
    let _ = reply.send(with);
}
