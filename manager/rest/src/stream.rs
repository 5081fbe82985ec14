//! A stream of answers: newline-delimited JSON, or Server-Sent Events.
//!
//! As lines, each message is `{"result": …}` and a failure `{"error": …}` on the last line; as
//! events, each is the data of a `message`, with its cursor as id, and a failure that of an `error`.
//!
//! Invariant: a message is taken from the service only when the client has room for it, and the
//! call ends when the client goes.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream;
use goperation::Error;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, VARY},
};
use http_body::Frame;
use http_body_util::StreamBody;
use prost_reflect::DynamicMessage;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Status, Streaming};

use crate::{Answer, answer, call::too_late, headers, problem, resume, rule::Binding};

/// How long a failure has to be the answer itself; a stream that is silent for longer has begun.
const FIRST: Duration = Duration::from_millis(250);
/// How often a silent stream of events says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long the caller waits for the whole stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    /// Until when.
    pub(crate) at: Instant,
    /// How long that was at first.
    pub(crate) timeout: Duration,
}

struct State {
    messages: Streaming<DynamicMessage>,
    first: Option<Result<Option<DynamicMessage>, Status>>,
    binding: Arc<Binding>,
    deadline: Option<Deadline>,
    events: bool,
    ended: bool,
}

/// The answer to a request with these headers.
pub(crate) async fn messages(
    mut messages: Streaming<DynamicMessage>,
    binding: Arc<Binding>,
    deadline: Option<Deadline>,
    asked: &HeaderMap,
) -> Result<Response<Answer>, Status> {
    let first = match tokio::time::timeout(FIRST, messages.message()).await {
        Ok(Err(status)) => return Err(status),
        Ok(first) => Some(first),
        Err(_) => None,
    };
    let events = headers::wants_events(asked);
    if events && matches!(first, Some(Ok(None))) {
        // There is nothing more: this is how a reader of events is told not to come back.
        let mut response = Response::new(Answer::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let state = State { messages, first, binding, deadline, events, ended: false };
    let body = stream::unfold(state, |mut state| async {
        let bytes = state.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), state))
    });
    let mut response = Response::new(Answer::new(StreamBody::new(body)));
    let kind = if events { "text/event-stream" } else { "application/x-ndjson" };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// What happens next.
enum Next {
    Message(Result<Option<DynamicMessage>, Status>),
    Silence,
}

impl State {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let next = match self.first.take() {
            Some(first) => Next::Message(first),
            None => self.wait().await,
        };
        match next {
            Next::Silence => Some(Bytes::from_static(b":\n\n")),
            Next::Message(Ok(None)) => None,
            Next::Message(Ok(Some(message))) => {
                Some(match answer::bytes(&message, &self.binding) {
                    Ok(json) => self.message(&message, &json),
                    Err(error) => self.failure(&error),
                })
            }
            Next::Message(Err(status)) => Some(self.failure(&Error::from_status(&status))),
        }
    }

    async fn wait(&mut self) -> Next {
        let deadline = self.deadline;
        let over = async {
            match deadline {
                Some(deadline) => sleep_until(deadline.at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = self.messages.message() => Next::Message(message),
            () = over => {
                let timeout = deadline.map(|deadline| deadline.timeout).unwrap_or_default();
                Next::Message(Err(too_late(timeout)))
            }
            () = sleep(HEARTBEAT), if self.events => Next::Silence,
        }
    }

    fn message(&self, message: &DynamicMessage, json: &[u8]) -> Bytes {
        if !self.events {
            return [b"{\"result\":", json, b"}\n"].concat().into();
        }
        let id = resume::id(message).map(|id| format!("id: {id}\n")).unwrap_or_default();
        [id.as_bytes(), b"data: ", json, b"\n\n"].concat().into()
    }

    fn failure(&mut self, error: &Error) -> Bytes {
        self.ended = true;
        let body = problem::body(error);
        let text = if self.events {
            format!("event: error\ndata: {body}\n\n")
        } else {
            format!("{{\"error\":{body}}}\n")
        };
        text.into()
    }
}
