//! `CacheService`.

use goperation::{
    now_millis,
    v1::{cache_service_server::CacheService, *},
};
use tonic::{Request, Response, Status, async_trait};

use super::Services;
use crate::{app::App, error::edge};

#[async_trait]
impl CacheService for Services {
    async fn index_caches(
        &self,
        request: Request<IndexCachesRequest>,
    ) -> Result<Response<IndexCachesResponse>, Status> {
        edge(self.0.index_caches(request.into_inner(), now_millis()).await)
    }

    async fn new_cache(
        &self,
        _: Request<NewCacheRequest>,
    ) -> Result<Response<NewCacheResponse>, Status> {
        edge(Ok(App::new_cache()))
    }

    async fn show_cache(
        &self,
        request: Request<ShowCacheRequest>,
    ) -> Result<Response<ShowCacheResponse>, Status> {
        let cache = self.0.show_cache(&request.into_inner().key, now_millis()).await;
        edge(cache.map(|cache| ShowCacheResponse { cache: Some(cache) }))
    }

    async fn create_cache(
        &self,
        request: Request<CreateCacheRequest>,
    ) -> Result<Response<CreateCacheResponse>, Status> {
        let wait = self.wait(&request);
        self.keyed(request, "create_cache", wait, |app, q, seal, _| async move {
            app.create_cache(q, now_millis(), seal.as_ref()).await
        })
        .await
    }

    async fn update_cache(
        &self,
        request: Request<UpdateCacheRequest>,
    ) -> Result<Response<UpdateCacheResponse>, Status> {
        edge(self.0.update_cache(request.into_inner(), now_millis()).await)
    }

    async fn edit_cache(
        &self,
        request: Request<EditCacheRequest>,
    ) -> Result<Response<EditCacheResponse>, Status> {
        let wait = self.wait(&request);
        self.keyed(request, "edit_cache", wait, |app, q, seal, _| async move {
            app.edit_cache(q, now_millis(), seal.as_ref()).await
        })
        .await
    }

    async fn delete_cache(
        &self,
        request: Request<DeleteCacheRequest>,
    ) -> Result<Response<DeleteCacheResponse>, Status> {
        edge(self.0.delete_cache(request.into_inner(), now_millis()).await)
    }

    async fn flush_caches(
        &self,
        request: Request<FlushCachesRequest>,
    ) -> Result<Response<FlushCachesResponse>, Status> {
        edge(self.0.flush_caches(&request.into_inner().prefix, now_millis()).await)
    }
}
