//! How a test begins a request, and how it looks at what has become of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use goperation::{
    Error,
    v1::{self, request_service_client::RequestServiceClient, watch_request_response::Event},
};
use goperation_emulator::CHANGING;
use goperation_harness::poll_until;
use tonic::{Streaming, transport::Channel};

use crate::procs::Clients;

/// How long a request may take to end after everything that it waits for is there.
pub(crate) const END: Duration = Duration::from_secs(120);

pub(crate) fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// The changing method of every agent's stub, for all agents.
pub(crate) fn work() -> v1::CreateRequestRequest {
    v1::CreateRequestRequest {
        namespace: "stub".to_owned(),
        method: CHANGING.to_owned(),
        on: Some(v1::RequestSelection { all: true, ..v1::RequestSelection::default() }),
        ..v1::CreateRequestRequest::default()
    }
}

fn typed<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, Error> {
    answer.map(tonic::Response::into_inner).map_err(|status| Error::from_status(&status))
}

impl Clients {
    pub(crate) fn requests(&self) -> RequestServiceClient<Channel> {
        RequestServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn create_request(
        &self,
        request: v1::CreateRequestRequest,
    ) -> Result<v1::Request, Error> {
        let created = typed(self.requests().create_request(request).await)?;
        Ok(created.request.expect("a request"))
    }

    pub(crate) async fn show_request(&self, id: &str) -> Result<v1::Request, Error> {
        let request = v1::ShowRequestRequest { id: id.to_owned() };
        let shown = typed(self.requests().show_request(request).await)?;
        Ok(shown.request.expect("a request"))
    }

    /// Waits until it is in that state, also over a restart of the manager.
    pub(crate) async fn until_state(&self, id: &str, state: v1::RequestState) -> v1::Request {
        let what = format!("request {id} is {}", state.as_str_name());
        let is = async || self.show_request(id).await.is_ok_and(|request| request.state() == state);
        poll_until(END, &what, is).await;
        self.show_request(id).await.unwrap()
    }

    /// Every row, by number of the agent; the manager lives.
    pub(crate) async fn responses(&self, id: &str) -> BTreeMap<i32, v1::AgentResponse> {
        let mut rows = BTreeMap::new();
        let mut request = v1::IndexResponsesRequest {
            id: id.to_owned(),
            page_size: 1000,
            ..v1::IndexResponsesRequest::default()
        };
        loop {
            let page = typed(self.requests().index_responses(request.clone()).await).unwrap();
            for row in page.responses {
                let agent = row.agent_id;
                assert!(rows.insert(agent, row).is_none(), "two rows of agent {agent}");
            }
            if page.next_page_token.is_empty() {
                assert_eq!(page.total_size, i32::try_from(rows.len()).unwrap());
                return rows;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// What becomes of a request from a cursor on.
    pub(crate) async fn watch(
        &self,
        id: &str,
        cursor: &str,
        follow: bool,
    ) -> Result<Streaming<v1::WatchRequestResponse>, Error> {
        let (id, cursor) = (id.to_owned(), cursor.to_owned());
        typed(self.requests().watch_request(v1::WatchRequestRequest { id, cursor, follow }).await)
    }

    /// Every event of a request that has ended, up to its last summary.
    pub(crate) async fn events(&self, id: &str) -> Vec<v1::WatchRequestResponse> {
        let mut stream = self.watch(id, "", false).await.unwrap();
        let mut events = Vec::new();
        while let Some(event) = stream.message().await.unwrap() {
            events.push(event);
        }
        events
    }
}

/// What an event says of an agent.
pub(crate) fn of_agent(event: &v1::WatchRequestResponse) -> Option<&v1::AgentEvent> {
    match event.event.as_ref()? {
        Event::Agent(agent) => Some(agent),
        Event::Request(_) | Event::Summary(_) => None,
    }
}

/// The summary that an event is.
pub(crate) fn summary(event: &v1::WatchRequestResponse) -> Option<&v1::Request> {
    match event.event.as_ref()? {
        Event::Summary(request) => Some(request),
        Event::Agent(_) | Event::Request(_) => None,
    }
}

/// How far along an answer is; an agent never goes back.
fn rank(state: v1::ResponseState) -> u8 {
    use v1::ResponseState as S;
    match state {
        S::Unspecified | S::Pending => 0,
        S::Sent => 1,
        S::Accepted => 2,
        S::Running => 3,
        S::Silent | S::Skipped => 4,
        S::Succeeded | S::Failed => 5,
    }
}

/// A stream is in order: no event twice, no agent goes back, the request begins first, and the
/// summary comes when every agent is final.
pub(crate) fn is_in_order(events: &[v1::WatchRequestResponse]) {
    let mut cursors = BTreeSet::new();
    let mut states: BTreeMap<i32, v1::ResponseState> = BTreeMap::new();
    let mut ended = false;
    assert!(matches!(events[0].event, Some(Event::Request(_))), "{:?}", events[0]);
    for event in events {
        assert!(cursors.insert(&event.cursor), "twice: {event:?}");
        if let Some(agent) = of_agent(event) {
            let before = states.insert(agent.agent_id, agent.state());
            let before = before.map_or(0, rank);
            assert!(before <= rank(agent.state()), "goes back: {event:?}");
            // What an agent says of its progress is news, what it has answered is not.
            let again = before == rank(agent.state()) && before != 3;
            assert!(!again || agent.late, "again: {event:?}");
            assert!(!ended || agent.late, "after the summary: {event:?}");
        }
        if let Some(request) = summary(event) {
            assert!(!ended, "a second summary: {event:?}");
            ended = true;
            let counts = request.counts.unwrap();
            assert_eq!((counts.pending, counts.running), (0, 0), "{counts:?}");
        }
    }
}

/// What the events say of each agent at last is what its row says.
pub(crate) fn is_what_the_rows_say(
    events: &[v1::WatchRequestResponse],
    rows: &BTreeMap<i32, v1::AgentResponse>,
) {
    let mut last = BTreeMap::new();
    for agent in events.iter().filter_map(of_agent) {
        last.insert(agent.agent_id, agent);
    }
    for (number, row) in rows {
        let event = last.remove(number).unwrap_or_else(|| panic!("no event of agent {number}"));
        assert_eq!(
            (event.state, event.resultcode, &event.reason, &event.message, event.late),
            (row.state, row.resultcode, &row.reason, &row.message, row.late),
            "agent {number}"
        );
        assert_eq!(
            (&event.host, &event.result, &event.details, event.batch),
            (&row.host, &row.result, &row.details, row.batch),
            "agent {number}"
        );
    }
    assert!(last.is_empty(), "events without rows: {last:?}");
}

/// The counts of a request are what its rows add up to.
pub(crate) fn adds_up(request: &v1::Request, rows: &BTreeMap<i32, v1::AgentResponse>) {
    use v1::ResponseState as S;
    let count = |states: &[S]| {
        let is = |row: &&v1::AgentResponse| states.contains(&row.state());
        i32::try_from(rows.values().filter(is).count()).unwrap()
    };
    let late = rows.values().filter(|row| row.late).count();
    let counted = v1::RequestCounts {
        agents: i32::try_from(rows.len()).unwrap(),
        pending: count(&[S::Pending]),
        running: count(&[S::Sent, S::Accepted, S::Running]),
        succeeded: count(&[S::Succeeded]),
        failed: count(&[S::Failed]),
        silent: count(&[S::Silent]),
        skipped: count(&[S::Skipped]),
        late: i32::try_from(late).unwrap(),
    };
    assert_eq!(request.counts, Some(counted), "request {}", request.id);
}
