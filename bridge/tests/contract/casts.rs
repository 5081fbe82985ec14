//! CASTs: waiting, order, prefetch, redelivery, delayed retry and dead letters.

use std::time::Duration;

use goperation::{MessageId, Ranges, now_millis};
use goperation_bridge::{Message, PublishError, QueueName, Route};
use goperation_harness::{poll_for, poll_until};
use tokio::time::Instant;

use crate::bed::{Bed, SOON, cast, host, next, number, take};

pub(crate) async fn a_cast_waits_for_a_known_but_absent_agent(bed: &Bed) {
    let h1 = host("h1");
    bed.known(&h1, &[]).await;
    bed.bridge.publish(&Route::Cast(h1.clone()), &cast(1)).await.unwrap();
    bed.depth(QueueName::Cast(h1.clone()), 1).await;

    let mut there = bed.there(&h1, 4).await;
    let delivery = next(&mut there).await;
    assert_eq!(number(&delivery.message), 1);
    assert_eq!(delivery.queue, QueueName::Cast(h1.clone()));
    assert!(!delivery.redelivered);
    delivery.ack.ack().await;
    drop(there);
    // It would be back by now if its acknowledgement had not counted.
    let mut again = bed.there(&h1, 4).await;
    bed.bridge.publish(&Route::Cast(h1.clone()), &cast(2)).await.unwrap();
    assert_eq!(take(&mut again, 1).await, [2]);
}

pub(crate) async fn every_field_of_a_message_arrives(bed: &Bed) {
    let h1 = host("h1");
    bed.known(&h1, &[]).await;
    let mut there = bed.there(&h1, 4).await;
    let sent = Message {
        agents: Some(Ranges::parse("agents", "1-3,7").unwrap()),
        agent_type: Some("application".into()),
        attempt: 3,
        request: Some("0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e77".into()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        // 2^53, text and nesting: nothing is rounded.
        body: goperation_bridge::Body::Object(
            serde_json::json!({
                "number": 9_007_199_254_740_992u64, "text": "ü\"\n", "list": [1.5, null, {"a": []}],
            })
            .as_object()
            .unwrap()
            .clone(),
        ),
        ..cast(0)
    };
    bed.bridge.publish(&Route::Cast(h1), &sent).await.unwrap();
    let delivery = next(&mut there).await;
    delivery.ack.ack().await;
    assert_eq!(delivery.message, sent);
}

pub(crate) async fn the_order_of_a_queue_is_kept(bed: &Bed) {
    const COUNT: u64 = 300;
    let h1 = host("h1");
    bed.known(&h1, &[]).await;
    for n in 0..COUNT / 2 {
        bed.bridge.publish(&Route::Cast(h1.clone()), &cast(n)).await.unwrap();
    }
    let mut there = bed.there(&h1, 8).await;
    for n in COUNT / 2..COUNT {
        bed.bridge.publish(&Route::Cast(h1.clone()), &cast(n)).await.unwrap();
    }
    let numbers = take(&mut there, usize::try_from(COUNT).unwrap()).await;
    assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
}

pub(crate) async fn concurrent_publishers_lose_nothing(bed: &Bed) {
    const EACH: u64 = 60;
    let h1 = host("h1");
    bed.known(&h1, &[]).await;
    let mut there = bed.there(&h1, 16).await;
    let mut publishers = tokio::task::JoinSet::new();
    for publisher in 0..8 {
        let (bridge, route) = (bed.bridge.clone(), Route::Cast(h1.clone()));
        publishers.spawn(async move {
            for n in 0..EACH {
                bridge.publish(&route, &cast(publisher * 1000 + n)).await.unwrap();
            }
        });
    }
    let numbers = take(&mut there, usize::try_from(8 * EACH).unwrap()).await;
    publishers.join_all().await;
    for publisher in 0..8 {
        let of = numbers.iter().filter(|n| **n / 1000 == publisher).map(|n| n % 1000);
        assert_eq!(of.collect::<Vec<_>>(), (0..EACH).collect::<Vec<_>>(), "of {publisher}");
    }
}

pub(crate) async fn the_prefetch_bounds_what_is_unacknowledged(bed: &Bed) {
    let h1 = host("h1");
    bed.known(&h1, &[]).await;
    for n in 0..6 {
        bed.bridge.publish(&Route::Cast(h1.clone()), &cast(n)).await.unwrap();
    }
    let mut there = bed.there(&h1, 3).await;
    let mut held = Vec::new();
    for n in 0..3 {
        let delivery = next(&mut there).await;
        assert_eq!(number(&delivery.message), n);
        held.push(delivery);
    }
    // The other three are still in the queue, and not on their way.
    bed.depth(QueueName::Cast(h1.clone()), 3).await;
    assert!(there.deliveries.try_recv().is_err());
    held.remove(1).ack.ack().await;
    let fourth = next(&mut there).await;
    assert_eq!(number(&fourth.message), 3);
    bed.depth(QueueName::Cast(h1), 2).await;
    assert!(there.deliveries.try_recv().is_err());
}

pub(crate) async fn what_a_dropped_subscription_had_comes_again(bed: &Bed) {
    let h1 = host("h1");
    bed.known(&h1, &[]).await;
    for n in 0..3 {
        bed.bridge.publish(&Route::Cast(h1.clone()), &cast(n)).await.unwrap();
    }
    let mut there = bed.there(&h1, 2).await;
    let taken = next(&mut there).await;
    assert_eq!((number(&taken.message), taken.redelivered), (0, false));
    // The second is with the subscription, too.
    bed.depth(QueueName::Cast(h1.clone()), 1).await;
    drop(there);
    bed.depth(QueueName::Cast(h1.clone()), 3).await;
    // Too late: it comes again whether or not this is said.
    taken.ack.ack().await;

    let mut again = bed.there(&h1, 3).await;
    for (n, redelivered) in [(0, true), (1, true), (2, false)] {
        let delivery = next(&mut again).await;
        assert_eq!((number(&delivery.message), delivery.redelivered), (n, redelivered));
        delivery.ack.ack().await;
    }
    bed.depth(QueueName::Cast(h1), 0).await;
}

pub(crate) async fn what_is_given_back_comes_again(bed: &Bed) {
    let h1 = host("h1");
    bed.known(&h1, &[]).await;
    let mut there = bed.there(&h1, 1).await;
    bed.bridge.publish(&Route::Cast(h1.clone()), &cast(1)).await.unwrap();
    next(&mut there).await.ack.requeue().await;
    let second = next(&mut there).await;
    assert_eq!((number(&second.message), second.redelivered), (1, true));
    drop(second);
    let third = next(&mut there).await;
    assert_eq!((number(&third.message), third.redelivered), (1, true));
    third.ack.ack().await;
    bed.bridge.publish(&Route::Cast(h1), &cast(2)).await.unwrap();
    assert_eq!(take(&mut there, 1).await, [2]);
}

pub(crate) async fn a_shared_queue_serves_each_in_turn(bed: &Bed) {
    let (h1, h2) = (host("h1"), host("h2"));
    bed.known(&h1, &[]).await;
    bed.known(&h2, &[]).await;
    let any = Route::Any(h1.agent_type.clone());
    let (mut first, mut second) = (bed.there(&h1, 16).await, bed.there(&h2, 16).await);
    for n in 0..10 {
        bed.bridge.publish(&any, &cast(n)).await.unwrap();
    }
    let mut numbers = take(&mut first, 5).await;
    numbers.extend(take(&mut second, 5).await);
    numbers.sort_unstable();
    assert_eq!(numbers, (0..10).collect::<Vec<_>>());

    // What one leaves unacknowledged, the other gets.
    bed.bridge.publish(&any, &cast(10)).await.unwrap();
    bed.bridge.publish(&any, &cast(11)).await.unwrap();
    let left = next(&mut first).await;
    drop(first);
    let mut numbers = take(&mut second, 2).await;
    numbers.sort_unstable();
    assert_eq!(numbers, [10, 11]);
    drop(left);
}

pub(crate) async fn a_retry_comes_back_after_its_delay_and_delays_no_other(bed: &Bed) {
    let h1 = host("h1");
    bed.known(&h1, &[]).await;
    let mut there = bed.there(&h1, 4).await;
    let start = Instant::now();
    for (number, step, any) in [(2, 3, true), (1, 0, false)] {
        let step = Route::STEPS[step];
        let route = if any {
            Route::RetryAny(h1.clone(), step)
        } else {
            Route::RetryCast(h1.clone(), step)
        };
        let message = Message { attempt: 1, request: Some("r".into()), ..cast(number) };
        bed.agent.publish(&route, &message).await.unwrap();
    }
    bed.bridge.publish(&Route::Cast(h1.clone()), &cast(0)).await.unwrap();
    let any = QueueName::Any(h1.agent_type.clone());
    for (n, after, queue) in [
        (0, Duration::ZERO, QueueName::Cast(h1.clone())),
        (1, Route::STEPS[0], QueueName::Cast(h1.clone())),
        (2, Route::STEPS[3], any),
    ] {
        let delivery = next(&mut there).await;
        assert_eq!((number(&delivery.message), &delivery.queue), (n, &queue));
        assert!(start.elapsed() >= after, "{n} came after {:?}", start.elapsed());
        // Were it held back by the longer step before it, it would come after that one.
        assert_eq!(delivery.message.attempt, u32::from(n > 0));
        assert_eq!(delivery.message.request.is_some(), n > 0);
        delivery.ack.ack().await;
    }
}

pub(crate) async fn a_retry_whose_queue_has_gone_is_a_dead_letter(bed: &Bed) {
    let (h1, h2) = (host("h1"), host("h2"));
    let retry = Route::RetryCast(h1.clone(), Route::STEPS[0]);
    assert_eq!(bed.agent.publish(&retry, &cast(0)).await, Err(PublishError::NoQueue));
    bed.known(&h1, &[]).await;
    bed.known(&h2, &[]).await;
    let message = cast(1);
    bed.agent.publish(&retry, &message).await.unwrap();
    bed.bridge.remove_agent(&h1).await.unwrap();
    let reasons = |letters: Vec<goperation_bridge::DeadLetter>| {
        letters.into_iter().find(|letter| letter.message_id == message.id.as_str())
    };
    let letter = poll_for(SOON, "the dead letter", async || {
        reasons(bed.bridge.dead_letters(10).await.unwrap())
    })
    .await;
    assert!(["QUEUE_NOT_FOUND", "AGENT_DELETED"].contains(&letter.reason.as_str()), "{letter:?}");
}

pub(crate) async fn what_nobody_started_in_time_is_a_dead_letter(bed: &Bed) {
    let h1 = host("h1");
    bed.known(&h1, &[]).await;
    let late = Message { finish_time: Some(now_millis() + 300), ..cast(1) };
    bed.bridge.publish(&Route::Cast(h1.clone()), &late).await.unwrap();
    let letter = poll_for(SOON, "the dead letter", async || {
        bed.bridge.dead_letters(10).await.unwrap().pop()
    })
    .await;
    assert_eq!((letter.message_id.as_str(), letter.reason.as_str()), (late.id.as_str(), "EXPIRED"));
    assert_eq!(letter.queue, "cast.application.h1");
    let mut there = bed.there(&h1, 4).await;
    bed.bridge.publish(&Route::Cast(h1), &cast(2)).await.unwrap();
    assert_eq!(take(&mut there, 1).await, [2], "the late one is not delivered");
}

pub(crate) async fn a_dead_letter_has_its_reason(bed: &Bed) {
    let h1 = host("h1");
    bed.known(&h1, &[]).await;
    for (n, reason) in ["OVER_FINISHTIME", "METHOD_NOT_FOUND"].into_iter().enumerate() {
        let message = Message {
            id: MessageId::parse("id", &format!("id-{n}")).unwrap(),
            correlation: Some(reason.into()),
            ..cast(u64::try_from(n).unwrap())
        };
        bed.agent.publish(&Route::Dead(h1.clone()), &message).await.unwrap();
    }
    bed.depth(QueueName::Dead, 2).await;
    for _ in 0..2 {
        // They stay where they are.
        let letters = bed.bridge.dead_letters(10).await.unwrap();
        let told: Vec<_> =
            letters.iter().map(|l| (l.message_id.as_str(), l.reason.as_str())).collect();
        assert_eq!(told, [("id-0", "OVER_FINISHTIME"), ("id-1", "METHOD_NOT_FOUND")]);
        let first = &letters[0];
        assert_eq!(first.queue, "cast.application.h1");
        assert_eq!((first.namespace.as_str(), first.method.as_str()), ("game", "start"));
        assert_eq!(first.body["number"], 0);
        assert!(now_millis().abs_diff(first.time) < 60_000, "{}", first.time);
    }
    assert_eq!(bed.bridge.dead_letters(1).await.unwrap().len(), 1);
    poll_until(SOON, "both back in the queue", async || {
        bed.bridge.queue(&QueueName::Dead).await.unwrap().unwrap().depth == 2
    })
    .await;
}

pub(crate) async fn a_message_may_be_too_large(bed: &Bed) {
    let h1 = host("h1");
    bed.known(&h1, &[]).await;
    let body = serde_json::json!({ "text": "x".repeat(2 << 20) });
    let body = goperation_bridge::Body::Object(body.as_object().unwrap().clone());
    let refused = bed.bridge.publish(&Route::Cast(h1), &Message { body, ..cast(0) }).await;
    assert!(matches!(refused, Err(PublishError::TooLarge { .. })), "{refused:?}");
}
