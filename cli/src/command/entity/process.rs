//! `gop entity start|stop|restart|kill`: one or several, each with a result of its own.
//!
//! Invariant: every entity that is named is asked for, whatever becomes of the others.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use goperation::v1::{
    EntityProcess, KillEntityRequest, RestartEntityRequest, StartEntityRequest, StopEntityRequest,
};
use prost::{Message, Name};
use tonic::{Response, Status};

use crate::{client::Client, error::Error, hint::Subject, output::Output, parse::EntityRef};

/// How many are asked for at a time.
const AT_A_TIME: usize = 8;

/// What is done with a process.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verb {
    /// Start it.
    Start,
    /// Stop it, within that time.
    Stop(Option<Duration>),
    /// Stop it, within that time, and start it.
    Restart(Option<Duration>),
    /// Kill it.
    Kill,
}

/// Does it with all of them.
pub(super) async fn run(
    client: &Client,
    output: Output,
    entities: &[EntityRef],
    verb: Verb,
) -> Result<(), Error> {
    let grace = match verb {
        Verb::Stop(grace) | Verb::Restart(grace) => grace.unwrap_or_default(),
        Verb::Start | Verb::Kill => Duration::ZERO,
    };
    let client = client.patient(grace);
    if let [entity] = entities {
        return one(&client, output, entity, verb).await;
    }
    let mut failed = 0;
    let mut unprinted = None;
    let work = entities.iter().map(|entity| {
        let client = &client;
        async move { (entity, one(client, output, entity, verb).await) }
    });
    let mut results = stream::iter(work).buffer_unordered(AT_A_TIME);
    while let Some((entity, result)) = results.next().await {
        match result {
            Ok(()) => {}
            // Nobody reads any more; the rest is wanted all the same.
            Err(error @ (Error::BrokenPipe | Error::Stdout(_))) => unprinted = Some(error),
            Err(error) => {
                error.report_of(entity);
                failed += 1;
            }
        }
    }
    match unprinted {
        _ if failed > 0 => Err(Error::Some { failed, all: entities.len() }),
        Some(error) => Err(error),
        None => Ok(()),
    }
}

async fn one(client: &Client, output: Output, entity: &EntityRef, verb: Verb) -> Result<(), Error> {
    let (endpoint, number) = (entity.endpoint.clone(), entity.number);
    let mut entities = client.entities();
    let grace = |grace: Option<Duration>| {
        grace.and_then(|grace| prost_types::Duration::try_from(grace).ok())
    };
    match verb {
        Verb::Start => {
            let request = StartEntityRequest { endpoint, number, finish_time: None };
            let answer = entities.start_entity(client.request(request)).await;
            say(output, entity, answer, |a| a.process.as_ref())
        }
        Verb::Stop(given) => {
            let grace = grace(given);
            let request = StopEntityRequest { endpoint, number, grace, finish_time: None };
            let answer = entities.stop_entity(client.request(request)).await;
            say(output, entity, answer, |a| a.process.as_ref())
        }
        Verb::Restart(given) => {
            let grace = grace(given);
            let request = RestartEntityRequest { endpoint, number, grace, finish_time: None };
            let answer = entities.restart_entity(client.request(request)).await;
            say(output, entity, answer, |a| a.process.as_ref())
        }
        Verb::Kill => {
            let request = KillEntityRequest { endpoint, number };
            let answer = entities.kill_entity(client.request(request)).await;
            say(output, entity, answer, |a| a.process.as_ref())
        }
    }
}

/// One line for one entity.
fn say<M: Message + Name>(
    output: Output,
    entity: &EntityRef,
    answer: Result<Response<M>, Status>,
    process: impl Fn(&M) -> Option<&EntityProcess>,
) -> Result<(), Error> {
    let about = Subject { process: true, ..Subject::entity(&entity.endpoint, entity.number) };
    let answer = answer.map_err(|e| Error::from(e).about(&about))?.into_inner();
    output.line(&answer, |a| match process(a) {
        Some(process) if process.pid != 0 => {
            format!("{entity} {} pid {}", state(Some(process)), process.pid)
        }
        Some(process) => format!("{entity} {}", state(Some(process))),
        None => format!("{entity} done"),
    })
}

/// What a process does, or a dash where there is none.
pub(super) fn state(process: Option<&EntityProcess>) -> String {
    let Some(process) = process else { return "-".to_owned() };
    let name = process.state().as_str_name();
    match name.strip_prefix("PROCESS_STATE_").unwrap_or(name) {
        "UNSPECIFIED" => "-".to_owned(),
        name => name.to_owned(),
    }
}
