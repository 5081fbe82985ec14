//! The server itself: health, reflection, and how it stops.

use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use goperation::{Reason, v1::*};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::{Manager, answer, secret, until};

#[tokio::test]
async fn health_and_reflection_are_on() {
    let manager = Manager::start().await;
    for service in ["", "goperation.v1.AgentService", "goperation.v1.RequestService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let health = HealthClient::new(manager.channel()).check(request).await.unwrap();
        assert_eq!(health.into_inner().status, 1, "{service}");
    }

    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(manager.channel());
    let answers = client.server_reflection_info(futures::stream::iter([ask])).await.unwrap();
    let first = answers.into_inner().next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = first.message_response else {
        panic!("{first:?}");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in
        ["AgentService", "EndpointService", "EntityService", "PortService", "RequestService"]
    {
        assert!(names.contains(&format!("goperation.v1.{service}").as_str()), "{names:?}");
    }
}

#[tokio::test]
async fn an_open_stream_does_not_hold_up_a_stop() {
    let mut manager = Manager::start().await;
    let request = ReceiveRequest { queue: "news".to_owned(), ..ReceiveRequest::default() };
    let mut stream = answer(manager.bridge().receive(request).await).unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().message_id, "n1");
    let begun = Instant::now();
    manager.shutdown();
    assert!(stream.next().await.is_none_or(|end| end.is_err()));
    manager.wait_end().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_under_way_is_finished_before_the_end() {
    let mut manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    let (go, gate) = tokio::sync::watch::channel(false);
    manager.fake.answer_later(move |request| {
        let mut gate = gate.clone();
        async move {
            let _ = gate.wait_for(|open| *open).await;
            crate::fake::willing(&request)
        }
        .boxed()
    });
    let mut client = manager.entities();
    let request = CreateEntityRequest {
        endpoint: "db".to_owned(),
        agent_id: id,
        ..CreateEntityRequest::default()
    };
    let waiting = tokio::spawn(async move { answer(client.create_entity(request).await) });
    until("the agent is asked", || async { !manager.fake.calls("create_entity").is_empty() }).await;
    manager.shutdown();
    go.send(true).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().entity.unwrap().state(), EntityState::Ready);
    manager.wait_end().await.unwrap();
}

#[tokio::test]
async fn what_does_not_end_is_broken_off_when_time_is_up() {
    let mut manager = Manager::with(|config| {
        config.drain = Duration::from_millis(300);
        config.call_timeout = Duration::from_secs(60);
    })
    .await;
    let id = manager.agent("h1", &["db"]).await;
    manager.fake.answer_later(|_| std::future::pending().boxed());
    let mut client = manager.entities();
    let request = CreateEntityRequest {
        endpoint: "db".to_owned(),
        agent_id: id,
        ..CreateEntityRequest::default()
    };
    let waiting = tokio::spawn(async move { answer(client.create_entity(request).await) });
    until("the agent is asked", || async { !manager.fake.calls("create_entity").is_empty() }).await;
    let begun = Instant::now();
    manager.shutdown();
    manager.wait_end().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let error = waiting.await.unwrap().unwrap_err();
    // The caller is told the truth: it may have been created.
    assert_eq!(error.reason, Reason::OutcomeUnknown, "{error:?}");
}

#[tokio::test]
async fn a_manager_whose_store_has_failed_ends() {
    let mut manager = Manager::start().await;
    manager.register("h1").await;
    manager.store().close().await;
    let error = manager.try_register("h2", &secret("h2")).await.unwrap_err();
    assert_eq!(error.reason, Reason::Unavailable);
    let ended = manager.wait_end().await.unwrap_err();
    assert!(matches!(ended, goperation_manager::Error::Store(_)), "{ended:?}");
}
