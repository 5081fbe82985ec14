//! Processes of ours that should not be: their entity is gone, or is recorded as stopped, or
//! nothing says any more how they are kept.
//!
//! Invariant: a process is a stray of this agent only when it runs in one of its run folders or
//! says by its environment that it lives in one of its homes; another agent's is never touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use goperation::{EndpointName, now_millis, to_timestamp, v1};
use goperation_launcher::{Look, Process, ProcessId, RunDir, find_tokens, kill_all, tree};
use tracing::warn;

use super::{Processes, launch::blocking, row::ProcessRow, watch::launcher_ended};
use crate::{
    config::Strays,
    lock::Operation,
    state::{EntityKey, State},
};

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
        let (run_dir, work_dir) = (self.run_dir.clone(), self.work_dir.clone());
        let find = move || {
            let mut found = in_folders(&run_dir, &known);
            found.extend(by_environment(&work_dir, &known, &found)?);
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
            let why = match self.recorded(&endpoint, number).await {
                // Started since the rows were read; the row comes before the process.
                Some(token) if token.as_ref() == Some(&process.token) => continue,
                Some(_) => "it is recorded as stopped",
                None => "its entity is deleted",
            };
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
    work_dir: &Path,
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
        let value = |name: &str| environment.get(std::ffi::OsStr::new(name))?.to_str();
        let (endpoint, number) = (value("GOP_ENDPOINT")?, value("GOP_ENTITY")?);
        let home = work_dir.join(endpoint).join(number);
        if Path::new(value("GOP_HOME")?) != home {
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
