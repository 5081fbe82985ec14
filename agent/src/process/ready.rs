//! When a process is ready (`ready` of its configuration).
//!
//! Invariant: a check never answers for another process: a port counts only when it is bound by
//! our tree, a line only when it was written by this run.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use goperation::{Error, Reason, Result};
use goperation_launcher::{Process, RunDir, tree};
use tokio::{process::Command, time::sleep};
use tracing::{debug, warn};

use super::{
    bound,
    launch::{blocking, failed},
    spec,
    supervisor::Supervisor,
    watch::Live,
};
use crate::{config::process::ReadyCheck, endpoint::Group, ports::Reserved, state::EntityKey};

/// How often it is looked: at first, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// All that a check needs.
#[derive(Debug, Clone)]
pub(super) struct Readiness {
    key: EntityKey,
    process: Process,
    check: Check,
    timeout: Duration,
}

#[derive(Debug, Clone)]
pub(super) enum Check {
    /// It is enough that it was started.
    Begun,
    Port(Reserved),
    Line(RunDir, String),
    Script {
        program: PathBuf,
        args: Vec<String>,
        home: PathBuf,
        env: Env,
        interval: Duration,
    },
}

type Env = BTreeMap<String, String>;

impl Supervisor {
    /// What is checked for a process.
    pub(super) async fn readiness(&self, live: &Live) -> Result<Readiness> {
        let ports = self.reserved().await?;
        // It was checked before the start; what changed since makes nothing fail that runs.
        let check = self.check(&ports).unwrap_or_else(|error| {
            warn!(%error, "whether a process is ready cannot be checked");
            Check::Begun
        });
        let timeout = self.config.ready.as_ref().map_or(Duration::ZERO, |ready| ready.timeout);
        Ok(Readiness { key: self.key.clone(), process: live.process.clone(), check, timeout })
    }

    /// What is checked, for these ports.
    ///
    /// # Errors
    /// `STATE_REFUSED` when the entity has no port of a name that is needed.
    pub(super) fn check(&self, ports: &[Reserved]) -> Result<Check> {
        let about = self.about(ports);
        Ok(match self.config.ready.as_ref().map(|ready| &ready.check) {
            None => Check::Begun,
            Some(ReadyCheck::Port(name)) => {
                let port = ports.iter().find(|port| port.name == *name);
                Check::Port(port.cloned().ok_or_else(|| {
                    let key = &self.key;
                    let message =
                        format!("{} {} has no port {name}: reserve one", key.endpoint, key.number);
                    Error::new(Reason::StateRefused, message).with("port", name)
                })?)
            }
            Some(ReadyCheck::Line(line)) => Check::Line(self.dir.clone(), line.clone()),
            Some(ReadyCheck::Script { program, args, interval }) => Check::Script {
                program: program.clone(),
                args: args.iter().map(|arg| about.expand(arg)).collect::<Result<_>>()?,
                home: self.home.clone(),
                env: spec::environment(&self.config, &about)?,
                interval: *interval,
            },
        })
    }
}

/// Waits until the process is ready, for ever if need be.
pub(super) async fn until_ready(readiness: Readiness) {
    let mut pause = LOOK.0;
    loop {
        if readiness.is_ready().await {
            return;
        }
        match &readiness.check {
            Check::Script { interval, .. } => sleep(*interval).await,
            _ => sleep(pause).await,
        }
        pause = (pause * 2).min(LOOK.1);
    }
}

impl Readiness {
    async fn is_ready(&self) -> bool {
        let (check, process) = (self.check.clone(), self.process.clone());
        if let Check::Script { program, args, home, env, .. } = check {
            return succeeds(&program, &args, &home, &env).await;
        }
        let look = move || {
            Ok(match check {
                Check::Port(port) => bound::has_bound(&tree(&process)?, &port),
                Check::Line(dir, _) => dir.is_ready(&process.token),
                Check::Begun | Check::Script { .. } => has_begun(&process),
            })
        };
        blocking(look).await.unwrap_or_else(|error| {
            debug!(%error, "whether a process is ready cannot be seen");
            false
        })
    }

    /// That it was not ready in time, and what it waited for.
    pub(super) async fn missed(&self) -> Error {
        let timeout = humantime::format_duration(self.timeout);
        let waited = match &self.check {
            Check::Begun => "for its program to begin".to_owned(),
            Check::Line(_, line) => format!("for a line that matches `{line}`"),
            Check::Script { program, .. } => format!("for {} to succeed", program.display()),
            Check::Port(port) => {
                let process = self.process.clone();
                let seen = blocking(move || Ok(bound::bound(&tree(&process)?, &[]))).await;
                let seen: Vec<String> = seen
                    .unwrap_or_default()
                    .iter()
                    .map(|bound| format!("{}/{}", bound.address, bound.protocol))
                    .collect();
                let seen = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
                format!(
                    "for its port {} ({}/{}) to be bound; its processes have bound: {seen}",
                    port.name, port.port, port.protocol
                )
            }
        };
        failed(format!(
            "start of {} {}: it was not ready within {timeout} and was killed; it was waited \
             {waited}",
            self.key.endpoint, self.key.number
        ))
    }
}

/// Whether the game's own program has replaced the launcher's second stage.
fn has_begun(process: &Process) -> bool {
    let program = |pid: u32| fs::read_link(format!("/proc/{pid}/exe"));
    match (program(process.launcher.pid), program(process.game.pid)) {
        (Ok(launcher), Ok(game)) => launcher != game,
        // What cannot be seen is taken for begun, if it is there.
        _ => process.game.is_alive(),
    }
}

async fn succeeds(program: &Path, args: &[String], home: &Path, env: &Env) -> bool {
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(home)
        .env_clear()
        .envs(env)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Dropped in the middle, it is killed.
    let mut group = match Group::spawn(command).await {
        Ok(group) => group,
        Err(error) => {
            debug!(program = %program.display(), %error, "a ready script cannot be run");
            return false;
        }
    };
    group.ended().await;
    group.reap().await.is_ok_and(|status| status.success())
}
