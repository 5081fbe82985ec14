//! What every store promises, on the store on sled with each durability.

mod suite;

use std::sync::Arc;

use goperation_store::{Durability, Options, SledStore, Store};
use tempfile::TempDir;

/// Runs each part of the suite on a new store of each durability.
macro_rules! contract {
    ($($part:ident),+ $(,)?) => {$(
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
    )+};
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
