//! One message as AMQP carries it.
//!
//! Invariant: [`decode`] of what [`encode`] made is the message again; anything else is an error
//! and never a panic.

use goperation::{Error, JsonObject, MessageId, Ranges};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use crate::{Body, Kind, Message, Route};

/// Frame size of every connection, in bytes.
pub(super) const FRAME_MAX: u32 = 16_384;
/// Properties cannot be split over frames; this much of them surely fits one.
pub(super) const PROPERTIES_MAX: usize = 12 * 1024;

/// `type` of the message with which an agent tests its own way back.
pub(super) const CANARY: &str = "canary";

/// Number of a publish, by which its sender knows a message that was returned.
const TICKET: &str = "ticket";
/// Why a message is dead, where its sender says so.
pub(super) const REASON: &str = "reason";
/// Where it died, where its sender says so.
pub(super) const DIED_IN: &str = "died_in";
/// When it died, in milliseconds since 1970, where its sender says so.
pub(super) const DIED_AT: &str = "died_at";

const APP: &str = "goperation";
const JSON: &str = "application/json";
const STATUS: &str = "application/x-protobuf";
pub(super) const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

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
    let (content_type, body) = match &message.body {
        Body::Object(object) => {
            (JSON, serde_json::to_vec(object).map_err(|_| EncodeError::Name("body"))?)
        }
        Body::Failure(error) => (STATUS, error.encode()),
    };
    if body.len() > max_bytes {
        return Err(EncodeError::TooLarge(max_bytes));
    }
    let dead = matches!(route, Route::Dead(_));
    let mut headers = Headers::default();
    headers.text("namespace", Some(&message.namespace));
    headers.text("method", Some(&message.method));
    headers.text("agents", message.agents.as_ref().map(ToString::to_string).as_deref());
    headers.text("agent_type", message.agent_type.as_deref());
    headers.number("finishtime", message.finish_time);
    headers.number("deadline", message.deadline);
    headers.number("attempt", Some(u64::from(message.attempt)));
    headers.number("sent", Some(message.sent));
    headers.number(TICKET, Some(ticket));
    headers.text("request", message.request.as_deref());
    headers.text("traceparent", message.traceparent.as_deref());
    if let Route::Dead(agent) = route {
        headers.text(REASON, message.correlation.as_deref());
        headers.text(DIED_IN, Some(&format!("cast.{agent}")));
        headers.number(DIED_AT, Some(now));
    }
    if headers.bytes > PROPERTIES_MAX {
        return Err(EncodeError::TooLarge(PROPERTIES_MAX));
    }

    let mut properties = BasicProperties::default()
        .with_message_id(short("message_id", message.id.as_str())?)
        .with_timestamp(message.sent / 1000)
        .with_delivery_mode(if lasts(route) { PERSISTENT } else { TRANSIENT })
        .with_type(kind_text(message.kind).into())
        .with_app_id(APP.into())
        .with_content_type(content_type.into())
        .with_headers(headers.table);
    if let Some(correlation) = message.correlation.as_deref().filter(|_| !dead) {
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

/// The ticket that a message was encoded with; 0 if it has none.
pub(super) fn ticket(properties: &BasicProperties) -> u64 {
    properties.headers().as_ref().and_then(|headers| number(headers, TICKET)).unwrap_or(0)
}

/// Reads a message.
pub(super) fn decode(properties: &BasicProperties, body: &[u8]) -> Result<Message, String> {
    let headers = properties.headers().clone().unwrap_or_default();
    let text = |name: &str| text(&headers, name);
    let number = |name: &str| number(&headers, name);
    let id = properties.message_id().as_ref().map(ShortString::as_str).unwrap_or_default();
    let kind = match properties.kind().as_ref().map(ShortString::as_str) {
        Some("cast") => Kind::Cast,
        Some("call") => Kind::Call,
        Some("notify") => Kind::Notify,
        Some("reply") => Kind::Reply,
        other => return Err(format!("its type is {other:?}")),
    };
    let body = match properties.content_type().as_ref().map(ShortString::as_str) {
        Some(STATUS) => Body::Failure(Box::new(Error::decode(body))),
        Some(JSON) => Body::Object(
            serde_json::from_slice::<JsonObject>(body)
                .map_err(|e| format!("its body is not a JSON object: {e}"))?,
        ),
        other => return Err(format!("its content type is {other:?}")),
    };
    let owned = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    Ok(Message {
        kind,
        id: MessageId::parse("message_id", id).map_err(|e| e.message)?,
        namespace: text("namespace").unwrap_or_default(),
        method: text("method").unwrap_or_default(),
        agents: text("agents")
            .map(|ranges| Ranges::parse("agents", &ranges).map_err(|e| e.message))
            .transpose()?,
        agent_type: text("agent_type"),
        finish_time: number("finishtime"),
        deadline: number("deadline"),
        attempt: number("attempt").and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        reply_to: owned(properties.reply_to()),
        correlation: owned(properties.correlation_id()),
        request: text("request"),
        traceparent: text("traceparent"),
        sent: number("sent").unwrap_or(0),
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

#[derive(Default)]
struct Headers {
    table: FieldTable,
    bytes: usize,
}

impl Headers {
    fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            self.bytes += name.len() + value.len() + 6;
            put_text(&mut self.table, name, value);
        }
    }

    fn number(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.bytes += name.len() + 10;
            put_number(&mut self.table, name, value);
        }
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
            assert_eq!(encoded.properties.expiration().clone(), Some("4000".into()));
            assert_eq!(*encoded.properties.delivery_mode(), Some(TRANSIENT));
        }
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
        assert_eq!(
            encode(&route, &large, 1, 0, 1 << 20).unwrap_err(),
            EncodeError::TooLarge(PROPERTIES_MAX)
        );
        let named = Message { reply_to: Some("b".repeat(256)), ..message() };
        assert_eq!(encode(&route, &named, 1, 0, 1024).unwrap_err(), EncodeError::Name("reply_to"));
    }

    #[test]
    fn what_is_not_ours_is_an_error() {
        let good = encode(&Route::Cast(agent()), &message(), 1, 0, 1024).unwrap();
        assert!(decode(&BasicProperties::default(), b"{}").is_err());
        assert!(decode(&good.properties, b"[1]").is_err());
        assert!(decode(&good.properties, &[0xff, 0xfe]).is_err());
        let nameless = good.properties.clone().with_message_id("a b".into());
        assert!(decode(&nameless, b"{}").is_err());
        let typeless = good.properties.clone().with_type("other".into());
        assert!(decode(&typeless, b"{}").is_err());
    }
}
