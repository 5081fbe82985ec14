//! Creation of an entity: numbered and recorded, then asked for, then recorded as it ended.
//!
//! Invariant: before anything is sent the number is used and the record says CREATING, so whatever
//! breaks off, a sync finds how it ended and no number is used twice.

use std::{collections::BTreeMap, time::Duration};

use goperation::{
    EndpointName, Error, JsonObject, MessageId, Reason, Result, json_to_struct, now_millis,
    struct_to_json,
    v1::{CreateEntityRequest, CreateEntityResponse, PortWish},
};

use super::{
    App, endpoint::not_on, entity::result, ports_json, register::next_number, sync::drop_entity,
};
use crate::{
    bridge_link::{Call, To, had_no_effect},
    check::{self, Violations},
    keys,
    record::{EntityRecord, PortRecord, State},
};

/// Largest number that a request may give: the numbers after it last.
const LARGEST_GIVEN: i32 = 1_000_000_000;

/// A request, checked.
struct Wanted {
    endpoint: EndpointName,
    agent: u32,
    /// Number that it shall have; the next one when 0.
    number: u32,
    finish: Option<u64>,
    ports: Vec<PortWish>,
    args: JsonObject,
    description: String,
    labels: BTreeMap<String, String>,
}

impl Wanted {
    fn read(q: CreateEntityRequest, now: u64) -> Result<Self> {
        let mut bad = Violations::default();
        let endpoint = bad.take(EndpointName::parse("endpoint", &q.endpoint));
        let agent = bad.take(check::number("agent_id", q.agent_id));
        check::wishes(&mut bad, "ports", &q.ports);
        let args = bad.take(struct_to_json("args", q.args.as_ref()));
        check::description(&mut bad, "description", &q.description);
        let labels = check::labels(&mut bad, "labels", &q.labels);
        if !(0..=LARGEST_GIVEN).contains(&q.number) {
            bad.add("number", format!("must be 0 for the next one, or at most {LARGEST_GIVEN}"));
        }
        let finish = bad.take(check::finish_time("finish_time", q.finish_time.as_ref(), now));
        let (Some(endpoint), Some(agent), Some(args), Some(finish)) =
            (endpoint, agent, args, finish)
        else {
            return Err(bad.error());
        };
        bad.finish()?;
        let number = u32::try_from(q.number).unwrap_or_default();
        let (ports, description) = (q.ports, q.description);
        Ok(Self { endpoint, agent, number, finish, ports, args, description, labels })
    }
}

impl App {
    pub(crate) async fn create_entity(
        &self,
        q: CreateEntityRequest,
        now: u64,
        wait: Duration,
    ) -> Result<CreateEntityResponse> {
        let wanted = Wanted::read(q, now)?;
        let until = wanted.finish.unwrap_or(now + super::millis(wait));
        let (to, number) = self.number_entity(&wanted, until, now).await?;
        let endpoint = wanted.endpoint.as_str();
        tracing::Span::current().record("entity", number);

        let mut args = JsonObject::new();
        args.insert("entity".to_owned(), number.into());
        args.insert("ports".to_owned(), ports_json::wishes(&wanted.ports));
        args.insert("args".to_owned(), wanted.args.into());
        let id = MessageId::generate();
        let call = Call {
            to: &to,
            namespace: endpoint,
            method: "create_entity",
            args,
            id: &id,
            finish: wanted.finish,
        };
        match self.link.call(call, now, wait).await {
            Ok(answer) => {
                let ports = ports_json::ports(&answer, "ports", now_millis());
                let record = self.created(endpoint, number, ports).await?;
                Ok(CreateEntityResponse {
                    entity: Some(record.to_api()),
                    result: Some(json_to_struct("result", &result(&answer))?),
                })
            }
            Err(error) => {
                self.not_created(wanted.agent, endpoint, number, &error).await?;
                Err(error
                    .with("agent", wanted.agent)
                    .with("endpoint", endpoint)
                    .with("entity", number))
            }
        }
    }

    async fn number_entity(&self, wanted: &Wanted, finish: u64, now: u64) -> Result<(To, u32)> {
        let endpoint = wanted.endpoint.as_str();
        let mut tx = self.db.begin();
        loop {
            let agent = super::live_agent(&mut tx, wanted.agent).await?;
            super::callable(&agent)?;
            if !agent.endpoints.iter().any(|known| known.name == endpoint) {
                return Err(not_on(&agent, endpoint));
            }
            let counter = keys::entity_counter(endpoint);
            let next = next_number(tx.number(counter.clone()).await?, endpoint)?;
            let number = match wanted.number {
                0 => next,
                given if given < next => return Err(used(endpoint, next)),
                given => given,
            };
            let mut record = EntityRecord {
                endpoint: endpoint.to_owned(),
                number,
                agent: agent.id,
                description: wanted.description.clone(),
                labels: wanted.labels.clone(),
                create_time: now,
                finish_time: finish,
                ..EntityRecord::default()
            };
            record.set(State::Creating);
            record.touch(now);
            tx.put_number(counter, number.into());
            tx.put(keys::entity(endpoint, number), &record);
            tx.mark(keys::entity_on(agent.id, endpoint, number));
            if tx.commit().await? {
                return Ok((agent.to(), number));
            }
        }
    }

    async fn created(
        &self,
        endpoint: &str,
        number: u32,
        mut ports: Vec<PortRecord>,
    ) -> Result<EntityRecord> {
        ports.sort_by_key(|port| (port.port, port.protocol));
        let key = keys::entity(endpoint, number);
        let mut tx = self.db.begin();
        loop {
            let now = now_millis();
            let mut record: EntityRecord =
                tx.get(key.clone()).await?.ok_or_else(|| check::no_entity(endpoint, number))?;
            // A sync may have been faster; a delete may be under way already.
            if matches!(record.state(), State::Creating | State::Ready | State::Failed) {
                record.set(State::Ready);
                record.ports.clone_from(&ports);
                record.answer_time = now;
                record.touch(now);
                tx.put(key.clone(), &record);
            }
            if tx.commit().await? {
                return Ok(record);
            }
        }
    }

    async fn not_created(
        &self,
        agent: u32,
        endpoint: &str,
        number: u32,
        error: &Error,
    ) -> Result<()> {
        let never = had_no_effect(error.reason);
        let key = keys::entity(endpoint, number);
        let mut tx = self.db.begin();
        loop {
            let Some(mut record) = tx.get::<EntityRecord>(key.clone()).await? else { break };
            if record.state() != State::Creating {
                break;
            }
            if never {
                tx.delete(key.clone());
                tx.delete(keys::entity_on(agent, endpoint, number));
            } else if error.reason == Reason::Interrupted {
                record.set(State::Failed);
                record.touch(now_millis());
                tx.put(key.clone(), &record);
            } else {
                break;
            }
            if tx.commit().await? {
                break;
            }
        }
        if !never {
            super::raise_generation(self, agent).await;
        }
        Ok(())
    }

    /// Removes the record of an entity that its agent does not have any more.
    pub(super) async fn forget_entity(
        &self,
        agent: u32,
        endpoint: &str,
        number: u32,
    ) -> Result<()> {
        let key = keys::entity(endpoint, number);
        let mut tx = self.db.begin();
        loop {
            if tx.get::<EntityRecord>(key.clone()).await?.is_some() {
                drop_entity(&mut tx, agent, endpoint, number, now_millis());
            }
            if tx.commit().await? {
                return Ok(());
            }
        }
    }
}

/// Numbers are used once: those below the next one were, or are passed over for good.
fn used(endpoint: &str, next: u32) -> Error {
    Error::invalid("number", format!("must be at least {next}, the next number of {endpoint}"))
        .with("endpoint", endpoint)
        .with("next", next)
}
