//! Dead letters: nothing disappears, each has its reason, and there are not too many.

use std::{collections::BTreeMap, time::Duration};

use goperation::now_millis;
use goperation_bridge::{
    DeadLetter, Kind, Message, PublishError, QueueName, Route, Transport as _,
    rabbit::{CastQueue, Rabbit},
};
use goperation_harness::{poll_for, poll_until};
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};

use crate::support::{SOON, fresh, message, number, registered, subscribed, taken};

async fn dead(rabbit: &Rabbit, count: usize) -> Vec<DeadLetter> {
    poll_for(SOON, "the dead letters", async || {
        let letters = rabbit.dead_letters(100).await.unwrap();
        (letters.len() >= count).then_some(letters)
    })
    .await
}

/// Publishes bytes that no part of ours would.
async fn publish_rubbish(uri: &str, exchange: &str, key: &str) {
    let connection = Connection::connect(uri, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let properties = BasicProperties::default().with_message_id("rubbish".into());
    let options = BasicPublishOptions::default();
    let confirm =
        channel.basic_publish(exchange.into(), key.into(), options, b"\xff\xfe", properties);
    confirm.await.unwrap().await.unwrap();
    connection.close(200, "".into()).await.unwrap();
}

async fn each_has_its_reason(kind: CastQueue) {
    let (rabbit, config) = fresh(|config| config.cast_queue = kind).await;
    let agent = registered(&rabbit, "h1").await;
    let before = now_millis();

    // It expires in its queue.
    let short = Message { finish_time: Some(now_millis() + 200), ..message(Kind::Cast, 1) };
    rabbit.publish(&Route::Cast(agent.clone()), &short).await.unwrap();
    dead(&rabbit, 1).await;

    // The agent finds it too late.
    let late = Message {
        correlation: Some("OVER_FINISHTIME".into()),
        finish_time: Some(now_millis() - 1),
        ..message(Kind::Cast, 2)
    };
    rabbit.publish(&Route::Dead(agent.clone()), &late).await.unwrap();

    // Nobody can read it.
    publish_rubbish(&config.uri, "gop.direct", "cast.application.h1").await;
    let mut subscription = subscribed(&rabbit, &agent).await;
    rabbit.publish(&Route::Cast(agent.clone()), &message(Kind::Cast, 3)).await.unwrap();
    assert_eq!(number(&taken(&mut subscription).await), 3, "the agent goes on behind it");
    drop(subscription);

    // Its agent is deleted: what is in the queue, and what comes back from a step.
    let mut left = Vec::new();
    for n in 10..90 {
        left.push(message(Kind::Cast, n));
        rabbit.publish(&Route::Cast(agent.clone()), left.last().unwrap()).await.unwrap();
    }
    let stepped = message(Kind::Cast, 4);
    rabbit.publish(&Route::RetryCast(agent.clone(), Route::STEPS[0]), &stepped).await.unwrap();
    poll_until(SOON, "the agent's connection has given its messages back", async || {
        rabbit.queue(&QueueName::Cast(agent.clone())).await.unwrap().unwrap().depth == 80
    })
    .await;
    assert_eq!(rabbit.remove_agent(&agent).await.unwrap(), 80);
    assert_eq!(rabbit.remove_agent(&agent).await.unwrap(), 0);
    assert!(rabbit.queue(&QueueName::Cast(agent.clone())).await.unwrap().is_none());
    let gone = rabbit.publish(&Route::Cast(agent.clone()), &message(Kind::Cast, 0)).await;
    assert_eq!(gone, Err(PublishError::NoQueue));

    let letters = dead(&rabbit, 84).await;
    assert_eq!(letters.len(), 84);
    let mut reasons = BTreeMap::new();
    for letter in &letters {
        assert_eq!(letter.queue, "cast.application.h1", "{letter:?}");
        // The broker counts in seconds.
        assert!(letter.time / 1000 >= before / 1000 && letter.time <= now_millis(), "{letter:?}");
        *reasons.entry(letter.reason.as_str()).or_insert(0) += 1;
        let id = letter.message_id.as_str();
        match letter.reason.as_str() {
            "EXPIRED" => assert_eq!(id, short.id.as_str()),
            "OVER_FINISHTIME" => {
                assert_eq!(id, late.id.as_str());
                assert_eq!((letter.namespace.as_str(), letter.method.as_str()), ("game", "start"));
                assert_eq!(letter.body["number"], 2);
            }
            "REJECTED" => assert_eq!(id, "rubbish"),
            "QUEUE_NOT_FOUND" => assert_eq!(id, stepped.id.as_str()),
            "AGENT_DELETED" => assert!(left.iter().any(|m| m.id.as_str() == id)),
            other => panic!("{other}"),
        }
    }
    let counts: Vec<_> = reasons.into_iter().collect();
    assert_eq!(
        counts,
        [
            ("AGENT_DELETED", 80),
            ("EXPIRED", 1),
            ("OVER_FINISHTIME", 1),
            ("QUEUE_NOT_FOUND", 1),
            ("REJECTED", 1),
        ]
    );
    // Looking changes nothing.
    let (a, b) = tokio::join!(rabbit.dead_letters(2), rabbit.dead_letters(100));
    assert_eq!(a.unwrap()[..], letters[..2]);
    assert_eq!(b.unwrap(), letters);
    let info = rabbit.queue(&QueueName::Dead).await.unwrap().unwrap();
    assert_eq!((info.depth, info.consumers), (84, 0));
    rabbit.close().await;
}

#[tokio::test]
async fn each_has_its_reason_on_classic_queues() {
    each_has_its_reason(CastQueue::Classic).await;
}

#[tokio::test]
async fn each_has_its_reason_on_quorum_queues() {
    each_has_its_reason(CastQueue::Quorum).await;
}

#[tokio::test]
async fn the_oldest_give_way() {
    let (rabbit, _) = fresh(|config| config.dead_max_length = 3).await;
    let agent = registered(&rabbit, "h1").await;
    for n in 0..10 {
        let dead = Message { correlation: Some("WHY".into()), ..message(Kind::Cast, n) };
        rabbit.publish(&Route::Dead(agent.clone()), &dead).await.unwrap();
    }
    let letters = dead(&rabbit, 3).await;
    let numbers: Vec<_> = letters.iter().map(|l| l.body["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [7, 8, 9]);
    assert!(letters.iter().all(|l| l.reason == "WHY"));
    rabbit.close().await;
}

#[tokio::test]
async fn a_deleted_agent_that_is_registered_again_starts_empty() {
    let (rabbit, _) = fresh(|_| {}).await;
    let agent = registered(&rabbit, "h1").await;
    let mut subscription = subscribed(&rabbit, &agent).await;
    rabbit.remove_agent(&agent).await.unwrap();
    let cut = subscription.connected.wait_for(|on| !*on);
    tokio::time::timeout(Duration::from_secs(20), cut).await.unwrap().unwrap();
    rabbit.ensure_agent(&agent, &[], &[]).await.unwrap();
    crate::support::connected(&mut subscription, SOON).await;
    rabbit.publish(&Route::Call(agent.clone()), &message(Kind::Call, 1)).await.unwrap();
    assert_eq!(number(&taken(&mut subscription).await), 1);
    rabbit.close().await;
}
