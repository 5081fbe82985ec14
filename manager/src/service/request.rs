//! `RequestService`.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use goperation::{
    now_millis,
    v1::{request_service_server::RequestService, *},
};
use goperation_bridge::Context;
use tonic::{Request, Response, Status, async_trait};

use super::{Services, span};
use crate::{
    app::{App, Key},
    error::edge,
};

impl Services {
    /// Begins the request that another service's message stands for.
    pub(super) async fn begin_request<Q>(
        &self,
        request: Request<Q>,
        stands_for: impl FnOnce(Q) -> CreateRequestRequest,
    ) -> Result<Option<goperation::v1::Request>, Status> {
        let created = self.create_request(request.map(stands_for)).await?;
        Ok(created.into_inner().request)
    }
}

#[async_trait]
impl RequestService for Services {
    async fn index_requests(
        &self,
        request: Request<IndexRequestsRequest>,
    ) -> Result<Response<IndexRequestsResponse>, Status> {
        edge(self.0.index_requests(request.into_inner()).await)
    }

    async fn new_request(
        &self,
        _: Request<NewRequestRequest>,
    ) -> Result<Response<NewRequestResponse>, Status> {
        edge(Ok(App::new_request()))
    }

    async fn show_request(
        &self,
        request: Request<ShowRequestRequest>,
    ) -> Result<Response<ShowRequestResponse>, Status> {
        let q = request.into_inner();
        span!(message_id = q.id.as_str());
        let request = self.0.show_request(&q.id).await;
        edge(request.map(|request| ShowRequestResponse { request: Some(request) }))
    }

    async fn plan_request(
        &self,
        request: Request<PlanRequestRequest>,
    ) -> Result<Response<PlanRequestResponse>, Status> {
        let q = request.into_inner();
        span!(endpoint = q.namespace.as_str(), method = q.method.as_str());
        edge(self.0.plan_request(q, now_millis()).await)
    }

    async fn create_request(
        &self,
        request: Request<CreateRequestRequest>,
    ) -> Result<Response<CreateRequestResponse>, Status> {
        let wait = self.long_wait(&request);
        let traceparent = Context::from_metadata(request.metadata()).traceparent;
        let key = Key::of(request.metadata(), &request.get_ref().idempotency_key);
        let q = request.into_inner();
        span!(endpoint = q.namespace.as_str(), method = q.method.as_str());
        let key = match key {
            Ok(key) => key,
            Err(error) => return edge(Err(error)),
        };
        let answer = self
            .0
            .whole(|app| async move { app.create_request(q, key, traceparent, wait).await })
            .await;
        edge(answer)
    }

    async fn delete_request(
        &self,
        request: Request<DeleteRequestRequest>,
    ) -> Result<Response<DeleteRequestResponse>, Status> {
        let q = request.into_inner();
        span!(message_id = q.id.as_str());
        let answer = self.0.whole(|app| async move { app.delete_request(&q.id).await }).await;
        edge(answer.map(|()| DeleteRequestResponse {}))
    }

    async fn index_responses(
        &self,
        request: Request<IndexResponsesRequest>,
    ) -> Result<Response<IndexResponsesResponse>, Status> {
        let q = request.into_inner();
        span!(message_id = q.id.as_str());
        edge(self.0.index_responses(q, now_millis()).await)
    }

    type WatchRequestStream =
        Pin<Box<dyn Stream<Item = Result<WatchRequestResponse, Status>> + Send>>;

    async fn watch_request(
        &self,
        request: Request<WatchRequestRequest>,
    ) -> Result<Response<Self::WatchRequestStream>, Status> {
        let q = request.into_inner();
        span!(message_id = q.id.as_str());
        let events = self.0.watch_request(q).await;
        let events = events.map(|events| {
            let events = events.map(|event| event.map_err(Status::from));
            Box::pin(events) as Self::WatchRequestStream
        });
        edge(events)
    }

    async fn cancel_request(
        &self,
        request: Request<CancelRequestRequest>,
    ) -> Result<Response<CancelRequestResponse>, Status> {
        span!(message_id = request.get_ref().id.as_str());
        let wait = self.wait(&request);
        self.keyed(request, "CancelRequest", wait, |app, q, seal, _| async move {
            app.cancel_request(q, seal).await
        })
        .await
    }

    async fn resume_request(
        &self,
        request: Request<ResumeRequestRequest>,
    ) -> Result<Response<ResumeRequestResponse>, Status> {
        span!(message_id = request.get_ref().id.as_str());
        let wait = self.wait(&request);
        self.keyed(request, "ResumeRequest", wait, |app, q, seal, _| async move {
            app.resume_request(q, seal).await
        })
        .await
    }

    async fn respond(
        &self,
        request: Request<RespondRequest>,
    ) -> Result<Response<RespondResponse>, Status> {
        let q = request.into_inner();
        span!(agent = q.agent_id, message_id = q.id.as_str());
        edge(self.0.respond(q).await)
    }

    async fn overtime(
        &self,
        request: Request<OvertimeRequest>,
    ) -> Result<Response<OvertimeResponse>, Status> {
        span!(message_id = request.get_ref().id.as_str());
        let wait = self.wait(&request);
        self.keyed(request, "Overtime", wait, |app, q, seal, _| async move {
            app.overtime(q, seal).await
        })
        .await
    }
}
