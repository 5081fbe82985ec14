//! Queues and dead letters as people see them.

use goperation::{Reason, v1};
use goperation_bridge::{Message, Route};

use crate::bed::{bed, cast, failure, h1};

fn index(page_size: i32, page_token: &str, filter: &str) -> v1::IndexQueuesRequest {
    v1::IndexQueuesRequest { page_size, page_token: page_token.into(), filter: filter.into() }
}

#[tokio::test]
async fn queues_are_listed_by_page_and_filter() {
    let bed = bed().await;
    bed.known(&[]).await;
    let mut client = bed.client();
    client.cast(cast()).await.unwrap();
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let page = client.index_queues(index(2, &token, "")).await.unwrap().into_inner();
        assert!(page.queues.len() <= 2);
        assert_eq!(page.total_size, 5);
        names.extend(page.queues.into_iter().map(|queue| queue.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let expected = [
        "any.application",
        "anycall.application",
        "call.application.h1",
        "cast.application.h1",
        "dead",
    ];
    assert_eq!(names, expected);
    let full = client.index_queues(index(0, "", "depth > 0 AND name = c*")).await.unwrap();
    let full = full.into_inner();
    assert_eq!((full.total_size, full.queues[0].name.as_str()), (1, "cast.application.h1"));
    assert_eq!(full.queues[0].depth, 1);
    let error = failure(client.index_queues(index(-1, "", "colour = red")).await);
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["page_size", "filter"]);
    bed.close().await;
}

#[tokio::test]
async fn one_queue_is_shown_or_not_found() {
    let bed = bed().await;
    bed.known(&[]).await;
    let mut client = bed.client();
    let show = |name: &str| v1::ShowQueueRequest { name: name.into() };
    let queue = client.show_queue(show("cast.application.h1")).await.unwrap().into_inner();
    assert!(queue.queue.unwrap().exists);
    for (name, reason) in [
        ("call.application.h1", Reason::QueueNotFound),
        ("notify.none", Reason::QueueNotFound),
        ("gop.cast", Reason::InvalidArgument),
    ] {
        assert_eq!(failure(client.show_queue(show(name)).await).reason, reason, "{name}");
    }
    bed.close().await;
}

#[tokio::test]
async fn dead_letters_are_listed_with_their_reasons() {
    let bed = bed().await;
    bed.known(&["game"]).await;
    let mut client = bed.client();
    for _ in 0..3 {
        client.cast(cast()).await.unwrap();
    }
    let request = v1::DeleteAgentQueuesRequest { r#type: "application".into(), host: "h1".into() };
    let removed = client.delete_agent_queues(request).await.unwrap().into_inner();
    assert_eq!(removed.drained, 3);
    bed.known(&["game"]).await;
    let mut agent = bed.agent().await;
    client.cast(cast()).await.unwrap();
    let late = Message { correlation: Some("OVER_FINISHTIME".into()), ..agent.message().await };
    bed.transport.publish(&Route::Dead(h1()), &late).await.unwrap();

    let list = |size, token: &str, filter: &str| v1::IndexDeadLettersRequest {
        page_size: size,
        page_token: token.into(),
        filter: filter.into(),
    };
    let first = client.index_dead_letters(list(3, "", "")).await.unwrap().into_inner();
    assert_eq!((first.dead_letters.len(), first.total_size), (3, 4));
    assert!(first.dead_letters.iter().all(|letter| letter.reason == "AGENT_DELETED"));
    let rest = client.index_dead_letters(list(3, &first.next_page_token, "")).await.unwrap();
    let rest = rest.into_inner();
    assert_eq!((rest.dead_letters.len(), rest.next_page_token.as_str()), (1, ""));
    let filtered = client
        .index_dead_letters(list(0, "", r#"reason = "OVER_FINISHTIME" AND method = start"#))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(filtered.dead_letters.len(), 1);
    let letter = &filtered.dead_letters[0];
    assert_eq!(letter.message_id, late.id.as_str());
    assert_eq!((letter.queue.as_str(), letter.namespace.as_str()), ("cast.application.h1", "game"));
    assert!(letter.body.is_some() && letter.time.is_some());
    let error = failure(client.index_dead_letters(list(0, "x", "depth = 1")).await);
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["filter", "page_token"]);
    bed.close().await;
}
