//! The command line: every role, every command a person types, and their flags.
//!
//! Invariant: only shapes are judged here; what a name means is asked of the server.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use goperation::v1::PortWish;
use goperation_manager::Origin;
use serde_json::Value;

use crate::parse::{self, EntityRef, Target};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or failed: the last lines on stderr say why, and what to do next
  2  wrong usage or configuration; nothing was started
  3  this agent is deleted (`gop agent --config F`); `gop agent adopt` makes it new";

/// Heading of the flags that every command takes.
const GLOBAL: &str = "Everywhere";

const TARGETS: &str = "\
Targets:
  1                     agent 1: its own methods
  1/sample              agent 1: methods of its endpoint `sample`
  sample:4              entity 4 of endpoint `sample`, wherever it is
  any:TYPE[/ENDPOINT]   any one agent of a type
  all[/ENDPOINT]        every agent, or every one that has the endpoint (cast only)
  all:TYPE[/ENDPOINT]   the same, of one type (cast only)";

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
    /// How long to wait for an answer
    #[arg(
        long,
        global = true,
        default_value = "15s",
        value_name = "DURATION",
        value_parser = parse::duration,
        help_heading = GLOBAL
    )]
    pub(crate) timeout: Duration,
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
    /// TOML file of an agent, instead of the sample; its folders, manager and broker give way
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Web pages that may call from a browser, as http://localhost:5173; may be repeated
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    pub(crate) cors_origins: Vec<Origin>,
    /// Allow an address beyond loopback: there are no users and no TLS yet
    #[arg(long)]
    pub(crate) insecure: bool,
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = true, subcommand_negates_reqs = true)]
pub(crate) struct AgentArgs {
    /// TOML file of the agent that shall run here
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<AgentCommand>,
}

/// The number of an agent.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct AgentId {
    /// Number of the agent
    #[arg(value_name = "AGENT", value_parser = parse::number)]
    pub(crate) id: i32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// List agents
    Ls {
        /// Conditions, as `host = "h1" AND online = true`
        #[arg(long)]
        filter: Option<String>,
        /// Deleted ones too
        #[arg(long)]
        all: bool,
    },
    /// Show one agent
    Show(AgentId),
    /// Put an agent on record before its host is there; whoever registers first takes it over
    Reserve {
        /// Its host name
        #[arg(long)]
        host: String,
        /// Its type
        #[arg(long = "type", value_name = "TYPE", default_value = "application")]
        agent_type: String,
        /// An endpoint that it shall have
        #[arg(long = "endpoint", value_name = "ENDPOINT")]
        endpoints: Vec<String>,
        /// Ports that it shall have, as `20000-20999`
        #[arg(long = "ports", value_name = "RANGE")]
        ports_ranges: Vec<String>,
        /// Address of its host
        #[arg(long, default_value = "", hide_default_value = true)]
        address: String,
    },
    /// Set an agent ACTIVE: only an ACTIVE one runs endpoint methods
    Activate {
        #[command(flatten)]
        agent: AgentId,
        /// Set it UNACTIVE instead
        #[arg(long)]
        off: bool,
    },
    /// Hold the messages of an agent until it is resumed
    Pause(AgentId),
    /// Let a paused agent go on
    Resume(AgentId),
    /// Delete an agent that has no entities; it exits
    Delete {
        #[command(flatten)]
        agent: AgentId,
        /// Only remove the record, for a host that is gone
        #[arg(long)]
        force: bool,
    },
    /// Remove the record of a deleted agent
    Clean(AgentId),
    /// Make a deleted agent new: here, on its own data folder
    Adopt(RoleConfig),
}

#[derive(Debug, Subcommand)]
pub(crate) enum EndpointCommand {
    /// List the endpoints of the fleet
    Ls {
        /// Only those of this agent
        #[arg(long, value_parser = parse::number)]
        agent: Option<i32>,
    },
}

/// Names one entity.
#[derive(Debug, Clone, Args)]
pub(crate) struct EntityId {
    /// `sample:4`, or the endpoint, with the number following
    #[arg(value_name = "ENDPOINT")]
    endpoint: String,
    /// Number of the entity
    #[arg(value_name = "NUMBER", value_parser = parse::number)]
    number: Option<i32>,
}

impl EntityId {
    /// The entity.
    pub(crate) fn entity(&self) -> Result<EntityRef, crate::error::Error> {
        EntityRef::of(&self.endpoint, self.number).map_err(crate::error::Error::Usage)
    }
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

#[derive(Debug, Subcommand)]
pub(crate) enum EntityCommand {
    /// List entities
    Ls {
        /// Only of this endpoint
        #[arg(long)]
        endpoint: Option<String>,
        /// Only on this agent
        #[arg(long, value_parser = parse::number)]
        agent: Option<i32>,
        /// Conditions, as `state = READY`
        #[arg(long)]
        filter: Option<String>,
    },
    /// Show the record of one entity
    Show(EntityId),
    /// Create an entity on an agent, with ports
    Create {
        /// Its endpoint
        endpoint: String,
        /// Number of the agent
        #[arg(long = "on", value_name = "AGENT", value_parser = parse::number)]
        agent: i32,
        /// A port by name, as `game`, `game=20000` or `game=20000/udp`
        #[arg(long = "port", value_name = "NAME[=PORT][/PROTOCOL]", value_parser = parse::wish)]
        ports: Vec<PortWish>,
        /// That many ports without a name
        #[arg(long = "ports", value_name = "COUNT", value_parser = parse::number)]
        count: Option<i32>,
        #[command(flatten)]
        args: Arguments,
        /// Free text
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// A label
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
        labels: Vec<(String, String)>,
        /// Its number, at least the endpoint's next one; that one when not said
        #[arg(long, value_parser = parse::number)]
        number: Option<i32>,
    },
    /// Ask the agent how an entity is
    Status(EntityId),
    /// Delete an entity, its ports and its home
    Delete {
        #[command(flatten)]
        entity: EntityId,
        #[command(flatten)]
        args: Arguments,
        /// One-time token: nobody without it deletes the entity meanwhile
        #[arg(long, default_value = "", hide_default_value = true)]
        token: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PortCommand {
    /// List the ports of an agent
    Ls(AgentId),
    /// Reserve ports for an entity: all or nothing
    Reserve {
        #[command(flatten)]
        entity: EntityId,
        /// A port, as `game`, `game=20000`, `game=20000/udp`, `20000` or `20000/tcp`
        #[arg(
            long = "port",
            value_name = "NAME[=PORT][/PROTOCOL]",
            value_parser = parse::wish,
            required_unless_present = "count"
        )]
        ports: Vec<PortWish>,
        /// That many ports without a name
        #[arg(long, value_parser = parse::number)]
        count: Option<i32>,
        /// Id under which a repeat is safe
        #[arg(long, default_value = "", hide_default_value = true)]
        message_id: String,
    },
    /// Free ports of an agent
    Free {
        #[command(flatten)]
        agent: AgentId,
        /// Numbers of the ports
        #[arg(required = true, value_name = "PORT", value_parser = parse::port)]
        ports: Vec<i32>,
        /// Free nothing when one of them is not reserved
        #[arg(long)]
        strict: bool,
    },
}

/// A method, where it runs and what it gets.
#[derive(Debug, Args)]
pub(crate) struct Order {
    /// Whom it is for; see below
    #[arg(value_parser = parse::target)]
    pub(crate) target: Target,
    /// Name of the method
    pub(crate) method: String,
    #[command(flatten)]
    pub(crate) args: Arguments,
    /// Id under which a repeat is safe: its effect happens once
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) message_id: String,
    /// From now, when it may be started at the latest, as `1h`
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) finish: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = TARGETS)]
pub(crate) struct Cast {
    #[command(flatten)]
    pub(crate) order: Order,
    /// Of a broadcast, only these agents, as `1-3,7`
    #[arg(long, value_name = "RANGES", value_parser = parse::agents, default_value = "", hide_default_value = true)]
    pub(crate) agents: String,
}

#[derive(Debug, Args)]
#[command(after_help = TARGETS)]
pub(crate) struct Call {
    #[command(flatten)]
    pub(crate) order: Order,
}

#[derive(Debug, Args)]
pub(crate) struct Notify {
    /// Queue, without its `notify.` prefix
    pub(crate) queue: String,
    #[command(flatten)]
    pub(crate) args: Arguments,
    /// Id of the message
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) message_id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Receive {
    /// Queue, without its `notify.` prefix
    pub(crate) queue: String,
    /// Messages to take; --timeout is the longest wait for each
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Go on until interrupted
    #[arg(long, conflicts_with = "count")]
    pub(crate) follow: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List queues
    Ls {
        /// Conditions, as `depth > 0`
        #[arg(long)]
        filter: Option<String>,
    },
    /// Show one queue
    Show {
        /// `cast.<type>.<host>`, `call.<type>.<host>`, `any.<type>`, `notify.<name>` or `dead`
        name: String,
    },
    /// List messages that could not be delivered, with the reason of each
    Dead {
        /// Conditions, as `reason = OVER_FINISHTIME`
        #[arg(long)]
        filter: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List caches
    Ls {
        /// Conditions, as `key >= "job-" AND key < "job."`
        #[arg(long)]
        filter: Option<String>,
    },
    /// Show one cache
    Show {
        /// Its key
        key: String,
    },
    /// Store a value, whether or not there is one
    Set {
        /// Its key; made and printed when not said
        key: Option<String>,
        #[command(flatten)]
        value: Arguments,
        /// How long it is kept, as `1h`: 30 s when not said, at most 7 days
        #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
        ttl: Option<Duration>,
        /// Only in the place of this version
        #[arg(long, default_value = "", hide_default_value = true, requires = "key")]
        etag: String,
    },
    /// Remove one cache
    Rm {
        /// Its key
        key: String,
    },
    /// Remove every cache whose key begins so
    Flush {
        /// Beginning of the keys
        #[arg(required_unless_present = "all")]
        prefix: Option<String>,
        /// All of them
        #[arg(long, conflicts_with = "prefix")]
        all: bool,
    },
}
