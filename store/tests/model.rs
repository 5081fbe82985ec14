//! Random groups of transactions, scans and restarts against a `BTreeMap`.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{collections::BTreeMap, ops::Bound};

use futures::future::join_all;
use goperation_store::{
    Condition, Durability, Key, Options, Outcome, Row, Scan, SledStore, Store, Txn, Value, Write,
};
use proptest::{collection::vec, prelude::*, sample::select};
use tempfile::TempDir;

type Model = BTreeMap<Key, Value>;

#[derive(Debug, Clone)]
enum Step {
    /// Submitted at once, so that they may share commits.
    Group(Vec<Txn>),
    Scan(Scan),
    Reopen,
}

fn key() -> impl Strategy<Value = Key> {
    vec(select(vec![0, b'a', b'b', 0xfe, 0xff]), 0..3)
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => vec(0..3_u8, 0..2),
        1 => (0..3_u8, 1000..5000_usize).prop_map(|(byte, size)| vec![byte; size]),
        1 => (0..3_u8).prop_map(|byte| vec![byte; 140_000]),
    ]
}

fn txn() -> impl Strategy<Value = Txn> {
    let condition = prop_oneof![
        key().prop_map(Condition::Absent),
        (key(), vec(0..3_u8, 0..2)).prop_map(|(key, value)| Condition::Equals(key, value)),
    ];
    let write = prop_oneof![
        3 => (key(), value()).prop_map(|(key, value)| Write::Put(key, value)),
        1 => key().prop_map(Write::Delete),
    ];
    (vec(condition, 0..3), vec(write, 0..5))
        .prop_map(|(conditions, writes)| Txn { conditions, writes })
}

fn scan() -> impl Strategy<Value = Scan> {
    let limit = prop_oneof![Just(usize::MAX), 0..5_usize];
    let range = (key(), key(), limit, any::<bool>())
        .prop_map(|(start, end, limit, reverse)| Scan { start, end, limit, reverse });
    prop_oneof![range, key().prop_map(Scan::prefix)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => vec(txn(), 1..8).prop_map(Step::Group),
        3 => scan().prop_map(Step::Scan),
        1 => Just(Step::Reopen),
    ]
}

fn commit(model: &mut Model, txn: &Txn) -> Outcome {
    for condition in &txn.conditions {
        let (key, wanted) = match condition {
            Condition::Absent(key) => (key, None),
            Condition::Equals(key, value) => (key, Some(value)),
        };
        if model.get(key) != wanted {
            return Outcome::Conflict { key: key.clone(), current: model.get(key).cloned() };
        }
    }
    for write in &txn.writes {
        match write {
            Write::Put(key, value) => model.insert(key.clone(), value.clone()),
            Write::Delete(key) => model.remove(key),
        };
    }
    Outcome::Applied
}

fn read(model: &Model, scan: &Scan) -> Vec<Row> {
    if !scan.end.is_empty() && scan.start >= scan.end {
        return Vec::new();
    }
    let end = if scan.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(&scan.end) };
    let rows = model.range::<Key, _>((Bound::Included(&scan.start), end));
    let rows = rows.map(|(key, value)| (key.clone(), value.clone()));
    if scan.reverse {
        rows.rev().take(scan.limit).collect()
    } else {
        rows.take(scan.limit).collect()
    }
}

async fn play(steps: Vec<Step>, durability: Durability) {
    let folder = TempDir::new().unwrap();
    let options = Options::new(folder.path()).durability(durability);
    let mut store = SledStore::open(options.clone()).unwrap();
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Group(txns) => {
                let mut pending = Vec::new();
                for txn in &txns {
                    pending.push(store.reserve().await.unwrap().submit(txn.clone()));
                }
                let expected: Vec<_> = txns.iter().map(|txn| commit(&mut model, txn)).collect();
                let outcomes: Vec<_> =
                    join_all(pending).await.into_iter().map(Result::unwrap).collect();
                assert!(outcomes == expected, "outcomes differ from the model's");
            }
            Step::Scan(scan) => {
                let expected = read(&model, &scan);
                assert!(store.scan(scan.clone()).await.unwrap() == expected, "{scan:?} differs");
            }
            Step::Reopen => {
                store.close().await;
                store = SledStore::open(options.clone()).unwrap();
            }
        }
    }
    store.close().await;
    let store = SledStore::open(options).unwrap();
    let rows = store.scan(Scan::prefix("")).await.unwrap();
    assert!(rows.into_iter().eq(model), "the rows differ from the model's");
    store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_as_a_map_does(
        steps in vec(step(), 1..25),
        durability in select(vec![Durability::Crash, Durability::Power, Durability::None]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(steps, durability));
    }
}
