//! The bridge over the embedded transport: every answer of CAST, CALL, NOTIFY and Receive.

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
