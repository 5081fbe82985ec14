//! The command line: every role, every command a person types, and their flags.
//!
//! Invariant: only shapes are judged here; what a name means is asked of the server.

mod agent;
mod cache;
mod endpoint;
mod entity;
mod facts;
mod port;
mod queue;
mod request;
mod role;
mod send;
mod upgrade;

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::Value;

pub(crate) use self::{
    agent::{AgentArgs, AgentCommand, AgentId},
    cache::CacheCommand,
    endpoint::{Choice, EndpointCommand},
    entity::{EntityCommand, EntityId},
    facts::Facts,
    port::PortCommand,
    queue::QueueCommand,
    request::{Follow, RequestCommand, Rollout, RunRequest, Selection},
    role::{Dev, Emulate, RoleConfig, Server},
    send::{Call, Cast, Notify, Order, Receive},
    upgrade::{Status, Upgrade, Upgraded},
};
use crate::parse;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or failed: the last lines on stderr say why, and what to do next
  2  wrong usage or configuration; nothing was started
  3  this agent is deleted (`gop agent --config F`); `gop agent adopt` makes it new
  4  this agent shall be started again: `[package] restart = \"exit\"`";

/// Heading of the flags that every command takes.
const GLOBAL: &str = "Everywhere";

/// One control plane for fleets of game servers.
#[derive(Debug, Parser)]
#[command(name = "gop", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The manager
    #[arg(
        long,
        global = true,
        env = "GOP_SERVER",
        default_value = "http://127.0.0.1:7999",
        value_name = "URI",
        help_heading = GLOBAL
    )]
    pub(crate) server: String,
    /// Print proto3 JSON instead of tables
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) json: bool,
    /// How long to wait for an answer: 15s when not said, 2m where a process is waited for
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        value_parser = parse::duration,
        help_heading = GLOBAL
    )]
    pub(crate) timeout: Option<Duration>,
    /// Form of the log, on stderr
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Human, help_heading = GLOBAL)]
    pub(crate) log: LogFormat,
    /// What is logged, as `info` or `warn,goperation_agent=debug`; else RUST_LOG
    #[arg(long, global = true, value_name = "FILTER", help_heading = GLOBAL)]
    pub(crate) log_level: Option<String>,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run every role in this one process, to try things
    Dev(Dev),
    /// Run many emulated agents in one process: for tests, benches and trials
    Emulate(Emulate),
    /// Run the manager
    Manager(Server),
    /// Run a bridge on its own
    Bridge(Server),
    /// Run an agent (with --config), or work on agents
    Agent(AgentArgs),
    /// Endpoints: what agents can run
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// Entities: numbered instances of endpoints
    #[command(subcommand)]
    Entity(EntityCommand),
    /// Ports that entities have
    #[command(subcommand)]
    Port(PortCommand),
    /// Send a command and do not wait for its result
    Cast(Cast),
    /// Send a command to one agent and wait for its result
    Call(Call),
    /// Requests: one method on many agents, with what became of each
    #[command(subcommand)]
    Request(RequestCommand),
    /// Put a message into a named queue, which need not exist yet
    Notify(Notify),
    /// Take messages from a named queue; each is acknowledged after it is printed
    Receive(Receive),
    /// Queues and dead letters
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Caches: small values that scripts leave for each other, for a time
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Print a completion script, e.g. `source <(gop completions bash)`
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Arguments of a method.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Arguments {
    /// One argument; the value is JSON if it can be read as JSON, else text
    #[arg(long = "arg", value_name = "KEY=VALUE", value_parser = parse::pair)]
    pub(crate) pairs: Vec<(String, Value)>,
    /// All arguments as a JSON object: as it stands, in @FILE, or `-` for stdin
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(crate) args: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_and_their_groups_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
