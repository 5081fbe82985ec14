//! What is done with the processes of entities: asked of the agent, and recorded as it answers.
//!
//! Invariant: the agent is the authority over processes. The record takes an answer only when it
//! is no older than what the record has; a sync corrects it.

use std::time::Duration;

use goperation::{
    EndpointName, Error, JsonObject, MessageId, Reason, Result, now_millis, to_duration,
    v1::{
        Entity, EntityProcess, KillEntityRequest, KillEntityResponse, RestartEntityRequest,
        RestartEntityResponse, StartEntityRequest, StartEntityResponse, StopEntityRequest,
        StopEntityResponse,
    },
};
use prost_types::Timestamp;

use super::{
    App,
    entity::name,
    once::{Seal, message_id},
    process_json,
};
use crate::{
    bridge_link::Call,
    check::{self, Violations},
    keys,
    record::{AgentRecord, EntityRecord, State, since},
};

/// Longest grace of a stop.
const LONGEST_GRACE: Duration = Duration::from_secs(3600);

/// One thing that is done with a process.
struct Verb {
    method: &'static str,
    endpoint: EndpointName,
    number: u32,
    /// How long a stop may take, in milliseconds.
    grace: Option<u64>,
    finish: Option<u64>,
}

/// The parts of a request that every verb has in some form.
struct Asked<'a> {
    endpoint: &'a str,
    number: i32,
    grace: Option<prost_types::Duration>,
    finish_time: Option<Timestamp>,
}

impl Verb {
    fn read(method: &'static str, asked: &Asked<'_>, now: u64) -> Result<Self> {
        let mut bad = Violations::default();
        let entity = bad.take(name(("endpoint", asked.endpoint), ("number", asked.number)));
        let grace = match &asked.grace {
            None => None,
            Some(grace) => match to_duration(grace).filter(|&grace| grace <= LONGEST_GRACE) {
                Some(grace) => Some(super::millis(grace)),
                None => {
                    bad.add("grace", "must be from 0s to 1h");
                    None
                }
            },
        };
        let finish = bad.take(check::finish_time("finish_time", asked.finish_time.as_ref(), now));
        let (Some((endpoint, number)), Some(finish)) = (entity, finish) else {
            return Err(bad.error());
        };
        bad.finish()?;
        Ok(Self { method, endpoint, number, grace, finish })
    }

    /// Whether it may be asked of an entity in this state.
    fn suits(&self, state: State) -> bool {
        // What runs and should not is killed whatever else the entity waits for.
        let kill = self.method == "kill_entity";
        state == State::Ready || (kill && matches!(state, State::Deleting | State::Failed))
    }
}

impl App {
    pub(crate) async fn start_entity(
        &self,
        q: StartEntityRequest,
        now: u64,
        wait: Duration,
        seal: Option<&Seal>,
    ) -> Result<StartEntityResponse> {
        let asked = Asked {
            endpoint: &q.endpoint,
            number: q.number,
            grace: None,
            finish_time: q.finish_time,
        };
        let verb = Verb::read("start_entity", &asked, now)?;
        let (entity, process) = self.process_verb(verb, now, wait, message_id(seal)).await?;
        Ok(StartEntityResponse { entity: Some(entity), process })
    }

    pub(crate) async fn stop_entity(
        &self,
        q: StopEntityRequest,
        now: u64,
        wait: Duration,
        seal: Option<&Seal>,
    ) -> Result<StopEntityResponse> {
        let asked = Asked {
            endpoint: &q.endpoint,
            number: q.number,
            grace: q.grace,
            finish_time: q.finish_time,
        };
        let verb = Verb::read("stop_entity", &asked, now)?;
        let (entity, process) = self.process_verb(verb, now, wait, message_id(seal)).await?;
        Ok(StopEntityResponse { entity: Some(entity), process })
    }

    pub(crate) async fn restart_entity(
        &self,
        q: RestartEntityRequest,
        now: u64,
        wait: Duration,
        seal: Option<&Seal>,
    ) -> Result<RestartEntityResponse> {
        let asked = Asked {
            endpoint: &q.endpoint,
            number: q.number,
            grace: q.grace,
            finish_time: q.finish_time,
        };
        let verb = Verb::read("restart_entity", &asked, now)?;
        let (entity, process) = self.process_verb(verb, now, wait, message_id(seal)).await?;
        Ok(RestartEntityResponse { entity: Some(entity), process })
    }

    pub(crate) async fn kill_entity(
        &self,
        q: KillEntityRequest,
        now: u64,
        wait: Duration,
        seal: Option<&Seal>,
    ) -> Result<KillEntityResponse> {
        let asked =
            Asked { endpoint: &q.endpoint, number: q.number, grace: None, finish_time: None };
        let verb = Verb::read("kill_entity", &asked, now)?;
        let (entity, process) = self.process_verb(verb, now, wait, message_id(seal)).await?;
        Ok(KillEntityResponse { entity: Some(entity), process })
    }

    /// Asks the agent, and gives the record with what it answered.
    async fn process_verb(
        &self,
        verb: Verb,
        now: u64,
        wait: Duration,
        id: MessageId,
    ) -> Result<(Entity, Option<EntityProcess>)> {
        let (endpoint, number) = (verb.endpoint.as_str(), verb.number);
        let record = self.entity_record(endpoint, number).await?;
        if !verb.suits(record.state()) {
            return Err(not_ready(&record));
        }
        let agent: AgentRecord = self.agent_record(record.agent).await?;
        super::callable(&agent)?;
        let mut args = JsonObject::new();
        args.insert("entity".to_owned(), number.into());
        if let Some(grace) = verb.grace {
            args.insert("grace_ms".to_owned(), grace.into());
        }
        let to = agent.to();
        tracing::Span::current().record("message_id", id.as_str());
        let call = Call {
            to: &to,
            namespace: endpoint,
            method: verb.method,
            args,
            id: &id,
            finish: verb.finish,
        };
        let answer = self.link.call(call, now, wait).await.map_err(|error| {
            error.with("agent", agent.id).with("endpoint", endpoint).with("entity", number)
        })?;
        let process = process_json::process(&answer);
        let record = match &process {
            Some(process) => self.record_process(record, process).await?,
            None => record,
        };
        Ok((record.to_api(), process))
    }

    /// Puts what an agent answered on record, unless a sync has brought something newer.
    pub(super) async fn record_process(
        &self,
        asked: EntityRecord,
        process: &EntityProcess,
    ) -> Result<EntityRecord> {
        let kept = process_json::kept(process);
        let key = keys::entity(&asked.endpoint, asked.number);
        let mut tx = self.db.begin();
        loop {
            // Deleted meanwhile: nothing is left to record it on.
            let Some(mut record) = tx.get::<EntityRecord>(key.clone()).await? else {
                return Ok(asked);
            };
            let known = record.process.as_ref();
            if known != Some(&kept) && since(known) <= since(Some(&kept)) {
                // As in a sync, nobody's edit is refused for what a process does.
                record.process = Some(kept.clone());
                record.answer_time = now_millis();
                tx.put(key.clone(), &record);
            }
            if tx.commit().await? {
                return Ok(record);
            }
        }
    }
}

/// Only an entity that is there has a process.
fn not_ready(record: &EntityRecord) -> Error {
    let state = record.state().name();
    Error::new(
        Reason::StateRefused,
        format!("entity {} of {} is {state}, not READY", record.number, record.endpoint),
    )
    .with("agent", record.agent)
    .with("endpoint", &record.endpoint)
    .with("entity", record.number)
    .with("state", state)
}
