//! What is to be run, as the agent says it to the launcher.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// A game to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Names this run; each run has its own. In the game's environment as `GOP_TOKEN`.
    pub token: String,
    /// The endpoint, which also names the log.
    pub endpoint: String,
    /// The entity's number.
    pub entity: u32,
    /// The program. A path without a slash is looked up in the `PATH` of `env`.
    pub program: PathBuf,
    /// Its arguments, without its own name.
    pub args: Vec<String>,
    /// Its environment, to which only the token is added.
    pub env: BTreeMap<String, String>,
    /// Where it runs.
    pub cwd: PathBuf,
    /// As whom; none: as the agent.
    pub user: Option<User>,
    /// Its umask; none: 022.
    pub umask: Option<u32>,
    /// Its limits, besides those of the agent.
    pub limits: Vec<Limit>,
    /// The folder of its cgroup, which exists.
    pub cgroup: Option<PathBuf>,
    /// How its log is kept.
    pub log: LogSpec,
    /// A regular expression: the first line that it matches says that the game is ready.
    pub ready_line: Option<String>,
}

/// A user of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// All supplementary groups.
    pub groups: Vec<u32>,
}

/// A limit of a process, as setrlimit(2) knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// What is limited.
    pub resource: Resource,
    /// The limit in force; none: unlimited.
    pub soft: Option<u64>,
    /// How far the process may raise it; none: unlimited.
    pub hard: Option<u64>,
}

/// What can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Address space, in bytes.
    As,
    /// Size of a core dump, in bytes.
    Core,
    /// Processor time, in seconds.
    Cpu,
    /// Data segment, in bytes.
    Data,
    /// Size of a file, in bytes.
    Fsize,
    /// Locked memory, in bytes.
    Memlock,
    /// Message queues, in bytes.
    Msgqueue,
    /// Priority, as 20 minus the nice value.
    Nice,
    /// Open descriptors.
    Nofile,
    /// Processes of the user.
    Nproc,
    /// Realtime priority.
    Rtprio,
    /// Signals that wait.
    Sigpending,
    /// Stack, in bytes.
    Stack,
}

/// How a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// No file of the log is larger, in bytes.
    pub max_size: u64,
    /// The file that is written is no older, in seconds; 0: any age.
    pub max_age_secs: u64,
    /// How many former files are kept, besides the one that is written.
    pub keep: u32,
}
