//! The verbs of an entity as methods of its endpoint: start, stop, restart, kill.
//!
//! Invariant: with the driver `process` each reaches a state that is wished, so it may be run again
//! after a crash; with another driver it is the operator's program, or not there.

use std::time::Duration;

use goperation::{Error, JsonObject, Reason, Result};
use goperation_bridge::Message;
use serde::Deserialize;
use serde_json::Value;

use super::supervisor::Verb;
use crate::{
    agent::Agent,
    journal::Outcome,
    methods::parse,
    state::{EntityKey, EntityPhase},
};

/// Method that starts an entity, in the endpoint's namespace.
const START: &str = "start_entity";
/// Method that stops an entity.
const STOP: &str = "stop_entity";
/// Method that stops and starts an entity.
const RESTART: &str = "restart_entity";
/// Method that kills an entity. It has no place in the order of what is done with the entity.
pub(crate) const KILL: &str = "kill_entity";

/// The longest grace.
const MAX_GRACE: Duration = Duration::from_secs(24 * 3600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    entity: u32,
    #[serde(default)]
    grace_ms: Option<u64>,
    #[serde(default)]
    args: JsonObject,
}

/// A verb, and the name under which the operator declares a program for it.
#[derive(Clone, Copy)]
pub(crate) struct Called {
    verb: Verb,
    life: &'static str,
}

impl Called {
    /// The verb of a method, if it is one.
    pub(crate) fn of(method: &str) -> Option<Self> {
        let (verb, life) = match method {
            START => (Verb::Start, "start"),
            STOP => (Verb::Stop(None), "stop"),
            RESTART => (Verb::Restart(None), "restart"),
            KILL => (Verb::Kill, "kill"),
            _ => return None,
        };
        Some(Self { verb, life })
    }
}

impl Agent {
    /// Runs a verb.
    pub(crate) async fn run_verb(
        &self,
        called: Called,
        message: &Message,
        args: &JsonObject,
    ) -> Outcome {
        let Called { verb, life } = called;
        let Args { entity, grace_ms, mut args } = parse(args)?;
        let key = self.entity_key("namespace", &message.namespace, entity)?;
        let grace = grace_ms.map(Duration::from_millis);
        if grace.is_some_and(|grace| grace > MAX_GRACE) {
            return Err(Error::invalid("args.grace_ms", "must be a day at most"));
        }
        if grace.is_some() && !matches!(verb, Verb::Stop(_) | Verb::Restart(_)) {
            return Err(Error::invalid("args.grace_ms", format!("is nothing to {life}")));
        }
        let is_process = self.endpoints.get(key.endpoint.as_str())?.process().is_some();
        if is_process && !args.is_empty() {
            let message = "must be empty: the process of this endpoint takes none";
            return Err(Error::invalid("args.args", message));
        }
        let phase = self.phase(&key).await?;
        let needs_ready = !is_process || matches!(verb, Verb::Start | Verb::Restart(_));
        if needs_ready && phase != EntityPhase::Ready {
            return Err(Error::new(
                Reason::StateRefused,
                format!("entity {} {} is not ready", key.endpoint, key.number),
            )
            .with("state", phase.name()));
        }
        if !is_process {
            if let Some(grace) = grace_ms {
                args.insert("grace_ms".to_owned(), grace.into());
            }
            let result = self.run_on(message, life, Some(&key), &args).await?.ok_or_else(|| {
                let message = format!("endpoint {} has no method {life}", key.endpoint);
                Error::new(Reason::MethodNotFound, message).with("method", life)
            })?;
            return Ok(answer(phase, None, result));
        }
        let verb = match verb {
            Verb::Stop(_) => Verb::Stop(grace),
            Verb::Restart(_) => Verb::Restart(grace),
            other => other,
        };
        self.processes.ask(&key, verb).await?;
        let process = self.processes.status(&key).await?;
        Ok(answer(phase, Some(process), JsonObject::new()))
    }

    /// The process of an entity as callers see it; none when its driver starts none.
    pub(crate) async fn process_status(&self, key: &EntityKey) -> Result<Option<JsonObject>> {
        match self.endpoints.get(key.endpoint.as_str())?.process() {
            Some(_) => self.processes.status(key).await.map(Some),
            None => Ok(None),
        }
    }
}

/// What verbs and `status_entity` answer.
pub(crate) fn answer(
    phase: EntityPhase,
    process: Option<JsonObject>,
    result: JsonObject,
) -> JsonObject {
    let mut answer = JsonObject::new();
    answer.insert("state".to_owned(), phase.name().into());
    if let Some(process) = process {
        answer.insert("process".to_owned(), process.into());
    }
    answer.insert("result".to_owned(), Value::Object(result));
    answer
}
