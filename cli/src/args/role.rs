//! Configuration of the roles.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use goperation_manager::Origin;

/// Configuration of one role.
#[derive(Debug, Args)]
pub(crate) struct RoleConfig {
    /// Its TOML file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

/// A role that listens.
#[derive(Debug, Args)]
pub(crate) struct Server {
    #[command(flatten)]
    pub(crate) role: RoleConfig,
    /// Allow an address beyond loopback: there are no users and no TLS yet
    #[arg(long)]
    pub(crate) insecure: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Address to serve on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7999", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Folder that keeps everything; without it a temporary one is made and removed
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Number of agents: dev1, dev2, …
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) agents: u16,
    /// RabbitMQ to use instead of the transport in this process: amqp://…
    #[arg(long, value_name = "URI")]
    pub(crate) broker: Option<String>,
    /// TOML file of an agent, instead of the samples; its folders, manager and broker give way
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Leave out the endpoints of game servers that are installed here
    #[arg(long, conflicts_with = "config")]
    pub(crate) no_games: bool,
    /// Web pages that may call from a browser, as http://localhost:5173; may be repeated
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    pub(crate) cors_origins: Vec<Origin>,
    /// Allow an address beyond loopback: there are no users and no TLS yet
    #[arg(long)]
    pub(crate) insecure: bool,
}
