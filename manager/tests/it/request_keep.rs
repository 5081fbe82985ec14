//! How long requests, their rows and their keys are kept, and who watches meanwhile.

use goperation::{Reason, now_millis, v1::*};
use goperation_store::{Scan, Store as _, Txn};
use prost::encoding::encode_varint;

use crate::{
    harness::{Manager, answer, until},
    request_fleet::*,
};

const DAY: u64 = 24 * 3600 * 1000;
const HOUR: u64 = 3600 * 1000;

async fn get(manager: &Manager, key: &[u8]) -> Option<Vec<u8>> {
    manager.store().get(key.to_vec()).await.unwrap()
}

/// A record in which a number says something else: of two that say it, the last one counts.
async fn with_number(manager: &Manager, key: &[u8], field: u64, number: u64) -> Vec<u8> {
    let mut record = get(manager, key).await.unwrap();
    encode_varint(field << 3, &mut record);
    encode_varint(number, &mut record);
    record
}

/// The only key that begins so.
async fn only(manager: &Manager, prefix: &[u8], end: &str) -> Vec<u8> {
    let rows = manager.store().scan(Scan::prefix(prefix.to_vec())).await.unwrap();
    let mut keys: Vec<_> =
        rows.into_iter().map(|(key, _)| key).filter(|key| key.ends_with(end.as_bytes())).collect();
    assert_eq!(keys.len(), 1, "{end}");
    keys.remove(0)
}

fn time_in(prefix: &[u8], key: &[u8]) -> u64 {
    u64::from_be_bytes(key[prefix.len()..prefix.len() + 8].try_into().unwrap())
}

const KEY_TIMES: &[u8] = b"m/idempotency-time/";

/// Has a key be kept until another time.
async fn keep_key(manager: &Manager, name: &str, until: u64) {
    let (key, end) = (format!("m/idempotency/{name}"), format!("/{name}"));
    let record = with_number(manager, key.as_bytes(), 6, until).await;
    let time = [KEY_TIMES, &until.to_be_bytes(), end.as_bytes()].concat();
    let was = only(manager, KEY_TIMES, &end).await;
    let change = Txn::new().put(key, record).delete(was).put(time, Vec::new());
    manager.store().commit(change).await.unwrap();
}

fn keyed(key: &str) -> CreateRequestRequest {
    CreateRequestRequest { idempotency_key: key.to_owned(), ..asked() }
}

#[tokio::test]
async fn an_answer_under_a_key_is_kept_for_a_day() {
    let mut manager = Manager::start().await;
    fleet(&manager, 1).await;
    let before = now_millis();
    let first = create(&manager, keyed("young")).await.unwrap();
    let after = now_millis();
    let time = time_in(KEY_TIMES, &only(&manager, KEY_TIMES, "/young").await);
    assert!((before + DAY..=after + DAY).contains(&time), "{}", time - before);
    let old = create(&manager, keyed("old")).await.unwrap();
    create(&manager, keyed("swept")).await.unwrap();

    // As it is an hour before its time, and a moment after.
    keep_key(&manager, "young", now_millis() + HOUR).await;
    keep_key(&manager, "old", now_millis() - 1).await;
    let other = |key: &str| CreateRequestRequest { method: "clean_agent".to_owned(), ..keyed(key) };
    let error = create(&manager, other("young")).await.unwrap_err();
    assert_eq!(error.reason, Reason::KeyReused);
    let anew = create(&manager, other("old")).await.unwrap();
    assert_ne!(anew.id, old.id);

    keep_key(&manager, "swept", now_millis() - 1).await;
    manager = manager.restart().await;
    online(&manager, 1).await;
    until("it is forgotten", || async { get(&manager, b"m/idempotency/swept").await.is_none() })
        .await;
    assert_eq!(create(&manager, keyed("young")).await.unwrap(), first);
    assert_eq!(create(&manager, other("old")).await.unwrap(), anew);
    let times = manager.store().scan(Scan::prefix(KEY_TIMES.to_vec())).await.unwrap();
    assert_eq!(times.len(), 2);
}

/// A request that has ended.
async fn ended(manager: &Manager) -> String {
    let id = create(manager, asked()).await.unwrap().id;
    until_rows(manager, &id, "state = SENT", 1).await;
    overtime(manager, &id, "").await.unwrap();
    id
}

#[tokio::test]
async fn a_request_is_kept_from_its_end_on() {
    let mut manager = Manager::start().await;
    fleet(&manager, 1).await;
    let (long, old) = (ended(&manager).await, ended(&manager).await);
    let now = now_millis();
    // Both began long ago, and one has run until now.
    for (id, began, end) in
        [(&long, now - 3 * HOUR, None), (&old, now - 2 * HOUR, Some(now - 2 * HOUR))]
    {
        let key = format!("m/request/{id}");
        let record = with_number(&manager, key.as_bytes(), 10, began).await;
        let times = b"m/request-time/".as_slice();
        let was = only(&manager, times, &format!("/{id}")).await;
        let time = [times, &began.to_be_bytes(), b"/", id.as_bytes()].concat();
        let change = Txn::new().put(key.clone(), record).delete(was).put(time, Vec::new());
        manager.store().commit(change).await.unwrap();
        if let Some(end) = end {
            let record = with_number(&manager, key.as_bytes(), 15, end).await;
            manager.store().commit(Txn::new().put(key, record)).await.unwrap();
        }
    }
    manager = manager
        .restart_with(|config| config.requests.keep = std::time::Duration::from_millis(HOUR))
        .await;
    until("the old one is gone", || async { show(&manager, &old).await.is_err() }).await;
    assert_eq!(show(&manager, &old).await.unwrap_err().reason, Reason::RequestNotFound);
    assert_eq!(show(&manager, &long).await.unwrap().counts.unwrap().silent, 1);
}

#[tokio::test]
async fn who_follows_is_told_when_the_rows_are_dropped() {
    let manager = Manager::start().await;
    fleet(&manager, 1).await;
    let request = CreateRequestRequest { expire: seconds(1), ..asked() };
    let id = create(&manager, request).await.unwrap().id;
    let mut stream = watch(&manager, &id, "", true).await.unwrap();
    let ended = overtime(&manager, &id, "").await.unwrap();
    let last = loop {
        let event = next(&mut stream).await.unwrap().unwrap();
        if summary(&event).is_some() {
            break event;
        }
    };
    assert_eq!(summary(&last), Some(&ended));
    let error = next(&mut stream).await.unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused);
    // Whoever has seen all before has missed nothing.
    let mut again = watch(&manager, &id, &last.cursor, false).await.unwrap();
    assert_eq!(next(&mut again).await.unwrap(), None);
    until("they are swept", || async {
        let rows = Scan::prefix(format!("m/request-row/{id}/"));
        manager.store().scan(rows).await.unwrap().is_empty()
    })
    .await;
    // What is asked of it now does not forget the totals.
    assert_eq!(overtime(&manager, &id, "").await.unwrap(), ended);
    let manager = manager.restart().await;
    assert_eq!(overtime(&manager, &id, "").await.unwrap(), ended);
}

const LARGE: i32 = 8;

/// A request whose answers are larger than what is on the way to a client at a time.
async fn large(manager: &Manager) -> String {
    fleet(manager, LARGE).await;
    let id = create(manager, asked()).await.unwrap().id;
    until_rows(manager, &id, "state = SENT", usize::try_from(LARGE).unwrap()).await;
    id
}

async fn answer_all(manager: &Manager, id: &str) {
    let text = prost_types::value::Kind::StringValue("x".repeat(900_000));
    let value = prost_types::Value { kind: Some(text) };
    let result = prost_types::Struct { fields: [("text".to_owned(), value)].into() };
    for agent in 1..=LARGE {
        let done = word(id, agent, ResponseState::Succeeded);
        let done = RespondRequest { result: Some(result.clone()), ..done };
        assert!(respond(manager, done).await.unwrap());
    }
    until_state(manager, id, RequestState::Finished).await;
}

#[tokio::test]
async fn who_reads_slowly_stops_nobody_and_misses_nothing() {
    let manager = Manager::start().await;
    let id = large(&manager).await;
    let mut slow = watch(&manager, &id, "", false).await.unwrap();
    // It reads nothing until all is over.
    answer_all(&manager, &id).await;
    let mut events = Vec::new();
    while let Some(event) = next(&mut slow).await.unwrap() {
        events.push(event);
    }
    assert_eq!(events, all_events(&manager, &id).await);
    assert!(summary(events.last().unwrap()).is_some());
    let results = events.iter().filter_map(of_agent).filter(|event| event.result.is_some());
    assert_eq!(results.count(), usize::try_from(LARGE).unwrap());
}

#[tokio::test]
async fn who_reads_slowly_is_told_when_the_request_is_removed_meanwhile() {
    let manager = Manager::start().await;
    let id = large(&manager).await;
    let mut slow = watch(&manager, &id, "", false).await.unwrap();
    answer_all(&manager, &id).await;
    let whole = all_events(&manager, &id).await;
    let delete = DeleteRequestRequest { id: id.clone() };
    answer(manager.requests().delete_request(delete).await).unwrap();
    let mut seen = 0;
    let error = loop {
        match next(&mut slow).await {
            // What was on its way is whole.
            Ok(Some(event)) => assert_eq!(event, whole[seen]),
            Ok(None) => panic!("it must not look like the end"),
            Err(error) => break error,
        }
        seen += 1;
    };
    assert_eq!(error.reason, Reason::RequestNotFound);
    assert!(seen < whole.len());
}
