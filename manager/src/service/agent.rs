//! `AgentService`.

use goperation::{
    now_millis,
    v1::{agent_service_server::AgentService, *},
};
use tonic::{Request, Response, Status, async_trait};

use super::{Services, span};
use crate::{
    app::{App, content},
    error::edge,
};

/// Maps have no order of their own.
fn create_content(q: &CreateAgentRequest) -> Vec<u8> {
    let mut rest = q.clone();
    let metadata = rest.facts.as_mut().map(|facts| std::mem::take(&mut facts.metadata));
    content(&rest, &[&metadata.unwrap_or_default()])
}

fn edit_content(q: &EditAgentRequest) -> Vec<u8> {
    let mut rest = q.clone();
    let agent = rest.agent.get_or_insert_default();
    let labels = std::mem::take(&mut agent.labels);
    let metadata = agent.facts.as_mut().map(|facts| std::mem::take(&mut facts.metadata));
    content(&rest, &[&labels, &metadata.unwrap_or_default()])
}

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
        if !request.get_ref().reserve {
            // Once by itself: its secret tells who asks.
            let q = request.into_inner();
            let answer = self
                .0
                .whole(|app| async move { app.create_agent(q, now_millis(), None).await })
                .await;
            return edge(answer);
        }
        let wait = self.wait(&request);
        self.keyed_by(request, "create_agent", wait, create_content, |app, q, seal, _| async move {
            app.create_agent(q, now_millis(), seal.as_ref()).await
        })
        .await
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
        span!(agent = request.get_ref().agent.as_ref().map_or(0, |agent| agent.id));
        let wait = self.wait(&request);
        self.keyed_by(request, "edit_agent", wait, edit_content, |app, q, seal, _| async move {
            let agent = app.edit_agent(q, now_millis(), seal.as_ref()).await?;
            Ok(EditAgentResponse { agent: Some(agent) })
        })
        .await
    }

    async fn delete_agent(
        &self,
        request: Request<DeleteAgentRequest>,
    ) -> Result<Response<DeleteAgentResponse>, Status> {
        let wait = self.wait(&request);
        span!(agent = request.get_ref().id);
        self.keyed(request, "delete_agent", wait, |app, q, _, wait| async move {
            // No message of the key's: each try has a secret of its own.
            Ok(DeleteAgentResponse { agent: Some(app.delete_agent(q, wait).await?) })
        })
        .await
    }

    async fn activate_agent(
        &self,
        request: Request<ActivateAgentRequest>,
    ) -> Result<Response<ActivateAgentResponse>, Status> {
        let wait = self.wait(&request);
        span!(agent = request.get_ref().id, method = "active_agent");
        self.keyed(request, "activate_agent", wait, |app, q, seal, wait| async move {
            let agent = app.activate_agent(q, wait, seal.as_ref()).await?;
            Ok(ActivateAgentResponse { agent: Some(agent) })
        })
        .await
    }

    async fn pause_agent(
        &self,
        request: Request<PauseAgentRequest>,
    ) -> Result<Response<PauseAgentResponse>, Status> {
        let wait = self.wait(&request);
        span!(agent = request.get_ref().id, method = "pause_agent");
        self.keyed(request, "pause_agent", wait, |app, q, seal, wait| async move {
            let agent = app.pause_agent(q.id, wait, seal.as_ref()).await?;
            Ok(PauseAgentResponse { agent: Some(agent) })
        })
        .await
    }

    async fn resume_agent(
        &self,
        request: Request<ResumeAgentRequest>,
    ) -> Result<Response<ResumeAgentResponse>, Status> {
        let wait = self.wait(&request);
        span!(agent = request.get_ref().id, method = "resume_agent");
        self.keyed(request, "resume_agent", wait, |app, q, seal, wait| async move {
            let agent = app.resume_agent(q.id, wait, seal.as_ref()).await?;
            Ok(ResumeAgentResponse { agent: Some(agent) })
        })
        .await
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
        span!(agent = request.get_ref().id, method = "upgrade_agent");
        self.keyed(request, "upgrade_agent", wait, |app, q, seal, wait| async move {
            app.upgrade_agent(q, now_millis(), wait, seal.as_ref()).await
        })
        .await
    }

    async fn status_agent(
        &self,
        request: Request<StatusAgentRequest>,
    ) -> Result<Response<StatusAgentResponse>, Status> {
        let request = self.begin_request(request, App::status_request).await?;
        Ok(Response::new(StatusAgentResponse { request }))
    }

    async fn upgrade_agents(
        &self,
        request: Request<UpgradeAgentsRequest>,
    ) -> Result<Response<UpgradeAgentsResponse>, Status> {
        edge(App::check_upgrades(request.get_ref()).map(drop))?;
        let request = self.begin_request(request, App::upgrade_request).await?;
        Ok(Response::new(UpgradeAgentsResponse { request }))
    }
}
