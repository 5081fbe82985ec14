//! `gop agent upgrade`.

use std::time::Duration;

use clap::Args;

use super::AgentId;
use crate::parse;

#[derive(Debug, Args)]
pub(crate) struct Upgrade {
    #[command(flatten)]
    pub(crate) agent: AgentId,
    /// The package, where its package command has {file}: a path on its host, or a URL
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) file: String,
    /// How long to wait for its end instead of --timeout; it goes on when that is over
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) wait: Duration,
    /// Id under which a repeat is safe: it is done once
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) message_id: String,
    /// From now, when it may be started at the latest, as `1h`
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) finish: Option<Duration>,
}
