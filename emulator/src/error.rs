//! Why an emulation cannot begin, or broke off.

use std::{io, path::PathBuf};

use goperation::ConfigError;
use goperation_agent::RunError;

/// Why an emulation cannot begin, or broke off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// A folder or file cannot be used.
    #[error("{} cannot be used", path.display())]
    File {
        /// Folder or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store of all agents cannot be used.
    #[error("the store of the agents failed")]
    Store(#[from] goperation_store::Error),
    /// The configuration of an agent is refused: a fault of this program, or of the folder.
    #[error("the configuration of {host} is refused")]
    Agent {
        /// Host.
        host: String,
        /// Why.
        #[source]
        source: Box<ConfigError>,
    },
    /// An agent cannot run.
    #[error("{host} failed")]
    Run {
        /// Host.
        host: String,
        /// Why.
        #[source]
        source: Box<RunError>,
    },
    /// An agent or a helper ended in a way that it must not.
    #[error("{0}")]
    Broken(String),
}
