//! The agent: one per host and type. It takes messages through the gate, guards its state with the
//! work lock, owns the ports of its host and runs its endpoints.
//!
//! Where a message goes: `dispatch` (filters, gate, journal) → `job` (started, run, done, reply) →
//! `methods` or `entity` → `endpoint` (the operator's programs). Where state changes:
//! `operations` → `core` (store slot, lock, write) → `state`. What answers a request goes through
//! `outbox` to the manager.
//!
//! Invariant: nothing is answered that is not on disk, and no effect happens twice for one id.

pub mod config;
pub mod endpoint;
pub mod gate;
pub mod lock;
pub mod package;
pub mod ports;

mod adopt;
mod agent;
mod answer;
mod core;
mod counters;
mod dispatch;
mod each;
mod entity;
mod error;
mod facts;
mod job;
mod journal;
mod life;
mod manager;
mod methods;
mod operations;
mod order;
mod outbox;
mod port_keeper;
mod process;
mod removals;
mod report;
mod reserve;
mod start;
mod state;
mod token;
mod upgrade;
mod waiters;

pub use adopt::{AdoptError, Adopted, adopt};
pub use config::Config;
pub use counters::Counts;
pub use error::RunError;
pub use facts::SharedFacts;
pub use methods::Method;
pub use port_keeper::PortKeeper;
pub use start::{Exit, Handle, Parts, Shared, run, start, start_shared};
pub use state::EntityKey;
