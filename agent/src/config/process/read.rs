//! From the shape in TOML to a checked [`ProcessConfig`].

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use goperation::ConfigError;
use goperation_launcher::{Limit, Resource, check_ready_line};
use rustix::process::{Resource as Rlimit, geteuid, getrlimit};
use toml::Spanned;

use super::{
    CgroupLimits, FileConfig, Log, NamedPort, ProcessConfig, Ready, ReadyCheck, Restart,
    RestartPolicy, Stop,
    raw::{
        Command, RawCgroup, RawFile, RawLimits, RawLog, RawPolicy, RawPort, RawProcess, RawReady,
        RawRestart,
    },
};
use crate::{
    config::check::{self, Source},
    process::{cgroup, placeholder::Template, user},
};

/// A template that is longer is no template.
const TEMPLATE_MAX: u64 = 1 << 20;
/// The longest name of a port, in characters.
const NAME_MAX: usize = 64;
/// The smallest log file: less rotates all the time.
const LOG_MIN: u64 = 4096;
/// The most former log files.
const KEEP_MAX: u32 = 1000;

/// Checks the table; `env` is that of the endpoint.
pub(in crate::config) fn read(
    source: &Source<'_>,
    raw: RawProcess,
    env: &BTreeMap<String, String>,
) -> Result<ProcessConfig, ConfigError> {
    let ports = ports(source, &raw.ports)?;
    let texts = Texts { source, ports: &ports };
    let mut environment: BTreeMap<String, Template> =
        env.iter().map(|(key, value)| (key.clone(), Template::literal(value))).collect();
    let mut path = env.get("PATH").cloned();
    for (key, value) in &raw.env {
        check::variable(source, key, value)?;
        if key.get_ref() == "PATH" {
            path = Some(value.get_ref().clone());
        }
        environment.insert(key.get_ref().clone(), texts.template(value)?);
    }
    let (program, args) = texts.command(&raw.command, path.as_deref())?;
    let user = match &raw.user {
        Some(name) => {
            user::account(name.get_ref()).map_err(|message| source.bad(name.span(), message))?
        }
        None => None,
    };
    Ok(ProcessConfig {
        program,
        args,
        env: environment,
        user,
        umask: raw.umask.map(|bits| bits.0),
        limits: limits(source, raw.limits)?,
        cgroup: raw.cgroup.map(|limits| read_cgroup(source, limits)).transpose()?,
        files: texts.files(raw.files)?,
        ready: raw.ready.map(|ready| texts.ready(ready, path.as_deref())).transpose()?,
        stop: Stop { signal: raw.stop.signal.0, grace: raw.stop.grace.0 },
        restart: restart(source, raw.restart)?,
        log: log(source, &raw.log)?,
        repick: raw.repick,
        ports,
    })
}

fn ports(source: &Source<'_>, raw: &[RawPort]) -> Result<Vec<NamedPort>, ConfigError> {
    let mut ports: Vec<NamedPort> = Vec::new();
    for RawPort { name: place, protocol } in raw {
        let name = place.get_ref();
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(good) {
            let message = format!("must be 1 to {NAME_MAX} letters, digits, `_` or `-`");
            return Err(source.bad(place.span(), message));
        }
        if ports.iter().any(|port| port.name == *name) {
            return Err(source.bad(place.span(), format!("port {name} stands twice")));
        }
        ports.push(NamedPort { name: name.clone(), protocol: *protocol });
    }
    Ok(ports)
}

/// Reads texts with placeholders against the declared ports.
struct Texts<'a> {
    source: &'a Source<'a>,
    ports: &'a [NamedPort],
}

impl Texts<'_> {
    fn template(&self, text: &Spanned<String>) -> Result<Template, ConfigError> {
        self.parse(text.get_ref()).map_err(|message| self.source.bad(text.span(), message))
    }

    fn parse(&self, text: &str) -> Result<Template, String> {
        let template = Template::parse(text).map_err(|error| error.to_string())?;
        if let Some(name) = template.ports().find(|name| !self.has(name)) {
            return Err(self.no_port(name));
        }
        Ok(template)
    }

    fn has(&self, name: &str) -> bool {
        self.ports.iter().any(|port| port.name == name)
    }

    fn no_port(&self, name: &str) -> String {
        let names: Vec<&str> = self.ports.iter().map(|port| port.name.as_str()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        format!("no port `{name}` is declared in ports; there are: {names}")
    }

    /// A program that can be run, with its arguments.
    fn command(
        &self,
        command: &Command,
        path: Option<&str>,
    ) -> Result<(PathBuf, Vec<Template>), ConfigError> {
        let program = check::find_program(self.source, command, path)?;
        let args = command.get_ref().iter().skip(1);
        Ok((program, args.map(|arg| self.template(arg)).collect::<Result<_, _>>()?))
    }

    fn files(&self, raw: Vec<Spanned<RawFile>>) -> Result<Vec<FileConfig>, ConfigError> {
        let mut files: Vec<FileConfig> = Vec::new();
        for file in raw {
            let place = file.span();
            let RawFile { path, template, from, mode } = file.into_inner();
            let bad = |message: &str| Err(self.source.bad(path.span(), message));
            let name = path.get_ref();
            if name.contains('\0') || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
                return bad("must be a path below the home, without `.`, `..` and `//`");
            }
            let inside = |a: &str, b: &str| {
                a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'))
            };
            if let Some(other) =
                files.iter().find(|other| inside(name, &other.path) || inside(&other.path, name))
            {
                return bad(&format!("stands in the way of {}", other.path));
            }
            let template = match (template, from) {
                (Some(text), None) => self.template(&text)?,
                (None, Some(from)) => {
                    load(from.get_ref()).and_then(|text| self.parse(&text)).map_err(|message| {
                        let from_file = from.get_ref().display();
                        self.source.bad(from.span(), format!("{from_file}: {message}"))
                    })?
                }
                _ => return Err(self.source.bad(place, "needs one of template and from")),
            };
            files.push(FileConfig { path: path.into_inner(), template, mode: mode.0 });
        }
        Ok(files)
    }

    fn ready(&self, raw: Spanned<RawReady>, path: Option<&str>) -> Result<Ready, ConfigError> {
        let place = raw.span();
        let RawReady { port, line, script, interval, timeout } = raw.into_inner();
        if let (Some(interval), None) = (&interval, &script) {
            return Err(self
                .source
                .bad(interval.span(), "is the time between two runs of a script"));
        }
        let check = match (port, line, script) {
            (Some(name), None, None) if self.has(name.get_ref()) => {
                ReadyCheck::Port(name.into_inner())
            }
            (Some(name), None, None) => {
                return Err(self.source.bad(name.span(), self.no_port(name.get_ref())));
            }
            (None, Some(line), None) => match check_ready_line(line.get_ref()) {
                Ok(()) => ReadyCheck::Line(line.into_inner()),
                Err(said) => {
                    // Its words are over several lines, with a drawing.
                    let last = said.lines().last().unwrap_or_default();
                    let why = last.trim_start_matches("error: ");
                    let message = format!("is no regular expression: {why}");
                    return Err(self.source.bad(line.span(), message));
                }
            },
            (None, None, Some(script)) => {
                let (program, args) = self.command(&script, path)?;
                let interval = interval.map_or(super::SCRIPT_INTERVAL, |span| span.into_inner().0);
                ReadyCheck::Script { program, args, interval }
            }
            _ => return Err(self.source.bad(place, "needs one of port, line and script")),
        };
        Ok(Ready { check, timeout: timeout.0 })
    }
}

/// The text of a template's file.
fn load(file: &Path) -> Result<String, String> {
    if !file.is_absolute() {
        return Err("must be an absolute path".to_owned());
    }
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let about = fs::metadata(file).map_err(cannot)?;
    if !about.is_file() || about.len() > TEMPLATE_MAX {
        return Err("must be a file of 1 MiB at most".to_owned());
    }
    fs::read_to_string(file).map_err(cannot)
}

fn limits(source: &Source<'_>, raw: RawLimits) -> Result<Vec<Limit>, ConfigError> {
    let given = [
        (Resource::Nofile, Rlimit::Nofile, raw.nofile),
        (Resource::Core, Rlimit::Core, raw.core),
        (Resource::As, Rlimit::As, raw.address_space),
        (Resource::Nproc, Rlimit::Nproc, raw.nproc),
        (Resource::Cpu, Rlimit::Cpu, raw.cpu),
        (Resource::Fsize, Rlimit::Fsize, raw.fsize),
        (Resource::Stack, Rlimit::Stack, raw.stack),
        (Resource::Memlock, Rlimit::Memlock, raw.memlock),
    ];
    given
        .into_iter()
        .filter_map(|(resource, rlimit, value)| Some((resource, rlimit, value?)))
        .map(|(resource, rlimit, value)| {
            let (place, value) = (value.span(), value.into_inner().0);
            match too_high(rlimit, value) {
                Some(message) => Err(source.bad(place, message)),
                None => Ok(Limit { resource, soft: value, hard: value }),
            }
        })
        .collect()
}

/// Why this limit could not be set at a start, if it could not.
fn too_high(resource: Rlimit, value: Option<u64>) -> Option<String> {
    let asked = value.unwrap_or(u64::MAX);
    if resource == Rlimit::Nofile {
        let most = fs::read_to_string("/proc/sys/fs/nr_open").ok()?.trim().parse::<u64>().ok()?;
        if asked > most {
            return Some(format!("is at most {most} on this host (fs.nr_open)"));
        }
    }
    let own = getrlimit(resource).maximum.filter(|&own| asked > own)?;
    (!geteuid().is_root())
        .then(|| format!("only root may set it above the agent's own hard limit, {own}"))
}

fn read_cgroup(source: &Source<'_>, raw: Spanned<RawCgroup>) -> Result<CgroupLimits, ConfigError> {
    let place = raw.span();
    let raw = raw.into_inner();
    let limits = CgroupLimits {
        memory_max: raw.memory_max.map(|size| size.0),
        cpu_max: raw.cpu_max.map(|percent| percent.0),
        pids_max: raw.pids_max.map(|pids| u64::from(pids.get())),
    };
    cgroup::check(&limits).map_err(|error| source.bad(place, error.to_string()))?;
    Ok(limits)
}

fn restart(source: &Source<'_>, raw: RawRestart) -> Result<Restart, ConfigError> {
    let delay = raw.delay.0;
    let max_delay = match raw.max_delay {
        Some(max) if max.get_ref().0 < delay => {
            return Err(source.bad(max.span(), "must not be below delay"));
        }
        Some(max) => max.into_inner().0,
        None => super::MAX_DELAY.max(delay),
    };
    if *raw.max.get_ref() == 0 {
        return Err(source.bad(raw.max.span(), "must be 1 at least; policy = \"never\" is never"));
    }
    Ok(Restart {
        policy: match raw.policy {
            RawPolicy::Always => RestartPolicy::Always,
            RawPolicy::OnFailure => RestartPolicy::OnFailure,
            RawPolicy::Never => RestartPolicy::Never,
        },
        delay,
        max_delay,
        max: raw.max.into_inner(),
        within: raw.within.0,
    })
}

fn log(source: &Source<'_>, raw: &RawLog) -> Result<Log, ConfigError> {
    let max_size = raw.max_size.get_ref().0;
    if max_size < LOG_MIN {
        return Err(source.bad(raw.max_size.span(), format!("must be {LOG_MIN} bytes at least")));
    }
    let keep = *raw.keep.get_ref();
    if keep > KEEP_MAX {
        return Err(source.bad(raw.keep.span(), format!("must be {KEEP_MAX} at most")));
    }
    Ok(Log { max_size, max_age: raw.max_age.0, keep })
}
