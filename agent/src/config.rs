//! What an operator sets for an agent, in one TOML file, checked whole before anything starts.
//!
//! Invariant: a [`Config`] that was loaded can be started: names are good, port ranges are
//! disjoint and above 1023, programs can be run, users can be taken and the folders can be
//! written.

mod check;
mod metadata;
pub mod process;
mod raw;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use goperation::{AgentType, ConfigError, EndpointName, HostName, MethodName, read_config};
use goperation_bridge::rabbit::RabbitConfig;
use goperation_store::Durability;

pub use check::local_address;
pub use process::{ProcessConfig, Strays};

use crate::ports::PortRanges;

/// Settings of one agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// `host`: name of this host in the fleet. Default: the machine's own name.
    pub host: HostName,
    /// `type`: kind of the agent. Default: `application`.
    pub agent_type: AgentType,
    /// `address`: IP address or name at which the host is reached. Default: the local address of
    /// the way to the manager.
    pub address: String,
    /// `manager`: where the manager listens. Default: `http://127.0.0.1:7999`.
    pub manager: String,
    /// `work_dir`: folder of the entities' homes, `<work_dir>/<endpoint>/<entity>`. Required.
    pub work_dir: PathBuf,
    /// `data_dir`: folder of the agent's store and of the upgrade's logs. Default:
    /// `<work_dir>/.gop`.
    pub data_dir: PathBuf,
    /// `ports_ranges` (or `ports_range`): ports that entities may have, `["7000-7999", "9000"]`.
    /// Default: none.
    pub ports_ranges: PortRanges,
    /// `durability`: what an answered change survives, `crash` (default) or `power`.
    pub durability: Durability,
    /// `report_interval`: time between two reports. Default: `5m`.
    pub report_interval: Duration,
    /// `precommit_lapse`: after this a delete that is not followed up lapses. Default: `60s`.
    pub precommit_lapse: Duration,
    /// `hold`: how long the gate holds a message before it looks again. Default: `500ms`.
    pub hold: Duration,
    /// `drain`: how long a stopping agent waits for what runs. Default: `10s`.
    pub drain: Duration,
    /// `deleted_linger`: how long a deleted agent stays to answer before it exits. Default: `1s`.
    pub deleted_linger: Duration,
    /// `prefetch`: messages that each queue hands out before they are acknowledged. Default: 256.
    pub prefetch: u16,
    /// `max_in_flight`: endpoint methods that run at a time. Default: 256.
    pub max_in_flight: usize,
    /// `max_journal`: messages received and not done, from which on the agent is SOFTBUSY.
    /// Default: 10000.
    pub max_journal: usize,
    /// `max_entity_locks`: entities that are locked at a time. One request for several of them may be
    /// beyond it. Default: 100.
    pub max_entity_locks: usize,
    /// `[broker]`: the RabbitMQ to consume from. Without it the agent runs in the process of its
    /// manager.
    pub broker: Option<RabbitConfig>,
    /// `[package]`: how the agent is upgraded.
    pub package: Package,
    /// `[metadata]`: what is said of the host, `zone = "a"`: placement chooses by it as
    /// `metadata.zone`, and it wins over what the agent finds out. Default: none.
    pub metadata: BTreeMap<String, String>,
    /// `strays`: what is done with a process of ours that no record knows, `report` (default) or
    /// `kill`.
    pub strays: Strays,
    /// `[endpoints.<name>]`: what the agent can run.
    pub endpoints: BTreeMap<EndpointName, EndpointConfig>,
}

/// `[package]`.
#[derive(Debug, Clone)]
pub struct Package {
    /// `command`: program and arguments; `{file}` stands for the package. Default:
    /// `["rpm", "-Uvh", "{file}"]`.
    pub command: Vec<String>,
    /// `timeout`: after this it is killed with its whole process group. Default: `10m`.
    pub timeout: Duration,
    /// `restart`: how the agent becomes what was installed, `exec` (default) or `exit`.
    pub restart: Anew,
}

/// How an agent starts anew after an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Anew {
    /// Its process goes on as the new program: the pid stays.
    #[default]
    Exec,
    /// It ends with exit code 4, and the service manager starts the new program.
    Exit,
}

impl Default for Package {
    fn default() -> Self {
        Self {
            command: ["rpm", "-Uvh", "{file}"].map(str::to_owned).to_vec(),
            timeout: Duration::from_secs(600),
            restart: Anew::default(),
        }
    }
}

/// `[endpoints.<name>]`.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// `driver`: `script` (default) or `process`.
    pub driver: Driver,
    /// `process`: what an entity's process is. With the driver `process`, and only then.
    pub process: Option<ProcessConfig>,
    /// `methods.<name>`. `create`, `delete` and `status` are those of an entity's life.
    pub methods: BTreeMap<MethodName, MethodSpec>,
    /// `env`: environment of its programs, beside PATH, LANG, HOME and the `GOP_` ones.
    pub env: BTreeMap<String, String>,
    /// `max_entities`: entities that the agent has at most. Default: 1000.
    pub max_entities: usize,
}

/// What runs an endpoint's methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Each method is a program of the operator's.
    Script,
    /// Each entity has a process, which the agent starts, keeps and stops.
    Process,
}

impl Driver {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Script => "script",
            Self::Process => "process",
        }
    }
}

/// `methods.<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodSpec {
    /// `program`: an absolute path, or a name that is looked for in PATH, and its arguments.
    pub program: Vec<String>,
    /// `timeout`: after this it is killed with its whole process group. Default: `30s`.
    pub timeout: Duration,
    /// `read_only`: it changes nothing and is not journaled. Default: only `status`.
    pub read_only: bool,
    /// `idempotent`: it may be run again when the agent died meanwhile; never for `create`, whose
    /// entity is FAILED then. Default: no.
    pub idempotent: bool,
    /// `max_output`: bytes that it may write on stdout. Default: 1 MiB.
    pub max_output: usize,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// A [`ConfigError`] for the first thing that is wrong, naming file, line and field.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::from_toml(file, &read_config(file)?)
    }

    /// Checks a text; `file` is only named in errors. The folders are made when all else is good.
    ///
    /// It may ask the resolver for the manager's address: do not call it on the async runtime.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_toml(file: &Path, text: &str) -> Result<Self, ConfigError> {
        raw::read(file, text)
    }
}
