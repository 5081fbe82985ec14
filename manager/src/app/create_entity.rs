//! Creation of an entity: numbered and recorded, then asked for, then recorded as it ended.
//!
//! Invariant: before anything is sent the number is used and the record says CREATING, so whatever
//! breaks off, a sync finds how it ended and no number is used twice.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use goperation::{
    EndpointName, Error, JsonObject, MessageId, Reason, Result, json_to_struct, now_millis,
    struct_to_json,
    v1::{
        Candidate, CreateEntityRequest, CreateEntityResponse, DeleteEntityResponse, LeftOut,
        PortWish,
    },
};

use super::{
    App,
    endpoint::not_on,
    entity::result,
    idempotency::{Keyed, Stage},
    once::Seal,
    ports_json,
    register::next_number,
    sync::drop_entity,
};
use crate::{
    bridge_link::{Call, To, had_no_effect},
    check::{self, Violations},
    keys,
    placement::Wish,
    record::{AgentRecord, EntityRecord, State},
};

/// Largest number that a request may give: the numbers after it last.
const LARGEST_GIVEN: i32 = 1_000_000_000;

/// Where an entity shall be.
pub(super) enum Place {
    /// On that agent.
    On(u32),
    /// On the best agent of a choice.
    Best(Wish),
}

/// A request, checked.
pub(super) struct Wanted {
    pub(super) endpoint: EndpointName,
    pub(super) place: Place,
    /// Only the choice is wanted.
    pub(super) dry: bool,
    /// Number that it shall have; the next one when 0.
    pub(super) number: u32,
    pub(super) finish: Option<u64>,
    ports: Vec<PortWish>,
    args: JsonObject,
    description: String,
    labels: BTreeMap<String, String>,
    pub(super) key: Option<Keyed>,
}

impl Wanted {
    /// Reads a request. What was begun at an earlier time may be `over` by now.
    pub(super) fn read(
        q: CreateEntityRequest,
        key: Option<Keyed>,
        over: bool,
        now: u64,
    ) -> Result<Self> {
        let mut bad = Violations::default();
        let endpoint = bad.take(EndpointName::parse("endpoint", &q.endpoint));
        let place = match q.agent_id {
            0 => Some(Place::Best(Wish::read(&mut bad, &q.includes, &q.weighters))),
            id => {
                let texts = [("includes", &q.includes), ("weighters", &q.weighters)];
                let given = texts.into_iter().filter(|(_, texts)| !texts.is_empty());
                for field in given.map(|(field, _)| field).chain(q.dry.then_some("dry")) {
                    bad.add(field, "is only for a choice: leave out agent_id");
                }
                bad.take(check::number("agent_id", id)).map(Place::On)
            }
        };
        check::wishes(&mut bad, "ports", &q.ports);
        let args = bad.take(struct_to_json("args", q.args.as_ref()));
        check::description(&mut bad, "description", &q.description);
        let labels = check::labels(&mut bad, "labels", &q.labels);
        if !(0..=LARGEST_GIVEN).contains(&q.number) {
            bad.add("number", format!("must be 0 for the next one, or at most {LARGEST_GIVEN}"));
        }
        let finish = match q.finish_time.as_ref() {
            Some(given) if over => Some(Some(goperation::from_timestamp(given))),
            given => bad.take(check::finish_time("finish_time", given, now)),
        };
        let (Some(endpoint), Some(place), Some(args), Some(finish)) =
            (endpoint, place, args, finish)
        else {
            return Err(bad.error());
        };
        bad.finish()?;
        let number = u32::try_from(q.number).unwrap_or_default();
        let (ports, description, dry) = (q.ports, q.description, q.dry);
        Ok(Self { endpoint, place, dry, number, finish, ports, args, description, labels, key })
    }
}

/// One try to create it, on one agent.
pub(super) struct Try<'a> {
    pub(super) agent: u32,
    /// Until when the agent may begin with it.
    pub(super) until: u64,
    pub(super) wait: Duration,
    /// Of a choice: agents that suit, and those that refused.
    pub(super) candidates: &'a [Candidate],
    pub(super) refused: &'a [LeftOut],
}

/// An entity that is numbered and recorded.
pub(super) struct Begun {
    pub(super) agent: u32,
    pub(super) number: u32,
    pub(super) to: To,
    pub(super) id: MessageId,
    pub(super) stage: Stage,
}

impl App {
    pub(crate) async fn create_entity(
        &self,
        q: CreateEntityRequest,
        now: u64,
        wait: Duration,
    ) -> Result<CreateEntityResponse> {
        let begun = Instant::now();
        let key = match Keyed::of(&q) {
            Ok(key) => key,
            Err(error) => {
                let wanted = Wanted::read(q, None, false, now);
                return Err(check::all_bad([error].into_iter().chain(wanted.err())));
            }
        };
        match key {
            Some(key) => self.create_once(q, key, wait).await,
            None => self.place(&Wanted::read(q, None, false, now)?, Vec::new(), begun, wait).await,
        }
    }

    /// Tries once, on one agent.
    pub(super) async fn try_create(
        &self,
        wanted: &Wanted,
        how: &Try<'_>,
    ) -> Result<CreateEntityResponse> {
        let begun = self.number_entity(wanted, how, now_millis()).await?;
        tracing::Span::current().record("entity", begun.number);
        match self.ask_to_create(wanted, &begun, how.until, how.wait).await {
            Ok(answer) => self.created(wanted, &begun, Some(&answer)).await,
            Err(error) => {
                self.not_created(wanted, &begun, &error).await?;
                Err(error)
            }
        }
    }

    /// CALLs the agent; the same message however often this is done.
    pub(super) async fn ask_to_create(
        &self,
        wanted: &Wanted,
        begun: &Begun,
        until: u64,
        wait: Duration,
    ) -> Result<JsonObject> {
        let mut args = JsonObject::new();
        args.insert("entity".to_owned(), begun.number.into());
        args.insert("ports".to_owned(), ports_json::wishes(&wanted.ports));
        args.insert("args".to_owned(), wanted.args.clone().into());
        let call = Call {
            to: &begun.to,
            namespace: wanted.endpoint.as_str(),
            method: "create_entity",
            args,
            id: &begun.id,
            finish: Some(until),
        };
        self.link.call(call, now_millis(), wait).await.map_err(|error| {
            error
                .with("agent", begun.agent)
                .with("endpoint", &wanted.endpoint)
                .with("entity", begun.number)
        })
    }

    async fn number_entity(&self, wanted: &Wanted, how: &Try<'_>, now: u64) -> Result<Begun> {
        let endpoint = wanted.endpoint.as_str();
        let id = MessageId::generate();
        let mut tx = self.db.begin();
        loop {
            let agent = super::live_agent(&mut tx, how.agent).await?;
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
                finish_time: how.until,
                ..EntityRecord::default()
            };
            record.set(State::Creating);
            record.touch(now);
            tx.put_number(counter, number.into());
            tx.put(keys::entity(endpoint, number), &record);
            tx.mark(keys::entity_on(agent.id, endpoint, number));
            let begun = Begun::new(&agent, number, id.clone(), Stage::of(how));
            if let Some(key) = &wanted.key {
                key.begin(&mut tx, endpoint, &begun, how.until).await?;
            }
            if tx.commit().await? {
                return Ok(begun);
            }
        }
    }

    /// Records that it was created. What the create method said is not known without an `answer`.
    pub(super) async fn created(
        &self,
        wanted: &Wanted,
        begun: &Begun,
        answer: Option<&JsonObject>,
    ) -> Result<CreateEntityResponse> {
        let (endpoint, number) = (wanted.endpoint.as_str(), begun.number);
        let mut ports =
            answer.map_or_else(Vec::new, |answer| ports_json::ports(answer, "ports", now_millis()));
        ports.sort_by_key(|port| (port.port, port.protocol));
        let result = answer.map(|answer| json_to_struct("result", &result(answer))).transpose()?;
        let key = keys::entity(endpoint, number);
        let mut tx = self.db.begin();
        loop {
            let now = now_millis();
            let mut record: EntityRecord =
                tx.get(key.clone()).await?.ok_or_else(|| check::no_entity(endpoint, number))?;
            // A sync may have been faster; a delete may be under way already.
            if answer.is_some()
                && matches!(record.state(), State::Creating | State::Ready | State::Failed)
            {
                record.set(State::Ready);
                record.ports.clone_from(&ports);
                record.answer_time = now;
                record.touch(now);
                tx.put(key.clone(), &record);
            }
            let response = CreateEntityResponse {
                entity: Some(record.to_api()),
                result: result.clone(),
                candidates: begun.stage.candidates.clone(),
                refused: begun.stage.refused.clone(),
            };
            if let Some(key) = &wanted.key {
                key.end(&mut tx, begun, Ok(&response), now).await?;
            }
            if tx.commit().await? {
                return Ok(response);
            }
        }
    }

    /// Records that it was not created, or that this is not known.
    pub(super) async fn not_created(
        &self,
        wanted: &Wanted,
        begun: &Begun,
        error: &Error,
    ) -> Result<()> {
        let never = had_no_effect(error.reason);
        let (endpoint, number) = (wanted.endpoint.as_str(), begun.number);
        let key = keys::entity(endpoint, number);
        let mut tx = self.db.begin();
        loop {
            let record: Option<EntityRecord> = tx.get(key.clone()).await?;
            match record.filter(|record| record.state() == State::Creating) {
                Some(_) if never => {
                    tx.delete(key.clone());
                    tx.delete(keys::entity_on(begun.agent, endpoint, number));
                }
                Some(mut record) if error.reason == Reason::Interrupted => {
                    record.set(State::Failed);
                    record.touch(now_millis());
                    tx.put(key.clone(), &record);
                }
                _ => {}
            }
            if let Some(key) = &wanted.key {
                if never {
                    key.drop(&mut tx).await?;
                } else if error.reason == Reason::Interrupted {
                    key.end(&mut tx, begun, Err(error), now_millis()).await?;
                }
            }
            if tx.commit().await? {
                break;
            }
        }
        if !never {
            super::raise_generation(self, begun.agent).await;
        }
        Ok(())
    }

    /// Removes the record of an entity that its agent does not have any more, and keeps the answer
    /// to that.
    pub(super) async fn forget_entity(
        &self,
        agent: u32,
        endpoint: &str,
        number: u32,
        seal: Option<&Seal>,
        answer: &DeleteEntityResponse,
    ) -> Result<()> {
        let key = keys::entity(endpoint, number);
        let mut tx = self.db.begin();
        loop {
            if tx.get::<EntityRecord>(key.clone()).await?.is_some() {
                drop_entity(&mut tx, agent, endpoint, number, now_millis());
            }
            if let Some(seal) = seal {
                seal.end(&mut tx, answer);
            }
            if tx.commit().await? {
                return Ok(());
            }
        }
    }
}

impl Begun {
    pub(super) fn new(agent: &AgentRecord, number: u32, id: MessageId, stage: Stage) -> Self {
        Self { agent: agent.id, number, to: agent.to(), id, stage }
    }
}

/// Numbers are used once: those below the next one were, or are passed over for good.
fn used(endpoint: &str, next: u32) -> Error {
    Error::invalid("number", format!("must be at least {next}, the next number of {endpoint}"))
        .with("endpoint", endpoint)
        .with("next", next)
}
