//! The bridge over the embedded transport: every answer of CAST, CALL, NOTIFY and Receive.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first thing that fails"
)]

#[path = "bridge/bed.rs"]
mod bed;
#[path = "bridge/calls.rs"]
mod calls;
#[path = "bridge/casts.rs"]
mod casts;
#[path = "bridge/queues.rs"]
mod queues;
#[path = "bridge/receive.rs"]
mod receive;
