//! The shape of `[endpoints.<name>.process]` in TOML.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::value::{Age, LimitValue, Octal, Percent, SignalName, Size};
use crate::{config::raw::Span, ports::Protocol};

/// A program and its arguments.
pub(super) type Command = Spanned<Vec<Spanned<String>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawProcess {
    pub(super) command: Command,
    #[serde(default)]
    pub(super) env: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    pub(super) ports: Vec<RawPort>,
    pub(super) user: Option<Spanned<String>>,
    pub(super) umask: Option<Octal>,
    #[serde(default)]
    pub(super) limits: RawLimits,
    pub(super) cgroup: Option<Spanned<RawCgroup>>,
    #[serde(default)]
    pub(super) files: Vec<Spanned<RawFile>>,
    pub(super) ready: Option<Spanned<RawReady>>,
    #[serde(default)]
    pub(super) stop: RawStop,
    #[serde(default)]
    pub(super) restart: RawRestart,
    #[serde(default)]
    pub(super) log: RawLog,
    #[serde(default)]
    pub(super) repick: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPort {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) protocol: Protocol,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) nofile: Option<Spanned<LimitValue>>,
    pub(super) core: Option<Spanned<LimitValue>>,
    #[serde(rename = "as")]
    pub(super) address_space: Option<Spanned<LimitValue>>,
    pub(super) nproc: Option<Spanned<LimitValue>>,
    pub(super) cpu: Option<Spanned<LimitValue>>,
    pub(super) fsize: Option<Spanned<LimitValue>>,
    pub(super) stack: Option<Spanned<LimitValue>>,
    pub(super) memlock: Option<Spanned<LimitValue>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCgroup {
    pub(super) memory_max: Option<Size>,
    pub(super) cpu_max: Option<Percent>,
    pub(super) pids_max: Option<std::num::NonZeroU32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    pub(super) path: Spanned<String>,
    pub(super) template: Option<Spanned<String>>,
    pub(super) from: Option<Spanned<PathBuf>>,
    #[serde(default = "group_reads")]
    pub(super) mode: Octal,
}

fn group_reads() -> Octal {
    Octal(0o640)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawReady {
    pub(super) port: Option<Spanned<String>>,
    pub(super) line: Option<Spanned<String>>,
    pub(super) script: Option<Command>,
    pub(super) interval: Option<Spanned<Span>>,
    #[serde(default = "Span::seconds::<30>")]
    pub(super) timeout: Span,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStop {
    pub(super) signal: SignalName,
    pub(super) grace: Span,
}

impl Default for RawStop {
    fn default() -> Self {
        Self { signal: SignalName(rustix::process::Signal::TERM), grace: Span::seconds::<10>() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRestart {
    pub(super) policy: RawPolicy,
    pub(super) delay: Span,
    pub(super) max_delay: Option<Spanned<Span>>,
    pub(super) max: Spanned<u32>,
    pub(super) within: Span,
}

impl Default for RawRestart {
    fn default() -> Self {
        Self {
            policy: RawPolicy::OnFailure,
            delay: Span::seconds::<1>(),
            max_delay: None,
            max: Spanned::new(0..0, 5),
            within: Span::seconds::<600>(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawPolicy {
    Always,
    OnFailure,
    Never,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) max_size: Spanned<Size>,
    pub(super) max_age: Age,
    pub(super) keep: Spanned<u32>,
}

impl Default for RawLog {
    fn default() -> Self {
        Self {
            max_size: Spanned::new(0..0, Size::mebibytes::<10>()),
            max_age: Age::days::<7>(),
            keep: Spanned::new(0..0, 5),
        }
    }
}
