//! What a process uses and does now, for `status_entity` and the answers of the verbs.

use std::time::Duration;

use goperation::{JsonObject, Result};
use goperation_launcher::{Process, ProcessId, tree};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::debug;

use super::{Processes, bound, launch::blocking, row::ProcessRow};
use crate::{lock::Operation, ports::Reserved, reserve::not_found, state::EntityKey};

/// Processor time at a moment.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    token: String,
    at: Instant,
    cpu: Duration,
}

/// What all processes of an entity use.
#[derive(Debug, Default)]
struct Usage {
    cpu: Duration,
    memory: u64,
    processes: usize,
    bound: Vec<bound::Bound>,
}

impl Processes {
    /// The process of an entity as callers see it.
    ///
    /// # Errors
    /// `ENTITY_NOT_FOUND`; `UNAVAILABLE` when the store has failed.
    pub(crate) async fn status(self: &std::sync::Arc<Self>, key: &EntityKey) -> Result<JsonObject> {
        let slot = self.slot(key).await?;
        let (row, ports) = self
            .core
            .change(Operation::Process, |state, _| {
                if !state.entities.contains_key(key) {
                    return Err(not_found(key));
                }
                Ok((state.processes.get(key).cloned(), state.ports.of_entity(key)))
            })
            .await?;
        let mut shown = to_json(&row.unwrap_or_default());
        let process = slot.view.borrow().clone();
        let used = process.clone();
        let usage = match blocking(move || usage(used.as_ref(), &ports)).await {
            Ok(usage) => usage,
            Err(error) => {
                debug!(endpoint = %key.endpoint, entity = key.number, %error, "not to be seen");
                Usage::default()
            }
        };
        if let Some(process) = process {
            shown.insert("cpu_millis".into(), millis(usage.cpu).into());
            let percent = percent(&slot.sample, &process, usage.cpu);
            shown.insert("cpu_percent".into(), json!(percent));
            shown.insert("memory_bytes".into(), usage.memory.into());
            shown.insert("processes".into(), usage.processes.into());
        }
        let bound: Vec<Value> = usage.bound.iter().map(bound::Bound::to_json).collect();
        if !bound.is_empty() {
            shown.insert("bound".into(), bound.into());
        }
        Ok(shown)
    }
}

fn to_json(row: &ProcessRow) -> JsonObject {
    let mut shown = JsonObject::new();
    let state = row.shown().as_str_name();
    shown.insert("state".into(), state.trim_start_matches("PROCESS_STATE_").into());
    for (name, value) in
        [("pid", u64::from(row.pid)), ("since", row.since), ("start_time", row.started)]
    {
        if value > 0 {
            shown.insert(name.into(), value.into());
        }
    }
    shown.insert("restarts".into(), row.restarts.into());
    if let Some(exit) = &row.last_exit {
        let mut last = JsonObject::new();
        if let Some(code) = exit.code {
            last.insert("code".into(), code.into());
        }
        if let Some(signal) = exit.signal {
            last.insert("signal".into(), signal.into());
        }
        last.insert("time".into(), exit.time.into());
        last.insert("cause".into(), exit.cause().name().into());
        shown.insert("last_exit".into(), last.into());
    }
    if !row.message.is_empty() {
        shown.insert("message".into(), row.message.clone().into());
    }
    shown
}

fn usage(process: Option<&Process>, ports: &[Reserved]) -> std::io::Result<Usage> {
    let tree = process.map(tree).transpose()?.unwrap_or_default();
    let ticks = procfs::ticks_per_second();
    let mut usage = Usage { bound: bound::bound(&tree, ports), ..Usage::default() };
    for stat in tree.iter().filter_map(stat) {
        // With those of its children that it has waited for.
        let waited = stat.cutime.saturating_add(stat.cstime).max(0).unsigned_abs();
        let spent = stat.utime.saturating_add(stat.stime).saturating_add(waited);
        usage.cpu += Duration::from_millis(spent.saturating_mul(1000) / ticks.max(1));
        usage.memory = usage.memory.saturating_add(stat.rss.saturating_mul(procfs::page_size()));
        usage.processes += 1;
    }
    Ok(usage)
}

fn stat(id: &ProcessId) -> Option<procfs::process::Stat> {
    let process = procfs::process::Process::new(i32::try_from(id.pid).ok()?).ok()?;
    process.stat().ok().filter(|stat| stat.starttime == id.start_time)
}

/// Processor use since it was last asked for; the first time, since its start.
fn percent(sample: &std::sync::Mutex<Option<Sample>>, process: &Process, cpu: Duration) -> f64 {
    let now = Instant::now();
    let new = Sample { token: process.token.clone(), at: now, cpu };
    let mut sample = sample.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let last = sample.replace(new).filter(|last| last.token == process.token);
    let (spent, time) = match last {
        Some(last) => (cpu.saturating_sub(last.cpu), now - last.at),
        None => {
            let ran = goperation::now_millis().saturating_sub(process.started);
            (cpu, Duration::from_millis(ran))
        }
    };
    if time.is_zero() { 0.0 } else { spent.as_secs_f64() / time.as_secs_f64() * 100.0 }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
