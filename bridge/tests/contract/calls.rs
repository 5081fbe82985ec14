//! CALLs and replies.

use goperation::{Error, MessageId, Reason};
use goperation_bridge::{Body, Kind, Message, PublishError, QueueName, Route, Source};
use goperation_harness::poll_until;

use crate::bed::{Bed, SOON, cast, connected, host, message, next, number};

pub(crate) async fn a_call_is_taken_only_while_the_agent_is_there(bed: &Bed) {
    let h1 = host("h1");
    let (call, any) = (Route::Call(h1.clone()), Route::AnyCall(h1.agent_type.clone()));
    bed.known(&h1, &[]).await;
    for route in [&call, &any] {
        let refused = bed.bridge.publish(route, &message(Kind::Call, 0)).await;
        assert_eq!(refused, Err(PublishError::NoQueue), "{route:?} before");
    }

    let mut there = bed.there(&h1, 4).await;
    for (route, queue) in
        [(&call, QueueName::Call(h1.clone())), (&any, QueueName::AnyCall(h1.agent_type.clone()))]
    {
        let sent = message(Kind::Call, 1);
        bed.bridge.publish(route, &sent).await.unwrap();
        let delivery = next(&mut there).await;
        assert_eq!((delivery.message.id, delivery.queue), (sent.id, queue));
        delivery.ack.ack().await;
    }

    drop(there);
    for route in [&call, &any] {
        poll_until(SOON, &format!("no queue for {route:?}"), async || {
            let refused = bed.bridge.publish(route, &message(Kind::Call, 2)).await;
            refused == Err(PublishError::NoQueue)
        })
        .await;
    }
    assert!(bed.bridge.queue(&QueueName::Call(h1.clone())).await.unwrap().is_none());
    assert!(bed.bridge.queue(&QueueName::Cast(h1)).await.unwrap().is_some(), "still known");
}

pub(crate) async fn a_call_is_not_held_back_by_unacknowledged_casts(bed: &Bed) {
    let h1 = host("h1");
    bed.known(&h1, &[]).await;
    let mut there = bed.there(&h1, 2).await;
    for n in 0..4 {
        bed.bridge.publish(&Route::Cast(h1.clone()), &cast(n)).await.unwrap();
    }
    let held = [next(&mut there).await, next(&mut there).await];
    bed.bridge.publish(&Route::Call(h1.clone()), &message(Kind::Call, 9)).await.unwrap();
    let delivery = next(&mut there).await;
    assert_eq!((delivery.message.kind, number(&delivery.message)), (Kind::Call, 9));
    drop(held);
}

pub(crate) async fn replies_reach_the_bridge_that_waits(bed: &Bed) {
    let reply = |body| Message {
        kind: Kind::Reply,
        id: MessageId::generate(),
        namespace: String::new(),
        method: String::new(),
        correlation: Some("c1.0".into()),
        finish_time: None,
        body,
        ..message(Kind::Reply, 0)
    };
    let failure = Error::new(Reason::PortTaken, "taken").with("port", 7001);
    let failed = reply(Body::Failure(Box::new(failure)));
    let route = Route::Reply("b1".into());
    assert_eq!(bed.agent.publish(&route, &failed).await, Err(PublishError::NoQueue));

    let mut replies = connected(&bed.bridge, Source::Replies("b1".into()), 16).await;
    let _other = connected(&bed.bridge, Source::Replies("b2".into()), 16).await;
    let done = reply(message(Kind::Reply, 7).body);
    for sent in [&failed, &done] {
        bed.agent.publish(&route, sent).await.unwrap();
        let got = next(&mut replies).await.message;
        assert_eq!(got.kind, Kind::Reply);
        assert_eq!((&got.id, &got.correlation), (&sent.id, &sent.correlation));
        assert_eq!(got.body, sent.body);
    }
}
