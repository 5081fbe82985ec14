//! Configuration of the roles.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use goperation_emulator::{Share, Standing};
use goperation_manager::Origin;

use crate::parse;

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

#[derive(Debug, Args)]
pub(crate) struct Emulate {
    /// Number of agents: emu-00001, emu-00002, …
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) agents: u32,
    /// RabbitMQ that the manager uses: amqp://…
    #[arg(long, value_name = "URI")]
    pub(crate) broker: String,
    /// The manager
    #[arg(long, default_value = "http://127.0.0.1:7999", value_name = "URI")]
    pub(crate) manager: String,
    /// Folder that keeps everything; without it a temporary one is made and removed
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Number of the first agent, when several processes are one fleet
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) first: u32,
    /// Agents that share connections to the broker and to the manager
    #[arg(long, default_value_t = 100, value_name = "AGENTS", value_parser = clap::value_parser!(u32).range(1..=400))]
    pub(crate) connections_of: u32,
    /// By it is chosen who behaves how: the same each time
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// How long a method takes before it has its effect
    #[arg(long, default_value = "10ms", value_name = "DURATION", value_parser = parse::grace)]
    pub(crate) latency: Duration,
    /// Agents whose methods fail: a number, or a percentage
    #[arg(long, default_value = "0", value_name = "SHARE")]
    pub(crate) fail: Share,
    /// Agents that do not answer while this process lives, though their methods have their effect
    #[arg(long, default_value = "0", value_name = "SHARE")]
    pub(crate) silent: Share,
    /// Agents that answer late, though their methods have their effect in time
    #[arg(long, default_value = "0", value_name = "SHARE")]
    pub(crate) late: Share,
    /// How late those answer
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse::grace)]
    pub(crate) late_by: Duration,
    /// Where agents stand: active, unactive, softbusy, hardbusy, perdelete, deleted, offline. The
    /// others are active; or unactive, when it is said how many are active
    #[arg(
        long,
        value_name = "STATUS=SHARE",
        value_delimiter = ',',
        value_parser = Standing::share
    )]
    pub(crate) status: Vec<(Standing, Share)>,
    /// File to which every effect is appended: message, agent, what, and how the agent behaves
    /// [default: `ledger` in the folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger: Option<PathBuf>,
}
