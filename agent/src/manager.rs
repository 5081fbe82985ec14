//! What the agent asks the manager by gRPC: register, renew, sync, report, claim, respond.
//!
//! Invariant: every call has a deadline, and says who asks by the agent's secret.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use goperation::{
    Error, MessageId, Reason, Result, Secret, to_timestamp,
    v1::{
        self, agent_service_client::AgentServiceClient,
        request_service_client::RequestServiceClient,
    },
};
use goperation_bridge::Message;
use tonic::{Request, transport::Channel};

/// How long the manager may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a claim is kept beyond the finish time.
const CLAIM_KEEP: u64 = 24 * 3600 * 1000;

/// The manager, as one agent sees it.
#[derive(Debug)]
pub(crate) struct ManagerLink {
    client: AgentServiceClient<Channel>,
    requests: RequestServiceClient<Channel>,
    secret: Secret,
    /// 0 until it is known.
    agent_id: AtomicU32,
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// The server's own time limit is only a request: this one holds even when nothing answers.
async fn within<T>(
    call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::from_status(&status)),
        Err(_) => Err(Error::new(Reason::Unavailable, "the manager did not answer in 5 s")),
    }
}

impl ManagerLink {
    pub(crate) fn new(channel: Channel, secret: Secret, agent_id: Option<u32>) -> Self {
        Self {
            client: AgentServiceClient::new(channel.clone()),
            requests: RequestServiceClient::new(channel),
            secret,
            agent_id: AtomicU32::new(agent_id.unwrap_or(0)),
        }
    }

    /// The agent's number, once it is known.
    pub(crate) fn agent_id(&self) -> Option<u32> {
        match self.agent_id.load(Ordering::Relaxed) {
            0 => None,
            id => Some(id),
        }
    }

    fn wire_id(&self) -> i32 {
        self.agent_id().and_then(|id| i32::try_from(id).ok()).unwrap_or(0)
    }

    fn secret(&self) -> String {
        self.secret.reveal().to_owned()
    }

    /// Registers; the same secret gets the same number again.
    pub(crate) async fn register(&self, mut registration: v1::CreateAgentRequest) -> Result<u32> {
        registration.secret = self.secret();
        let answer = within(self.client.clone().create_agent(request(registration))).await?;
        let id = answer.agent.and_then(|agent| u32::try_from(agent.id).ok()).filter(|&id| id > 0);
        let id = id.ok_or_else(|| {
            Error::new(Reason::Internal, "the manager answered a registration without a number")
        })?;
        self.agent_id.store(id, Ordering::Relaxed);
        Ok(id)
    }

    /// Renews the lease.
    pub(crate) async fn renew(
        &self,
        mut renewal: v1::RenewAgentRequest,
    ) -> Result<v1::RenewAgentResponse> {
        renewal.id = self.wire_id();
        renewal.secret = self.secret();
        within(self.client.clone().renew_agent(request(renewal))).await
    }

    /// Gives the whole inventory.
    pub(crate) async fn sync(
        &self,
        mut inventory: v1::SyncAgentRequest,
    ) -> Result<v1::SyncAgentResponse> {
        inventory.id = self.wire_id();
        inventory.secret = self.secret();
        within(self.client.clone().sync_agent(request(inventory))).await
    }

    /// Reports facts and a snapshot.
    pub(crate) async fn report(
        &self,
        facts: Option<v1::AgentFacts>,
        snapshot: Option<v1::AgentSnapshot>,
    ) -> Result<()> {
        let report =
            v1::ReportAgentRequest { id: self.wire_id(), secret: self.secret(), facts, snapshot };
        within(self.client.clone().report_agent(request(report))).await.map(drop)
    }

    /// Claims a message that any one agent of the type may run.
    pub(crate) async fn claim(&self, message: &Message) -> Result<bool> {
        let now = goperation::now_millis();
        let keep = message.finish_time.unwrap_or(now).max(now).saturating_add(CLAIM_KEEP);
        let claim = v1::ClaimMessageRequest {
            id: self.wire_id(),
            secret: self.secret(),
            message_id: MessageId::as_str(&message.id).to_owned(),
            keep_until: Some(to_timestamp(keep)),
        };
        Ok(within(self.client.clone().claim_message(request(claim))).await?.claimed)
    }

    /// Tells how far a request is here, or answers it. Says whether that was news.
    pub(crate) async fn respond(&self, mut answer: v1::RespondRequest) -> Result<bool> {
        answer.secret = self.secret();
        Ok(within(self.requests.clone().respond(request(answer))).await?.taken)
    }
}
