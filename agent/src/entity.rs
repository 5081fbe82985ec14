//! Entities of an endpoint: create, delete, status, and the methods that are about one.
//!
//! Invariant: an entity is on disk before its create method runs, so its ports are never lost; a
//! creation that failed leaves nothing, one that was interrupted stays as FAILED.

use std::{convert::Infallible, future::pending, time::Duration};

use goperation::{EndpointName, Error, JsonObject, MessageId, Reason, Result, v1::ResponseState};
use goperation_bridge::{Body, Message};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use crate::{
    agent::Agent,
    answer::entity_of,
    endpoint::{Endpoint, Invocation, Subject},
    job::interrupted,
    journal::Outcome,
    lock::Operation,
    methods::{parse, ports_json},
    operations::check_active,
    ports::Wish,
    process::{Called, answer, wishes},
    reserve::not_found,
    state::{EntityKey, EntityPhase},
    token::TOKEN,
};

/// Method that creates an entity, in the endpoint's namespace.
pub(crate) const CREATE: &str = "create_entity";
/// Method that deletes an entity, in the endpoint's namespace.
pub(crate) const DELETE: &str = "delete_entity";
/// Method that asks for an entity's status, in the endpoint's namespace.
pub(crate) const STATUS: &str = "status_entity";

/// How often the manager is told of the progress of a method, at most.
const TELL_EVERY: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    entity: u32,
    #[serde(default)]
    ports: Vec<Wish>,
    #[serde(default)]
    args: JsonObject,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    entity: u32,
    #[serde(default)]
    args: JsonObject,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    entity: u32,
    #[serde(default)]
    args: JsonObject,
    #[serde(default)]
    token: Option<String>,
}

impl Agent {
    /// The key of an entity of an endpoint that this agent has.
    pub(crate) fn entity_key(&self, field: &str, endpoint: &str, number: u32) -> Result<EntityKey> {
        let endpoint = EndpointName::parse(field, endpoint)?;
        self.endpoints.get(endpoint.as_str())?;
        Ok(EntityKey { endpoint, number })
    }

    /// Runs a method in an endpoint's namespace.
    pub(crate) async fn run_endpoint_method(
        &self,
        message: &Message,
        args: &JsonObject,
    ) -> Outcome {
        match message.method.as_str() {
            CREATE => self.create_entity(message, parse(args)?).await,
            DELETE => self.delete_entity(message, parse(args)?).await,
            STATUS => self.status_entity(message, parse(args)?).await,
            TOKEN => self.entity_token(message, parse(args)?).await,
            method => match Called::of(method) {
                Some(verb) => self.run_verb(verb, message, args).await,
                None => self.run_own_method(message, args).await,
            },
        }
    }

    async fn create_entity(&self, message: &Message, create: Create) -> Outcome {
        let key = self.entity_key("namespace", &message.namespace, create.entity)?;
        let max = self.endpoints.get(key.endpoint.as_str())?.max_entities();
        self.core
            .change(Operation::IsActive, |state, txn| {
                check_active(state)?;
                if state.entities.contains_key(&key) {
                    return Err(exists(&key));
                }
                let count = state.entities.keys().filter(|k| k.endpoint == key.endpoint).count();
                if count >= max {
                    return Err(too_many(&key, max));
                }
                state.put_entity(&key, EntityPhase::Creating, txn);
                Ok(())
            })
            .await?;
        let mut new_home = false;
        let created = self.make_entity(message, &key, &create, &mut new_home).await;
        match created {
            Ok(answer) => {
                self.core
                    .change(Operation::CreateEntity, |state, txn| {
                        state.put_entity(&key, EntityPhase::Ready, txn);
                        Ok(())
                    })
                    .await?;
                info!(endpoint = %key.endpoint, entity = key.number, "entity created");
                Ok(answer)
            }
            Err(error) => {
                // A home that was there is from before the record, with what was played in it.
                self.remove_entity(&key, new_home).await?;
                Err(error)
            }
        }
    }

    async fn make_entity(
        &self,
        message: &Message,
        key: &EntityKey,
        create: &Create,
        new_home: &mut bool,
    ) -> Outcome {
        let endpoint = self.endpoints.get(key.endpoint.as_str())?;
        let process = endpoint.process();
        let wishes = match &process {
            Some(process) => wishes(process, &create.ports)?,
            None => create.ports.clone(),
        };
        let ports =
            if wishes.is_empty() { Vec::new() } else { self.core.reserve(key, &wishes).await? };
        *new_home = endpoint.create_home(key.number).await?;
        if let Some(process) = process {
            self.processes.furnish(key, process, ports.clone()).await?;
        }
        let result = self.run_on(message, "create", Some(key), &create.args).await?;
        let answer = json!({"ports": ports_json(&ports), "result": result.unwrap_or_default()});
        answer.as_object().cloned().ok_or_else(|| Error::new(Reason::Internal, "no object"))
    }

    /// Removes what a creation or deletion leaves: its home if it shall, record and ports.
    async fn remove_entity(&self, key: &EntityKey, home: bool) -> Result<()> {
        self.processes.remove(key).await?;
        if home {
            self.endpoints.get(key.endpoint.as_str())?.remove_home(key.number).await?;
        }
        self.core
            .change(Operation::DeleteEntity, |state, txn| {
                state.delete_entity(key, txn);
                self.processes.forget(key);
                Ok(())
            })
            .await
    }

    async fn delete_entity(&self, message: &Message, delete: Delete) -> Outcome {
        let key = self.entity_key("namespace", &message.namespace, delete.entity)?;
        self.phase(&key).await?;
        self.use_token(&key, delete.token.as_deref(), &message.id).await?;
        self.processes.leave(&key, false).await?;
        self.delete_known(message, &key, &delete.args).await
    }

    async fn delete_known(&self, message: &Message, key: &EntityKey, args: &JsonObject) -> Outcome {
        let result = self.run_on(message, "delete", Some(key), args).await?;
        self.remove_entity(key, true).await?;
        info!(endpoint = %key.endpoint, entity = key.number, "entity deleted");
        Ok(JsonObject::from_iter([(
            "result".to_owned(),
            Value::Object(result.unwrap_or_default()),
        )]))
    }

    async fn status_entity(&self, message: &Message, member: Member) -> Outcome {
        let key = self.entity_key("namespace", &message.namespace, member.entity)?;
        let phase = self.phase(&key).await?;
        let process = self.process_status(&key).await?;
        let result = self.run_on(message, "status", Some(&key), &member.args).await?;
        Ok(answer(phase, process, result.unwrap_or_default()))
    }

    /// A method that the operator declared.
    async fn run_own_method(&self, message: &Message, args: &JsonObject) -> Outcome {
        let key = match entity_of(args) {
            Some(number) => Some(self.entity_key("namespace", &message.namespace, number)?),
            None if args.contains_key("entity") => {
                return Err(Error::invalid("args.entity", "must be the number of an entity"));
            }
            None => None,
        };
        if let Some(key) = &key
            && self.phase(key).await? != EntityPhase::Ready
        {
            return Err(Error::new(
                Reason::StateRefused,
                format!("entity {} {} is not ready", key.endpoint, key.number),
            ));
        }
        let result = self.run_on(message, &message.method, key.as_ref(), args).await?;
        result.ok_or_else(|| {
            Error::new(
                Reason::MethodNotFound,
                format!("endpoint {} has no method {}", message.namespace, message.method),
            )
        })
    }

    /// Runs the endpoint's program for a method; nothing when it declares none.
    pub(crate) async fn run_on(
        &self,
        message: &Message,
        method: &str,
        key: Option<&EntityKey>,
        args: &JsonObject,
    ) -> Result<Option<JsonObject>> {
        let endpoint = self.endpoints.get(&message.namespace)?;
        if !endpoint.has_method(method) {
            return Ok(None);
        }
        let subject = match key {
            Some(key) => Some(Subject {
                entity: key.number,
                ports: self
                    .core
                    .look(Operation::IsActive, |state| Ok(state.ports.of_entity(key)))
                    .await?,
            }),
            None => None,
        };
        let (told, news) = watch::channel(String::new());
        let invocation = Invocation {
            method: method.to_owned(),
            message_id: message.id.clone(),
            subject,
            args: args.clone(),
            progress: message.request.is_some().then_some(told),
        };
        tokio::select! {
            biased;
            result = self.run_invocation(endpoint, invocation) => result.map(Some),
            never = self.tell_progress(message, news) => match never {},
        }
    }

    async fn run_invocation(&self, endpoint: &Endpoint, invocation: Invocation) -> Outcome {
        if let Some(stub) = self.endpoints.stub() {
            let agent = self.manager.agent_id().unwrap_or(0);
            return stub.run(agent, endpoint.name(), invocation).await;
        }
        endpoint.start(invocation).await?.wait().await
    }

    /// Tells the manager what a running method says of its progress, not all the time.
    async fn tell_progress(
        &self,
        message: &Message,
        mut news: watch::Receiver<String>,
    ) -> Infallible {
        while news.changed().await.is_ok() {
            let text = news.borrow_and_update().clone();
            self.tell(message, ResponseState::Running, &text);
            sleep(TELL_EVERY).await;
        }
        pending().await
    }

    /// Answers when what it rests on is durable: `status_entity` is not journaled.
    pub(crate) async fn phase(&self, key: &EntityKey) -> Result<EntityPhase> {
        self.core
            .change(Operation::IsActive, |state, _| {
                state.entities.get(key).copied().ok_or_else(|| not_found(key))
            })
            .await
    }

    /// What an interrupted create leaves is not known: the entity stays, as FAILED.
    pub(crate) async fn settle_entity(&self, message: &Message) -> Result<()> {
        let Body::Object(args) = &message.body else { return Ok(()) };
        let (CREATE, Some(number)) = (message.method.as_str(), entity_of(args)) else {
            return Ok(());
        };
        let Ok(key) = self.entity_key("namespace", &message.namespace, number) else {
            return Ok(());
        };
        warn!(error = %interrupted(message), endpoint = %key.endpoint, entity = number, "create");
        self.core
            .change(Operation::CreateEntity, |state, txn| {
                if state.entities.get(&key) == Some(&EntityPhase::Creating) {
                    state.put_entity(&key, EntityPhase::Failed, txn);
                }
                Ok(())
            })
            .await
    }

    /// Deletes an entity of which no message says so. The record wins over any token.
    ///
    /// # Errors
    /// What its delete method ends with.
    pub(crate) async fn delete_unrecorded(
        &self,
        id: MessageId,
        endpoint: &str,
        number: u32,
        args: JsonObject,
    ) -> Outcome {
        let message = Message {
            id,
            namespace: endpoint.to_owned(),
            method: DELETE.to_owned(),
            ..crate::life::internal_message()
        };
        let key = self.entity_key("namespace", endpoint, number)?;
        self.phase(&key).await?;
        self.processes.leave(&key, true).await?;
        self.delete_known(&message, &key, &args).await
    }
}

fn exists(key: &EntityKey) -> Error {
    Error::new(
        Reason::AlreadyExists,
        format!("this agent has entity {} {} already", key.endpoint, key.number),
    )
}

fn too_many(key: &EntityKey, max: usize) -> Error {
    Error::new(
        Reason::StateRefused,
        format!("endpoint {} has {max} entities here, as many as it may", key.endpoint),
    )
}
