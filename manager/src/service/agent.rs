//! `AgentService`.

use goperation::{
    now_millis,
    v1::{agent_service_server::AgentService, *},
};
use tonic::{Request, Response, Status, async_trait};

use super::{Services, span};
use crate::{app::App, error::edge};

#[async_trait]
impl AgentService for Services {
    async fn index_agents(
        &self,
        request: Request<IndexAgentsRequest>,
    ) -> Result<Response<IndexAgentsResponse>, Status> {
        edge(self.0.index_agents(request.into_inner()).await)
    }

    async fn new_agent(
        &self,
        _: Request<NewAgentRequest>,
    ) -> Result<Response<NewAgentResponse>, Status> {
        edge(Ok(App::new_agent()))
    }

    async fn show_agent(
        &self,
        request: Request<ShowAgentRequest>,
    ) -> Result<Response<ShowAgentResponse>, Status> {
        let q = request.into_inner();
        span!(agent = q.id);
        let agent = self.0.show_agent(q.id).await;
        edge(agent.map(|agent| ShowAgentResponse { agent: Some(agent) }))
    }

    async fn create_agent(
        &self,
        request: Request<CreateAgentRequest>,
    ) -> Result<Response<CreateAgentResponse>, Status> {
        let q = request.into_inner();
        edge(self.0.whole(|app| async move { app.create_agent(q, now_millis()).await }).await)
    }

    async fn update_agent(
        &self,
        request: Request<UpdateAgentRequest>,
    ) -> Result<Response<UpdateAgentResponse>, Status> {
        let q = request.into_inner();
        span!(agent = q.agent.as_ref().map_or(0, |agent| agent.id));
        let agent = self.0.update_agent(q, now_millis()).await;
        edge(agent.map(|agent| UpdateAgentResponse { agent: Some(agent) }))
    }

    async fn edit_agent(
        &self,
        request: Request<EditAgentRequest>,
    ) -> Result<Response<EditAgentResponse>, Status> {
        let q = request.into_inner();
        span!(agent = q.agent.as_ref().map_or(0, |agent| agent.id));
        let agent = self.0.edit_agent(q, now_millis()).await;
        edge(agent.map(|agent| EditAgentResponse { agent: Some(agent) }))
    }

    async fn delete_agent(
        &self,
        request: Request<DeleteAgentRequest>,
    ) -> Result<Response<DeleteAgentResponse>, Status> {
        let wait = self.wait(&request);
        let q = request.into_inner();
        span!(agent = q.id);
        let agent = self.0.whole(|app| async move { app.delete_agent(q, wait).await }).await;
        edge(agent.map(|agent| DeleteAgentResponse { agent: Some(agent) }))
    }

    async fn activate_agent(
        &self,
        request: Request<ActivateAgentRequest>,
    ) -> Result<Response<ActivateAgentResponse>, Status> {
        let wait = self.wait(&request);
        let q = request.into_inner();
        span!(agent = q.id, method = "active_agent");
        let agent = self.0.whole(|app| async move { app.activate_agent(q, wait).await }).await;
        edge(agent.map(|agent| ActivateAgentResponse { agent: Some(agent) }))
    }

    async fn pause_agent(
        &self,
        request: Request<PauseAgentRequest>,
    ) -> Result<Response<PauseAgentResponse>, Status> {
        let wait = self.wait(&request);
        let id = request.into_inner().id;
        span!(agent = id, method = "pause_agent");
        let agent = self.0.whole(|app| async move { app.pause_agent(id, wait).await }).await;
        edge(agent.map(|agent| PauseAgentResponse { agent: Some(agent) }))
    }

    async fn resume_agent(
        &self,
        request: Request<ResumeAgentRequest>,
    ) -> Result<Response<ResumeAgentResponse>, Status> {
        let wait = self.wait(&request);
        let id = request.into_inner().id;
        span!(agent = id, method = "resume_agent");
        let agent = self.0.whole(|app| async move { app.resume_agent(id, wait).await }).await;
        edge(agent.map(|agent| ResumeAgentResponse { agent: Some(agent) }))
    }

    async fn report_agent(
        &self,
        request: Request<ReportAgentRequest>,
    ) -> Result<Response<ReportAgentResponse>, Status> {
        let q = request.into_inner();
        span!(agent = q.id);
        edge(self.0.report_agent(q, now_millis()).await)
    }

    async fn clean_agent(
        &self,
        request: Request<CleanAgentRequest>,
    ) -> Result<Response<CleanAgentResponse>, Status> {
        let id = request.into_inner().id;
        span!(agent = id);
        edge(self.0.clean_agent(id).await)
    }

    async fn renew_agent(
        &self,
        request: Request<RenewAgentRequest>,
    ) -> Result<Response<RenewAgentResponse>, Status> {
        let q = request.into_inner();
        span!(agent = q.id);
        edge(self.0.renew_agent(q, now_millis()).await)
    }

    async fn sync_agent(
        &self,
        request: Request<SyncAgentRequest>,
    ) -> Result<Response<SyncAgentResponse>, Status> {
        let q = request.into_inner();
        span!(agent = q.id);
        edge(self.0.whole(|app| async move { app.sync_agent(q, now_millis()).await }).await)
    }

    async fn claim_message(
        &self,
        request: Request<ClaimMessageRequest>,
    ) -> Result<Response<ClaimMessageResponse>, Status> {
        let q = request.into_inner();
        span!(agent = q.id, message_id = q.message_id.as_str());
        edge(self.0.claim_message(q, now_millis()).await)
    }

    async fn index_reports(
        &self,
        request: Request<IndexReportsRequest>,
    ) -> Result<Response<IndexReportsResponse>, Status> {
        let q = request.into_inner();
        span!(agent = q.id);
        edge(self.0.index_reports(q).await)
    }

    async fn upgrade_agent(
        &self,
        request: Request<UpgradeAgentRequest>,
    ) -> Result<Response<UpgradeAgentResponse>, Status> {
        let wait = self.long_wait(&request);
        let q = request.into_inner();
        span!(agent = q.id, method = "upgrade_agent");
        let answer =
            self.0.whole(|app| async move { app.upgrade_agent(q, now_millis(), wait).await }).await;
        edge(answer)
    }
}
