//! One message as AMQP carries it: what the broker looks at in its properties, and a body of two
//! lines: the head, which says all else of it as JSON, and the payload.
//!
//! Not in AMQP's headers: with ten of them, and all properties, bare request/replies were a third
//! fewer (docs/performance.md). A person who looks at a message with RabbitMQ's tools can read the
//! head all the same.
//!
//! The head names its form by a number. Form 1 had no head: what is said of the message stood in
//! headers. It is still read, for a durable queue may hold it.
//!
//! Invariant: [`decode`] of what [`encode`] made is the message again, also when an older build made
//! it; anything else is an error and never a panic.

use std::borrow::Cow;

use goperation::{Error, JsonObject, MessageId, Ranges};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use serde::{Deserialize, Serialize};

use crate::{Body, Kind, Message, Route};

/// Frame size of every connection, in bytes.
pub(super) const FRAME_MAX: u32 = 16_384;

/// `type` of the message with which an agent tests its own way back.
pub(super) const CANARY: &str = "canary";

/// Where form 1 has the ticket.
const TICKET: &str = "ticket";
/// Why a message is dead, where its sender says so.
pub(super) const REASON: &str = "reason";
/// Where it died, where its sender says so.
pub(super) const DIED_IN: &str = "died_in";
/// When it died, in milliseconds since 1970, where its sender says so.
pub(super) const DIED_AT: &str = "died_at";

/// The form that is written.
const FORM: u8 = 2;

const APP: &str = "goperation";
/// The payload is a JSON object.
const OBJECT: &str = "application/x-ndjson";
/// The same in form 1, where nothing is before it.
const OBJECT_1: &str = "application/json";
/// The payload is an encoded `google.rpc.Status`.
const STATUS: &str = "application/x-protobuf";
pub(super) const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// What ends the head. JSON has none that is not escaped.
const END: u8 = b'\n';

/// The first line of a body.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Head<'a> {
    form: u8,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub(super) namespace: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub(super) method: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    agents: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    agent_type: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finishtime: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    attempt: u32,
    sent: u64,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    request: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    traceparent: Option<Cow<'a, str>>,
    /// Number of a publish, by which its sender knows a message that was returned.
    ticket: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A message ready to be published.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
}

/// Why a message cannot be carried.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EncodeError {
    /// Larger than this many bytes.
    TooLarge(usize),
    /// A name that AMQP has no room for.
    Name(&'static str),
}

/// Encodes a message for a route. `now` is in milliseconds since 1970; the ticket comes back with
/// a message that the broker returns.
pub(super) fn encode(
    route: &Route,
    message: &Message,
    ticket: u64,
    now: u64,
    max_bytes: usize,
) -> Result<Encoded, EncodeError> {
    let head = Head {
        form: FORM,
        namespace: message.namespace.as_str().into(),
        method: message.method.as_str().into(),
        agents: message.agents.as_ref().map(|agents| agents.to_string().into()),
        agent_type: message.agent_type.as_deref().map(Cow::from),
        finishtime: message.finish_time,
        deadline: message.deadline,
        attempt: message.attempt,
        sent: message.sent,
        request: message.request.as_deref().map(Cow::from),
        traceparent: message.traceparent.as_deref().map(Cow::from),
        ticket,
    };
    let mut body = serde_json::to_vec(&head).map_err(|_| EncodeError::Name("head"))?;
    body.push(END);
    let content_type = match &message.body {
        Body::Object(object) => {
            serde_json::to_writer(&mut body, object).map_err(|_| EncodeError::Name("body"))?;
            OBJECT
        }
        Body::Failure(error) => {
            body.extend(error.encode());
            STATUS
        }
    };
    if body.len() > max_bytes {
        return Err(EncodeError::TooLarge(max_bytes));
    }
    let mut properties = BasicProperties::default()
        .with_message_id(short("message_id", message.id.as_str())?)
        .with_timestamp(message.sent / 1000)
        .with_delivery_mode(if lasts(route) { PERSISTENT } else { TRANSIENT })
        .with_type(kind_text(message.kind).into())
        .with_app_id(APP.into())
        .with_content_type(content_type.into());
    if let Route::Dead(agent) = route {
        let mut headers = FieldTable::default();
        if let Some(reason) = &message.correlation {
            put_text(&mut headers, REASON, reason);
        }
        put_text(&mut headers, DIED_IN, &format!("cast.{agent}"));
        put_number(&mut headers, DIED_AT, now);
        properties = properties.with_headers(headers);
    } else if let Some(correlation) = &message.correlation {
        properties = properties.with_correlation_id(short("correlation", correlation)?);
    }
    if let Some(reply_to) = &message.reply_to {
        properties = properties.with_reply_to(short("reply_to", reply_to)?);
    }
    if let Some(end) = end(route, message) {
        // 0 would drop it unless a consumer is waiting at this instant.
        let left = end.saturating_sub(now).max(1);
        properties = properties.with_expiration(left.to_string().into());
    }
    Ok(Encoded { properties, body })
}

/// The head of a message and its payload.
pub(super) fn open<'a>(
    properties: &BasicProperties,
    body: &'a [u8],
) -> Result<(Head<'a>, &'a [u8]), String> {
    if let Some(headers) = properties.headers().as_ref().filter(|headers| is_form_1(headers)) {
        return Ok((Head::of_form_1(headers), body));
    }
    let mut parts = body.splitn(2, |&byte| byte == END);
    let (Some(head), Some(payload)) = (parts.next(), parts.next()) else {
        return Err("it has no head".to_owned());
    };
    let head: Head<'_> =
        serde_json::from_slice(head).map_err(|e| format!("its head cannot be read: {e}"))?;
    if head.form != FORM {
        return Err(format!("it has form {}, and this build reads 1 and {FORM}", head.form));
    }
    Ok((head, payload))
}

/// Every message of form 1 has a ticket among its headers, and no other has.
fn is_form_1(headers: &FieldTable) -> bool {
    headers.inner().contains_key(TICKET)
}

impl Head<'_> {
    fn of_form_1(headers: &FieldTable) -> Self {
        let text = |name| text(headers, name).map(Cow::Owned);
        let number = |name| number(headers, name);
        Self {
            form: 1,
            namespace: text("namespace").unwrap_or_default(),
            method: text("method").unwrap_or_default(),
            agents: text("agents"),
            agent_type: text("agent_type"),
            finishtime: number("finishtime"),
            deadline: number("deadline"),
            attempt: number("attempt").and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            sent: number("sent").unwrap_or(0),
            request: text("request"),
            traceparent: text("traceparent"),
            ticket: number(TICKET).unwrap_or(0),
        }
    }
}

/// The ticket that a message was encoded with; 0 if it has none.
pub(super) fn ticket(properties: &BasicProperties, body: &[u8]) -> u64 {
    open(properties, body).map_or(0, |(head, _)| head.ticket)
}

/// Reads a message.
pub(super) fn decode(properties: &BasicProperties, body: &[u8]) -> Result<Message, String> {
    let id = properties.message_id().as_ref().map(ShortString::as_str).unwrap_or_default();
    let kind = match properties.kind().as_ref().map(ShortString::as_str) {
        Some("cast") => Kind::Cast,
        Some("call") => Kind::Call,
        Some("notify") => Kind::Notify,
        Some("reply") => Kind::Reply,
        other => return Err(format!("its type is {other:?}")),
    };
    let (head, payload) = open(properties, body)?;
    let body = match properties.content_type().as_ref().map(ShortString::as_str) {
        Some(STATUS) => Body::Failure(Box::new(Error::decode(payload))),
        Some(OBJECT | OBJECT_1) => Body::Object(
            serde_json::from_slice::<JsonObject>(payload)
                .map_err(|e| format!("its body is not a JSON object: {e}"))?,
        ),
        other => return Err(format!("its content type is {other:?}")),
    };
    let short = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    let agents = head.agents.map(|agents| Ranges::parse("agents", &agents).map_err(|e| e.message));
    Ok(Message {
        kind,
        id: MessageId::parse("message_id", id).map_err(|e| e.message)?,
        namespace: head.namespace.into_owned(),
        method: head.method.into_owned(),
        agents: agents.transpose()?,
        agent_type: head.agent_type.map(Cow::into_owned),
        finish_time: head.finishtime,
        deadline: head.deadline,
        attempt: head.attempt,
        reply_to: short(properties.reply_to()),
        correlation: short(properties.correlation_id()),
        request: head.request.map(Cow::into_owned),
        traceparent: head.traceparent.map(Cow::into_owned),
        sent: head.sent,
        body,
    })
}

/// A text among the headers.
pub(super) fn text(headers: &FieldTable, name: &str) -> Option<String> {
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// A number ≥ 0 among the headers.
pub(super) fn number(headers: &FieldTable, name: &str) -> Option<u64> {
    match *headers.inner().get(name)? {
        AMQPValue::LongLongInt(n) => u64::try_from(n).ok(),
        AMQPValue::LongInt(n) => u64::try_from(n).ok(),
        AMQPValue::LongUInt(n) => Some(u64::from(n)),
        AMQPValue::ShortInt(n) => u64::try_from(n).ok(),
        AMQPValue::ShortUInt(n) => Some(u64::from(n)),
        AMQPValue::ShortShortInt(n) => u64::try_from(n).ok(),
        AMQPValue::ShortShortUInt(n) => Some(u64::from(n)),
        AMQPValue::Timestamp(n) => Some(n),
        _ => None,
    }
}

/// Adds a text to headers.
pub(super) fn put_text(headers: &mut FieldTable, name: &str, value: &str) {
    headers.insert(name.into(), AMQPValue::LongString(LongString::from(value)));
}

/// Adds a number to headers.
pub(super) fn put_number(headers: &mut FieldTable, name: &str, value: u64) {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    headers.insert(name.into(), AMQPValue::LongLongInt(value));
}

/// A name that fits AMQP's short string, which otherwise is cut off.
pub(super) fn short(what: &'static str, name: &str) -> Result<ShortString, EncodeError> {
    ShortString::try_new(name).map_err(|_| EncodeError::Name(what))
}

fn kind_text(kind: Kind) -> &'static str {
    match kind {
        Kind::Cast => "cast",
        Kind::Call => "call",
        Kind::Notify => "notify",
        Kind::Reply => "reply",
    }
}

/// Whether a message outlives the broker's process.
fn lasts(route: &Route) -> bool {
    !matches!(route, Route::Call(_) | Route::AnyCall(_) | Route::Reply(_))
}

/// When a message is no longer worth delivering. One that waits in a step must not expire there:
/// its agent judges it when it returns.
fn end(route: &Route, message: &Message) -> Option<u64> {
    match route {
        Route::Call(_) | Route::AnyCall(_) | Route::Reply(_) => {
            message.deadline.or(message.finish_time)
        }
        Route::RetryCast(..) | Route::RetryAny(..) | Route::Dead(_) => None,
        _ => message.finish_time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Address;
    use goperation::{AgentType, HostName, Reason};

    fn agent() -> Address {
        Address {
            agent_type: AgentType::parse("t", "application").unwrap(),
            host: HostName::parse("h", "h1").unwrap(),
        }
    }

    fn message() -> Message {
        Message {
            kind: Kind::Call,
            id: MessageId::generate(),
            namespace: "game".into(),
            method: "start".into(),
            agents: Some(Ranges::parse("a", "1-3,9").unwrap()),
            agent_type: Some("application".into()),
            finish_time: Some(20_000),
            deadline: Some(15_000),
            attempt: 3,
            reply_to: Some("b1".into()),
            correlation: Some("c1".into()),
            request: Some("0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e77".into()),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            sent: 10_000,
            body: Body::Object(
                serde_json::from_str(r#"{"a":[1,"ü"],"n":9007199254740991}"#).unwrap(),
            ),
        }
    }

    #[test]
    fn a_message_survives_the_way() {
        let failure = Body::Failure(Box::new(Error::new(Reason::AgentBusy, "busy").with("a", 1)));
        for message in [message(), Message { body: failure, kind: Kind::Reply, ..message() }] {
            let encoded = encode(&Route::Call(agent()), &message, 1, 11_000, 1024).unwrap();
            assert_eq!(decode(&encoded.properties, &encoded.body), Ok(message));
            assert_eq!(ticket(&encoded.properties, &encoded.body), 1);
            assert_eq!(encoded.properties.expiration().clone(), Some("4000".into()));
            assert_eq!(*encoded.properties.delivery_mode(), Some(TRANSIENT));
        }
    }

    #[test]
    fn what_an_older_build_left_is_read() {
        let message = message();
        let Body::Object(object) = &message.body else { unreachable!() };
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("namespace", "game"),
            ("method", "start"),
            ("agents", "1-3,9"),
            ("agent_type", "application"),
            ("request", "0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e77"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ] {
            put_text(&mut headers, name, value);
        }
        let numbers = [("finishtime", 20_000), ("deadline", 15_000), ("attempt", 3)];
        for (name, value) in numbers.into_iter().chain([("sent", 10_000), (TICKET, 7)]) {
            put_number(&mut headers, name, value);
        }
        let properties = BasicProperties::default()
            .with_message_id(message.id.as_str().into())
            .with_type("call".into())
            .with_content_type(OBJECT_1.into())
            .with_reply_to("b1".into())
            .with_correlation_id("c1".into())
            .with_headers(headers);
        let body = serde_json::to_vec(object).unwrap();
        assert_eq!(ticket(&properties, &body), 7);
        assert_eq!(decode(&properties, &body), Ok(message));
    }

    #[test]
    fn a_cast_lasts_and_a_retry_does_not_expire() {
        let cast = encode(&Route::Cast(agent()), &message(), 1, 11_000, 1024).unwrap();
        assert_eq!(*cast.properties.delivery_mode(), Some(PERSISTENT));
        assert_eq!(cast.properties.expiration().clone(), Some("9000".into()));
        let step = Route::RetryCast(agent(), Route::STEPS[0]);
        let retry = encode(&step, &message(), 1, 11_000, 1024).unwrap();
        assert_eq!(*retry.properties.expiration(), None);
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let large = Message {
            body: Body::Object([("k".to_owned(), "x".repeat(2000).into())].into_iter().collect()),
            ..message()
        };
        let route = Route::Cast(agent());
        assert_eq!(encode(&route, &large, 1, 0, 1024).unwrap_err(), EncodeError::TooLarge(1024));
        let many: Vec<_> = (1..5000).map(|n| (2 * n).to_string()).collect();
        let large =
            Message { agents: Some(Ranges::parse("a", &many.join(",")).unwrap()), ..message() };
        assert_eq!(encode(&route, &large, 1, 0, 9000).unwrap_err(), EncodeError::TooLarge(9000));
        let named = Message { reply_to: Some("b".repeat(256)), ..message() };
        assert_eq!(encode(&route, &named, 1, 0, 1024).unwrap_err(), EncodeError::Name("reply_to"));
    }

    #[test]
    fn what_is_not_ours_is_an_error() {
        let good = encode(&Route::Cast(agent()), &message(), 1, 0, 1024).unwrap();
        assert!(decode(&BasicProperties::default(), b"{}").is_err());
        assert!(decode(&good.properties, &good.body).is_ok());
        let newer = br#"{"form":3,"ticket":1}
{}"#;
        let listed = br#"{"form":2}
[1]"#;
        for body in
            [newer.as_slice(), listed, b"{}\n{}", b"[1]\n{}", b"{}", b"", b"\n", b"\xff\xfe\n"]
        {
            assert!(decode(&good.properties, body).is_err(), "{body:?}");
            assert_eq!(ticket(&good.properties, body), 0);
        }
        let nameless = good.properties.clone().with_message_id("a b".into());
        assert!(decode(&nameless, &good.body).is_err());
        let typeless = good.properties.clone().with_type("other".into());
        assert!(decode(&typeless, &good.body).is_err());
    }
}
