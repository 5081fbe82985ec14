//! The embedded transport alone: what is in its store when it starts again.

use std::{path::Path, sync::Arc};

use goperation_bridge::{
    Local, LocalConfig, Message, PublishError, QueueName, Route, Source, Transport,
};
use goperation_store::{Options, Scan, SledStore, Store as _};

use crate::bed::{SOON, cast, connected, endpoint, host, next, notification, notify, number, take};

async fn open(folder: &Path, config: LocalConfig) -> (SledStore, Arc<dyn Transport>) {
    let store = SledStore::open(Options::new(folder)).unwrap();
    let local = Local::open(Arc::new(store.clone()), config).await.unwrap();
    (store, local)
}

async fn close(store: SledStore, local: Arc<dyn Transport>) {
    local.close().await;
    store.close().await;
}

#[tokio::test]
async fn what_was_accepted_survives_a_restart() {
    const MANY: u64 = 500;
    let folder = tempfile::tempdir().unwrap();
    let (h1, h2) = (host("h1"), host("h2"));
    let (store, local) = open(folder.path(), LocalConfig::default()).await;
    local.ensure_type(&h1.agent_type).await.unwrap();
    local.ensure_agent(&h1, &[endpoint("game")], &[]).await.unwrap();
    local.ensure_agent(&h2, &[], &[]).await.unwrap();
    // More than are ever kept in memory at once.
    for n in 0..MANY {
        local.publish(&Route::Cast(h1.clone()), &cast(n)).await.unwrap();
    }
    local.publish(&Route::FanoutAgents, &cast(MANY)).await.unwrap();
    local.publish(&Route::Notify(notify("n")), &notification(2)).await.unwrap();
    local.publish(&Route::RetryCast(h2.clone(), Route::STEPS[1]), &cast(3)).await.unwrap();
    let dead = Message { correlation: Some("OVER_FINISHTIME".into()), ..cast(4) };
    local.publish(&Route::Dead(h1.clone()), &dead).await.unwrap();
    // One is acknowledged, one is not.
    let mut there = connected(&local, Source::Agent(h1.clone()), 2).await;
    next(&mut there).await.ack.ack().await;
    let _unacked = next(&mut there).await;
    // Not before: nothing says which of two queues is served first.
    local.publish(&Route::Any(h1.agent_type.clone()), &cast(1)).await.unwrap();
    close(store, local).await;
    assert!(next_ends(&mut there).await, "the subscription ends with the transport");

    let (store, local) = open(folder.path(), LocalConfig::default()).await;
    local.publish(&Route::FanoutEndpoint(endpoint("game")), &cast(MANY + 1)).await.unwrap();
    let mut there = connected(&local, Source::Agent(h1.clone()), 8).await;
    let mut numbers = Vec::new();
    let mut shared = Vec::new();
    while numbers.len() + shared.len() < usize::try_from(MANY).unwrap() + 2 {
        let delivery = next(&mut there).await;
        let list = match delivery.queue {
            QueueName::Any(_) => &mut shared,
            _ => &mut numbers,
        };
        list.push(number(&delivery.message));
        delivery.ack.ack().await;
    }
    assert_eq!(numbers, (1..=MANY + 1).collect::<Vec<_>>());
    assert_eq!(shared, [1]);
    let mut other = connected(&local, Source::Agent(h2), 8).await;
    assert_eq!(take(&mut other, 2).await, [MANY, 3]);
    let mut notified = connected(&local, Source::Notify(notify("n")), 8).await;
    assert_eq!(take(&mut notified, 1).await, [2]);
    let letters = local.dead_letters(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "OVER_FINISHTIME");
    close(store, local).await;
}

async fn next_ends(subscription: &mut goperation_bridge::Subscription) -> bool {
    let ended = async { while subscription.deliveries.recv().await.is_some() {} };
    tokio::time::timeout(SOON, ended).await.is_ok()
}

#[tokio::test]
async fn nothing_is_left_of_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (store, local) = open(folder.path(), LocalConfig::default()).await;
    let (h1, h2) = (host("h1"), host("h2"));
    for agent in [&h1, &h2] {
        local.ensure_type(&agent.agent_type).await.unwrap();
        local.ensure_agent(agent, &[], &[]).await.unwrap();
    }
    for n in 0..20 {
        local.publish(&Route::FanoutAgents, &cast(n)).await.unwrap();
    }
    for agent in [h1, h2] {
        let mut there = connected(&local, Source::Agent(agent), 4).await;
        take(&mut there, 20).await;
    }
    close(store, local).await;
    let store = SledStore::open(Options::new(folder.path())).unwrap();
    let rows = store.scan(Scan::prefix(b"q/".to_vec())).await.unwrap();
    let left: Vec<_> = rows.iter().filter(|(key, _)| !key.starts_with(b"q/m/")).collect();
    assert!(left.is_empty(), "{left:?}");
    store.close().await;
}

#[tokio::test]
async fn dead_letters_are_bounded_and_the_oldest_goes() {
    let folder = tempfile::tempdir().unwrap();
    let config = LocalConfig { max_dead: 3, ..LocalConfig::default() };
    let (store, local) = open(folder.path(), config.clone()).await;
    for n in 0..5 {
        let message = Message { correlation: Some("OVER_FINISHTIME".into()), ..cast(n) };
        local.publish(&Route::Dead(host("h1")), &message).await.unwrap();
    }
    let numbers = async |local: &Arc<dyn Transport>| {
        let letters = local.dead_letters(10).await.unwrap();
        letters.iter().map(|l| l.body["number"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&local).await, [2, 3, 4]);
    close(store, local).await;
    let (store, local) = open(folder.path(), config).await;
    assert_eq!(numbers(&local).await, [2, 3, 4]);
    close(store, local).await;
}

#[tokio::test]
async fn a_second_agent_of_the_same_address_waits_for_the_first_to_go() {
    let folder = tempfile::tempdir().unwrap();
    let (store, local) = open(folder.path(), LocalConfig::default()).await;
    let h1 = host("h1");
    local.ensure_type(&h1.agent_type).await.unwrap();
    let mut early = local.subscribe(Source::Agent(h1.clone()), 2).await.unwrap();
    assert!(!*early.connected.borrow(), "its CAST queue is not there yet");
    local.ensure_agent(&h1, &[], &[]).await.unwrap();
    let connected = early.connected.wait_for(|connected| *connected);
    tokio::time::timeout(SOON, connected).await.unwrap().unwrap();

    let mut second = local.subscribe(Source::Agent(h1.clone()), 2).await.unwrap();
    local.publish(&Route::Cast(h1.clone()), &cast(1)).await.unwrap();
    assert_eq!(take(&mut early, 1).await, [1]);
    assert!(!*second.connected.borrow());
    drop(early);
    let connected = second.connected.wait_for(|connected| *connected);
    tokio::time::timeout(SOON, connected).await.unwrap().unwrap();
    local.publish(&Route::Cast(h1), &cast(2)).await.unwrap();
    assert_eq!(take(&mut second, 1).await, [2]);
    close(store, local).await;
}

#[tokio::test]
async fn after_close_nothing_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (store, local) = open(folder.path(), LocalConfig::default()).await;
    let h1 = host("h1");
    local.ensure_agent(&h1, &[], &[]).await.unwrap();
    local.close().await;
    let refused = local.publish(&Route::Cast(h1), &cast(1)).await;
    assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
    store.close().await;
}

#[tokio::test]
async fn without_its_store_it_takes_nothing_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (store, local) = open(folder.path(), LocalConfig::default()).await;
    let h1 = host("h1");
    local.ensure_type(&h1.agent_type).await.unwrap();
    local.ensure_agent(&h1, &[], &[]).await.unwrap();
    let mut there = connected(&local, Source::Agent(h1.clone()), 2).await;
    store.close().await;
    for n in 0..2 {
        let refused = local.publish(&Route::Cast(h1.clone()), &cast(n)).await;
        assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
    }
    let gone = there.connected.wait_for(|connected| !*connected);
    tokio::time::timeout(SOON, gone).await.unwrap().unwrap();
    local.close().await;
}
