//! `[endpoints.<name>.process]`: what an entity's process is and how it is kept.
//!
//! Invariant: a [`ProcessConfig`] that was loaded can be turned into a start: its program can be
//! run, every placeholder stands for something that each entity has, its user may be taken and
//! its templates are in memory.

pub(super) mod raw;
mod read;
mod value;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use goperation_launcher::Limit;
use rustix::process::Signal;

use crate::ports::Protocol;

pub use crate::process::placeholder::Template;
pub(super) use read::read;

/// `ready.interval` of a script that says nothing.
const SCRIPT_INTERVAL: Duration = Duration::from_millis(500);
/// `restart.max_delay` that is not set.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// `[endpoints.<name>.process]`, for the driver `process`.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// `command[0]`: the program, looked for in PATH when the file was read.
    pub program: PathBuf,
    /// `command[1..]`: its arguments. No shell stands between, and none is parsed again.
    pub args: Vec<Template>,
    /// `env` of the endpoint and of the process, beside PATH, LANG, HOME and the `GOP_` ones.
    pub env: BTreeMap<String, Template>,
    /// `ports`: named ports that every entity has. Default: none.
    pub ports: Vec<NamedPort>,
    /// `user`: who it runs as. Default: the agent's own.
    pub user: Option<Account>,
    /// `umask`. Default: 022.
    pub umask: Option<u32>,
    /// `limits`, soft and hard alike. Default: the agent's own.
    pub limits: Vec<Limit>,
    /// `cgroup`: limits of all its processes together. Default: none.
    pub cgroup: Option<CgroupLimits>,
    /// `files`: written into the home when the entity is created. Default: none.
    pub files: Vec<FileConfig>,
    /// `ready`: when it is said to run. Default: as soon as it was started.
    pub ready: Option<Ready>,
    /// `stop`: how it is asked to end.
    pub stop: Stop,
    /// `restart`: what is done when it ends by itself.
    pub restart: Restart,
    /// `log`: what is kept of its output.
    pub log: Log,
    /// `repick`: a reserved port that somebody else holds at a start is replaced. Default: no.
    pub repick: bool,
}

/// One of `ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    /// Its name, for `{port.NAME}`.
    pub name: String,
    /// Its protocol. Default: both.
    pub protocol: Protocol,
}

/// A user of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Name.
    pub name: String,
    /// Number.
    pub uid: u32,
    /// Number of the group: the given one, else the user's own.
    pub gid: u32,
    /// All groups that it is in.
    pub groups: Vec<u32>,
}

/// `cgroup`: limits of all processes of an entity together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// `memory_max`, bytes.
    pub memory_max: Option<u64>,
    /// `cpu_max`, in thousandths of one processor: 1500 is 150 %.
    pub cpu_max: Option<u64>,
    /// `pids_max`: processes and threads.
    pub pids_max: Option<u64>,
}

/// One of `files`.
#[derive(Debug, Clone)]
pub struct FileConfig {
    /// `path`: below the home, without `.` and `..`.
    pub path: String,
    /// `template`, or the text of the file that `from` names.
    pub template: Template,
    /// `mode`. Default: 640.
    pub mode: u32,
}

/// `ready`: when a process is said to run.
#[derive(Debug, Clone)]
pub struct Ready {
    /// What must be seen.
    pub check: ReadyCheck,
    /// `timeout`: a process that is not ready by then is killed. Default: `30s`.
    pub timeout: Duration,
}

/// What makes a process ready.
#[derive(Debug, Clone)]
pub enum ReadyCheck {
    /// `port`: it has bound its port of that name, on every protocol of it.
    Port(String),
    /// `line`: it has written a line that matches this regular expression.
    Line(String),
    /// `script`: a program ends with 0.
    Script {
        /// The program, with its absolute path.
        program: PathBuf,
        /// Its arguments.
        args: Vec<Template>,
        /// `interval` between two runs. Default: `500ms`.
        interval: Duration,
    },
}

/// `stop`: how a process is asked to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// `signal`, to its main process. Default: `SIGTERM`.
    pub signal: Signal,
    /// `grace`: after this all its processes are killed. Default: `10s`.
    pub grace: Duration,
}

/// `restart`: what is done when a process ends by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// `policy`. Default: `on-failure`.
    pub policy: RestartPolicy,
    /// `delay` before the first restart; it doubles with each one within `within`. Default: `1s`.
    pub delay: Duration,
    /// `max_delay`: the delay does not grow beyond. Default: `1m`.
    pub max_delay: Duration,
    /// `max`: restarts within `within`, after which it stays down. Default: 5.
    pub max: u32,
    /// `within`. Default: `10m`.
    pub within: Duration,
}

/// When a process is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whenever it ends by itself.
    Always,
    /// When it ends by a signal or with another code than 0.
    OnFailure,
    /// Never.
    Never,
}

/// `log`: what is kept of a process's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `max_size` of a file, bytes. Default: `10MiB`.
    pub max_size: u64,
    /// `max_age` of a file. Default: `7d`.
    pub max_age: Duration,
    /// `keep`: former files that are kept. Default: 5.
    pub keep: u32,
}

/// `strays`: what is done with a process of ours that no record knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strays {
    /// It is reported and left alone.
    #[default]
    Report,
    /// It is reported and killed.
    Kill,
}
