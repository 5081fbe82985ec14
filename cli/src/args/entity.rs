//! `gop entity`: names of entities, where they shall be, and how they stop.

use std::time::Duration;

use clap::{Args, Subcommand};
use goperation::v1::PortWish;

use super::{Arguments, Choice, endpoint::CHOICE};
use crate::parse::{self, EntityRef};

/// Names one entity or several.
#[derive(Debug, Clone, Args)]
pub(crate) struct EntityIds {
    /// `teeworlds:1 teeworlds:2`, or an endpoint with a number following
    #[arg(value_name = "ENDPOINT:NUMBER", required = true)]
    names: Vec<String>,
}

impl EntityIds {
    /// The entities, each once.
    pub(crate) fn entities(&self) -> Result<Vec<EntityRef>, crate::error::Error> {
        EntityRef::several(&self.names).map_err(crate::error::Error::Usage)
    }
}

/// How a process is stopped.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Ending {
    /// How long it may take before it is killed; what its endpoint declares when not said
    #[arg(long, value_name = "DURATION", value_parser = parse::grace)]
    pub(crate) grace: Option<Duration>,
}

/// Where a new entity shall be.
#[derive(Debug, Clone, Args)]
#[group(id = "place", required = true, multiple = true)]
pub(crate) struct Place {
    /// Number of the agent
    #[arg(
        long = "on",
        value_name = "AGENT",
        value_parser = parse::number,
        conflicts_with_all = ["choose", "includes", "weighers", "dry_run"],
    )]
    pub(crate) agent: Option<i32>,
    /// On the agent that suits best; one that refuses leaves it to the next
    #[arg(long)]
    pub(crate) choose: bool,
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
    /// Create an entity, on an agent or on the one that suits best, with ports
    #[command(after_help = CHOICE)]
    Create {
        /// Its endpoint
        endpoint: String,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        choice: Choice,
        /// With --choose: only say which agents suit
        #[arg(long)]
        dry_run: bool,
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
        /// Key under which a repeat is safe: it creates nothing and gets the first answer
        #[arg(long, default_value = "", hide_default_value = true)]
        key: String,
    },
    /// Ask the agent how an entity is, and what its process does
    Status(EntityId),
    /// Start processes, and wait until they are ready
    Start(EntityIds),
    /// Stop processes: the stop signal, the grace, then the whole group is killed
    Stop {
        #[command(flatten)]
        entities: EntityIds,
        #[command(flatten)]
        stop: Ending,
    },
    /// Stop processes if they run, and start them
    Restart {
        #[command(flatten)]
        entities: EntityIds,
        #[command(flatten)]
        stop: Ending,
    },
    /// Kill processes with their whole groups, at once
    Kill(EntityIds),
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
