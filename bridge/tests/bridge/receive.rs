//! NOTIFY, Receive and Acknowledge.

use goperation::{Reason, struct_to_json, v1};
use goperation_bridge::BridgeConfig;
use goperation_harness::poll_until;
use serde_json::json;
use tonic::Streaming;

use crate::bed::{Bed, SOON, args, bed, bed_with, failure};

fn notify(n: u32) -> v1::NotifyRequest {
    v1::NotifyRequest {
        queue: "alerts".into(),
        payload: Some(args(&json!({ "n": n }))),
        message_id: format!("id-{n}"),
    }
}

fn receive(max_unacknowledged: i32, auto_acknowledge: bool) -> v1::ReceiveRequest {
    v1::ReceiveRequest { queue: "alerts".into(), max_unacknowledged, auto_acknowledge }
}

fn acknowledge(ack_tokens: Vec<String>, requeue: bool) -> v1::AcknowledgeRequest {
    v1::AcknowledgeRequest { queue: "alerts".into(), ack_tokens, requeue }
}

async fn next(stream: &mut Streaming<v1::ReceiveResponse>) -> v1::ReceiveResponse {
    let next = tokio::time::timeout(SOON, stream.message()).await;
    next.expect("a message in time").unwrap().expect("a running stream")
}

async fn depth(bed: &Bed, depth: i32) {
    poll_until(SOON, &format!("{depth} in the queue"), async || {
        let request = v1::ShowQueueRequest { name: "notify.alerts".into() };
        let queue = bed.client().show_queue(request).await.unwrap().into_inner().queue.unwrap();
        queue.depth == depth && queue.exists
    })
    .await;
}

#[tokio::test]
async fn a_notification_waits_for_a_receiver_and_is_acknowledged() {
    let bed = bed().await;
    let mut client = bed.client();
    for n in 0..3 {
        assert_eq!(
            client.notify(notify(n)).await.unwrap().into_inner().message_id,
            format!("id-{n}")
        );
    }
    let mut stream = client.receive(receive(2, false)).await.unwrap().into_inner();
    let (first, second) = (next(&mut stream).await, next(&mut stream).await);
    assert_eq!((first.message_id.as_str(), first.redelivered), ("id-0", false));
    let payload = struct_to_json("payload", first.payload.as_ref()).unwrap();
    assert_eq!(payload, json!({ "n": 0 }).as_object().unwrap().clone());
    assert!(first.send_time.is_some());
    // Two are out: the third comes only when one of them is acknowledged.
    depth(&bed, 1).await;
    let tokens = vec![first.ack_token.clone(), "x.1".into(), "nonsense".into()];
    let unknown = client.acknowledge(acknowledge(tokens, false)).await.unwrap().into_inner();
    assert_eq!(unknown.unknown, ["x.1", "nonsense"]);
    let third = next(&mut stream).await;
    assert_eq!(third.message_id, "id-2");
    // Twice is once; and a token is good for its own queue only.
    let again = client.acknowledge(acknowledge(vec![first.ack_token.clone()], false)).await;
    assert_eq!(again.unwrap().into_inner().unknown, [first.ack_token]);
    let other = v1::AcknowledgeRequest {
        queue: "other".into(),
        ..acknowledge(vec![second.ack_token.clone()], false)
    };
    let other = client.acknowledge(other).await.unwrap().into_inner();
    assert_eq!(other.unknown, std::slice::from_ref(&second.ack_token));

    // Given back, it comes again, and says so.
    client.acknowledge(acknowledge(vec![second.ack_token], true)).await.unwrap();
    let back = next(&mut stream).await;
    assert_eq!((back.message_id.as_str(), back.redelivered), ("id-1", true));

    // What the stream leaves behind goes back to the queue; its tokens are void.
    drop(stream);
    depth(&bed, 2).await;
    let void = client.acknowledge(acknowledge(vec![third.ack_token.clone()], false)).await;
    assert_eq!(void.unwrap().into_inner().unknown, [third.ack_token]);
    let mut stream = client.receive(receive(0, true)).await.unwrap().into_inner();
    for id in ["id-1", "id-2"] {
        let message = next(&mut stream).await;
        assert_eq!((message.message_id.as_str(), message.ack_token.as_str()), (id, ""));
        assert!(message.redelivered);
    }
    drop(stream);
    depth(&bed, 0).await;
    bed.close().await;
}

#[tokio::test]
async fn a_full_queue_and_bad_fields_are_said() {
    let bed = bed().await;
    let mut client = bed.client();
    for n in 0..5 {
        client.notify(notify(n)).await.unwrap();
    }
    let full = failure(client.notify(notify(5)).await);
    assert_eq!(full.reason, Reason::QueueFull);
    assert!(full.retry_after.is_some());

    let bad = v1::ReceiveRequest { queue: "a b".into(), ..receive(257, false) };
    let error = failure(client.receive(bad).await);
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["queue", "max_unacknowledged"]);
    let error = failure(client.acknowledge(acknowledge(Vec::new(), false)).await);
    assert_eq!(error.violations[0].field, "ack_tokens");
    bed.close().await;
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_bridge() {
    let bed = bed_with(BridgeConfig { max_receive_streams: 1, ..BridgeConfig::default() }).await;
    let mut client = bed.client();
    let stream = client.receive(receive(0, false)).await.unwrap().into_inner();
    assert_eq!(failure(client.receive(receive(0, false)).await).reason, Reason::RateLimited);
    drop(stream);
    let mut stream = client.receive(receive(0, false)).await.unwrap().into_inner();
    bed.bridge.close().await;
    let ended = tokio::time::timeout(SOON, stream.message()).await.expect("it ends");
    assert_eq!(failure(ended).reason, Reason::Unavailable);
    bed.close().await;
}
