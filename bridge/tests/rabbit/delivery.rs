//! Every route to its queue, and every publish its true outcome.

use std::collections::HashSet;

use futures::future::join_all;
use goperation::{EndpointName, NotifyName, now_millis};
use goperation_bridge::{
    Kind, Message, PublishError, QueueName, Route, Source, Transport as _,
    rabbit::{CastQueue, Rabbit, RabbitConfig},
};
use goperation_harness::poll_until;

use crate::support::{
    SOON, agent, fresh, fresh_of, message, next, number, registered, subscribed, taken,
};

fn endpoint(name: &str) -> EndpointName {
    EndpointName::parse("endpoint", name).unwrap()
}

async fn every_route_arrives(kind: CastQueue) {
    let rabbit = fresh_of(kind).await;
    let (one, two) = (registered(&rabbit, "h1").await, registered(&rabbit, "h10").await);
    let game = endpoint("game");
    rabbit.ensure_agent(&two, std::slice::from_ref(&game), &[]).await.unwrap();
    let mut first = subscribed(&rabbit, &one).await;
    let mut second = subscribed(&rabbit, &two).await;

    let cast = message(Kind::Cast, 1);
    rabbit.publish(&Route::Cast(one.clone()), &cast).await.unwrap();
    let delivery = next(&mut first).await;
    assert_eq!(delivery.message, cast);
    assert_eq!(delivery.queue, QueueName::Cast(one.clone()));
    assert!(!delivery.redelivered);
    delivery.ack.requeue().await;
    let again = next(&mut first).await;
    assert!(again.redelivered);
    drop(again);
    assert_eq!(taken(&mut first).await, cast);

    let call = Message { reply_to: Some("b1".into()), ..message(Kind::Call, 2) };
    rabbit.publish(&Route::Call(two.clone()), &call).await.unwrap();
    assert_eq!(taken(&mut second).await, call);

    rabbit.publish(&Route::FanoutAgents, &message(Kind::Cast, 3)).await.unwrap();
    assert_eq!(number(&taken(&mut first).await), 3);
    assert_eq!(number(&taken(&mut second).await), 3);
    rabbit.publish(&Route::FanoutEndpoint(game.clone()), &message(Kind::Cast, 4)).await.unwrap();
    assert_eq!(number(&taken(&mut second).await), 4);

    let (any, any_call) =
        (Route::Any(one.agent_type.clone()), Route::AnyCall(one.agent_type.clone()));
    for route in [any, any_call] {
        rabbit.publish(&route, &message(Kind::Cast, 5)).await.unwrap();
        let taken = tokio::select! { a = taken(&mut first) => a, b = taken(&mut second) => b };
        assert_eq!(number(&taken), 5);
    }

    let mut replies = rabbit.subscribe(Source::Replies("b1".into()), 16).await.unwrap();
    replies.connected.wait_for(|on| *on).await.unwrap();
    rabbit.publish(&Route::Reply("b1".into()), &message(Kind::Reply, 6)).await.unwrap();
    assert_eq!(number(&taken(&mut replies).await), 6);
    let lost = rabbit.publish(&Route::Reply("b2".into()), &message(Kind::Reply, 7)).await;
    assert_eq!(lost, Err(PublishError::NoQueue));

    // The endpoint has gone from the agent: nobody has it now.
    rabbit.ensure_agent(&two, &[], &[game.clone(), endpoint("other")]).await.unwrap();
    let lost = rabbit.publish(&Route::FanoutEndpoint(game), &message(Kind::Cast, 8)).await;
    assert_eq!(lost, Err(PublishError::NoQueue));
    rabbit.close().await;
}

#[tokio::test]
async fn every_route_arrives_on_classic_queues() {
    every_route_arrives(CastQueue::Classic).await;
}

#[tokio::test]
async fn every_route_arrives_on_quorum_queues() {
    every_route_arrives(CastQueue::Quorum).await;
}

#[tokio::test]
async fn what_no_queue_takes_comes_back() {
    let (rabbit, _) = fresh(|_| {}).await;
    let known = registered(&rabbit, "h1").await;
    let cases = [
        (Route::Cast(agent("h2")), "an agent that was never there"),
        (Route::Call(agent("h2")), "an agent that was never there"),
        // Two exchanges deep: gop.direct has a binding, the agent's own exchange has no queue.
        (Route::Call(known.clone()), "an agent that is away"),
        (Route::AnyCall(known.agent_type.clone()), "no agent of the type is there"),
        (Route::FanoutEndpoint(endpoint("nobody")), "an exchange that does not exist"),
        (Route::RetryCast(agent("h2"), Route::STEPS[0]), "an exchange that does not exist"),
    ];
    for (route, what) in cases {
        let sent = rabbit.publish(&route, &message(Kind::Cast, 0)).await;
        assert_eq!(sent, Err(PublishError::NoQueue), "{what}: {route:?}");
    }
    rabbit.publish(&Route::Cast(known.clone()), &message(Kind::Cast, 0)).await.unwrap();

    // A CALL reaches the agent only while it is there.
    let subscription = subscribed(&rabbit, &known).await;
    rabbit.publish(&Route::Call(known.clone()), &message(Kind::Call, 1)).await.unwrap();
    assert!(rabbit.queue(&QueueName::Call(known.clone())).await.unwrap().is_some());
    drop(subscription);
    poll_until(SOON, "the CALL queue goes with its agent", async || {
        rabbit.queue(&QueueName::Call(known.clone())).await.unwrap().is_none()
    })
    .await;
    let sent = rabbit.publish(&Route::Call(known.clone()), &message(Kind::Call, 2)).await;
    assert_eq!(sent, Err(PublishError::NoQueue));
    assert!(rabbit.queue(&QueueName::Cast(known)).await.unwrap().is_some());
    assert!(rabbit.queue(&QueueName::Cast(agent("h2"))).await.unwrap().is_none());
    rabbit.close().await;
}

#[tokio::test]
async fn returned_and_delivered_are_never_mixed_up() {
    let (rabbit, _) = fresh(|_| {}).await;
    let known = registered(&rabbit, "h1").await;
    let mut subscription = subscribed(&rabbit, &known).await;
    let received = tokio::spawn(async move {
        let mut numbers = HashSet::new();
        while numbers.len() < 1500 {
            numbers.insert(number(&taken(&mut subscription).await));
        }
        numbers
    });
    let sent = join_all((0..3000_u64).map(|n| {
        let route = Route::Cast(if n % 2 == 0 { known.clone() } else { agent("nobody") });
        let rabbit = &rabbit;
        async move { (n, rabbit.publish(&route, &message(Kind::Cast, n)).await) }
    }))
    .await;
    for (n, outcome) in sent {
        let right = if n % 2 == 0 { Ok(()) } else { Err(PublishError::NoQueue) };
        assert_eq!(outcome, right, "{n}");
    }
    assert!(received.await.unwrap().iter().all(|n| n % 2 == 0));
    rabbit.close().await;
}

#[tokio::test]
async fn too_much_in_flight_is_refused_at_once() {
    let (rabbit, _) = fresh(|config| config.max_in_flight = 8).await;
    let known = registered(&rabbit, "h1").await;
    let route = Route::Cast(known.clone());
    let first = message(Kind::Cast, 0);
    let sent = join_all((0..200).map(|_| rabbit.publish(&route, &first))).await;
    let accepted = sent.iter().filter(|s| s.is_ok()).count();
    let refused = sent.iter().filter(|s| matches!(s, Err(PublishError::Busy(_)))).count();
    assert_eq!(accepted + refused, 200);
    assert!(accepted >= 1 && refused >= 1, "{accepted} accepted");
    let depth = rabbit.queue(&QueueName::Cast(known)).await.unwrap().unwrap().depth;
    assert_eq!(usize::try_from(depth).unwrap(), accepted);
    rabbit.close().await;
}

#[tokio::test]
async fn a_notify_queue_is_made_and_bounded() {
    let (rabbit, config) = fresh(|config| config.notify_max_length = 2).await;
    registered(&rabbit, "h1").await;
    let name = NotifyName::parse("name", "billing.eu").unwrap();
    let route = Route::Notify(name.clone());
    for n in 0..2 {
        rabbit.publish(&route, &message(Kind::Notify, n)).await.unwrap();
    }
    let full = rabbit.publish(&route, &message(Kind::Notify, 2)).await;
    assert_eq!(full, Err(PublishError::Full));

    // Another limit in the configuration does not break what is there.
    let other = RabbitConfig { notify_max_length: 5, ..config };
    let other = Rabbit::connect(other).unwrap();
    let mut receiver = other.subscribe(Source::Notify(name.clone()), 1).await.unwrap();
    assert_eq!(number(&taken(&mut receiver).await), 0);
    let held = next(&mut receiver).await;
    assert_eq!(number(&held.message), 1);
    drop(receiver);
    drop(held);
    poll_until(SOON, "what was not acknowledged returns", async || {
        rabbit.queue(&QueueName::Notify(name.clone())).await.unwrap().unwrap().depth == 1
    })
    .await;
    rabbit.publish(&route, &message(Kind::Notify, 3)).await.unwrap();
    other.close().await;
    rabbit.close().await;
}

#[tokio::test]
async fn at_most_the_prefetch_is_unacknowledged_and_calls_still_come() {
    let (rabbit, _) = fresh(|_| {}).await;
    let known = registered(&rabbit, "h1").await;
    let mut subscription = rabbit.subscribe(Source::Agent(known.clone()), 3).await.unwrap();
    subscription.connected.wait_for(|on| *on).await.unwrap();
    for n in 0..10 {
        let cast = if n % 2 == 0 {
            Route::Cast(known.clone())
        } else {
            Route::Any(known.agent_type.clone())
        };
        rabbit.publish(&cast, &message(Kind::Cast, n)).await.unwrap();
    }
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut subscription).await);
    }
    rabbit.publish(&Route::Call(known.clone()), &message(Kind::Call, 99)).await.unwrap();
    let call = next(&mut subscription).await;
    assert_eq!(number(&call.message), 99, "a fourth CAST came before one was acknowledged");
    assert!(subscription.deliveries.try_recv().is_err());
    let mut seen: Vec<_> = held.iter().map(|d| number(&d.message)).collect();
    for delivery in held {
        delivery.ack.ack().await;
    }
    while seen.len() < 10 {
        seen.push(number(&taken(&mut subscription).await));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
    rabbit.close().await;
}

#[tokio::test]
async fn many_endpoints_are_bound_at_once() {
    let (rabbit, _) = fresh(|_| {}).await;
    let known = registered(&rabbit, "h1").await;
    let endpoints: Vec<_> = (0..60).map(|n| endpoint(&format!("game{n}"))).collect();
    rabbit.ensure_agent(&known, &endpoints, &[]).await.unwrap();
    for endpoint in &endpoints {
        let route = Route::FanoutEndpoint(endpoint.clone());
        rabbit.publish(&route, &message(Kind::Cast, 0)).await.unwrap();
    }
    rabbit.close().await;
}

/// What a registration made is not made again by the sync that follows, but by every other: an
/// operator or another broker may have taken it away.
#[tokio::test]
async fn what_has_gone_is_made_again() {
    let (rabbit, config) = fresh(|_| {}).await;
    let known = registered(&rabbit, "h1").await;
    let game = [endpoint("game")];
    rabbit.ensure_agent(&known, &game, &[]).await.unwrap();
    let connection = lapin::Connection::connect(&config.uri, Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    for endpoints in [game.as_slice(), &[], &[]] {
        let queue = "gop.cast.classic.application.h1".into();
        channel.queue_delete(queue, Default::default()).await.unwrap();
        rabbit.ensure_agent(&known, endpoints, &[]).await.unwrap();
        let cast = rabbit.publish(&Route::Cast(known.clone()), &message(Kind::Cast, 0)).await;
        assert_eq!(cast, Ok(()));
    }
    connection.close(200, "".into()).await.unwrap();
    rabbit.close().await;
}

#[tokio::test]
async fn a_transport_that_is_closed_says_so() {
    let (rabbit, _) = fresh(|_| {}).await;
    let known = registered(&rabbit, "h1").await;
    let mut subscription = subscribed(&rabbit, &known).await;
    let before = now_millis();
    rabbit.close().await;
    assert!(now_millis() - before < 10_000, "it waits for what never comes");
    assert!(!*subscription.connected.borrow());
    assert!(subscription.deliveries.recv().await.is_none());
    let sent = rabbit.publish(&Route::Cast(known.clone()), &message(Kind::Cast, 0)).await;
    assert!(matches!(sent, Err(PublishError::Unavailable(_))), "{sent:?}");
    assert!(rabbit.ensure_agent(&known, &[], &[]).await.is_err());
}

#[tokio::test]
async fn another_queue_type_leaves_no_queue_that_only_fills() {
    let (classic, config) = fresh(|_| {}).await;
    let known = registered(&classic, "h1").await;
    let game = endpoint("game");
    classic.ensure_agent(&known, std::slice::from_ref(&game), &[]).await.unwrap();
    let (cast, any) = (QueueName::Cast(known.clone()), QueueName::Any(known.agent_type.clone()));
    let routes = [
        Route::Cast(known.clone()),
        Route::FanoutAgents,
        Route::FanoutEndpoint(game.clone()),
        Route::Any(known.agent_type.clone()),
    ];
    for route in &routes {
        classic.publish(route, &message(Kind::Cast, 0)).await.unwrap();
    }
    let config = RabbitConfig { cast_queue: CastQueue::Quorum, ..config };
    let quorum = Rabbit::connect(config).unwrap();
    quorum.ensure_type(&known.agent_type).await.unwrap();
    quorum.ensure_agent(&known, &[game], &[]).await.unwrap();
    for route in &routes {
        quorum.publish(route, &message(Kind::Cast, 1)).await.unwrap();
    }
    for transport in [&classic, &quorum] {
        for (queue, depth) in [(&cast, 3), (&any, 1)] {
            poll_until(SOON, "what came while it was bound", async || {
                transport.queue(queue).await.unwrap().unwrap().depth == depth
            })
            .await;
        }
    }
    // With its agent the old queue goes too, and what is in it becomes dead letters.
    assert_eq!(quorum.remove_agent(&known).await, Ok(6));
    for transport in [&classic, &quorum] {
        assert_eq!(transport.queue(&cast).await, Ok(None));
    }
    assert_eq!(quorum.queue(&QueueName::Dead).await.unwrap().unwrap().depth, 6);
    quorum.close().await;
    classic.close().await;
}
