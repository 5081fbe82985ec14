//! The contract, written against `dyn Store`: each part gets a new, empty store.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::sync::Arc;

use futures::future::join_all;
use goperation_store::{Outcome, Row, Scan, Store, Txn};

type AnyStore = Arc<dyn Store>;

fn conflict(key: &str, current: Option<&str>) -> Outcome {
    Outcome::Conflict { key: key.into(), current: current.map(Into::into) }
}

async fn commit(store: &AnyStore, txn: Txn) -> Outcome {
    store.commit(txn).await.unwrap()
}

async fn get(store: &AnyStore, key: &str) -> Option<String> {
    store.get(key.into()).await.unwrap().map(|value| String::from_utf8(value).unwrap())
}

async fn keys(store: &AnyStore, scan: Scan) -> Vec<Vec<u8>> {
    store.scan(scan).await.unwrap().into_iter().map(|(key, _)| key).collect()
}

fn range(start: &str, end: &str) -> Scan {
    Scan { start: start.into(), end: end.into(), limit: usize::MAX, reverse: false }
}

pub(crate) async fn a_key_has_what_was_put(store: AnyStore) {
    assert_eq!(get(&store, "a").await, None);
    assert_eq!(commit(&store, Txn::new().put("a", "1").put("b", "")).await, Outcome::Applied);
    assert_eq!(get(&store, "a").await.as_deref(), Some("1"));
    assert_eq!(get(&store, "b").await.as_deref(), Some(""));
    commit(&store, Txn::new().delete("a").delete("never there")).await;
    assert_eq!(get(&store, "a").await, None);
    assert_eq!(get(&store, "b").await.as_deref(), Some(""));
    // The empty key is a key.
    commit(&store, Txn::new().put("", "empty")).await;
    assert_eq!(get(&store, "").await.as_deref(), Some("empty"));
    // Many at once, in the order in which they are asked for.
    let keys = ["b", "a", "", "b"].map(Into::into).into();
    let values = store.get_all(keys).await.unwrap();
    assert_eq!(values, [Some(vec![]), None, Some(b"empty".to_vec()), Some(vec![])]);
    assert_eq!(store.get_all(Vec::new()).await.unwrap(), Vec::<Option<Vec<u8>>>::new());
}

pub(crate) async fn conditions_must_all_hold(store: AnyStore) {
    let first = Txn::new().absent("a").absent("b").put("a", "1").put("b", "2");
    assert_eq!(commit(&store, first.clone()).await, Outcome::Applied);
    assert_eq!(commit(&store, first).await, conflict("a", Some("1")));
    let both = Txn::new().equals("a", "1").equals("b", "2").absent("c").put("c", "3");
    assert_eq!(commit(&store, both.clone()).await, Outcome::Applied);
    assert_eq!(commit(&store, both).await, conflict("c", Some("3")));
    // An empty value is not absence.
    commit(&store, Txn::new().put("e", "")).await;
    assert_eq!(commit(&store, Txn::new().absent("e")).await, conflict("e", Some("")));
    assert_eq!(commit(&store, Txn::new().equals("f", "")).await, conflict("f", None));
}

pub(crate) async fn conflict_names_the_first_condition_and_the_current_value(store: AnyStore) {
    commit(&store, Txn::new().put("a", "1").put("b", "2")).await;
    let txn = Txn::new().equals("a", "1").equals("b", "other").absent("a");
    assert_eq!(commit(&store, txn).await, conflict("b", Some("2")));
    assert_eq!(commit(&store, Txn::new().equals("z", "1")).await, conflict("z", None));
}

pub(crate) async fn a_refused_transaction_changes_nothing(store: AnyStore) {
    commit(&store, Txn::new().put("a", "1")).await;
    let txn = Txn::new().absent("a").put("a", "2").put("b", "2").delete("a");
    assert!(!commit(&store, txn).await.is_applied());
    assert_eq!(get(&store, "a").await.as_deref(), Some("1"));
    assert_eq!(get(&store, "b").await, None);
}

pub(crate) async fn of_two_writes_to_a_key_the_later_wins(store: AnyStore) {
    commit(&store, Txn::new().put("a", "1").put("a", "2").put("b", "1").delete("b")).await;
    assert_eq!(get(&store, "a").await.as_deref(), Some("2"));
    assert_eq!(get(&store, "b").await, None);
    commit(&store, Txn::new().delete("a").put("a", "3")).await;
    assert_eq!(get(&store, "a").await.as_deref(), Some("3"));
    // Conditions are checked before the writes of their own transaction.
    commit(&store, Txn::new().absent("c").put("c", "1")).await;
    assert_eq!(get(&store, "c").await.as_deref(), Some("1"));
}

pub(crate) async fn transactions_take_effect_in_order_of_submit(store: AnyStore) {
    let mut slots = Vec::new();
    for _ in 0..100 {
        slots.push(store.reserve().await.unwrap());
    }
    // In the order of submits, whatever the order of the slots.
    let pending: Vec<_> = slots
        .into_iter()
        .rev()
        .enumerate()
        .map(|(n, slot)| {
            let before = n.checked_sub(1).map(|n| n.to_string());
            let txn = Txn::new().put("last", n.to_string()).put(format!("n/{n:03}"), "");
            slot.submit(match before {
                Some(before) => txn.equals("last", before),
                None => txn.absent("last"),
            })
        })
        .collect();
    for outcome in join_all(pending).await {
        assert_eq!(outcome.unwrap(), Outcome::Applied);
    }
    assert_eq!(get(&store, "last").await.as_deref(), Some("99"));
    assert_eq!(keys(&store, Scan::prefix("n/")).await.len(), 100);
}

pub(crate) async fn conditions_see_earlier_transactions_of_the_group(store: AnyStore) {
    commit(&store, Txn::new().put("gone", "1")).await;
    let mut slots = Vec::new();
    for _ in 0..5 {
        slots.push(store.reserve().await.unwrap());
    }
    let txns = [
        Txn::new().absent("a").put("a", "1").delete("gone"),
        Txn::new().absent("a").put("a", "2"),
        Txn::new().equals("a", "1").put("a", "3"),
        Txn::new().absent("gone").delete("a"),
        Txn::new().absent("a").put("a", "4"),
    ];
    let pending: Vec<_> = slots.into_iter().zip(txns).map(|(slot, txn)| slot.submit(txn)).collect();
    let outcomes: Vec<_> = join_all(pending).await.into_iter().map(Result::unwrap).collect();
    let applied = Outcome::Applied;
    let expected =
        [applied.clone(), conflict("a", Some("1")), applied.clone(), applied.clone(), applied];
    assert_eq!(outcomes, expected);
    assert_eq!(get(&store, "a").await.as_deref(), Some("4"));
}

pub(crate) async fn of_many_that_want_a_key_one_gets_it(store: AnyStore) {
    let outcomes = join_all((0..64).map(|n| {
        let store = store.clone();
        async move { commit(&store, Txn::new().absent("one").put("one", n.to_string())).await }
    }));
    let outcomes = outcomes.await;
    let winner = outcomes.iter().position(Outcome::is_applied).unwrap();
    assert_eq!(get(&store, "one").await, Some(winner.to_string()));
    for (n, outcome) in outcomes.into_iter().enumerate().filter(|(n, _)| *n != winner) {
        assert_eq!(outcome, conflict("one", Some(&winner.to_string())), "caller {n}");
    }
}

pub(crate) async fn a_dropped_pending_happens(store: AnyStore) {
    drop(store.reserve().await.unwrap().submit(Txn::new().put("a", "1")));
    // Answered only when everything before it is done.
    commit(&store, Txn::new()).await;
    assert_eq!(get(&store, "a").await.as_deref(), Some("1"));
}

pub(crate) async fn a_dropped_slot_gives_its_place_back(store: AnyStore) {
    for _ in 0..10_000 {
        drop(store.reserve().await.unwrap());
    }
    assert_eq!(commit(&store, Txn::new().put("a", "1")).await, Outcome::Applied);
}

pub(crate) async fn an_empty_transaction_is_answered(store: AnyStore) {
    assert_eq!(commit(&store, Txn::new()).await, Outcome::Applied);
    assert_eq!(keys(&store, Scan::prefix("")).await, Vec::<Vec<u8>>::new());
}

async fn five(store: &AnyStore) {
    let txn = ["c", "a", "e", "b", "d"].iter().fold(Txn::new(), |txn, key| txn.put(*key, *key));
    commit(store, txn).await;
}

pub(crate) async fn scans_are_ordered_and_end_before_the_end(store: AnyStore) {
    five(&store).await;
    let rows = store.scan(range("", "")).await.unwrap();
    let expected: Vec<Row> =
        ["a", "b", "c", "d", "e"].iter().map(|key| ((*key).into(), (*key).into())).collect();
    assert_eq!(rows, expected);
    assert_eq!(keys(&store, range("b", "d")).await, [b"b", b"c"]);
    assert_eq!(keys(&store, range("b", "")).await, [b"b", b"c", b"d", b"e"]);
    assert_eq!(keys(&store, range("", "c")).await, [b"a", b"b"]);
    assert_eq!(keys(&store, range("aa", "cc")).await, [b"b", b"c"]);
    for (start, end) in [("b", "b"), ("d", "b"), ("f", "")] {
        let reverse = Scan { reverse: true, ..range(start, end) };
        assert_eq!(keys(&store, range(start, end)).await, Vec::<Vec<u8>>::new());
        assert_eq!(keys(&store, reverse).await, Vec::<Vec<u8>>::new());
    }
}

pub(crate) async fn scans_stop_at_the_limit_from_either_side(store: AnyStore) {
    five(&store).await;
    assert_eq!(keys(&store, range("", "").limit(2)).await, [b"a", b"b"]);
    assert_eq!(keys(&store, range("b", "e").limit(9)).await, [b"b", b"c", b"d"]);
    assert_eq!(keys(&store, range("", "").limit(0)).await, Vec::<Vec<u8>>::new());
    let back = |start, end, limit| Scan { reverse: true, ..range(start, end).limit(limit) };
    assert_eq!(keys(&store, back("", "", 2)).await, [b"e", b"d"]);
    assert_eq!(keys(&store, back("b", "d", 9)).await, [b"c", b"b"]);
    assert_eq!(keys(&store, back("b", "d", 1)).await, [b"c"]);
}

pub(crate) async fn prefixes_ending_in_ff_have_the_right_end(store: AnyStore) {
    let all: [&[u8]; 7] =
        [b"a", b"a\xfe", b"a\xff", b"a\xff\x00", b"a\xff\xff\xff", b"b", b"\xff\xff\x01"];
    commit(&store, all.iter().fold(Txn::new(), |txn, key| txn.put(*key, ""))).await;
    assert_eq!(keys(&store, Scan::prefix(b"a\xff")).await, all[2..5]);
    assert_eq!(keys(&store, Scan::prefix("a")).await, all[..5]);
    assert_eq!(keys(&store, Scan::prefix(b"\xff")).await, all[6..]);
    assert_eq!(keys(&store, Scan::prefix(b"\xff\xff")).await, all[6..]);
    assert_eq!(keys(&store, Scan::prefix("")).await, all);
}

pub(crate) async fn large_values_come_back(store: AnyStore) {
    // Beyond what sled keeps in its log, and more in one transaction than a group holds.
    for size in [100_000, 200_000, 3_000_000] {
        let value = |n: u8| vec![n; size];
        let txn = (0..4).fold(Txn::new(), |txn, n| txn.put(vec![n], value(n)));
        commit(&store, txn).await;
        for n in 0..4 {
            assert!(store.get(vec![n]).await.unwrap() == Some(value(n)), "{n} of {size}");
        }
    }
}

pub(crate) async fn readers_see_whole_values_while_writers_write(store: AnyStore) {
    let write = async {
        for n in 0..200_u8 {
            let txn = (0..20_u8).fold(Txn::new(), |txn, key| txn.put(vec![key], vec![n; 500]));
            commit(&store, txn).await;
        }
    };
    let read = async {
        let mut last = 0;
        while last < 199 {
            for (_, value) in store.scan(Scan::prefix("")).await.unwrap() {
                assert!(value.iter().all(|byte| *byte == value[0]));
            }
            let seen = store.get(vec![7]).await.unwrap().map_or(0, |value| value[0]);
            assert!(seen >= last, "{seen} after {last}");
            last = seen;
        }
    };
    tokio::join!(write, read);
}
