//! What is stored. Each record is a protobuf message of its own, so that the API may change
//! without the store.
//!
//! Invariant: a field's tag never changes its meaning; a change that old code cannot read raises
//! the record's version.

mod agent;
mod cache;
mod entity;
mod idempotency;
mod job;
mod report;
mod request;

pub(crate) use agent::{AgentRecord, int};
pub(crate) use cache::{CacheMark, CacheRecord, CacheTotals};
pub(crate) use entity::{EntityRecord, PortRecord, State, since};
pub(crate) use idempotency::KeyRecord;
pub(crate) use job::{ClaimRecord, DeletePhase, DeleteRecord, GoneRecord, IdRecord, QueueJob};
pub(crate) use report::{ReportRecord, ReportSpan};
pub(crate) use request::{EventRecord, RESULT_SILENT, RESULT_UNKNOWN, RequestRecord, RowRecord};
