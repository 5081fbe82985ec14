//! `EntityService`.

use goperation::{
    now_millis,
    v1::{entity_service_server::EntityService, *},
};
use tonic::{Request, Response, Status, async_trait};

use super::{Services, span};
use crate::{app::App, error::edge};

#[async_trait]
impl EntityService for Services {
    async fn index_entities(
        &self,
        request: Request<IndexEntitiesRequest>,
    ) -> Result<Response<IndexEntitiesResponse>, Status> {
        edge(self.0.index_entities(request.into_inner()).await)
    }

    async fn new_entity(
        &self,
        request: Request<NewEntityRequest>,
    ) -> Result<Response<NewEntityResponse>, Status> {
        edge(App::new_entity(&request.into_inner().endpoint))
    }

    async fn show_entity(
        &self,
        request: Request<ShowEntityRequest>,
    ) -> Result<Response<ShowEntityResponse>, Status> {
        let q = request.into_inner();
        span!(endpoint = q.endpoint.as_str(), entity = q.number);
        let entity = self.0.show_entity(&q.endpoint, q.number).await;
        edge(entity.map(|entity| ShowEntityResponse { entity: Some(entity) }))
    }

    async fn create_entity(
        &self,
        request: Request<CreateEntityRequest>,
    ) -> Result<Response<CreateEntityResponse>, Status> {
        let wait = self.wait(&request);
        let q = request.into_inner();
        span!(agent = q.agent_id, endpoint = q.endpoint.as_str(), method = "create_entity");
        let answer =
            self.0.whole(|app| async move { app.create_entity(q, now_millis(), wait).await }).await;
        edge(answer)
    }

    async fn update_entity(
        &self,
        request: Request<UpdateEntityRequest>,
    ) -> Result<Response<UpdateEntityResponse>, Status> {
        let entity = self.0.update_entity(request.into_inner(), now_millis()).await;
        edge(entity.map(|entity| UpdateEntityResponse { entity: Some(entity) }))
    }

    async fn edit_entity(
        &self,
        request: Request<EditEntityRequest>,
    ) -> Result<Response<EditEntityResponse>, Status> {
        let entity = self.0.edit_entity(request.into_inner(), now_millis()).await;
        edge(entity.map(|entity| EditEntityResponse { entity: Some(entity) }))
    }

    async fn delete_entity(
        &self,
        request: Request<DeleteEntityRequest>,
    ) -> Result<Response<DeleteEntityResponse>, Status> {
        let wait = self.wait(&request);
        let q = request.into_inner();
        span!(endpoint = q.endpoint.as_str(), entity = q.number, method = "delete_entity");
        let answer =
            self.0.whole(|app| async move { app.delete_entity(q, now_millis(), wait).await }).await;
        edge(answer)
    }

    async fn status_entity(
        &self,
        request: Request<StatusEntityRequest>,
    ) -> Result<Response<StatusEntityResponse>, Status> {
        let wait = self.wait(&request);
        let q = request.into_inner();
        span!(endpoint = q.endpoint.as_str(), entity = q.number, method = "status_entity");
        edge(self.0.status_entity(&q.endpoint, q.number, wait).await)
    }
}
