//! Many agents in one process: the real gate, lock, ports, journal, outbox and transport, with a
//! stub in place of the operator's programs.
//!
//! All share one store, in which each has its own prefix, one reading of the host, and connections.
//! What the stub does is written into a ledger of its own before it answers, so that what the
//! manager says of a request can be held against what really happened.
//!
//! Invariant: which agent does what is a function of the configuration alone: the same after a
//! restart, and known to whoever compares.

mod config;
mod error;
mod fleet;
mod ledger;
mod member;
mod plan;
mod settle;
mod stub;

pub use config::{Config, Parts, Share, Standing};
pub use error::Error;
pub use fleet::{Handle, Member, memory, start};
pub use ledger::{Effect, effects};
pub use plan::{Conduct, Role};
pub use stub::{CHANGING, ENDPOINT, IDEMPOTENT, READING};
