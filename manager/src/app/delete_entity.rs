//! Deletion of an entity: recorded, asked for, and its record removed when its agent has it no
//! more.
//!
//! Invariant: a record is removed only when the agent has said that the entity is gone, or never
//! knew it; what is not known stays DELETING until a sync shows it.

use std::time::{Duration, Instant};

use goperation::{
    Error, JsonObject, MessageId, Reason, Result, json_to_struct, now_millis, struct_to_json,
    v1::{DeleteEntityRequest, DeleteEntityResponse},
};

use super::{
    App,
    entity::{name, result},
    once::{Seal, message_id},
};
use crate::{
    bridge_link::{Call, had_no_effect},
    check::{self, Violations},
    etag, keys,
    record::{AgentRecord, EntityRecord, State},
};

/// Longest token, in characters.
const TOKEN: usize = 256;
/// How long an agent keeps a token, in seconds.
const TOKEN_SECONDS: u64 = 60;
/// What a call gets at least when its token took the time.
const SHORTEST: Duration = Duration::from_millis(1);

/// A deletion that is recorded.
struct Begun {
    agent: AgentRecord,
    id: MessageId,
    /// The state that this request found, unless a deletion was under way already.
    former: Option<State>,
}

impl App {
    pub(crate) async fn delete_entity(
        &self,
        q: DeleteEntityRequest,
        now: u64,
        wait: Duration,
        seal: Option<&Seal>,
    ) -> Result<DeleteEntityResponse> {
        let mut bad = Violations::default();
        let entity = bad.take(name(("endpoint", &q.endpoint), ("number", q.number)));
        let given = bad.take(struct_to_json("args", q.args.as_ref()));
        let finish = bad.take(check::finish_time("finish_time", q.finish_time.as_ref(), now));
        if q.token.chars().count() > TOKEN {
            bad.add("token", format!("must have at most {TOKEN} characters"));
        }
        let (Some((endpoint, number)), Some(given), Some(finish)) = (entity, given, finish) else {
            return Err(bad.error());
        };
        bad.finish()?;
        let endpoint = endpoint.as_str();
        let begun = Instant::now();
        if !q.token.is_empty() {
            self.announce_delete(endpoint, number, &q, now, wait).await?;
        }
        let wait = wait.saturating_sub(begun.elapsed()).max(SHORTEST);
        let now = now_millis();
        let until = finish.unwrap_or(now + super::millis(wait));
        let id = message_id(seal);
        let Some(begun) =
            self.begin_delete_entity(endpoint, number, &q.etag, id, (until, now)).await?
        else {
            return Ok(DeleteEntityResponse { result: None });
        };
        let mut args = JsonObject::new();
        args.insert("entity".to_owned(), number.into());
        args.insert("args".to_owned(), given.into());
        if !q.token.is_empty() {
            args.insert("token".to_owned(), q.token.into());
        }
        let (to, agent) = (begun.agent.to(), begun.agent.id);
        let call = Call {
            to: &to,
            namespace: endpoint,
            method: "delete_entity",
            args,
            id: &begun.id,
            finish,
        };
        let answer = match self.link.call(call, now, wait).await {
            Ok(answer) => answer,
            Err(error) if error.reason == Reason::EntityNotFound => JsonObject::new(),
            Err(error) => {
                self.not_deleted_entity(endpoint, number, &begun, &error).await?;
                return Err(error
                    .with("agent", agent)
                    .with("endpoint", endpoint)
                    .with("entity", number));
            }
        };
        let answer =
            DeleteEntityResponse { result: Some(json_to_struct("result", &result(&answer))?) };
        self.forget_entity(agent, endpoint, number, seal, &answer).await?;
        Ok(answer)
    }

    /// Tells the agent to delete the entity in the next minute only for who has the token. Nothing
    /// is recorded yet, so what fails here leaves everything as it was.
    async fn announce_delete(
        &self,
        endpoint: &str,
        number: u32,
        q: &DeleteEntityRequest,
        now: u64,
        wait: Duration,
    ) -> Result<()> {
        let key = keys::entity(endpoint, number);
        // One that is gone is told of by the deletion.
        let Some(record) = self.db.get::<EntityRecord>(key).await? else { return Ok(()) };
        deletable(&record, &q.etag, now)?;
        let agent = self.agent_record(record.agent).await?;
        super::callable(&agent)?;
        let mut args = JsonObject::new();
        args.insert("entity".to_owned(), number.into());
        args.insert("token".to_owned(), q.token.clone().into());
        args.insert("expire".to_owned(), TOKEN_SECONDS.into());
        let (to, id) = (agent.to(), MessageId::generate());
        let call = Call {
            to: &to,
            namespace: endpoint,
            method: "entity_token",
            args,
            id: &id,
            finish: None,
        };
        let error = match self.link.call(call, now, wait).await {
            Ok(_) => return Ok(()),
            // A deletion whose answer was lost: the same message again gets it.
            Err(error) if error.reason == Reason::EntityNotFound => return Ok(()),
            Err(error) if error.reason == Reason::OutcomeUnknown => Error::new(
                Reason::Unavailable,
                format!(
                    "agent {} on {} did not answer that it expects the token; nothing was deleted, \
                     try again",
                    agent.id, agent.host
                ),
            ),
            Err(error) => error,
        };
        Err(error.with("agent", agent.id).with("endpoint", endpoint).with("entity", number))
    }

    /// Records the deletion; nothing when the entity is gone already.
    async fn begin_delete_entity(
        &self,
        endpoint: &str,
        number: u32,
        etag: &str,
        fresh: MessageId,
        (finish, now): (u64, u64),
    ) -> Result<Option<Begun>> {
        let key = keys::entity(endpoint, number);
        let mut tx = self.db.begin();
        loop {
            let Some(mut record) = tx.get::<EntityRecord>(key.clone()).await? else {
                if u64::from(number) > tx.number(keys::entity_counter(endpoint)).await? {
                    return Err(check::no_entity(endpoint, number));
                }
                if tx.commit().await? {
                    return Ok(None);
                }
                continue;
            };
            let agent = super::live_agent(&mut tx, record.agent).await?;
            let state = record.state();
            deletable(&record, etag, now)?;
            // Its outcome is unknown: with the same id the agent tells how it ended.
            let id = match MessageId::parse("delete_message", &record.delete_message) {
                Ok(former) if state == State::Deleting => former,
                _ => fresh.clone(),
            };
            record.set(State::Deleting);
            record.delete_message = id.to_string();
            record.finish_time = record.finish_time.max(finish);
            record.touch(now);
            tx.put(key.clone(), &record);
            if tx.commit().await? {
                let former = Some(state).filter(|&state| state != State::Deleting);
                return Ok(Some(Begun { agent, id, former }));
            }
        }
    }

    async fn not_deleted_entity(
        &self,
        endpoint: &str,
        number: u32,
        begun: &Begun,
        error: &Error,
    ) -> Result<()> {
        let never = had_no_effect(error.reason);
        let key = keys::entity(endpoint, number);
        let mut tx = self.db.begin();
        loop {
            let Some(mut record) = tx.get::<EntityRecord>(key.clone()).await? else {
                return Ok(());
            };
            if record.state() != State::Deleting || record.delete_message != begun.id.as_str() {
                return Ok(());
            }
            if error.reason != Reason::OutcomeUnknown {
                // It has ended: a repeat is a new try.
                record.delete_message.clear();
                // Nothing is on its way any more, so a sync may say `remove`.
                record.finish_time = now_millis();
            }
            if let (true, Some(former)) = (never, begun.former) {
                record.set(former);
            }
            record.touch(now_millis());
            tx.put(key.clone(), &record);
            if tx.commit().await? {
                break;
            }
        }
        if !never {
            super::raise_generation(self, begun.agent.id).await;
        }
        Ok(())
    }
}

/// Whether an entity may be deleted as it is on record.
fn deletable(record: &EntityRecord, etag: &str, now: u64) -> Result<()> {
    let state = record.state();
    if state != State::Deleting {
        let what = format!("entity {} of {}", record.number, record.endpoint);
        etag::check(etag, &record.etag(), &what)?;
    }
    if state == State::Creating && now < record.finish_time {
        return Err(still_creating(record, now));
    }
    Ok(())
}

/// Its creation may still be on its way and would come after the deletion.
fn still_creating(record: &EntityRecord, now: u64) -> Error {
    let left = Duration::from_millis(record.finish_time - now);
    Error::new(
        Reason::StateRefused,
        format!(
            "entity {} of {} is CREATING, and its agent may still begin with it for {} s; delete \
             it then",
            record.number,
            record.endpoint,
            left.as_secs() + 1
        ),
    )
    .with("endpoint", &record.endpoint)
    .with("entity", record.number)
    .with("state", "CREATING")
    .with_retry_after(left)
}
