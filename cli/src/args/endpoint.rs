//! `gop endpoint`, and how an agent is chosen.

use clap::{Args, Subcommand};

use crate::parse;

/// What conditions and weighers look like.
pub(super) const CHOICE: &str = "\
Choice:
  --include 'cpu>=2'             only agents that have it; all that are given must hold
  --include 'metadata.mysql>=5.5'
  --weigh left/-1024             what comes first: the most GiB of disk left,
  --weigh entities               and where that is equal, the fewest entities
  Keys: id host cpu memory disk free left load process cputime iowait fds conns entities time
  labels.KEY metadata.KEY";

/// Which agents suit, and which comes first.
#[derive(Debug, Clone, Args)]
pub(crate) struct Choice {
    /// Only agents of which this holds, as `cpu>=2`; may be repeated
    #[arg(long = "include", value_name = "CONDITION")]
    pub(crate) includes: Vec<String>,
    /// What comes first, as `entities` or `left/-1024`; the next one decides where it is equal
    #[arg(long = "weigh", value_name = "KEY[/N]", allow_hyphen_values = true)]
    pub(crate) weighers: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EndpointCommand {
    /// List the endpoints of the fleet
    Ls {
        /// Only those of this agent
        #[arg(long, value_parser = parse::number)]
        agent: Option<i32>,
    },
    /// Say which agents suit a new entity, best first; changes nothing
    #[command(after_help = CHOICE)]
    Choose {
        /// Its endpoint
        endpoint: String,
        #[command(flatten)]
        choice: Choice,
        /// At most so many
        #[arg(long, value_name = "COUNT", value_parser = parse::number)]
        limit: Option<i32>,
        /// Also who does not suit, and why
        #[arg(long)]
        explain: bool,
    },
}
