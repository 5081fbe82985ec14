//! Why an agent stops, and how store failures are told to callers.

use std::{error::Error as _, fmt};

use goperation::{Error, Reason};

/// Why [`crate::run`] ended other than asked.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] goperation::ConfigError),
    /// The store failed: the agent must start again from disk.
    #[error("the agent's store failed")]
    Store(#[from] goperation_store::Error),
    /// The manager refuses this agent; nothing but an operator changes that.
    #[error("the manager refuses this agent: {0}")]
    Refused(Error),
    /// What is stored cannot be read, or a queue cannot be consumed.
    #[error("the agent cannot start: {0}")]
    Start(Error),
}

/// A store's failure as a caller sees it: nothing was granted.
pub(crate) fn store(error: goperation_store::Error) -> Error {
    Error::new(Reason::Unavailable, format!("the agent's store cannot be used: {}", chain(&error)))
}

fn chain(error: &goperation_store::Error) -> impl fmt::Display {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
