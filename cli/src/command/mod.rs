//! What a person types: each command asks the manager and prints its answer.

pub(crate) mod agent;
pub(crate) mod cache;
pub(crate) mod endpoint;
pub(crate) mod entity;
pub(crate) mod facts;
pub(crate) mod fleet;
pub(crate) mod notify;
pub(crate) mod port;
pub(crate) mod queue;
pub(crate) mod request;
pub(crate) mod send;
pub(crate) mod upgrade;
