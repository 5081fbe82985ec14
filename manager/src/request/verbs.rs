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
use prost::Message as _;

use super::{Ask, Told, rollout::max_failures};
use crate::{
    app::{App, authorise},
    check::{self, Violations},
    keys,
    record::AgentRecord,
};

/// Largest result of an agent that is kept, encoded, with its details: as large as the result of a
/// CALL may be.
const RESULT: usize = 1 << 20;

/// Drops a result that is too large: that an agent has answered counts for more than what.
fn bound(q: &mut RespondRequest) {
    let result = q.result.as_ref().map_or(0, prost_types::Struct::encoded_len);
    let details: usize = q.details.iter().map(|detail| detail.encoded_len() + 8).sum();
    let bytes = result.saturating_add(details);
    if bytes > RESULT {
        q.result = None;
        q.details = Vec::new();
        let said = std::mem::take(&mut q.message);
        let blank = if said.is_empty() { "" } else { "; " };
        q.message = format!(
            "its result has {bytes} bytes, {RESULT} at most are kept, so it was dropped{blank}{said}"
        );
    }
}

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
        let record: Option<AgentRecord> = self.db.get(keys::agent(agent)).await?;
        authorise(&record.ok_or_else(|| check::no_agent(agent))?, &q.secret)?;
        // It goes no further.
        q.secret.clear();
        bound(&mut q);
        let id = q.id.clone();
        match self.ask_request(&id, Ask::Respond(Box::new(q))).await {
            Ok(Told::Taken(taken)) => Ok(RespondResponse { taken }),
            Ok(Told::Request(_)) => Err(unexpected()),
            // Nobody waits for it any more, and its agent is not to repeat it for ever.
            Err(error) if error.reason == Reason::RequestNotFound => {
                Ok(RespondResponse { taken: false })
            }
            Err(error) => Err(error),
        }
    }

    /// Asks for what the request is answered with.
    async fn ask_for_request(self: &Arc<Self>, id: &str, ask: Ask) -> Result<Request> {
        match self.ask_request(id, ask).await? {
            Told::Request(record) => Ok(record.to_api()),
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
    ) -> Result<CancelRequestResponse> {
        check::request_id("id", &q.id)?;
        let request = self.ask_for_request(&q.id, Ask::Cancel).await?;
        Ok(CancelRequestResponse { request: Some(request) })
    }

    pub(crate) async fn resume_request(
        self: &Arc<Self>,
        q: ResumeRequestRequest,
    ) -> Result<ResumeRequestResponse> {
        let record = self.request_record(&q.id).await?;
        let agents = record.counts.unwrap_or_default().agents;
        let agents = usize::try_from(agents).unwrap_or_default();
        let limit = q.max_failures.as_deref();
        let limit = limit.map(|text| max_failures("max_failures", text, agents)).transpose()?;
        let ask = Ask::Resume { max_failures: limit.map(Some) };
        let request = self.ask_for_request(&q.id, ask).await?;
        Ok(ResumeRequestResponse { request: Some(request) })
    }

    pub(crate) async fn overtime(self: &Arc<Self>, q: OvertimeRequest) -> Result<OvertimeResponse> {
        let mut bad = Violations::default();
        bad.take(check::request_id("id", &q.id));
        let named = Some(q.agents.trim()).filter(|text| !text.is_empty());
        let named = named.and_then(|text| bad.take(Ranges::parse("agents", text)));
        bad.finish()?;
        let request = self.ask_for_request(&q.id, Ask::Overtime(named)).await?;
        Ok(OvertimeResponse { request: Some(request) })
    }
}

#[cfg(test)]
mod tests {
    use prost_types::{Struct, Value, value::Kind};

    use super::*;

    #[test]
    fn a_result_that_is_too_large_is_dropped_and_the_answer_kept() {
        let answer = |bytes: usize| {
            let text = Value { kind: Some(Kind::StringValue("x".repeat(bytes))) };
            RespondRequest {
                result: Some(Struct { fields: [("text".to_owned(), text)].into() }),
                message: "done".to_owned(),
                ..RespondRequest::default()
            }
        };
        let mut small = answer(RESULT / 2);
        bound(&mut small);
        assert_eq!(small, answer(RESULT / 2));
        let mut large = answer(RESULT);
        bound(&mut large);
        assert_eq!(large.result, None);
        assert!(large.message.ends_with("so it was dropped; done"), "{}", large.message);
    }
}
