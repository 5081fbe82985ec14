//! What stands in for the programs of an agent's endpoints, where agents are emulated.
//!
//! Invariant: only what a program would do is left out. Gate, journal, order, lock and ports are
//! the agent's own, whoever runs the method.

use std::fmt;

use async_trait::async_trait;
use goperation::{JsonObject, Result};

use super::Invocation;

/// Runs the methods of an agent's endpoints in place of the operator's programs.
#[async_trait]
pub trait Stub: Send + Sync + fmt::Debug {
    /// Runs a method of an endpoint, as agent number `agent`. It may never answer; dropped, it has
    /// been interrupted.
    ///
    /// # Errors
    /// What the method fails with.
    async fn run(&self, agent: u32, endpoint: &str, invocation: Invocation) -> Result<JsonObject>;
}
