//! Deletion of an entity: recorded, asked for, and its record removed when its agent has it no
//! more.
//!
//! Invariant: a record is removed only when the agent has said that the entity is gone, or never
//! knew it; what is not known stays DELETING until a sync shows it.

use std::time::Duration;

use goperation::{
    Error, JsonObject, MessageId, Reason, Result, json_to_struct, now_millis, struct_to_json,
    v1::{DeleteEntityRequest, DeleteEntityResponse},
};

use super::{
    App,
    entity::{name, result},
};
use crate::{
    bridge_link::{Call, had_no_effect},
    check, etag, keys,
    record::{AgentRecord, EntityRecord, State},
};

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
    ) -> Result<DeleteEntityResponse> {
        let (endpoint, number) = name(("endpoint", &q.endpoint), ("number", q.number))?;
        let endpoint = endpoint.as_str();
        let given = struct_to_json("args", q.args.as_ref())?;
        let finish = now + super::millis(wait);
        let Some(begun) = self.begin_delete_entity(endpoint, number, &q.etag, finish, now).await?
        else {
            return Ok(DeleteEntityResponse { result: None });
        };
        let mut args = JsonObject::new();
        args.insert("entity".to_owned(), number.into());
        args.insert("args".to_owned(), given.into());
        let (to, agent) = (begun.agent.to(), begun.agent.id);
        let call =
            Call { to: &to, namespace: endpoint, method: "delete_entity", args, id: &begun.id };
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
        self.forget_entity(agent, endpoint, number).await?;
        Ok(DeleteEntityResponse { result: Some(json_to_struct("result", &result(&answer))?) })
    }

    /// Records the deletion; nothing when the entity is gone already.
    async fn begin_delete_entity(
        &self,
        endpoint: &str,
        number: u32,
        etag: &str,
        finish: u64,
        now: u64,
    ) -> Result<Option<Begun>> {
        let key = keys::entity(endpoint, number);
        let fresh = MessageId::generate();
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
            if state != State::Deleting {
                etag::check(etag, &record.etag(), &format!("entity {number} of {endpoint}"))?;
            }
            if state == State::Creating && now < record.finish_time {
                return Err(still_creating(&record, now));
            }
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
