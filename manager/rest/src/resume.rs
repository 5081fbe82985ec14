//! How a reader of events goes on by itself: each event has its `cursor` as id, and a reader that
//! comes back says the last one that it has seen (`Last-Event-ID`, as in the HTML standard).
//!
//! Invariant: only a stream whose messages and request have a `cursor` is gone on with.

use goperation::Error;
use http::HeaderMap;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _,
};

use crate::headers;

const LAST: &str = "last-event-id";

/// The field that says where a message is in its stream.
fn cursor(message: &MessageDescriptor) -> Option<FieldDescriptor> {
    message.get_field_by_name("cursor").filter(|field| field.kind() == Kind::String)
}

/// The id of an event, if its message has one that is one line.
pub(crate) fn id(message: &DynamicMessage) -> Option<String> {
    let field = cursor(&message.descriptor())?;
    let id = message.get_field(&field).as_str()?.to_owned();
    (!id.is_empty() && !id.contains(['\r', '\n', '\0'])).then_some(id)
}

/// Whether a reader of events comes back.
fn is_back(headers: &HeaderMap) -> bool {
    headers::wants_events(headers) && headers.get(LAST).is_some_and(|last| !last.is_empty())
}

/// Has a stream begin after what its reader has seen. That is newer than what the query says: a
/// browser comes back by the address of its first try.
pub(crate) fn go_on(request: &mut DynamicMessage, headers: &HeaderMap) -> Result<(), Error> {
    let Some(field) = cursor(&request.descriptor()).filter(|_| is_back(headers)) else {
        return Ok(());
    };
    let last = headers.get(LAST).and_then(|last| last.to_str().ok());
    let last = last.ok_or_else(|| Error::invalid("Last-Event-ID", "must be printable ASCII"))?;
    request.set_field(&field, prost_reflect::Value::String(last.to_owned()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use goperation::DESCRIPTOR;
    use prost_reflect::DescriptorPool;

    use super::*;

    fn message(name: &str, cursor: &str) -> DynamicMessage {
        let pool = DescriptorPool::decode(DESCRIPTOR).unwrap();
        let descriptor = pool.get_message_by_name(name).unwrap();
        let mut message = DynamicMessage::new(descriptor);
        message.set_field_by_name("cursor", prost_reflect::Value::String(cursor.to_owned()));
        message
    }

    fn headers(accept: &'static str, last: &'static str) -> HeaderMap {
        [("accept", accept), (LAST, last)]
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .into_iter()
            .collect()
    }

    #[test]
    fn an_event_has_the_id_of_its_cursor() {
        let event = |cursor| message("goperation.v1.WatchRequestResponse", cursor);
        assert_eq!(id(&event("7-a")), Some("7-a".to_owned()));
        assert_eq!(id(&event("")), None);
        assert_eq!(id(&event("7\n")), None);
        let pool = DescriptorPool::decode(DESCRIPTOR).unwrap();
        let other = pool.get_message_by_name("goperation.v1.Request").unwrap();
        assert_eq!(id(&DynamicMessage::new(other)), None);
    }

    #[test]
    fn who_comes_back_goes_on_after_the_last_event() {
        let begun = |headers: HeaderMap| {
            let mut request = message("goperation.v1.WatchRequestRequest", "3-a");
            go_on(&mut request, &headers).unwrap();
            request.get_field_by_name("cursor").unwrap().as_str().unwrap().to_owned()
        };
        assert_eq!(begun(headers("text/event-stream", "7-a")), "7-a");
        assert_eq!(begun(headers("text/event-stream", "")), "3-a");
        assert_eq!(begun(headers("application/json", "7-a")), "3-a");
        assert_eq!(begun(HeaderMap::new()), "3-a");
    }
}
