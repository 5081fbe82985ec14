//! `EntityService`.

use goperation::{
    Error, now_millis,
    v1::{entity_service_server::EntityService, *},
};
use tonic::{Request, Response, Status, async_trait, metadata::MetadataMap};

use super::{Services, span};
use crate::{app::App, error::edge};

/// Metadata, and header of REST, that says what the field of a request says.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

fn bad_key(what: &str) -> Error {
    Error::invalid("idempotency_key", what)
}

/// The idempotency key in the metadata of a request.
fn idempotency_key(metadata: &MetadataMap) -> goperation::Result<Option<String>> {
    let mut found: Option<String> = None;
    for value in metadata.get_all(IDEMPOTENCY_KEY) {
        let value = value.to_str().ok().filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| bad_key("must be printable ASCII in metadata"))?;
        if found.as_ref().is_some_and(|found| found != value) {
            return Err(bad_key("must be one in metadata"));
        }
        found = Some(value.to_owned());
    }
    Ok(found)
}

/// The request with the key of its metadata.
fn with_key(
    mut q: CreateEntityRequest,
    key: Option<String>,
) -> goperation::Result<CreateEntityRequest> {
    match key {
        Some(key) if q.idempotency_key.is_empty() => q.idempotency_key = key,
        Some(key) if q.idempotency_key != key => {
            return Err(bad_key("must be the same in the request and in its metadata"));
        }
        _ => {}
    }
    Ok(q)
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
        let key = idempotency_key(request.metadata());
        let q = request.into_inner();
        span!(agent = q.agent_id, endpoint = q.endpoint.as_str(), method = "create_entity");
        let q = match key.and_then(|key| with_key(q, key)) {
            Ok(q) => q,
            Err(error) => return edge(Err(error)),
        };
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

    async fn start_entity(
        &self,
        request: Request<StartEntityRequest>,
    ) -> Result<Response<StartEntityResponse>, Status> {
        let wait = self.long_wait(&request);
        let q = request.into_inner();
        span!(endpoint = q.endpoint.as_str(), entity = q.number, method = "start_entity");
        let answer =
            self.0.whole(|app| async move { app.start_entity(q, now_millis(), wait).await }).await;
        edge(answer)
    }

    async fn stop_entity(
        &self,
        request: Request<StopEntityRequest>,
    ) -> Result<Response<StopEntityResponse>, Status> {
        let wait = self.long_wait(&request);
        let q = request.into_inner();
        span!(endpoint = q.endpoint.as_str(), entity = q.number, method = "stop_entity");
        let answer =
            self.0.whole(|app| async move { app.stop_entity(q, now_millis(), wait).await }).await;
        edge(answer)
    }

    async fn restart_entity(
        &self,
        request: Request<RestartEntityRequest>,
    ) -> Result<Response<RestartEntityResponse>, Status> {
        let wait = self.long_wait(&request);
        let q = request.into_inner();
        span!(endpoint = q.endpoint.as_str(), entity = q.number, method = "restart_entity");
        let answer = self
            .0
            .whole(|app| async move { app.restart_entity(q, now_millis(), wait).await })
            .await;
        edge(answer)
    }

    async fn kill_entity(
        &self,
        request: Request<KillEntityRequest>,
    ) -> Result<Response<KillEntityResponse>, Status> {
        let wait = self.long_wait(&request);
        let q = request.into_inner();
        span!(endpoint = q.endpoint.as_str(), entity = q.number, method = "kill_entity");
        let answer =
            self.0.whole(|app| async move { app.kill_entity(q, now_millis(), wait).await }).await;
        edge(answer)
    }
}
