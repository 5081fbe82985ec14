//! Messages and rows as they are stored.
//!
//! Invariant: every row begins with its version; one that this program does not know is refused,
//! never misread.

use goperation::{Error, JsonObject, MessageId, Ranges};
use prost::Message as _;

use crate::{Body, Kind, Message};

/// Version of every row written now.
const VERSION: u32 = 1;

/// A durable queue.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct QueueRow {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// Endpoints whose broadcasts it gets.
    #[prost(string, repeated, tag = "2")]
    pub(super) endpoints: Vec<String>,
}

/// A place in a queue.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PlaceRow {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// Number of the message.
    #[prost(uint64, tag = "2")]
    pub(super) body: u64,
    /// When it may be started at the latest.
    #[prost(uint64, optional, tag = "3")]
    pub(super) finish_time: Option<u64>,
}

/// A message that comes back later.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DelayedRow {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// Number of the message.
    #[prost(uint64, tag = "2")]
    pub(super) body: u64,
    /// When it may be started at the latest.
    #[prost(uint64, optional, tag = "3")]
    pub(super) finish_time: Option<u64>,
    /// Queue that it comes back to.
    #[prost(string, tag = "4")]
    pub(super) queue: String,
}

/// A dead letter.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeadRow {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// Number of the message.
    #[prost(uint64, tag = "2")]
    pub(super) body: u64,
    /// Queue in which it died.
    #[prost(string, tag = "3")]
    pub(super) queue: String,
    /// Why.
    #[prost(string, tag = "4")]
    pub(super) reason: String,
    /// When, in milliseconds since 1970.
    #[prost(uint64, tag = "5")]
    pub(super) time: u64,
}

/// A message.
#[derive(Clone, PartialEq, prost::Message)]
struct BodyRow {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(string, tag = "4")]
    namespace: String,
    #[prost(string, tag = "5")]
    method: String,
    #[prost(string, optional, tag = "6")]
    agents: Option<String>,
    #[prost(string, optional, tag = "7")]
    agent_type: Option<String>,
    #[prost(uint64, optional, tag = "8")]
    finish_time: Option<u64>,
    #[prost(uint64, optional, tag = "9")]
    deadline: Option<u64>,
    #[prost(uint32, tag = "10")]
    attempt: u32,
    #[prost(string, optional, tag = "11")]
    reply_to: Option<String>,
    #[prost(string, optional, tag = "12")]
    correlation: Option<String>,
    #[prost(string, optional, tag = "13")]
    traceparent: Option<String>,
    #[prost(uint64, tag = "14")]
    sent: u64,
    /// JSON text of an object.
    #[prost(bytes = "vec", tag = "15")]
    object: Vec<u8>,
    /// Encoded `google.rpc.Status`, instead of an object.
    #[prost(bytes = "vec", optional, tag = "16")]
    failure: Option<Vec<u8>>,
    #[prost(string, optional, tag = "17")]
    request: Option<String>,
}

macro_rules! versioned {
    ($($row:ident),*) => { $(
        impl $row {
            /// The row in stored bytes; `None` when it is of another version or not a row.
            pub(super) fn read(bytes: &[u8]) -> Option<Self> {
                Self::decode(bytes).ok().filter(|row| row.version == VERSION)
            }
        }
    )* };
}

versioned!(QueueRow, PlaceRow, DelayedRow, DeadRow);

/// A durable queue as a row.
pub(super) fn queue(endpoints: Vec<String>) -> Vec<u8> {
    QueueRow { version: VERSION, endpoints }.encode_to_vec()
}

/// A place in a queue as a row.
pub(super) fn place(body: u64, finish_time: Option<u64>) -> Vec<u8> {
    PlaceRow { version: VERSION, body, finish_time }.encode_to_vec()
}

/// A message that comes back later, as a row.
pub(super) fn delayed(body: u64, finish_time: Option<u64>, queue: String) -> Vec<u8> {
    DelayedRow { version: VERSION, body, finish_time, queue }.encode_to_vec()
}

/// A dead letter as a row.
pub(super) fn dead(body: u64, queue: String, reason: String, time: u64) -> Vec<u8> {
    DeadRow { version: VERSION, body, queue, reason, time }.encode_to_vec()
}

/// A message as a row.
pub(super) fn encode(message: &Message) -> Vec<u8> {
    let (object, failure) = match &message.body {
        // A JSON object always has a text: its keys are strings and its numbers finite.
        Body::Object(object) => (serde_json::to_vec(object).unwrap_or_default(), None),
        Body::Failure(error) => (Vec::new(), Some(error.encode())),
    };
    BodyRow {
        version: VERSION,
        kind: match message.kind {
            Kind::Cast => 1,
            Kind::Call => 2,
            Kind::Notify => 3,
            Kind::Reply => 4,
        },
        id: message.id.to_string(),
        namespace: message.namespace.clone(),
        method: message.method.clone(),
        agents: message.agents.as_ref().map(Ranges::to_string),
        agent_type: message.agent_type.clone(),
        finish_time: message.finish_time,
        deadline: message.deadline,
        attempt: message.attempt,
        reply_to: message.reply_to.clone(),
        correlation: message.correlation.clone(),
        traceparent: message.traceparent.clone(),
        sent: message.sent,
        object,
        failure,
        request: message.request.clone(),
    }
    .encode_to_vec()
}

/// The message in stored bytes; `None` when it cannot be read.
pub(super) fn decode(bytes: &[u8]) -> Option<Message> {
    let row = BodyRow::decode(bytes).ok().filter(|row| row.version == VERSION)?;
    Some(Message {
        kind: match row.kind {
            1 => Kind::Cast,
            2 => Kind::Call,
            3 => Kind::Notify,
            4 => Kind::Reply,
            _ => return None,
        },
        id: MessageId::parse("id", &row.id).ok()?,
        namespace: row.namespace,
        method: row.method,
        agents: match row.agents {
            Some(text) => Some(Ranges::parse("agents", &text).ok()?),
            None => None,
        },
        agent_type: row.agent_type,
        finish_time: row.finish_time,
        deadline: row.deadline,
        attempt: row.attempt,
        reply_to: row.reply_to,
        correlation: row.correlation,
        request: row.request,
        traceparent: row.traceparent,
        sent: row.sent,
        body: match row.failure {
            Some(status) => Body::Failure(Box::new(Error::decode(&status))),
            None => Body::Object(serde_json::from_slice::<JsonObject>(&row.object).ok()?),
        },
    })
}

#[cfg(test)]
mod tests {
    use goperation::Reason;
    use serde_json::json;

    use super::*;

    fn message(body: Body) -> Message {
        Message {
            kind: Kind::Cast,
            id: MessageId::generate(),
            namespace: "game".into(),
            method: "start".into(),
            agents: Some(Ranges::parse("agents", "1-3,7").unwrap()),
            agent_type: Some("application".into()),
            finish_time: Some(7),
            deadline: Some(8),
            attempt: 3,
            reply_to: Some("b1".into()),
            correlation: Some("c".into()),
            request: Some("r".into()),
            traceparent: Some("t".into()),
            sent: 5,
            body,
        }
    }

    #[test]
    fn messages_read_back() {
        let object = json!({"a": 9_007_199_254_740_992u64, "b": [1.5, null]});
        let object = message(Body::Object(object.as_object().unwrap().clone()));
        assert_eq!(decode(&encode(&object)), Some(object));
        let failure =
            message(Body::Failure(Box::new(Error::new(Reason::PortTaken, "7001").with("port", 1))));
        assert_eq!(decode(&encode(&failure)), Some(failure));
    }

    #[test]
    fn a_row_from_before_requests_is_read() {
        #[derive(Clone, PartialEq, prost::Message)]
        struct Before {
            #[prost(uint32, tag = "1")]
            version: u32,
            #[prost(uint32, tag = "2")]
            kind: u32,
            #[prost(string, tag = "3")]
            id: String,
            #[prost(bytes = "vec", tag = "15")]
            object: Vec<u8>,
        }
        let before =
            Before { version: VERSION, kind: 1, id: "m1".to_owned(), object: b"{}".to_vec() };
        let read = decode(&before.encode_to_vec()).unwrap();
        assert_eq!((read.id.as_str(), read.request), ("m1", None));
    }

    #[test]
    fn another_version_is_not_read() {
        let row = QueueRow { version: 2, endpoints: Vec::new() }.encode_to_vec();
        assert_eq!(QueueRow::read(&row), None);
        assert_eq!(decode(b"\xff\xff"), None);
    }
}
