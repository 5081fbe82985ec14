//! Ordered, durable byte keys behind one trait, for the manager's record, the embedded
//! transport's queues and the agent's state.
//!
//! Invariant: a [`Txn`] is applied whole or not at all, transactions take effect in the order in
//! which they were submitted, and an answer goes out only when its transaction, and every earlier
//! one, is durable.

mod disk;
mod prefixed;
mod queue;
mod sled;
mod txn;
mod writer;

pub use crate::prefixed::Prefixed;
pub use crate::sled::{Durability, Options, SledStore, Stats};
pub use crate::txn::{
    Condition, Error, Key, Outcome, Pending, Row, Scan, Slot, Store, Txn, Value, Write,
};
