//! `gop agent`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Facts, RoleConfig, Status, Upgrade};
use crate::parse;

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
    /// What the host of an agent is and does, and what it did
    Facts(Facts),
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
    /// Ask agents how they are, each with its own answer
    Status(Status),
    /// Run the package command of agents, which then start anew; what they run goes on
    Upgrade(Box<Upgrade>),
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

impl AgentCommand {
    /// What the shapes of the words alone do not say, before anybody is asked.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self::Upgrade(args) => args.what().map(drop),
            _ => Ok(()),
        }
    }
}
