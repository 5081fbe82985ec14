//! `EndpointService`.

use goperation::{
    now_millis,
    v1::{endpoint_service_server::EndpointService, *},
};
use tonic::{Request, Response, Status, async_trait};

use super::{Services, span};
use crate::error::edge;

#[async_trait]
impl EndpointService for Services {
    async fn index_endpoints(
        &self,
        request: Request<IndexEndpointsRequest>,
    ) -> Result<Response<IndexEndpointsResponse>, Status> {
        edge(self.0.index_endpoints(request.into_inner()).await)
    }

    async fn show_endpoint(
        &self,
        request: Request<ShowEndpointRequest>,
    ) -> Result<Response<ShowEndpointResponse>, Status> {
        let q = request.into_inner();
        span!(endpoint = q.name.as_str());
        let endpoint = self.0.show_endpoint(q).await;
        edge(endpoint.map(|endpoint| ShowEndpointResponse { endpoint: Some(endpoint) }))
    }

    async fn create_endpoints(
        &self,
        request: Request<CreateEndpointsRequest>,
    ) -> Result<Response<CreateEndpointsResponse>, Status> {
        span!(agent = request.get_ref().agent_id);
        let wait = self.wait(&request);
        self.keyed(request, "create_endpoints", wait, |app, q, seal, _| async move {
            app.create_endpoints(q, now_millis(), seal.as_ref()).await
        })
        .await
    }

    async fn delete_endpoints(
        &self,
        request: Request<DeleteEndpointsRequest>,
    ) -> Result<Response<DeleteEndpointsResponse>, Status> {
        span!(agent = request.get_ref().agent_id);
        let wait = self.wait(&request);
        self.keyed(request, "delete_endpoints", wait, |app, q, seal, _| async move {
            app.delete_endpoints(q, now_millis(), seal.as_ref()).await
        })
        .await
    }

    async fn agents_endpoint(
        &self,
        request: Request<AgentsEndpointRequest>,
    ) -> Result<Response<AgentsEndpointResponse>, Status> {
        let q = request.into_inner();
        span!(endpoint = q.name.as_str());
        edge(self.0.agents_endpoint(q).await)
    }

    async fn count_endpoints(
        &self,
        request: Request<CountEndpointsRequest>,
    ) -> Result<Response<CountEndpointsResponse>, Status> {
        edge(self.0.count_endpoints(request.into_inner()).await)
    }

    async fn choose(
        &self,
        request: Request<ChooseRequest>,
    ) -> Result<Response<ChooseResponse>, Status> {
        let q = request.into_inner();
        span!(endpoint = q.name.as_str());
        edge(self.0.choose(q, now_millis()).await)
    }
}
