//! `gop cast|call|notify|receive`.

use std::time::Duration;

use clap::Args;

use super::Arguments;
use crate::parse::{self, Target};

const TARGETS: &str = "\
Targets:
  1                     agent 1: its own methods
  1/sample              agent 1: methods of its endpoint `sample`
  sample:4              entity 4 of endpoint `sample`, wherever it is
  any:TYPE[/ENDPOINT]   any one agent of a type
  all[/ENDPOINT]        every agent, or every one that has the endpoint (cast only)
  all:TYPE[/ENDPOINT]   the same, of one type (cast only)";

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
