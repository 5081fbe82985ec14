//! Which queues there are: agents made and removed, broadcasts, notifications.

use goperation_bridge::{PublishError, QueueName, Route, Source};
use goperation_harness::poll_until;

use crate::bed::{
    Bed, NOTIFY_LIMIT, SOON, cast, connected, endpoint, host, message, next, notification, notify,
    number, take,
};

pub(crate) async fn nothing_takes_what_nobody_made_a_queue_for(bed: &Bed) {
    let h1 = host("h1");
    for route in [
        Route::Call(h1.clone()),
        Route::Cast(h1.clone()),
        Route::AnyCall(h1.agent_type.clone()),
        Route::Any(h1.agent_type.clone()),
        Route::FanoutAgents,
        Route::FanoutEndpoint(endpoint("game")),
        Route::Reply("nobody".into()),
        Route::RetryCast(h1.clone(), Route::STEPS[0]),
    ] {
        let refused = bed.bridge.publish(&route, &cast(0)).await;
        assert_eq!(refused, Err(PublishError::NoQueue), "{route:?}");
    }
    for name in [
        QueueName::Call(h1.clone()),
        QueueName::Cast(h1.clone()),
        QueueName::Any(h1.agent_type.clone()),
        QueueName::Notify(notify("n")),
    ] {
        assert_eq!(bed.bridge.queue(&name).await.unwrap(), None, "{name}");
    }
    // One agent's queue takes nothing that is for another.
    bed.known(&h1, &[]).await;
    let other = bed.bridge.publish(&Route::Cast(host("h10")), &cast(0)).await;
    assert_eq!(other, Err(PublishError::NoQueue));
}

pub(crate) async fn a_broadcast_reaches_all_agents_or_those_with_the_endpoint(bed: &Bed) {
    let hosts = [host("h1"), host("h2"), host("h3")];
    let game = endpoint("game");
    bed.known(&hosts[0], std::slice::from_ref(&game)).await;
    bed.known(&hosts[1], &[endpoint("db"), game.clone()]).await;
    bed.known(&hosts[2], &[]).await;
    bed.bridge.publish(&Route::FanoutAgents, &cast(1)).await.unwrap();
    bed.bridge.publish(&Route::FanoutEndpoint(game), &cast(2)).await.unwrap();
    let none = bed.bridge.publish(&Route::FanoutEndpoint(endpoint("cdn")), &cast(3)).await;
    assert_eq!(none, Err(PublishError::NoQueue));
    for (host, depth) in hosts.iter().zip([2, 2, 1]) {
        bed.depth(QueueName::Cast(host.clone()), depth).await;
        let mut there = bed.there(host, 4).await;
        let numbers = take(&mut there, usize::try_from(depth).unwrap()).await;
        assert_eq!(numbers, (1..=u64::from(depth)).collect::<Vec<_>>(), "{host}");
    }
}

pub(crate) async fn former_endpoints_are_unbound(bed: &Bed) {
    let (h1, h2) = (host("h1"), host("h2"));
    let (game, db) = (endpoint("game"), endpoint("db"));
    bed.known(&h1, std::slice::from_ref(&game)).await;
    bed.known(&h2, std::slice::from_ref(&game)).await;
    let ensure = |former| {
        let (bridge, h1, db, former) = (bed.bridge.clone(), h1.clone(), db.clone(), former);
        async move { bridge.ensure_agent(&h1, &[db], former).await.unwrap() }
    };
    let former = [game.clone()];
    ensure(&former[..]).await;
    // Doing what is done already does nothing.
    ensure(&former[..]).await;
    bed.bridge.publish(&Route::FanoutEndpoint(game.clone()), &cast(1)).await.unwrap();
    bed.bridge.publish(&Route::FanoutEndpoint(db), &cast(2)).await.unwrap();
    let mut there = bed.there(&h1, 4).await;
    assert_eq!(take(&mut there, 1).await, [2]);
    let mut other = bed.there(&h2, 4).await;
    assert_eq!(take(&mut other, 1).await, [1]);

    bed.bridge.remove_agent(&h2).await.unwrap();
    let none = bed.bridge.publish(&Route::FanoutEndpoint(game), &cast(3)).await;
    assert_eq!(none, Err(PublishError::NoQueue));
}

pub(crate) async fn a_removed_agent_leaves_its_messages_as_dead_letters(bed: &Bed) {
    let h1 = host("h1");
    bed.known(&h1, &[]).await;
    for n in 0..3 {
        bed.bridge.publish(&Route::Cast(h1.clone()), &cast(n)).await.unwrap();
    }
    bed.depth(QueueName::Cast(h1.clone()), 3).await;
    assert_eq!(bed.bridge.remove_agent(&h1).await, Ok(3));
    let letters = bed.bridge.dead_letters(10).await.unwrap();
    // They died at the same time, in whatever order.
    let mut told: Vec<_> = letters
        .iter()
        .map(|l| (l.body["number"].as_u64().unwrap(), l.reason.as_str(), l.queue.as_str()))
        .collect();
    told.sort_unstable();
    let expected = |n| (n, "AGENT_DELETED", "cast.application.h1");
    assert_eq!(told, [expected(0), expected(1), expected(2)]);
    let refused = bed.bridge.publish(&Route::Cast(h1.clone()), &cast(3)).await;
    assert_eq!(refused, Err(PublishError::NoQueue));
    assert_eq!(bed.bridge.remove_agent(&h1).await, Ok(0));

    bed.known(&h1, &[]).await;
    bed.bridge.publish(&Route::Cast(h1.clone()), &cast(4)).await.unwrap();
    let mut there = bed.there(&h1, 4).await;
    assert_eq!(take(&mut there, 1).await, [4], "the old ones are not back");
}

pub(crate) async fn a_notification_waits_for_its_receiver(bed: &Bed) {
    let name = notify("alerts.eu");
    for n in 0..3 {
        bed.bridge.publish(&Route::Notify(name.clone()), &notification(n)).await.unwrap();
    }
    bed.depth(QueueName::Notify(name.clone()), 3).await;
    let mut receiver = connected(&bed.bridge, Source::Notify(name.clone()), 4).await;
    let first = next(&mut receiver).await;
    assert_eq!(first.queue, QueueName::Notify(name.clone()));
    assert_eq!(number(&first.message), 0);
    drop(first);
    drop(receiver);
    // Given back, and in its place; a second receiver has a share.
    let mut receiver = connected(&bed.bridge, Source::Notify(name.clone()), 4).await;
    assert_eq!(take(&mut receiver, 3).await, [0, 1, 2]);

    // The receiver may come first, too.
    let mut early = connected(&bed.bridge, Source::Notify(notify("early")), 4).await;
    bed.bridge.publish(&Route::Notify(notify("early")), &notification(9)).await.unwrap();
    assert_eq!(take(&mut early, 1).await, [9]);
}

pub(crate) async fn a_full_notify_queue_says_so(bed: &Bed) {
    let name = notify("small");
    let route = Route::Notify(name.clone());
    for n in 0..NOTIFY_LIMIT {
        bed.bridge.publish(&route, &notification(u64::try_from(n).unwrap())).await.unwrap();
    }
    let full = bed.bridge.publish(&route, &notification(9)).await;
    assert_eq!(full, Err(PublishError::Full));
    let mut receiver = connected(&bed.bridge, Source::Notify(name), 1).await;
    assert_eq!(take(&mut receiver, 2).await, [0, 1]);
    poll_until(SOON, "room again", async || {
        bed.bridge.publish(&route, &notification(10)).await.is_ok()
    })
    .await;
}

pub(crate) async fn queues_tell_their_depth_and_consumers(bed: &Bed) {
    let h1 = host("h1");
    bed.known(&h1, &[]).await;
    let cast_queue = QueueName::Cast(h1.clone());
    let info = bed.bridge.queue(&cast_queue).await.unwrap().unwrap();
    assert_eq!((info.depth, info.consumers), (0, 0));
    bed.bridge.publish(&Route::Cast(h1.clone()), &cast(0)).await.unwrap();
    bed.bridge.publish(&Route::Any(h1.agent_type.clone()), &cast(1)).await.unwrap();
    bed.depth(cast_queue.clone(), 1).await;
    bed.depth(QueueName::Any(h1.agent_type.clone()), 1).await;

    let there = bed.there(&h1, 4).await;
    for name in [cast_queue, QueueName::Any(h1.agent_type.clone()), QueueName::Call(h1.clone())] {
        poll_until(SOON, &format!("a consumer on {name}"), async || {
            bed.bridge.queue(&name).await.unwrap().is_some_and(|info| info.consumers == 1)
        })
        .await;
    }
    drop(there);
    poll_until(SOON, "no CALL queue", async || {
        bed.bridge.queue(&QueueName::Call(h1.clone())).await.unwrap().is_none()
    })
    .await;
    let dead = bed.bridge.queue(&QueueName::Dead).await.unwrap();
    assert_eq!(dead.map(|info| info.depth), Some(0));
    let unused = message(goperation_bridge::Kind::Call, 0);
    let refused = bed.bridge.publish(&Route::Call(h1), &unused).await;
    assert_eq!(refused, Err(PublishError::NoQueue));
}
