//! What is done with a request that is there: its agents answer, and an operator cancels it, goes on
//! with it, gives agents up, or removes it. What changes it is asked of its run.
//!
//! Invariant: only an agent itself answers for its row.

use std::sync::Arc;

use goperation::{
    Error, Ranges, Reason, Result,
    v1::{
        CancelRequestRequest, CancelRequestResponse, OvertimeRequest, OvertimeResponse, Request,
        RespondRequest, RespondResponse, ResponseState, ResumeRequestRequest,
        ResumeRequestResponse,
    },
};
use prost::Message;

use super::{Ask, Closing, Told, rollout::max_failures};
use crate::{
    app::{App, Seal, authorise, hash},
    check::{self, Violations},
    keys,
    record::AgentRecord,
};

fn unexpected() -> Error {
    Error::new(Reason::Internal, "the run of the request answered something else")
}

impl App {
    /// Takes what an agent says of a request.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` when the secret is not the agent's.
    pub(crate) async fn respond(
        self: &Arc<Self>,
        mut q: RespondRequest,
    ) -> Result<RespondResponse> {
        let mut bad = Violations::default();
        bad.take(check::request_id("id", &q.id));
        let agent = bad.take(check::number("agent_id", q.agent_id));
        if !matches!(
            q.state(),
            ResponseState::Accepted
                | ResponseState::Running
                | ResponseState::Succeeded
                | ResponseState::Failed
                | ResponseState::Silent
        ) {
            bad.add("state", "must be ACCEPTED, RUNNING, SUCCEEDED, FAILED or SILENT");
        }
        let Some(agent) = agent else { return Err(bad.error()) };
        bad.finish()?;
        if !self.db.roster.has_secret(agent, &hash(&q.secret)) {
            // The record says what is wrong.
            let record: Option<AgentRecord> = self.db.get(keys::agent(agent)).await?;
            authorise(&record.ok_or_else(|| check::no_agent(agent))?, &q.secret)?;
        }
        // It goes no further.
        q.secret.clear();
        q.bound();
        let id = q.id.clone();
        match self.ask_request(&id, Ask::Respond(Box::new(q)), None).await {
            Ok(Told::Taken(taken)) => Ok(RespondResponse { taken }),
            Ok(Told::Request(_)) => Err(unexpected()),
            // Nobody waits for it any more, and its agent is not to repeat it for ever.
            Err(error) if error.reason == Reason::RequestNotFound => {
                Ok(RespondResponse { taken: false })
            }
            Err(error) => Err(error),
        }
    }

    /// Asks what is answered with the request as it is then, and seals that answer.
    async fn ask_sealed<A: Message + 'static>(
        self: &Arc<Self>,
        id: &str,
        ask: Ask,
        seal: Option<Seal>,
        answer: fn(Request) -> A,
    ) -> Result<A> {
        let closing = seal.map(|seal| -> Closing {
            Box::new(move |tx, record| seal.end(tx, &answer(record.to_api())))
        });
        match self.ask_request(id, ask, closing).await? {
            Told::Request(record) => Ok(answer(record.to_api())),
            Told::Taken(_) => Err(unexpected()),
        }
    }

    pub(crate) async fn delete_request(&self, id: &str) -> Result<()> {
        check::request_id("id", id)?;
        self.remove_request(id).await
    }

    pub(crate) async fn cancel_request(
        self: &Arc<Self>,
        q: CancelRequestRequest,
        seal: Option<Seal>,
    ) -> Result<CancelRequestResponse> {
        check::request_id("id", &q.id)?;
        let answer = |request| CancelRequestResponse { request: Some(request) };
        self.ask_sealed(&q.id, Ask::Cancel, seal, answer).await
    }

    pub(crate) async fn resume_request(
        self: &Arc<Self>,
        q: ResumeRequestRequest,
        seal: Option<Seal>,
    ) -> Result<ResumeRequestResponse> {
        let record = self.request_record(&q.id).await?;
        let agents = record.counts.unwrap_or_default().agents;
        let agents = usize::try_from(agents).unwrap_or_default();
        let limit = q.max_failures.as_deref();
        let limit = limit.map(|text| max_failures("max_failures", text, agents)).transpose()?;
        let ask = Ask::Resume { max_failures: limit };
        let answer = |request| ResumeRequestResponse { request: Some(request) };
        self.ask_sealed(&q.id, ask, seal, answer).await
    }

    pub(crate) async fn overtime(
        self: &Arc<Self>,
        q: OvertimeRequest,
        seal: Option<Seal>,
    ) -> Result<OvertimeResponse> {
        let mut bad = Violations::default();
        bad.take(check::request_id("id", &q.id));
        let named = Some(q.agents.trim()).filter(|text| !text.is_empty());
        let named = named.and_then(|text| bad.take(Ranges::parse("agents", text)));
        bad.finish()?;
        let answer = |request| OvertimeResponse { request: Some(request) };
        self.ask_sealed(&q.id, Ask::Overtime(named), seal, answer).await
    }
}
