//! `PortService`.

use goperation::{
    now_millis,
    v1::{port_service_server::PortService, *},
};
use tonic::{Request, Response, Status, async_trait};

use super::{Services, span};
use crate::error::edge;

#[async_trait]
impl PortService for Services {
    async fn index_ports(
        &self,
        request: Request<IndexPortsRequest>,
    ) -> Result<Response<IndexPortsResponse>, Status> {
        edge(self.0.index_ports(request.into_inner()).await)
    }

    async fn new_port(
        &self,
        request: Request<NewPortRequest>,
    ) -> Result<Response<NewPortResponse>, Status> {
        edge(self.0.new_port(request.into_inner().agent_id).await)
    }

    async fn show_port(
        &self,
        request: Request<ShowPortRequest>,
    ) -> Result<Response<ShowPortResponse>, Status> {
        let q = request.into_inner();
        span!(agent = q.agent_id);
        let port = self.0.show_port(q).await;
        edge(port.map(|port| ShowPortResponse { port: Some(port) }))
    }

    async fn create_port(
        &self,
        request: Request<CreatePortRequest>,
    ) -> Result<Response<CreatePortResponse>, Status> {
        let wait = self.wait(&request);
        let q = request.get_ref();
        span!(
            endpoint = q.endpoint.as_str(),
            entity = q.entity,
            method = "frozen_port",
            message_id = q.message_id.as_str(),
        );
        self.keyed(request, "create_port", wait, |app, q, seal, wait| async move {
            app.create_port(q, now_millis(), wait, seal.as_ref()).await
        })
        .await
    }

    async fn delete_port(
        &self,
        request: Request<DeletePortRequest>,
    ) -> Result<Response<DeletePortResponse>, Status> {
        let wait = self.wait(&request);
        span!(agent = request.get_ref().agent_id, method = "free_ports");
        self.keyed(request, "delete_port", wait, |app, q, seal, wait| async move {
            app.delete_port(q, now_millis(), wait, seal.as_ref()).await
        })
        .await
    }

    async fn free_ports(
        &self,
        request: Request<FreePortsRequest>,
    ) -> Result<Response<FreePortsResponse>, Status> {
        let wait = self.wait(&request);
        span!(agent = request.get_ref().agent_id, method = "free_ports");
        self.keyed(request, "free_ports", wait, |app, q, seal, wait| async move {
            app.free_ports(q, now_millis(), wait, seal.as_ref()).await
        })
        .await
    }
}
