//! The bridge on the manager's port.

use goperation::{Reason, v1::*};

use crate::harness::{Manager, answer};

fn call() -> CallRequest {
    CallRequest {
        target: Some(Target {
            topic: "agent.application".to_owned(),
            host: "h1".to_owned(),
            fanout: false,
            namespace: "db".to_owned(),
        }),
        method: "echo".to_owned(),
        message_id: "m1".to_owned(),
        ..CallRequest::default()
    }
}

#[tokio::test]
async fn commands_go_through_as_they_are() {
    let manager = Manager::start().await;
    let mut request = tonic::Request::new(call());
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    request.metadata_mut().insert("traceparent", trace.parse().unwrap());
    let answered = answer(manager.bridge().call(request).await).unwrap();
    assert_eq!(answered.message_id, "m1");
    assert_eq!(manager.fake.calls("echo")[0], call());
    assert_eq!(manager.fake.look(|seen| seen.traceparent.clone()).unwrap(), trace);

    manager.fake.refuse(Reason::FanoutCall);
    let error = answer(manager.bridge().call(call()).await).unwrap_err();
    assert_eq!(error.reason, Reason::FanoutCall);
    assert_eq!(error.metadata["message_id"], "m1");

    let cast = CastRequest { method: "echo".to_owned(), ..CastRequest::default() };
    answer(manager.bridge().cast(cast.clone()).await).unwrap();
    let id = "0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e77".to_owned();
    let foreign = CastRequest { request_id: id, ..cast };
    let error = answer(manager.bridge().cast(foreign).await).unwrap_err();
    assert_eq!(error.violations[0].field, "request_id", "only the manager sends for a request");
    assert_eq!(manager.fake.look(|seen| seen.casts.len()), 1);
    let dead = manager.bridge().index_dead_letters(IndexDeadLettersRequest::default()).await;
    assert_eq!(answer(dead).unwrap().dead_letters[0].reason, "OVER_FINISHTIME");
    let tokens = AcknowledgeRequest { ack_tokens: vec!["t".into()], ..Default::default() };
    assert_eq!(answer(manager.bridge().acknowledge(tokens).await).unwrap().unknown, ["t"]);
}

#[tokio::test]
async fn queues_are_those_of_agents_types_notifications_and_the_dead() {
    let manager = Manager::start().await;
    manager.register("h1").await;
    manager.register("h2").await;
    for queue in ["news", "alerts"] {
        let notify = NotifyRequest { queue: queue.to_owned(), ..NotifyRequest::default() };
        answer(manager.bridge().notify(notify).await).unwrap();
    }
    let bad = NotifyRequest { queue: "a b".to_owned(), ..NotifyRequest::default() };
    let error = answer(manager.bridge().notify(bad).await).unwrap_err();
    assert_eq!(error.reason, Reason::InvalidArgument);

    let manager = manager.crash().await;
    let index = |request: IndexQueuesRequest| {
        let mut client = manager.bridge();
        async move { answer(client.index_queues(request).await).unwrap() }
    };
    let all = index(IndexQueuesRequest::default()).await;
    let names: Vec<_> = all.queues.iter().map(|queue| queue.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "any.application",
            "anycall.application",
            "call.application.h1",
            "call.application.h2",
            "cast.application.h1",
            "cast.application.h2",
            "dead",
            "notify.alerts",
            "notify.news",
        ]
    );
    let exists: Vec<_> = all.queues.iter().map(|queue| queue.exists).collect();
    assert_eq!(exists, [false, false, false, false, true, true, true, false, false]);

    let page = IndexQueuesRequest { page_size: 4, ..IndexQueuesRequest::default() };
    let first = index(page.clone()).await;
    assert_eq!((first.queues.len(), first.total_size), (4, 9));
    let second = IndexQueuesRequest { page_token: first.next_page_token, ..page.clone() };
    assert_eq!(index(second).await.queues[0].name, "cast.application.h1");
    let deep = IndexQueuesRequest { filter: "depth > 2".to_owned(), ..page.clone() };
    assert_eq!(index(deep).await.total_size, 3);
    let named = IndexQueuesRequest { filter: "name = dead".to_owned(), ..page };
    assert_eq!(index(named).await.queues[0].depth, 3);

    let show = ShowQueueRequest { name: "cast.application.h1".to_owned() };
    assert_eq!(answer(manager.bridge().show_queue(show).await).unwrap().queue.unwrap().depth, 3);
    let show = ShowQueueRequest { name: "cast.application.h9".to_owned() };
    let error = answer(manager.bridge().show_queue(show).await).unwrap_err();
    assert_eq!(error.reason, Reason::QueueNotFound);
}
