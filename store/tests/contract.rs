//! What every store promises, on the store on sled with each durability, and on a part of one that
//! others share.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod suite;

use std::sync::Arc;

use goperation_store::{Durability, Options, Prefixed, Row, Scan, SledStore, Store, Txn};
use tempfile::TempDir;

/// Runs each part of the suite on a new store of each durability, and on parts of one.
macro_rules! contract {
    ($($part:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $part() {
                for durability in [Durability::Crash, Durability::Power, Durability::None] {
                    let folder = TempDir::new().unwrap();
                    let store = SledStore::open(Options::new(folder.path()).durability(durability));
                    let store = store.unwrap();
                    suite::$part(Arc::new(store.clone())).await;
                    store.close().await;
                }
            }
        )+

        mod prefixed {
            $(
                #[tokio::test]
                async fn $part() {
                    super::behind_prefixes(super::suite::$part).await;
                }
            )+
        }
    };
}

/// Runs a part of the suite behind prefixes, the last of which has no next one, with rows of others
/// right before and after, which must not change.
async fn behind_prefixes(part: impl AsyncFn(Arc<dyn Store>)) {
    let folder = TempDir::new().unwrap();
    let sled = SledStore::open(Options::new(folder.path())).unwrap();
    let shared: Arc<dyn Store> = Arc::new(sled.clone());
    let others: [&[u8]; 6] = [b"", b"a", b"a/\xff", b"a0", b"b", b"\xfe\xff"];
    let others: Vec<Row> = others.map(|key| (key.to_vec(), b"other".to_vec())).into();
    for (key, value) in &others {
        shared.commit(Txn::new().put(key.clone(), value.clone())).await.unwrap();
    }
    for prefix in [b"a/1/".as_slice(), b"a/2/", b"\xff"] {
        let one: Arc<dyn Store> = Arc::new(Prefixed::new(Arc::clone(&shared), prefix));
        part(Arc::clone(&one)).await;
        // One behind another one.
        part(Arc::new(Prefixed::new(one, b"and/"))).await;
    }
    let mut rows = shared.scan(Scan::prefix("")).await.unwrap();
    rows.retain(|(key, _)| {
        !key.starts_with(b"a/1/") && !key.starts_with(b"a/2/") && !key.starts_with(b"\xff")
    });
    assert_eq!(rows, others);
    sled.close().await;
}

contract! {
    a_key_has_what_was_put,
    conditions_must_all_hold,
    conflict_names_the_first_condition_and_the_current_value,
    a_refused_transaction_changes_nothing,
    of_two_writes_to_a_key_the_later_wins,
    transactions_take_effect_in_order_of_submit,
    conditions_see_earlier_transactions_of_the_group,
    of_many_that_want_a_key_one_gets_it,
    a_dropped_pending_happens,
    a_dropped_slot_gives_its_place_back,
    an_empty_transaction_is_answered,
    scans_are_ordered_and_end_before_the_end,
    scans_stop_at_the_limit_from_either_side,
    prefixes_ending_in_ff_have_the_right_end,
    large_values_come_back,
    readers_see_whole_values_while_writers_write,
}

#[tokio::test]
async fn the_trait_is_usable_as_an_object() {
    let folder = TempDir::new().unwrap();
    let sled = SledStore::open(Options::new(folder.path())).unwrap();
    let store: &dyn Store = &sled;
    assert_eq!(store.get(b"k".to_vec()).await.unwrap(), None);
    sled.close().await;
}
