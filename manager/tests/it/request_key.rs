//! Idempotency keys of requests: one request for each, however often and whenever it is asked for.

use std::time::Duration;

use goperation::{Reason, v1::*};
use tonic::metadata::MetadataValue;

use crate::{
    harness::{Manager, answer},
    request_fleet::*,
};

fn keyed(key: &str) -> CreateRequestRequest {
    CreateRequestRequest { idempotency_key: key.to_owned(), ..asked() }
}

/// Ids of all messages that were sent for requests.
fn sent(manager: &Manager) -> Vec<String> {
    manager.fake.look(|seen| seen.casts.iter().map(|cast| cast.message_id.clone()).collect())
}

#[tokio::test]
async fn a_key_that_is_sent_fifty_times_at_once_is_one_request() {
    let manager = Manager::start().await;
    fleet(&manager, 1).await;
    let all = (0..50).map(|i| {
        let mut client = manager.requests();
        async move {
            let mut request = tonic::Request::new(keyed(if i % 2 == 0 { "k 1" } else { "" }));
            if i % 2 == 1 {
                request.metadata_mut().insert("idempotency-key", MetadataValue::from_static("k 1"));
            }
            answer(client.create_request(request).await).unwrap()
        }
    });
    let answers = futures::future::join_all(all).await;
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let first = answers[0].request.clone().unwrap();
    until_rows(&manager, &first.id, "state = SENT", 1).await;
    let manager = manager.crash().await;
    online(&manager, 1).await;
    assert_eq!(create(&manager, keyed("k 1")).await.unwrap(), first);
    let list = IndexRequestsRequest::default();
    assert_eq!(answer(manager.requests().index_requests(list).await).unwrap().total_size, 1);
    let mut ids = sent(&manager);
    ids.dedup();
    assert_eq!(ids, std::slice::from_ref(&first.id));

    let other = CreateRequestRequest { method: "clean_agent".to_owned(), ..keyed("k 1") };
    assert_eq!(create(&manager, other).await.unwrap_err().reason, Reason::KeyReused);
    assert_ne!(create(&manager, keyed("k 2")).await.unwrap().id, first.id);
    let error = create(&manager, keyed("a\nb")).await.unwrap_err();
    assert_eq!(error.violations[0].field, "idempotency_key");
}

#[tokio::test]
async fn what_was_refused_can_be_asked_for_again() {
    let manager = Manager::start().await;
    let on = RequestSelection { agents: "1".to_owned(), ..RequestSelection::default() };
    let request = CreateRequestRequest { on: Some(on), ..keyed("k") };
    let error = create(&manager, request.clone()).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentNotFound);
    fleet(&manager, 1).await;
    let begun = create(&manager, request.clone()).await.unwrap();
    assert_eq!(create(&manager, request).await.unwrap(), begun);
}

#[tokio::test]
async fn a_manager_killed_anywhere_leaves_one_request() {
    let mut manager = Manager::start().await;
    fleet(&manager, 2).await;
    for round in 0..12 {
        let key = format!("k{round}");
        let (mut client, request) = (manager.requests(), keyed(&key));
        let waiting = tokio::spawn(async move { client.create_request(request).await });
        // Somewhere in it: it takes a few milliseconds.
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..6000))).await;
        manager = manager.crash().await;
        let early = waiting.await.unwrap();
        online(&manager, 2).await;
        let begun = create(&manager, keyed(&key)).await.unwrap();
        if let Ok(early) = early {
            assert_eq!(early.into_inner().request.unwrap().id, begun.id);
        }
        assert_eq!(create(&manager, keyed(&key)).await.unwrap().id, begun.id);
        until_rows(&manager, &begun.id, "state = SENT", 2).await;
        let list = IndexRequestsRequest::default();
        let all = answer(manager.requests().index_requests(list).await).unwrap();
        assert_eq!(all.total_size, round + 1);
        assert_eq!(all.requests[0].id, begun.id);
    }
    let mut ids = sent(&manager);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 12);
}
