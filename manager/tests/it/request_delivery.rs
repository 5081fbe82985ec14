//! How a request goes out: one broadcast or single CASTs, again until the broker has it, and a
//! typed row where it cannot.

use goperation::{
    Reason,
    v1::{request_service_client::RequestServiceClient, *},
};
use prost_types::Duration;
use tonic::transport::Channel;

use crate::harness::{Manager, answer, until};

fn requests(manager: &Manager) -> RequestServiceClient<Channel> {
    RequestServiceClient::new(manager.channel())
}

/// So many agents that have an endpoint.
async fn fleet(manager: &Manager, agents: usize) {
    for n in 1..=agents {
        manager.agent(&format!("h{n}"), &["db"]).await;
    }
}

/// Begins a request on these; answers its id.
async fn begin(manager: &Manager, on: RequestSelection) -> String {
    let request = CreateRequestRequest {
        namespace: "db".to_owned(),
        method: "echo".to_owned(),
        on: Some(on),
        finish_timeout: Some(Duration { seconds: 600, nanos: 0 }),
        ..CreateRequestRequest::default()
    };
    answer(requests(manager).create_request(request).await).unwrap().request.unwrap().id
}

fn all() -> RequestSelection {
    RequestSelection { all: true, ..RequestSelection::default() }
}

async fn rows(manager: &Manager, id: &str) -> Vec<AgentResponse> {
    let request =
        IndexResponsesRequest { id: id.to_owned(), page_size: 1000, ..Default::default() };
    answer(requests(manager).index_responses(request).await).unwrap().responses
}

/// Waits until no agent is to be sent to any more.
async fn all_sent(manager: &Manager, id: &str) -> Vec<AgentResponse> {
    until("every agent is sent to", || async {
        rows(manager, id).await.iter().all(|row| row.state() != ResponseState::Pending)
    })
    .await;
    rows(manager, id).await
}

fn is_broadcast(cast: &CastRequest) -> bool {
    cast.target.as_ref().is_some_and(|target| target.fanout)
}

#[tokio::test]
async fn most_of_a_fleet_is_broadcast_to_and_a_few_are_not() {
    let manager = Manager::start().await;
    fleet(&manager, 10).await;
    let id = begin(&manager, all()).await;
    let rows = all_sent(&manager, &id).await;
    assert_eq!(rows.len(), 10);
    assert!(rows.iter().all(|row| row.state() == ResponseState::Sent), "{rows:?}");
    let casts = manager.fake.look(|seen| std::mem::take(&mut seen.casts));
    let [cast] = casts.as_slice() else { panic!("{casts:?}") };
    assert!(is_broadcast(cast));
    assert_eq!((&cast.message_id, &cast.request_id, cast.agents.as_str()), (&id, &id, "1-10"));

    let few = RequestSelection { agents: "2-3,9".to_owned(), ..RequestSelection::default() };
    let id = begin(&manager, few).await;
    all_sent(&manager, &id).await;
    let casts = manager.fake.look(|seen| seen.casts.clone());
    let mut hosts: Vec<_> = casts.iter().map(|cast| cast.target.clone().unwrap().host).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["h2", "h3", "h9"]);
    assert!(casts.iter().all(|cast| cast.message_id == id && cast.request_id == id));
}

#[tokio::test]
async fn a_broadcast_that_some_queue_refused_is_repeated_to_each() {
    let manager = Manager::start().await;
    fleet(&manager, 10).await;
    manager.fake.take_casts(|cast| {
        let target = cast.target.as_ref().unwrap();
        let refuse = |reason| Err(goperation::Error::new(reason, "scripted"));
        match target.host.as_str() {
            _ if target.fanout => refuse(Reason::QueueFull),
            "h3" => refuse(Reason::QueueNotFound),
            _ => Ok(()),
        }
    });
    let id = begin(&manager, all()).await;
    for row in all_sent(&manager, &id).await {
        let expected = if row.agent_id == 3 {
            (ResponseState::Silent, "QUEUE_NOT_FOUND")
        } else {
            (ResponseState::Sent, "")
        };
        assert_eq!((row.state(), row.reason.as_str()), expected, "{row:?}");
    }
    let casts = manager.fake.look(|seen| seen.casts.clone());
    assert_eq!(casts.iter().filter(|cast| is_broadcast(cast)).count(), 1);
    assert_eq!(casts.len(), 11);
    assert!(casts.iter().all(|cast| cast.message_id == id), "one id for all");
}

#[tokio::test]
async fn what_the_broker_does_not_take_is_sent_again_also_by_the_next_manager() {
    let manager = Manager::start().await;
    fleet(&manager, 2).await;
    manager.fake.look(|seen| seen.down = true);
    let id = begin(&manager, all()).await;
    until("it is known that the broker is away", || async {
        rows(&manager, &id).await.iter().all(|row| row.reason == "BROKER_UNAVAILABLE")
    })
    .await;
    let manager = manager.crash().await;
    manager.fake.look(|seen| seen.down = false);
    let rows = all_sent(&manager, &id).await;
    assert!(rows.iter().all(|row| row.state() == ResponseState::Sent), "{rows:?}");
    let casts = manager.fake.look(|seen| seen.casts.clone());
    assert!(casts.iter().all(|cast| cast.message_id == id && !is_broadcast(cast)), "{casts:?}");
}
