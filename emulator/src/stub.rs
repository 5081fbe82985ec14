//! What stands in for the programs of the endpoint `stub`.
//!
//! Invariant: a method that changes anything is in the ledger once for each time that it ran, before
//! it answers; one that only reads is not.

use std::{future::pending, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use goperation::{Error, JsonObject, Ranges, Reason, Result};
use goperation_agent::endpoint::{Invocation, Stub};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    Conduct,
    ledger::{Effect, Ledger},
};

/// The endpoint that every agent has.
pub const ENDPOINT: &str = "stub";
/// Its method that changes something, and is not run again when it was interrupted.
pub const CHANGING: &str = "work";
/// Its method that may be run again when it was interrupted.
pub const IDEMPOTENT: &str = "again";
/// Its method that only reads.
pub const READING: &str = "look";

/// Its methods in the file of an agent. The program is never run.
pub(crate) const METHODS: &str = "\
[endpoints.stub.methods]
create = { program = [\"true\"] }
delete = { program = [\"true\"] }
status = { program = [\"true\"] }
work = { program = [\"true\"] }
again = { program = [\"true\"], idempotent = true }
look = { program = [\"true\"], read_only = true }
";

/// Entities for which one run answers, at most.
const DETAILS: usize = 10_000;

/// The methods of one agent.
#[derive(Debug)]
pub(crate) struct Conductor {
    pub(crate) conduct: Conduct,
    pub(crate) latency: Duration,
    pub(crate) late_by: Duration,
    pub(crate) ledger: Arc<Ledger>,
}

#[async_trait]
impl Stub for Conductor {
    async fn run(&self, agent: u32, endpoint: &str, invocation: Invocation) -> Result<JsonObject> {
        if !self.latency.is_zero() {
            sleep(self.latency).await;
        }
        let Invocation { method, message_id, subject, args, .. } = &invocation;
        let entities = match subject {
            Some(subject) => vec![subject.entity],
            None => args.get("entities").map(entities).unwrap_or_default(),
        };
        if ![READING, "status"].contains(&method.as_str()) {
            let effect = Effect {
                message_id: message_id.as_str().to_owned(),
                agent,
                what: what(endpoint, method, &entities),
                conduct: self.conduct.name(),
            };
            let written = self.ledger.append(&effect).await;
            written.map_err(|error| unwritten(endpoint, method, &error))?;
        }
        match self.conduct {
            Conduct::Good => {}
            Conduct::Failing => return Err(failed(endpoint, method)),
            Conduct::Silent => pending().await,
            Conduct::Late => sleep(self.late_by).await,
        }
        let mut answer = JsonObject::new();
        answer.insert("agent".to_owned(), agent.into());
        answer.insert("method".to_owned(), method.clone().into());
        if args.contains_key("entities") {
            let detail = |id: &u32| json!({"id": id, "resultcode": 0, "result": "done"});
            answer.insert("details".to_owned(), entities.iter().map(detail).collect());
        }
        Ok(answer)
    }
}

/// The entities of a request, which come as ranges.
fn entities(given: &Value) -> Vec<u32> {
    let Some(text) = given.as_str() else { return Vec::new() };
    let ranges = Ranges::parse("entities", text).unwrap_or_default();
    let numbers = ranges.as_slice().iter().flat_map(|&(first, last)| first..=last);
    numbers.take(DETAILS).collect()
}

/// `stub/work`, `stub/create#7` or `stub/work#3,4,9`.
fn what(endpoint: &str, method: &str, entities: &[u32]) -> String {
    let numbers: Vec<String> = entities.iter().map(u32::to_string).collect();
    if numbers.is_empty() {
        format!("{endpoint}/{method}")
    } else {
        format!("{endpoint}/{method}#{}", numbers.join(","))
    }
}

fn failed(endpoint: &str, method: &str) -> Error {
    Error::new(Reason::MethodFailed, format!("{method} of {endpoint} fails here, as was asked for"))
        .with("endpoint", endpoint)
        .with("method", method)
        .with("exit_code", 1)
}

fn unwritten(endpoint: &str, method: &str, error: &io::Error) -> Error {
    Error::new(
        Reason::MethodFailed,
        format!("{method} of {endpoint} had no effect: the ledger takes nothing: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use goperation::MessageId;
    use goperation_agent::endpoint::Subject;
    use tokio::time::timeout;

    use super::*;
    use crate::effects;

    #[tokio::test]
    async fn each_behaves_as_it_shall_and_every_effect_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Arc::new(Ledger::open(&path).unwrap());
        let late_by = Duration::from_secs(3600);
        let of = |conduct| Conductor {
            conduct,
            latency: Duration::ZERO,
            late_by,
            ledger: Arc::clone(&ledger),
        };
        let args = |value: Value| value.as_object().cloned().unwrap();
        let call = |method: &str, subject, value| Invocation {
            method: method.to_owned(),
            message_id: MessageId::generate(),
            subject,
            args: args(value),
            progress: None,
        };
        let work = call(CHANGING, None, json!({"entities": "3-4,9"}));
        let answer = of(Conduct::Good).run(7, ENDPOINT, work).await.unwrap();
        assert_eq!(answer["details"][2]["id"], 9);
        let subject = Subject { entity: 5, ports: Vec::new() };
        let create = call("create", Some(subject), json!({}));
        let error = of(Conduct::Failing).run(8, ENDPOINT, create).await.unwrap_err();
        assert_eq!(error.reason, Reason::MethodFailed);
        of(Conduct::Good).run(9, ENDPOINT, call(READING, None, json!({}))).await.unwrap();

        for conduct in [Conduct::Silent, Conduct::Late] {
            let before = effects(&path).unwrap().len();
            let stub = of(conduct);
            let mut run = stub.run(1, ENDPOINT, call(CHANGING, None, json!({})));
            let wait = Duration::from_millis(5);
            goperation_harness::poll_until(Duration::from_secs(30), "the effect", async || {
                assert!(timeout(wait, &mut run).await.is_err(), "{conduct:?} does not answer");
                effects(&path).unwrap().len() > before
            })
            .await;
        }
        let found: Vec<_> =
            effects(&path).unwrap().into_iter().map(|e| (e.agent, e.what, e.conduct)).collect();
        let wanted = [
            (7, "stub/work#3,4,9", "good"),
            (8, "stub/create#5", "failing"),
            (1, "stub/work", "silent"),
            (1, "stub/work", "late"),
        ];
        assert_eq!(found, wanted.map(|(agent, what, how)| (agent, what.to_owned(), how)));
        ledger.close().await;
    }
}
