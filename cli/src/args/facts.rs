//! `gop agent facts`.

use std::time::Duration;

use clap::Args;

use super::AgentId;
use crate::parse;

/// What the host of an agent is and does.
#[derive(Debug, Args)]
pub(crate) struct Facts {
    #[command(flatten)]
    pub(crate) agent: AgentId,
    /// Reports of the last while, as `1h`, newest first
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) since: Option<Duration>,
    /// All reports that are kept
    #[arg(long, conflicts_with = "since")]
    pub(crate) history: bool,
}
