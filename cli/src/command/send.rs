//! `gop cast` and `gop call`: a target as people write it becomes the bridge's.

use std::time::Duration;

use goperation::{
    JsonObject, MessageId, now_millis, to_timestamp,
    v1::{self, CallRequest, CastRequest},
};
use prost_types::{Struct, Timestamp};
use serde_json::Value;

use crate::{
    args::{Call, Cast, Order},
    client::Client,
    command::{agent, entity},
    error::Error,
    hint::{Repeat, Subject},
    output::{Output, object},
    parse::{self, Target},
};

/// An order whose target is known to the bridge.
struct Resolved {
    target: v1::Target,
    subject: Subject,
    args: Struct,
    finish_time: Option<Timestamp>,
    /// Made here when none was given, so that a repeat is safe whatever happens.
    message_id: String,
}

/// Sends a CAST.
pub(crate) async fn cast(client: &Client, output: Output, cast: Cast) -> Result<(), Error> {
    let resolved = resolve(client, &cast.order).await?;
    let request = CastRequest {
        target: Some(resolved.target),
        method: cast.order.method,
        args: Some(resolved.args),
        agents: cast.agents,
        finish_time: resolved.finish_time,
        message_id: resolved.message_id.clone(),
        request_id: String::new(),
    };
    let answer = client
        .bridge()
        .cast(client.request(request))
        .await
        .map_err(|e| failed(e, &resolved.subject, &resolved.message_id))?
        .into_inner();
    output.answer(&answer, |a| format!("sent {}", a.message_id))
}

/// Sends a CALL and prints its result.
pub(crate) async fn call(client: &Client, output: Output, call: Call) -> Result<(), Error> {
    let resolved = resolve(client, &call.order).await?;
    let request = CallRequest {
        target: Some(resolved.target),
        method: call.order.method,
        args: Some(resolved.args),
        timeout: prost_types::Duration::try_from(client.timeout()).ok(),
        finish_time: resolved.finish_time,
        message_id: resolved.message_id.clone(),
    };
    let answer = client
        .bridge()
        .call(client.request(request))
        .await
        .map_err(|e| failed(e, &resolved.subject, &resolved.message_id))?
        .into_inner();
    output.answer(&answer, |a| format!("{:#}", Value::Object(object(a.result.as_ref()))))
}

/// The error of an order; one without the bridge's own details still has the message id.
fn failed(status: tonic::Status, subject: &Subject, message_id: &str) -> Error {
    let mut error = goperation::Error::from_status(&status);
    error.metadata.entry("message_id".to_owned()).or_insert_with(|| message_id.to_owned());
    Error::from(error).about(&Subject { repeat: Repeat::MessageId, ..subject.clone() })
}

async fn resolve(client: &Client, order: &Order) -> Result<Resolved, Error> {
    let mut args = order.args.object()?;
    let message_id = MessageId::given_or_new("--message-id", &order.message_id)
        .map_err(|e| Error::Usage(e.to_string()))?;
    let (target, subject) = address(client, &order.target, &mut args).await?;
    Ok(Resolved {
        target,
        subject,
        args: parse::to_struct(&args)?,
        finish_time: order.finish.map(from_now),
        message_id: message_id.to_string(),
    })
}

async fn address(
    client: &Client,
    target: &Target,
    args: &mut JsonObject,
) -> Result<(v1::Target, Subject), Error> {
    Ok(match target {
        Target::All { agent_type, namespace } => {
            let topic = agent_type.as_ref().map_or_else(|| "agent".to_owned(), |t| topic(t));
            (broadcast(topic, namespace), Subject::default())
        }
        Target::Any { agent_type, namespace } => {
            let target = v1::Target {
                topic: topic(agent_type),
                namespace: namespace.clone(),
                ..v1::Target::default()
            };
            (target, Subject::default())
        }
        Target::Agent { id, namespace } => {
            (one(client, *id, namespace).await?, Subject::agent(*id))
        }
        Target::Entity(name) => {
            if args.insert("entity".to_owned(), Value::from(name.number)).is_some() {
                return Err(Error::Usage(
                    "the target names the entity: no --arg entity".to_owned(),
                ));
            }
            let id = entity::agent_of(client, name).await?;
            let mut subject = Subject::entity(&name.endpoint, name.number);
            subject.agent = Some(id);
            (one(client, id, &name.endpoint).await?, subject)
        }
    })
}

async fn one(client: &Client, id: i32, namespace: &str) -> Result<v1::Target, Error> {
    let agent = agent::show(client, id).await?;
    Ok(v1::Target {
        topic: topic(&agent.r#type),
        host: agent.host,
        fanout: false,
        namespace: namespace.to_owned(),
    })
}

fn broadcast(topic: String, namespace: &str) -> v1::Target {
    v1::Target { topic, host: String::new(), fanout: true, namespace: namespace.to_owned() }
}

fn topic(agent_type: &str) -> String {
    format!("agent.{agent_type}")
}

fn from_now(after: Duration) -> Timestamp {
    let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    to_timestamp(now_millis().saturating_add(after))
}
