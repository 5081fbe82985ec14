//! CAST.

use goperation::{Reason, now_millis, to_timestamp, v1};

use crate::bed::{bed, cast, failure};

const HOUR: u64 = 3_600_000;

#[tokio::test]
async fn a_cast_is_taken_for_a_known_agent_only() {
    let bed = bed().await;
    let mut client = bed.client();
    assert_eq!(failure(client.cast(cast()).await).reason, Reason::QueueNotFound);
    bed.known(&["game"]).await;
    let answer = client.cast(cast()).await.unwrap().into_inner();
    let mut agent = bed.agent().await;
    let message = agent.message().await;
    assert_eq!(message.id.as_str(), answer.message_id);
    assert_eq!((message.namespace.as_str(), message.method.as_str()), ("game", "start"));
    assert!(message.traceparent.is_some());
    let day = now_millis() + 24 * HOUR;
    assert!((day - 60_000..=day).contains(&message.finish_time.unwrap()), "24 h by default");
    let request = v1::DeleteAgentQueuesRequest { r#type: "application".into(), host: "h1".into() };
    client.delete_agent_queues(request).await.unwrap();
    assert_eq!(failure(client.cast(cast()).await).reason, Reason::QueueNotFound);
    bed.close().await;
}

#[tokio::test]
async fn a_cast_says_which_request_it_belongs_to() {
    let bed = bed().await;
    bed.known(&["game"]).await;
    let mut client = bed.client();
    let id = "0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e77";
    client.cast(v1::CastRequest { request_id: id.into(), ..cast() }).await.unwrap();
    client.cast(cast()).await.unwrap();
    let mut agent = bed.agent().await;
    assert_eq!(agent.message().await.request.as_deref(), Some(id));
    assert_eq!(agent.message().await.request, None);
    bed.close().await;
}

#[tokio::test]
async fn a_broadcast_needs_one_taker_at_least_and_names_whom_it_is_for() {
    let bed = bed().await;
    let mut client = bed.client();
    let to_all = |topic: &str, namespace: &str| v1::CastRequest {
        target: Some(v1::Target {
            topic: topic.into(),
            host: String::new(),
            fanout: true,
            namespace: namespace.into(),
        }),
        agents: "1-3,7".into(),
        ..cast()
    };
    assert_eq!(failure(client.cast(to_all("agent", "")).await).reason, Reason::QueueNotFound);
    bed.known(&["game"]).await;
    let none = failure(client.cast(to_all("agent", "db")).await);
    assert_eq!(none.reason, Reason::QueueNotFound);
    client.cast(to_all("agent.application", "game")).await.unwrap();
    client.cast(to_all("agent", "manager")).await.unwrap();
    let mut agent = bed.agent().await;
    let (endpoint, all) = (agent.message().await, agent.message().await);
    assert_eq!(endpoint.agents.unwrap().to_string(), "1-3,7");
    assert_eq!(endpoint.agent_type.as_deref(), Some("application"));
    assert_eq!((all.namespace.as_str(), all.agent_type), ("manager", None));
    bed.close().await;
}

#[tokio::test]
async fn the_finish_time_is_bounded_and_a_passed_one_is_not_sent() {
    let bed = bed().await;
    bed.known(&["game"]).await;
    let mut client = bed.client();
    let at = |millis: u64| v1::CastRequest { finish_time: Some(to_timestamp(millis)), ..cast() };
    let beyond = failure(client.cast(at(now_millis() + 7 * 24 * HOUR + 60_000)).await);
    assert_eq!(beyond.violations[0].field, "finish_time");
    let late = failure(client.cast(at(now_millis() - 1)).await);
    assert_eq!(late.reason, Reason::OverFinishtime);
    let time = now_millis() + 7 * 24 * HOUR - 60_000;
    client.cast(at(time)).await.unwrap();
    assert_eq!(bed.agent().await.message().await.finish_time, Some(time));
    bed.close().await;
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let bed = bed().await;
    let bad = v1::CastRequest {
        target: Some(v1::Target {
            topic: "application".into(),
            host: "h 1".into(),
            fanout: false,
            namespace: "a-b".into(),
        }),
        method: String::new(),
        args: None,
        agents: "1-3".into(),
        finish_time: Some(to_timestamp(now_millis() + 100 * 24 * HOUR)),
        message_id: "no blanks".into(),
        request_id: "R1".into(),
    };
    let error = failure(bed.client().cast(bad).await);
    let mut fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    fields.sort_unstable();
    let expected = [
        "agents",
        "finish_time",
        "message_id",
        "method",
        "request_id",
        "target.host",
        "target.namespace",
        "target.topic",
    ];
    assert_eq!(fields, expected);
    bed.close().await;
}

#[tokio::test]
async fn after_the_transport_is_gone_the_broker_is_unavailable() {
    let bed = bed().await;
    bed.known(&["game"]).await;
    bed.transport.close().await;
    let error = failure(bed.client().cast(cast()).await);
    assert_eq!(error.reason, Reason::BrokerUnavailable);
    assert!(error.retry_after.is_some());
    bed.close().await;
}
