//! `EntityService`.

use goperation::{
    now_millis,
    v1::{entity_service_server::EntityService, *},
};
use tonic::{Request, Response, Status, async_trait};

use super::{Services, span};
use crate::{
    app::{App, content, given_key},
    error::edge,
};

/// Labels have no order of their own.
fn edit_content(q: &EditEntityRequest) -> Vec<u8> {
    let mut rest = q.clone();
    let labels = std::mem::take(&mut rest.entity.get_or_insert_default().labels);
    content(&rest, &[&labels])
}

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
        let wait = self.long_wait(&request);
        let key = given_key(request.metadata(), &request.get_ref().idempotency_key);
        let mut q = request.into_inner();
        span!(agent = q.agent_id, endpoint = q.endpoint.as_str(), method = "create_entity");
        match key {
            Ok(key) => q.idempotency_key = key,
            Err(error) => return edge(Err(error)),
        }
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
        let wait = self.wait(&request);
        self.keyed_by(request, "edit_entity", wait, edit_content, |app, q, seal, _| async move {
            let entity = app.edit_entity(q, now_millis(), seal.as_ref()).await?;
            Ok(EditEntityResponse { entity: Some(entity) })
        })
        .await
    }

    async fn delete_entity(
        &self,
        request: Request<DeleteEntityRequest>,
    ) -> Result<Response<DeleteEntityResponse>, Status> {
        let wait = self.wait(&request);
        let q = request.get_ref();
        span!(endpoint = q.endpoint.as_str(), entity = q.number, method = "delete_entity");
        self.keyed(request, "delete_entity", wait, |app, q, seal, wait| async move {
            app.delete_entity(q, now_millis(), wait, seal.as_ref()).await
        })
        .await
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

    async fn start_entity(
        &self,
        request: Request<StartEntityRequest>,
    ) -> Result<Response<StartEntityResponse>, Status> {
        let wait = self.long_wait(&request);
        let q = request.get_ref();
        span!(endpoint = q.endpoint.as_str(), entity = q.number, method = "start_entity");
        self.keyed(request, "start_entity", wait, |app, q, seal, wait| async move {
            app.start_entity(q, now_millis(), wait, seal.as_ref()).await
        })
        .await
    }

    async fn stop_entity(
        &self,
        request: Request<StopEntityRequest>,
    ) -> Result<Response<StopEntityResponse>, Status> {
        let wait = self.long_wait(&request);
        let q = request.get_ref();
        span!(endpoint = q.endpoint.as_str(), entity = q.number, method = "stop_entity");
        self.keyed(request, "stop_entity", wait, |app, q, seal, wait| async move {
            app.stop_entity(q, now_millis(), wait, seal.as_ref()).await
        })
        .await
    }

    async fn restart_entity(
        &self,
        request: Request<RestartEntityRequest>,
    ) -> Result<Response<RestartEntityResponse>, Status> {
        let wait = self.long_wait(&request);
        let q = request.get_ref();
        span!(endpoint = q.endpoint.as_str(), entity = q.number, method = "restart_entity");
        self.keyed(request, "restart_entity", wait, |app, q, seal, wait| async move {
            app.restart_entity(q, now_millis(), wait, seal.as_ref()).await
        })
        .await
    }

    async fn kill_entity(
        &self,
        request: Request<KillEntityRequest>,
    ) -> Result<Response<KillEntityResponse>, Status> {
        let wait = self.long_wait(&request);
        let q = request.get_ref();
        span!(endpoint = q.endpoint.as_str(), entity = q.number, method = "kill_entity");
        self.keyed(request, "kill_entity", wait, |app, q, seal, wait| async move {
            app.kill_entity(q, now_millis(), wait, seal.as_ref()).await
        })
        .await
    }
}
