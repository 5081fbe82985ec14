//! The way to requests by REST: what is posted, and what becomes of one as lines or as events.

use bytes::Bytes;
use futures::StreamExt as _;
use goperation::{DESCRIPTOR, v1};
use http_body_util::{BodyExt as _, BodyStream, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;

/// How a stream is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Newline-delimited JSON.
    Lines,
    /// Server-Sent Events.
    Events,
}

impl Form {
    fn kind(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Events => "text/event-stream",
        }
    }
}

/// A manager by REST.
#[derive(Debug, Clone)]
pub(crate) struct Rest {
    address: String,
    http: Client<HttpConnector, Full<Bytes>>,
    pool: DescriptorPool,
}

impl Rest {
    /// At a host and port, with connections of its own.
    pub(crate) fn new(address: &str) -> Self {
        Self {
            address: address.trim_start_matches("http://").to_owned(),
            http: Client::builder(TokioExecutor::new()).build_http(),
            pool: DescriptorPool::decode(DESCRIPTOR).unwrap(),
        }
    }

    /// The message that a JSON text is.
    pub(crate) fn read<T: prost::Message + Default>(&self, name: &str, json: Value) -> T {
        let desc = self.pool.get_message_by_name(&format!("goperation.v1.{name}")).unwrap();
        let message = DynamicMessage::deserialize(desc, json.clone());
        message.unwrap_or_else(|e| panic!("{name} from {json}: {e}")).transcode_to().unwrap()
    }

    /// The JSON of a message.
    pub(crate) fn write(&self, name: &str, message: &impl prost::Message) -> Value {
        let desc = self.pool.get_message_by_name(&format!("goperation.v1.{name}")).unwrap();
        let mut dynamic = DynamicMessage::new(desc);
        dynamic.transcode_from(message).unwrap();
        serde_json::to_value(dynamic).unwrap()
    }

    /// POSTs a body under an idempotency key: status and body of the answer, or why there is none.
    pub(crate) async fn post(
        &self,
        path: &str,
        key: &str,
        body: &Value,
    ) -> Result<(u16, Value), String> {
        let request = http::Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        let (parts, body) = self.http.request(request).await.map_err(text)?.into_parts();
        let body = body.collect().await.map_err(text)?.to_bytes();
        let json = serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{e} in {body:?}"));
        Ok((parts.status.as_u16(), json))
    }

    /// Watches a request from a cursor on; or why there is no answer.
    pub(crate) async fn watch(
        &self,
        id: &str,
        cursor: &str,
        follow: bool,
        form: Form,
    ) -> Result<Result<Frames, (u16, Value)>, String> {
        self.watch_from(id, cursor, None, follow, form).await
    }

    /// Watches a request as a browser that comes back: by the address of its first try, and the id
    /// of the last event that it has seen. A body that is empty is null.
    pub(crate) async fn come_back(
        &self,
        id: &str,
        first: &str,
        last: &str,
    ) -> Result<Frames, (u16, Value)> {
        self.watch_from(id, first, Some(last), false, Form::Events).await.unwrap()
    }

    async fn watch_from(
        &self,
        id: &str,
        cursor: &str,
        last: Option<&str>,
        follow: bool,
        form: Form,
    ) -> Result<Result<Frames, (u16, Value)>, String> {
        let path = format!("/v1/requests/{id}:watch?cursor={cursor}&follow={follow}");
        let request = http::Request::get(format!("http://{}{path}", self.address))
            .header("accept", form.kind());
        let request = match last {
            Some(last) => request.header("last-event-id", last),
            None => request,
        };
        let request = request.body(Full::default()).unwrap();
        let (parts, body) = self.http.request(request).await.map_err(text)?.into_parts();
        if parts.status == http::StatusCode::NO_CONTENT {
            return Ok(Err((parts.status.as_u16(), Value::Null)));
        }
        if parts.status != http::StatusCode::OK {
            let body = body.collect().await.map_err(text)?.to_bytes();
            let json = serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{e} in {body:?}"));
            return Ok(Err((parts.status.as_u16(), json)));
        }
        assert_eq!(parts.headers["content-type"], form.kind());
        let body = BodyStream::new(body);
        Ok(Ok(Frames { rest: self.clone(), body, text: Vec::new(), form }))
    }
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

/// A stream by REST.
#[derive(Debug)]
pub(crate) struct Frames {
    rest: Rest,
    body: BodyStream<Incoming>,
    /// What has come and was not read yet.
    text: Vec<u8>,
    form: Form,
}

impl Frames {
    /// The next event; nothing when it has ended, an error when it was broken off.
    pub(crate) async fn next(&mut self) -> Result<Option<v1::WatchRequestResponse>, String> {
        loop {
            while let Some(part) = self.part() {
                if let Some(json) = self.json(&part) {
                    return Ok(Some(self.rest.read("WatchRequestResponse", json)));
                }
            }
            match self.body.next().await {
                Some(frame) => {
                    let frame = frame.map_err(text)?;
                    self.text.extend_from_slice(&frame.into_data().unwrap_or_default());
                }
                None if self.text.is_empty() => return Ok(None),
                None => panic!("it ended in the middle of {:?}", self.text),
            }
        }
    }

    /// The next line or event that is whole.
    fn part(&mut self) -> Option<String> {
        let end: &[u8] = if self.form == Form::Lines { b"\n" } else { b"\n\n" };
        let at = self.text.windows(end.len()).position(|window| window == end)?;
        let rest = self.text.split_off(at + end.len());
        let mut part = std::mem::replace(&mut self.text, rest);
        part.truncate(at);
        Some(String::from_utf8(part).unwrap())
    }

    /// The message in it; nothing when it only says that the stream is there.
    fn json(&self, part: &str) -> Option<Value> {
        let read = |text: &str| -> Value {
            serde_json::from_str(text).unwrap_or_else(|e| panic!("{e} in {part}"))
        };
        match self.form {
            Form::Lines => {
                let mut line = read(part);
                assert!(line.get("error").is_none(), "{line}");
                Some(line["result"].take())
            }
            Form::Events if part == ":" => None,
            Form::Events => {
                let (id, data) = part
                    .strip_prefix("id: ")
                    .and_then(|part| part.split_once("\ndata: "))
                    .unwrap_or_else(|| panic!("{part}"));
                let event = read(data);
                assert_eq!(event["cursor"], id, "{part}");
                Some(event)
            }
        }
    }
}
