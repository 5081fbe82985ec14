//! Agents that answer requests as a test has them, and how a test looks at what comes of it.

use std::time::Duration;

use goperation::{Error, v1::*};
use tonic::Streaming;
use watch_request_response::Event;

use crate::harness::{Manager, answer, renewal, secret, until};

/// Everything that a stream is awaited for comes within this.
const PATIENCE: Duration = Duration::from_secs(20);

/// The host of an agent of [`fleet`].
pub(crate) fn host(agent: i32) -> String {
    format!("h{agent}")
}

/// So many agents, ACTIVE and online; their numbers are from 1.
pub(crate) async fn fleet(manager: &Manager, agents: i32) {
    for agent in 1..=agents {
        assert_eq!(manager.register(&host(agent)).await, agent);
    }
    online(manager, agents).await;
}

/// What they do again when the manager has started anew.
pub(crate) async fn online(manager: &Manager, agents: i32) {
    for agent in 1..=agents {
        let renewal = RenewAgentRequest { status: 1, ..renewal(agent, &host(agent)) };
        manager.renew(renewal).await.unwrap();
    }
}

pub(crate) fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// A request for all agents, that leaves them all the time they want.
pub(crate) fn asked() -> CreateRequestRequest {
    CreateRequestRequest {
        method: "status_agent".to_owned(),
        on: Some(RequestSelection { all: true, ..RequestSelection::default() }),
        finish_timeout: seconds(600),
        ..CreateRequestRequest::default()
    }
}

pub(crate) async fn create(
    manager: &Manager,
    request: CreateRequestRequest,
) -> Result<Request, Error> {
    answer(manager.requests().create_request(request).await).map(|answer| answer.request.unwrap())
}

pub(crate) async fn show(manager: &Manager, id: &str) -> Result<Request, Error> {
    let request = ShowRequestRequest { id: id.to_owned() };
    answer(manager.requests().show_request(request).await).map(|answer| answer.request.unwrap())
}

/// The rows that pass a filter.
pub(crate) async fn rows(
    manager: &Manager,
    id: &str,
    filter: &str,
) -> Result<Vec<AgentResponse>, Error> {
    let mut request = IndexResponsesRequest {
        id: id.to_owned(),
        filter: filter.to_owned(),
        page_size: 1000,
        ..IndexResponsesRequest::default()
    };
    let mut rows = Vec::new();
    loop {
        let page = answer(manager.requests().index_responses(request.clone()).await)?;
        rows.extend(page.responses);
        if page.next_page_token.is_empty() {
            return Ok(rows);
        }
        request.page_token = page.next_page_token;
    }
}

/// Waits until so many rows pass.
pub(crate) async fn until_rows(manager: &Manager, id: &str, filter: &str, count: usize) {
    let what = format!("{count} rows with {filter}");
    until(&what, || async { rows(manager, id, filter).await.unwrap().len() == count }).await;
}

pub(crate) async fn until_state(manager: &Manager, id: &str, state: RequestState) -> Request {
    let what = format!("it is {}", state.as_str_name());
    until(&what, || async { show(manager, id).await.unwrap().state() == state }).await;
    show(manager, id).await.unwrap()
}

/// What an agent says.
pub(crate) fn word(id: &str, agent: i32, state: ResponseState) -> RespondRequest {
    RespondRequest {
        id: id.to_owned(),
        agent_id: agent,
        secret: secret(&host(agent)),
        state: state.into(),
        ..RespondRequest::default()
    }
}

/// Whether what an agent says has changed its row.
pub(crate) async fn respond(manager: &Manager, word: RespondRequest) -> Result<bool, Error> {
    answer(manager.requests().respond(word).await).map(|answer| answer.taken)
}

/// An agent has done it well.
pub(crate) async fn succeed(manager: &Manager, id: &str, agent: i32) {
    let taken = respond(manager, word(id, agent, ResponseState::Succeeded)).await.unwrap();
    assert!(taken, "agent {agent}");
}

pub(crate) async fn overtime(manager: &Manager, id: &str, agents: &str) -> Result<Request, Error> {
    let request = OvertimeRequest { id: id.to_owned(), agents: agents.to_owned() };
    answer(manager.requests().overtime(request).await).map(|answer| answer.request.unwrap())
}

pub(crate) async fn cancel(manager: &Manager, id: &str) -> Result<Request, Error> {
    let request = CancelRequestRequest { id: id.to_owned() };
    answer(manager.requests().cancel_request(request).await).map(|answer| answer.request.unwrap())
}

pub(crate) async fn watch(
    manager: &Manager,
    id: &str,
    cursor: &str,
    follow: bool,
) -> Result<Streaming<WatchRequestResponse>, Error> {
    let request = WatchRequestRequest { id: id.to_owned(), cursor: cursor.to_owned(), follow };
    answer(manager.requests().watch_request(request).await)
}

/// The next event; none when the stream has ended.
pub(crate) async fn next(
    stream: &mut Streaming<WatchRequestResponse>,
) -> Result<Option<WatchRequestResponse>, Error> {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap();
    next.map_err(|status| Error::from_status(&status))
}

/// All events up to the end of the stream.
pub(crate) async fn all_events(manager: &Manager, id: &str) -> Vec<WatchRequestResponse> {
    let mut stream = watch(manager, id, "", false).await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = next(&mut stream).await.unwrap() {
        events.push(event);
    }
    events
}

/// What happened to an agent, if the event is about one.
pub(crate) fn of_agent(event: &WatchRequestResponse) -> Option<&AgentEvent> {
    match event.event.as_ref().unwrap() {
        Event::Agent(event) => Some(event),
        _ => None,
    }
}

/// The request at its end, if the event is that.
pub(crate) fn summary(event: &WatchRequestResponse) -> Option<&Request> {
    match event.event.as_ref().unwrap() {
        Event::Summary(request) => Some(request),
        _ => None,
    }
}

/// The states of an agent, in the order in which they were told.
pub(crate) fn states(events: &[WatchRequestResponse], agent: i32) -> Vec<ResponseState> {
    let events = events.iter().filter_map(of_agent).filter(|event| event.agent_id == agent);
    events.map(AgentEvent::state).collect()
}
