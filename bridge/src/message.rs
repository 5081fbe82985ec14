//! One message as every transport carries it.
//!
//! Invariant: the id of a message never changes, however often it is sent.

use goperation::{Error, JsonObject, MessageId, Ranges, now_millis};

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A command without a result.
    Cast,
    /// A command whose result is awaited.
    Call,
    /// A message for a named queue.
    Notify,
    /// The answer to a CALL.
    Reply,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Its id; a reply has the id of its CALL.
    pub id: MessageId,
    /// `manager` or an endpoint; empty for NOTIFY and replies.
    pub namespace: String,
    /// Method; empty for NOTIFY and replies.
    pub method: String,
    /// Agents that shall run it; all when none is said.
    pub agents: Option<Ranges>,
    /// Type that a broadcast is for; every type when none is said.
    pub agent_type: Option<String>,
    /// When it may be started at the latest, in milliseconds since 1970 by the manager's clock.
    pub finish_time: Option<u64>,
    /// When nobody waits for the reply any more, in milliseconds since 1970 by the bridge's clock.
    pub deadline: Option<u64>,
    /// How often it was sent again because the agent was busy.
    pub attempt: u32,
    /// The bridge that waits for the reply.
    pub reply_to: Option<String>,
    /// Tells the attempts of one CALL apart, so that a reply meets the one that waits.
    pub correlation: Option<String>,
    /// Request that it belongs to: agents answer it to the manager.
    pub request: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// When it was first sent, in milliseconds since 1970.
    pub sent: u64,
    /// Arguments, payload or reply.
    pub body: Body,
}

impl Message {
    /// A message of now with that body, and nothing else said.
    #[must_use]
    pub fn new(kind: Kind, id: MessageId, body: Body) -> Self {
        Self {
            kind,
            id,
            namespace: String::new(),
            method: String::new(),
            agents: None,
            agent_type: None,
            finish_time: None,
            deadline: None,
            attempt: 0,
            reply_to: None,
            correlation: None,
            request: None,
            traceparent: None,
            sent: now_millis(),
            body,
        }
    }
}

/// Arguments and payloads are objects; a reply may be a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A JSON object.
    Object(JsonObject),
    /// A typed failure: only in replies.
    Failure(Box<Error>),
}
