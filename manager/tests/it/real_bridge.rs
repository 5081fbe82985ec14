//! A manager over a real bridge on the embedded transport, in one process.

use futures::StreamExt as _;
use goperation::{Reason, v1::*};

use crate::harness::{Manager, answer};

async fn exists(manager: &Manager, name: &str) -> bool {
    let request = IndexQueuesRequest {
        filter: format!("name = \"{name}\""),
        ..IndexQueuesRequest::default()
    };
    let queues = answer(manager.bridge().index_queues(request).await).unwrap().queues;
    queues.iter().any(|queue| queue.exists)
}

#[tokio::test]
async fn queues_come_and_go_with_their_agent() {
    let manager = Manager::with_bridge().await;
    let id = manager.agent("h1", &["db"]).await;
    assert!(exists(&manager, "cast.application.h1").await);
    assert!(!exists(&manager, "call.application.h1").await);

    // Nobody consumes: the agent is known and not there.
    let error = manager.try_create(id, "db").await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentOffline);
    assert!(manager.entity("db", 1).await.is_err());
    let error = answer(manager.agents().delete_agent(delete(id, false)).await).unwrap_err();
    assert_eq!(error.reason, Reason::AgentOffline);

    answer(manager.agents().delete_agent(delete(id, true)).await).unwrap();
    let show = ShowQueueRequest { name: "cast.application.h1".to_owned() };
    let shown = answer(manager.bridge().show_queue(show).await);
    assert!(shown.is_err() || shown.unwrap().queue.is_none_or(|queue| !queue.exists));
}

fn delete(id: i32, force: bool) -> DeleteAgentRequest {
    DeleteAgentRequest { id, force, etag: String::new() }
}

#[tokio::test]
async fn notifications_wait_for_their_receiver() {
    let manager = Manager::with_bridge().await;
    let notify = NotifyRequest { queue: "news".to_owned(), ..NotifyRequest::default() };
    let sent = answer(manager.bridge().notify(notify).await).unwrap();
    assert!(exists(&manager, "notify.news").await);
    let request = ReceiveRequest { queue: "news".to_owned(), ..ReceiveRequest::default() };
    let mut stream = answer(manager.bridge().receive(request).await).unwrap();
    let received = stream.next().await.unwrap().unwrap();
    assert_eq!(received.message_id, sent.message_id);
    let tokens = AcknowledgeRequest {
        queue: "news".to_owned(),
        ack_tokens: vec![received.ack_token],
        requeue: false,
    };
    assert!(answer(manager.bridge().acknowledge(tokens).await).unwrap().unknown.is_empty());
}
