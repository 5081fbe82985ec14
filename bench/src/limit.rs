//! What ours is held against: the parts that it is built on, used as directly as can be.
//!
//! Invariant: a limit is as safe as ours: the same queue types, confirms, mandatory, persistence,
//! and the same processes apart, so that nothing is left out that ours must pay for.

pub(crate) mod amqp;
pub(crate) mod commit;
pub(crate) mod crowd;
pub(crate) mod unary;

use clap::Subcommand;

use crate::Result;

/// A process of the limit. Each prints `ready …` when it serves, and is killed by who started it.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Answers CALLs and counts CASTs
    Respond(amqp::Respond),
    /// Serves one unary method
    Unary,
    /// Has the queues of many agents
    Crowd(crowd::Crowd),
}

/// Plays a role until it is killed.
pub(crate) async fn play(role: Role) -> Result<()> {
    match role {
        Role::Respond(respond) => amqp::respond(respond).await,
        Role::Unary => unary::serve().await,
        Role::Crowd(crowd) => crowd::run(crowd).await,
    }
}
