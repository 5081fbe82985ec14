//! Brokers that die, links that go silent, alarms, and a second agent with the same name.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use goperation::NotifyName;
use goperation_bridge::{
    Kind, PublishError, QueueName, Route, Source, Subscription, Transport as _,
    rabbit::{CastQueue, Rabbit, RabbitConfig},
};
use goperation_harness::{RabbitNode, TcpRelay, poll_for, poll_until};
use tokio::time::{Instant, timeout};

use crate::support::{
    SOON, agent, config, connected, fresh, message, next, number, registered, subscribed, taken,
};

async fn all_works_again_after_a_kill(kind: CastQueue) {
    let node = RabbitNode::start().await;
    let vhost = node.new_vhost().await;
    let config = RabbitConfig { cast_queue: kind, ..config(&vhost.uri) };
    let bridge = Rabbit::connect(config.clone()).unwrap();
    let process = Rabbit::connect(config).unwrap();
    let known = registered(&bridge, "h1").await;
    if kind == CastQueue::Quorum {
        // RabbitMQ 3.10 writes the names of new quorum queues to disk seconds after it made them.
        // Killed before, it starts them again without a leader, and empty. A stop writes them.
        node.stop().await;
        node.start_again().await;
        registered(&bridge, "h1").await;
    }
    let mut subscription = subscribed(&process, &known).await;
    let mut replies = bridge.subscribe(Source::Replies("b1".into()), 16).await.unwrap();
    let name = NotifyName::parse("name", "billing").unwrap();
    let mut notes = bridge.subscribe(Source::Notify(name.clone()), 16).await.unwrap();
    connected(&mut replies, SOON).await;
    connected(&mut notes, SOON).await;
    let early = message(Kind::Notify, 0);
    poll_for(SOON, "the bridge publishes", async || {
        bridge.publish(&Route::Notify(name.clone()), &early).await.ok()
    })
    .await;
    assert_eq!(number(&taken(&mut notes).await), 0);
    // Confirmed and not yet taken: it must survive.
    let held = message(Kind::Cast, 1);
    drop(subscription);
    poll_until(SOON, "the agent has gone", async || {
        bridge.queue(&QueueName::Call(known.clone())).await.unwrap().is_none()
    })
    .await;
    bridge.publish(&Route::Cast(known.clone()), &held).await.unwrap();
    subscription = process.subscribe(Source::Agent(known.clone()), 64).await.unwrap();
    connected(&mut subscription, SOON).await;
    let unacknowledged = next(&mut subscription).await;
    assert_eq!(unacknowledged.message, held);

    node.kill().await;
    poll_until(SOON, "the cut is seen", async || !*subscription.connected.borrow()).await;
    // The very first may meet the cut itself, which is an unknown outcome.
    poll_until(SOON, "publishes are refused", async || {
        match bridge.publish(&Route::Cast(known.clone()), &message(Kind::Cast, 2)).await {
            Err(PublishError::Unavailable(_)) => true,
            Err(PublishError::Unknown(_)) => false,
            other => panic!("{other:?}"),
        }
    })
    .await;
    // Nobody answers it any more, and nothing is waited for.
    let start = Instant::now();
    unacknowledged.ack.ack().await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());

    node.start_again().await;
    let back = Instant::now();
    // Within ten seconds; that is measured by the whole-system tests, which run alone.
    let within = Duration::from_secs(30);
    for part in [&mut replies, &mut notes, &mut subscription] {
        connected(part, within.saturating_sub(back.elapsed())).await;
    }
    println!("{kind:?}: all consume again {:?} after the broker", back.elapsed());
    // The old acknowledgement found nobody: it comes again, marked so.
    let again = next(&mut subscription).await;
    assert_eq!(again.message, held);
    assert!(again.redelivered);
    again.ack.ack().await;
    poll_for(within, "publishing works", async || {
        bridge.publish(&Route::Call(known.clone()), &message(Kind::Call, 3)).await.ok()
    })
    .await;
    assert_eq!(number(&taken(&mut subscription).await), 3);
    process.publish(&Route::Reply("b1".into()), &message(Kind::Reply, 4)).await.unwrap();
    assert_eq!(number(&taken(&mut replies).await), 4);
    bridge.publish(&Route::Notify(name), &message(Kind::Notify, 5)).await.unwrap();
    // An acknowledgement is not synced: a kill may undo it, and the message comes again.
    let note = next(&mut notes).await;
    let note = if number(&note.message) == 0 {
        assert!(note.redelivered);
        next(&mut notes).await
    } else {
        note
    };
    assert_eq!(number(&note.message), 5);
    assert!(back.elapsed() < within, "{:?}", back.elapsed());
    process.close().await;
    bridge.close().await;
}

#[tokio::test]
async fn all_works_again_after_a_kill_with_classic_queues() {
    all_works_again_after_a_kill(CastQueue::Classic).await;
}

#[tokio::test]
async fn all_works_again_after_a_kill_with_quorum_queues() {
    all_works_again_after_a_kill(CastQueue::Quorum).await;
}

#[tokio::test]
async fn a_broker_that_comes_late_is_found() {
    let node = RabbitNode::start().await;
    let relay = TcpRelay::start(node.addr()).await;
    relay.refuse();
    let rabbit =
        Rabbit::connect(config(&format!("amqp://guest:guest@{}/%2f", relay.addr()))).unwrap();
    let start = Instant::now();
    let refused = rabbit.publish(&Route::Cast(agent("h1")), &message(Kind::Cast, 0)).await;
    assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    let mut subscription = rabbit.subscribe(Source::Agent(agent("h1")), 4).await.unwrap();
    assert!(!*subscription.connected.borrow());
    relay.resume();
    let known = registered(&rabbit, "h1").await;
    connected(&mut subscription, SOON).await;
    rabbit.publish(&Route::Call(known), &message(Kind::Call, 1)).await.unwrap();
    assert_eq!(number(&taken(&mut subscription).await), 1);
    rabbit.close().await;
}

/// The link forgets its connections and says nothing: CALL works again, and that within four
/// heartbeats, which is measured by the whole-system tests: they run alone.
#[tokio::test]
async fn a_half_open_link_is_replaced() {
    let node = RabbitNode::shared().await;
    let vhost = node.new_vhost().await;
    let relay = TcpRelay::start(node.addr()).await;
    let heartbeat = Duration::from_secs(2);
    let direct = RabbitConfig { heartbeat, ..config(&vhost.uri) };
    let bridge = Rabbit::connect(direct.clone()).unwrap();
    let uri = format!("amqp://guest:guest@{}/{}", relay.addr(), vhost.name);
    let process = Rabbit::connect(RabbitConfig { uri, ..direct }).unwrap();
    let known = registered(&bridge, "h1").await;
    let mut subscription = subscribed(&process, &known).await;

    relay.abandon();
    let start = Instant::now();
    let n = poll_for(SOON, "CALL works again", async || {
        bridge.publish(&Route::Call(known.clone()), &message(Kind::Call, 1)).await.ok()?;
        let arrived = timeout(Duration::from_millis(200), subscription.deliveries.recv()).await;
        Some(number(&arrived.ok()??.message))
    })
    .await;
    println!("half-open, heartbeat {heartbeat:?}: CALL again after {:?}", start.elapsed());
    assert_eq!(n, 1);
    connected(&mut subscription, SOON).await;
    process.close().await;
    bridge.close().await;
}

/// The connection lives, its consumer too, but nothing reaches its CALL queue: only the canary
/// can tell.
#[tokio::test]
async fn the_canary_finds_a_queue_that_nothing_reaches() {
    let (rabbit, config) = fresh(|config| config.heartbeat = Duration::from_secs(1)).await;
    let known = registered(&rabbit, "h1").await;
    let mut subscription = subscribed(&rabbit, &known).await;
    let connection = lapin::Connection::connect(&config.uri, Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.exchange_delete("gop.agent.application.h1".into(), Default::default()).await.unwrap();
    let start = Instant::now();
    assert!(becomes(&mut subscription, false, SOON).await, "the canary stays away");
    println!("canary, heartbeat 1s: away after {:?}", start.elapsed());
    rabbit.ensure_agent(&known, &[], &[]).await.unwrap();
    connected(&mut subscription, SOON).await;
    rabbit.publish(&Route::Call(known), &message(Kind::Call, 1)).await.unwrap();
    assert_eq!(number(&taken(&mut subscription).await), 1);
    connection.close(200, "".into()).await.unwrap();
    rabbit.close().await;
}

/// The broker closes the channel that publishes share when an exchange is missing. Who publishes
/// right after that is not sent to the one that has gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_has_failed_is_nobodys_next() {
    let (rabbit, _) = fresh(|_| {}).await;
    let nobody = Route::Reply("nobody".into());
    poll_until(SOON, "it is connected", async || {
        rabbit.publish(&nobody, &message(Kind::Reply, 0)).await == Err(PublishError::NoQueue)
    })
    .await;
    for n in 0..300 {
        let sent = rabbit.publish(&nobody, &message(Kind::Reply, n)).await;
        assert_eq!(sent, Err(PublishError::NoQueue), "{n}");
    }
    rabbit.close().await;
}

/// Somebody has deleted an exchange. Of what was under way to another one when the broker closed the
/// shared channel nobody knows whether it has arrived.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_with_anothers_exchange_is_unknown() {
    let (rabbit, config) = fresh(|_| {}).await;
    let known = registered(&rabbit, "h1").await;
    let _subscription = subscribed(&rabbit, &known).await;
    let connection = lapin::Connection::connect(&config.uri, Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.exchange_delete("gop.reply".into(), Default::default()).await.unwrap();
    let (call, reply) = (Route::Call(known), Route::Reply("b1".into()));
    let mut unknown = 0;
    for n in 0..100 {
        let (one, other) = (message(Kind::Reply, n), message(Kind::Call, n));
        let (missing, sent) =
            tokio::join!(rabbit.publish(&reply, &one), rabbit.publish(&call, &other));
        assert_eq!(missing, Err(PublishError::NoQueue), "{n}");
        match sent {
            Ok(()) => {}
            Err(PublishError::Unknown(_)) => unknown += 1,
            // It came too late to be sent.
            Err(PublishError::Unavailable(why)) if why == "the channel was lost" => {}
            other => panic!("{n}: {other:?}"),
        }
    }
    assert!(unknown > 0, "none was under way");
    connection.close(200, "".into()).await.unwrap();
    rabbit.close().await;
}

/// An agent that waits for its queues tries again and again, over a connection that allows few
/// channels.
#[tokio::test]
async fn tries_in_vain_leave_no_channels() {
    let (rabbit, _) = fresh(|config| {
        config.uri = format!("{}?channel_max=8", config.uri);
        config.one_connection = true;
    })
    .await;
    let mut subscription = rabbit.subscribe(Source::Agent(agent("h1")), 4).await.unwrap();
    assert!(!becomes(&mut subscription, true, Duration::from_secs(6)).await);
    registered(&rabbit, "h1").await;
    connected(&mut subscription, SOON).await;
    rabbit.close().await;
}

#[tokio::test]
async fn a_receiver_that_is_slow_is_not_taken_for_a_dead_link() {
    let (rabbit, _) = fresh(|config| config.heartbeat = Duration::from_secs(2)).await;
    let known = registered(&rabbit, "h1").await;
    let mut subscription = rabbit.subscribe(Source::Agent(known.clone()), 1).await.unwrap();
    connected(&mut subscription, SOON).await;
    for n in 0..20 {
        rabbit.publish(&Route::Call(known.clone()), &message(Kind::Call, n)).await.unwrap();
    }
    // Canaries wait behind the CALLs for longer than one may be away.
    let cut = becomes(&mut subscription, false, Duration::from_secs(7)).await;
    assert!(!cut, "the subscription was rebuilt");
    for n in 0..20 {
        assert_eq!(number(&taken(&mut subscription).await), n);
    }
    rabbit.close().await;
}

#[tokio::test]
async fn a_second_agent_with_the_same_name_gets_nothing() {
    let (rabbit, config) = fresh(|config| config.heartbeat = Duration::from_secs(2)).await;
    let known = registered(&rabbit, "h1").await;
    let first = subscribed(&rabbit, &known).await;
    let twin = Rabbit::connect(config).unwrap();
    let mut second = twin.subscribe(Source::Agent(known.clone()), 4).await.unwrap();
    let both = becomes(&mut second, true, Duration::from_secs(8)).await;
    assert!(!both, "two agents hold one CALL queue");
    assert!(*first.connected.borrow());
    drop(first);
    connected(&mut second, SOON).await;
    twin.close().await;
    rabbit.close().await;
}

#[tokio::test]
async fn an_alarm_refuses_publishers_and_lets_consumers_go_on() {
    let node = RabbitNode::start().await;
    let vhost = node.new_vhost().await;
    let mut config = config(&vhost.uri);
    config.confirm_timeout = Duration::from_secs(4);
    let bridge = Rabbit::connect(config.clone()).unwrap();
    let process = Rabbit::connect(config).unwrap();
    let known = registered(&bridge, "h1").await;
    let route = Route::Cast(known.clone());
    for n in 0..3 {
        bridge.publish(&route, &message(Kind::Cast, n)).await.unwrap();
    }
    node.ctl(["set_vm_memory_high_watermark", "0.0000001"]).await.unwrap();
    // The broker tells a publisher at its next publish.
    poll_until(SOON, "publishes are refused", async || {
        let sent = bridge.publish(&route, &message(Kind::Cast, 9)).await;
        matches!(sent, Err(PublishError::Unavailable(_)))
    })
    .await;
    let start = Instant::now();
    let sent = bridge.publish(&route, &message(Kind::Cast, 9)).await;
    assert!(matches!(sent, Err(PublishError::Unavailable(_))), "{sent:?}");
    assert!(start.elapsed() < Duration::from_secs(2), "it waits: {:?}", start.elapsed());

    // Consuming, acknowledging and looking go on.
    let mut subscription = process.subscribe(Source::Agent(known.clone()), 1).await.unwrap();
    for n in 0..3 {
        assert_eq!(number(&taken(&mut subscription).await), n);
    }
    assert!(bridge.queue(&QueueName::Cast(known.clone())).await.unwrap().is_some());
    // Longer than heartbeats may be missing.
    let quiet = Duration::from_secs(12);
    let blocked = poll_or_end(quiet, async || {
        let sent = bridge.publish(&route, &message(Kind::Cast, 9)).await;
        matches!(sent, Err(PublishError::Unavailable(_)))
    });
    assert!(blocked.await, "a publish was taken while the alarm was on");

    node.ctl(["set_vm_memory_high_watermark", "0.8"]).await.unwrap();
    poll_for(SOON, "publishes are taken again", async || {
        bridge.publish(&route, &message(Kind::Cast, 10)).await.ok()
    })
    .await;
    connected(&mut subscription, SOON).await;
    process.close().await;
    bridge.close().await;
}

/// Whether the subscription gets connected, or loses that, in time.
async fn becomes(subscription: &mut Subscription, on: bool, within: Duration) -> bool {
    timeout(within, subscription.connected.wait_for(|now| *now == on)).await.is_ok()
}

/// Whether a condition holds all the time.
async fn poll_or_end(time: Duration, mut holds: impl AsyncFnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    while Instant::now() < end {
        tick.tick().await;
        if !holds().await {
            return false;
        }
    }
    true
}

/// Every publish that was answered OK arrives, whatever the link does meanwhile.
#[tokio::test]
async fn what_was_accepted_arrives_through_cuts() {
    let node = RabbitNode::shared().await;
    let vhost = node.new_vhost().await;
    let relay = TcpRelay::start(node.addr()).await;
    let bridge =
        Rabbit::connect(config(&format!("amqp://guest:guest@{}/{}", relay.addr(), vhost.name)))
            .unwrap();
    let known = registered(&bridge, "h1").await;
    let mut subscription = subscribed(&bridge, &known).await;
    let stop = Arc::new(AtomicBool::new(false));
    let publishing = {
        let (bridge, stop, route) = (Arc::clone(&bridge), Arc::clone(&stop), Route::Cast(known));
        tokio::spawn(async move {
            let (mut accepted, mut unknown, mut n) = (Vec::new(), Vec::new(), 0);
            let mut tick = tokio::time::interval(Duration::from_millis(1));
            while !stop.load(Ordering::Relaxed) {
                tick.tick().await;
                n += 1;
                match bridge.publish(&route, &message(Kind::Cast, n)).await {
                    Ok(()) => accepted.push(n),
                    Err(PublishError::Unknown(_)) => unknown.push(n),
                    Err(PublishError::Unavailable(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            (accepted, unknown)
        })
    };
    let receiving = tokio::spawn(async move {
        let mut came = std::collections::HashSet::new();
        while !came.contains(&0) {
            came.insert(number(&taken(&mut subscription).await));
        }
        (came, subscription)
    });
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        relay.cut();
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    stop.store(true, Ordering::Relaxed);
    let (accepted, unknown) = publishing.await.unwrap();
    poll_for(SOON, "the last message", async || {
        bridge.publish(&Route::Cast(agent("h1")), &message(Kind::Cast, 0)).await.ok()
    })
    .await;
    let (mut came, mut subscription) = receiving.await.unwrap();
    // What a lost connection had may be given back after the last one was delivered.
    while accepted.iter().any(|n| !came.contains(n)) {
        let left = timeout(SOON, subscription.deliveries.recv()).await;
        let Ok(Some(delivery)) = left else { break };
        came.insert(number(&delivery.message));
        delivery.ack.ack().await;
    }
    println!("{} accepted, {} unknown over 5 cuts", accepted.len(), unknown.len());
    assert!(accepted.len() > 50);
    let missing: Vec<_> = accepted.iter().filter(|n| !came.contains(n)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let known: std::collections::HashSet<_> = accepted.iter().chain(&unknown).chain(&[0]).collect();
    assert!(came.iter().all(|n| known.contains(n)), "one that was refused arrived");
    bridge.close().await;
}
