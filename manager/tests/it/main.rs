//! The manager as its clients see it: a real server on port 0, a real store in a folder of its
//! own, real clients. Only the bridge is played, by [`fake::Fake`]; whole systems with agents and
//! brokers are tested at the top level.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod cache;
mod choose;
mod claim;
mod delete_agent;
mod delete_entity;
mod edit;
mod entity;
mod fake;
mod harness;
mod http;
mod idempotency;
mod index;
mod lease;
mod numbers;
mod once;
mod port;
mod process;
mod queue;
mod real_bridge;
mod register;
mod reports;
mod request;
mod request_again;
mod request_delivery;
mod request_fleet;
mod request_hook;
mod request_keep;
mod request_key;
mod request_list;
mod request_run;
mod request_watch;
mod reserved;
mod server;
mod sync;
mod token;
