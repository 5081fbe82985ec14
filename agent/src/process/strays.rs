//! Processes of ours that should not be: their entity is gone, is recorded as stopped or with
//! another run, or nothing says any more how they are kept.
//!
//! Invariant: a process is a stray of this agent only when it runs in one of its run folders or
//! says by its environment that it did; another agent's is never touched, even when both work in
//! the same folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs, io,
    path::Path,
    time::Duration,
};

use goperation::{EndpointName, Error, Reason, Result, now_millis, to_timestamp, v1};
use goperation_launcher::{Look, Process, ProcessId, RunDir, find_tokens, kill_all, tree};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{Processes, launch::blocking, row::ProcessRow, spec::RUN, watch::launcher_ended};
use crate::{
    config::Strays,
    lock::Operation,
    state::{EntityKey, State},
};

/// How long a run folder whose lock is held may say nothing of who has it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// One that was found.
#[derive(Debug)]
struct Found {
    endpoint: String,
    number: u32,
    process: Process,
}

impl Processes {
    /// Looks for strays, reports them, and kills them where that is the policy.
    pub(super) async fn find_strays(&self, rows: &BTreeMap<EntityKey, ProcessRow>) {
        let known: BTreeSet<String> = rows.values().filter_map(|row| row.token.clone()).collect();
        let run_dir = self.run_dir.clone();
        let find = move || {
            let mut found = in_folders(&run_dir, &known);
            found.extend(by_environment(&run_dir, &known, &found)?);
            Ok(found)
        };
        let found = match blocking(find).await {
            Ok(found) => found,
            Err(error) => {
                warn!(%error, "stray processes cannot be looked for");
                return;
            }
        };
        for Found { endpoint, number, process } in found {
            let recorded = self.recorded(&endpoint, number).await;
            let Some(why) = why(recorded, &process.token) else { continue };
            // And one that has ended since.
            let still = process.clone();
            if !blocking(move || Ok(!tree(&still)?.is_empty())).await.unwrap_or(true) {
                continue;
            }
            let pid = process.game.pid;
            let action = match self.policy {
                Strays::Report => "left running",
                Strays::Kill => match kill(process).await {
                    Ok(()) => "killed",
                    Err(error) => {
                        warn!(pid, %error, "a stray process is not killed");
                        "left running"
                    }
                },
            };
            self.report(endpoint, number, pid, why, action);
        }
        // Of an entity that is known: never killed for a line that is missing in a file.
        for (key, row) in rows.iter().filter(|(_, row)| row.token.is_some()) {
            if self.config(key).is_none() {
                let why = "its endpoint has no process in the configuration any more";
                self.report(key.endpoint.to_string(), key.number, row.pid, why, "left running");
            }
        }
    }

    /// The token of what an entity runs; none when there is no such entity.
    async fn recorded(&self, endpoint: &str, number: u32) -> Option<Option<String>> {
        let endpoint = EndpointName::parse("endpoint", endpoint).ok()?;
        let key = EntityKey { endpoint, number };
        let token = |state: &mut State| {
            let token = || state.processes.get(&key).and_then(|row| row.token.clone());
            Ok(state.entities.contains_key(&key).then(token))
        };
        self.core.look(Operation::Process, token).await.ok().flatten()
    }

    /// Makes sure that nothing of an entity runs of which no supervisor knows: its endpoint had a
    /// process when it was started, and has none any more.
    ///
    /// # Errors
    /// `STATE_REFUSED` when it runs and is not to be killed.
    pub(super) async fn leave_unminded(&self, key: &EntityKey, end: bool) -> Result<()> {
        let dir = self.dir(key);
        let bad = |error: io::Error| {
            let path = dir.path().display();
            Error::new(Reason::Internal, format!("run folder {path} cannot be cleared: {error}"))
        };
        let refused = |who: String| {
            let message = format!(
                "{} {} has {who} of the time when its endpoint had a process: kill that first, \
                 or configure the process again and stop it",
                key.endpoint, key.number
            );
            Error::new(Reason::StateRefused, message)
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let of = dir.clone();
            match blocking(move || of.look()).await.map_err(bad)? {
                Look::Ended(_) => return Ok(()),
                // Nobody keeps what it may have left.
                Look::Vanished(process) => return kill(process).await.map_err(bad),
                Look::Running(process) | Look::Orphaned(process) => {
                    let pid = process.game.pid;
                    if !end {
                        return Err(refused(format!("pid {pid} running")).with("pid", pid));
                    }
                    warn!(endpoint = %key.endpoint, entity = key.number, pid,
                        "killed: its entity is deleted, and its endpoint has no process any more");
                    return kill(process).await.map_err(bad);
                }
                // A launcher may just have been spawned: without a spec it ends.
                Look::Nothing | Look::Starting => {
                    let of = dir.clone();
                    match blocking(move || of.revoke()).await {
                        Ok(()) => return Ok(()),
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                            return Err(bad(error));
                        }
                        Err(_) if Instant::now() >= deadline => {
                            return Err(refused("something in its run folder".to_owned()));
                        }
                        Err(_) => sleep(LOOK).await,
                    }
                }
            }
        }
    }

    fn report(&self, endpoint: String, number: u32, pid: u32, why: &str, action: &str) {
        self.stray(v1::StrayProcess {
            endpoint,
            entity: i32::try_from(number).unwrap_or(i32::MAX),
            pid: i32::try_from(pid).unwrap_or(0),
            why: why.to_owned(),
            action: action.to_owned(),
            time: Some(to_timestamp(now_millis())),
        });
    }
}

/// Why a run is a stray, by what is recorded of its entity; none when it is the one on record.
fn why(recorded: Option<Option<String>>, token: &str) -> Option<&'static str> {
    match recorded {
        // Started since the rows were read; the row comes before the process.
        Some(Some(recorded)) if recorded == token => None,
        Some(Some(_)) => Some("another run of its entity is recorded"),
        Some(None) => Some("it is recorded as stopped"),
        None => Some("its entity is deleted"),
    }
}

/// What runs in a run folder, and is not known.
fn in_folders(run_dir: &Path, known: &BTreeSet<String>) -> Vec<Found> {
    let mut found = Vec::new();
    for endpoint in names(run_dir) {
        for number in names(&run_dir.join(&endpoint)) {
            let Ok(parsed) = number.parse() else { continue };
            let dir = RunDir::new(run_dir.join(&endpoint).join(&number));
            let process = match dir.look() {
                Ok(Look::Running(process) | Look::Orphaned(process)) => process,
                Ok(_) => continue,
                Err(error) => {
                    warn!(folder = %dir.path().display(), %error, "a run folder cannot be read");
                    continue;
                }
            };
            if !known.contains(&process.token) {
                found.push(Found { endpoint: endpoint.clone(), number: parsed, process });
            }
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// What says by its environment that it is of this agent, and has lost its run folder.
fn by_environment(
    run_dir: &Path,
    known: &BTreeSet<String>,
    found: &[Found],
) -> io::Result<Vec<Found>> {
    let mut first: BTreeMap<String, ProcessId> = BTreeMap::new();
    for (token, id) in find_tokens()? {
        let seen = found.iter().any(|found| found.process.token == token);
        if known.contains(&token) || seen {
            continue;
        }
        match first.get(&token) {
            Some(earlier) if earlier.start_time <= id.start_time => {}
            _ => drop(first.insert(token, id)),
        }
    }
    let of_ours = |(token, id): (String, ProcessId)| {
        let pid = i32::try_from(id.pid).ok()?;
        let environment = procfs::process::Process::new(pid).ok()?.environ().ok()?;
        let value = |name: &str| environment.get(OsStr::new(name))?.to_str();
        let (endpoint, number) = (value("GOP_ENDPOINT")?, value("GOP_ENTITY")?);
        let run = run_dir.join(endpoint).join(number);
        if value(RUN)? != run.to_string_lossy() {
            return None;
        }
        let nobody = ProcessId { pid: 0, ..id.clone() };
        let process = Process { token, launcher: nobody, game: id, started: 0 };
        Some(Found { endpoint: endpoint.to_owned(), number: number.parse().ok()?, process })
    };
    Ok(first.into_iter().filter_map(of_ours).collect())
}

/// Kills one, and waits for its launcher, if that lives.
async fn kill(process: Process) -> io::Result<()> {
    let game = process.clone();
    blocking(move || kill_all(&game, None)).await?;
    launcher_ended(&process).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stray_is_told_by_what_is_recorded() {
        let recorded = |token: &str| Some(Some(token.to_owned()));
        assert_eq!(why(recorded("a"), "a"), None);
        assert_eq!(why(recorded("b"), "a"), Some("another run of its entity is recorded"));
        assert_eq!(why(Some(None), "a"), Some("it is recorded as stopped"));
        assert_eq!(why(None, "a"), Some("its entity is deleted"));
    }
}
