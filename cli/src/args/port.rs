//! `gop port`.

use clap::Subcommand;
use goperation::v1::PortWish;

use super::{AgentId, EntityId};
use crate::parse;

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
