//! Where each agent of a request is, by the events that were seen.
//!
//! Invariant: the events of a request from its first one on give the same tally, however they
//! were cut into streams.

use std::collections::BTreeMap;

use goperation::v1::{
    AgentEvent, Request, RequestCounts, ResponseState, WatchRequestResponse,
    watch_request_response::Event,
};

/// Where an agent is.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Host.
    pub(super) host: String,
    /// Where it is.
    pub(super) state: ResponseState,
    /// Why it failed or is silent.
    pub(super) reason: String,
    /// In words.
    pub(super) message: String,
    /// What it says of its progress.
    pub(super) progress: String,
    /// The answer came when it had been given up.
    pub(super) late: bool,
}

/// A request and where its agents are.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    /// The request as it was last told.
    pub(super) request: Request,
    /// Agents that something was told of, by number.
    pub(super) rows: BTreeMap<i32, Row>,
    /// The last batch that something was told of; 0 for none.
    pub(super) batch: i32,
}

impl Tally {
    /// That of a request of which nothing was told yet.
    pub(super) fn new(request: Request) -> Self {
        Self { request, rows: BTreeMap::new(), batch: 0 }
    }

    /// Takes what has happened.
    pub(super) fn take(&mut self, event: &WatchRequestResponse) {
        match &event.event {
            Some(Event::Agent(agent)) => self.agent(agent),
            Some(Event::Request(request) | Event::Summary(request)) => {
                self.request = request.clone();
            }
            None => {}
        }
    }

    fn agent(&mut self, agent: &AgentEvent) {
        self.batch = self.batch.max(agent.batch);
        let row = Row {
            host: agent.host.clone(),
            state: agent.state(),
            reason: agent.reason.clone(),
            message: agent.message.clone(),
            progress: agent.progress.clone(),
            late: agent.late,
        };
        self.rows.insert(agent.agent_id, row);
    }

    /// How many agents are where.
    pub(super) fn counts(&self) -> RequestCounts {
        let said = self.request.counts.unwrap_or_default();
        let of = |states: &[ResponseState]| {
            let rows = self.rows.values().filter(|row| states.contains(&row.state)).count();
            i32::try_from(rows).unwrap_or(i32::MAX)
        };
        let running = of(&[ResponseState::Sent, ResponseState::Accepted, ResponseState::Running]);
        let succeeded = of(&[ResponseState::Succeeded]);
        let failed = of(&[ResponseState::Failed]);
        let silent = of(&[ResponseState::Silent]);
        let skipped = of(&[ResponseState::Skipped]);
        let late = self.rows.values().filter(|row| row.late).count();
        let begun = running + succeeded + failed + silent + skipped;
        let agents = said.agents.max(begun);
        RequestCounts {
            agents,
            pending: agents - begun,
            running,
            succeeded,
            failed,
            silent,
            skipped,
            late: i32::try_from(late).unwrap_or(i32::MAX),
        }
    }

    /// Agents in a state, by number.
    pub(super) fn in_state(&self, state: ResponseState) -> impl Iterator<Item = (i32, &Row)> {
        self.rows.iter().filter(move |(_, row)| row.state == state).map(|(id, row)| (*id, row))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An event of an agent `h<id>`.
    pub(in super::super) fn event(
        id: i32,
        state: ResponseState,
        reason: &str,
        message: &str,
    ) -> WatchRequestResponse {
        let agent = AgentEvent {
            agent_id: id,
            host: format!("h{id}"),
            state: state.into(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            ..AgentEvent::default()
        };
        WatchRequestResponse { event: Some(Event::Agent(agent)), ..WatchRequestResponse::default() }
    }

    /// A request for so many agents.
    pub(in super::super) fn request(agents: i32) -> Request {
        Request {
            id: "r1".to_owned(),
            namespace: "sample".to_owned(),
            method: "echo".to_owned(),
            state: goperation::v1::RequestState::Running.into(),
            counts: Some(RequestCounts { agents, pending: agents, ..RequestCounts::default() }),
            ..Request::default()
        }
    }

    #[test]
    fn counts_add_up_whatever_was_told() {
        let mut tally = Tally::new(request(6));
        assert_eq!(tally.counts().pending, 6);
        for (id, state) in [
            (1, ResponseState::Sent),
            (2, ResponseState::Sent),
            (1, ResponseState::Accepted),
            (1, ResponseState::Running),
            (1, ResponseState::Succeeded),
            (3, ResponseState::Silent),
            (4, ResponseState::Failed),
            (5, ResponseState::Skipped),
        ] {
            tally.take(&event(id, state, "", ""));
        }
        let mut want = RequestCounts {
            agents: 6,
            pending: 1,
            running: 1,
            succeeded: 1,
            failed: 1,
            silent: 1,
            skipped: 1,
            late: 0,
        };
        assert_eq!(tally.counts(), want);
        let mut late = event(3, ResponseState::Succeeded, "", "");
        if let Some(Event::Agent(agent)) = &mut late.event {
            agent.late = true;
        }
        tally.take(&late);
        (want.silent, want.succeeded, want.late) = (0, 2, 1);
        assert_eq!(tally.counts(), want);
    }
}
