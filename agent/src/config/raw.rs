//! The shape of the TOML file, and its way to a checked [`Config`].
//!
//! Invariant: whatever is refused here names the line and field it stands in. The folders come
//! last, so that a bad file leaves nothing behind.

use std::{
    collections::BTreeMap,
    fmt,
    num::{NonZeroU16, NonZeroUsize},
    path::{Path, PathBuf},
    time::Duration,
};

use goperation::{AgentType, ConfigError, EndpointName, MethodName, parse_config};
use goperation_bridge::rabbit::RabbitConfig;
use goperation_store::Durability;
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::{
    Anew, Config, Driver, EndpointConfig, MethodSpec, Package, Strays,
    check::{self, Source},
    metadata::{self, RawMetadata},
    process::{self, raw::RawProcess},
};

const MANAGER: &str = "http://127.0.0.1:7999";
const MAX_OUTPUT: usize = 1 << 20;
/// Mode of a new work folder.
const SHARED: u32 = 0o755;
/// Mode of a new data folder: the store in it has the agent's secret, and games may run as others.
const PRIVATE: u32 = 0o700;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    work_dir: Spanned<PathBuf>,
    data_dir: Option<Spanned<PathBuf>>,
    host: Option<Spanned<String>>,
    #[serde(rename = "type")]
    agent_type: Option<Spanned<String>>,
    address: Option<Spanned<String>>,
    manager: Option<Spanned<String>>,
    #[serde(alias = "ports_range", default)]
    ports_ranges: Vec<Spanned<String>>,
    #[serde(default)]
    durability: RawDurability,
    #[serde(default = "Span::seconds::<300>")]
    report_interval: Span,
    #[serde(default = "Span::seconds::<60>")]
    precommit_lapse: Span,
    #[serde(default = "Span::half_second")]
    hold: Span,
    #[serde(default = "Span::seconds::<10>")]
    drain: Span,
    #[serde(default = "Span::seconds::<1>")]
    deleted_linger: Span,
    #[serde(default = "prefetch")]
    prefetch: NonZeroU16,
    #[serde(default = "count::<256>")]
    max_in_flight: NonZeroUsize,
    #[serde(default = "count::<10_000>")]
    max_journal: NonZeroUsize,
    #[serde(default = "count::<100>")]
    max_entity_locks: NonZeroUsize,
    broker: Option<RabbitConfig>,
    #[serde(default)]
    package: RawPackage,
    #[serde(default)]
    metadata: RawMetadata,
    #[serde(default)]
    strays: RawStrays,
    #[serde(default)]
    endpoints: BTreeMap<Spanned<String>, RawEndpoint>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum RawDurability {
    #[default]
    Crash,
    Power,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum RawStrays {
    #[default]
    Report,
    Kill,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawPackage {
    command: Option<Spanned<Vec<Spanned<String>>>>,
    timeout: Option<Span>,
    #[serde(default)]
    restart: RawAnew,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum RawAnew {
    #[default]
    Exec,
    Exit,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEndpoint {
    driver: Option<Spanned<RawDriver>>,
    process: Option<Spanned<RawProcess>>,
    #[serde(default)]
    methods: BTreeMap<Spanned<String>, RawMethod>,
    #[serde(default)]
    env: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default = "count::<1000>")]
    max_entities: NonZeroUsize,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawDriver {
    Script,
    Process,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMethod {
    program: Spanned<Vec<Spanned<String>>>,
    #[serde(default = "Span::seconds::<30>")]
    timeout: Span,
    read_only: Option<Spanned<bool>>,
    idempotent: Option<Spanned<bool>>,
    #[serde(default = "count::<MAX_OUTPUT>")]
    max_output: NonZeroUsize,
}

/// A duration above zero with its unit: `"500ms"`, `"30s"`, `"5m"`.
pub(super) struct Span(pub(super) Duration);

impl Span {
    const MAX: Duration = Duration::from_secs(7 * 24 * 3600);

    pub(super) fn seconds<const N: u64>() -> Self {
        Self(Duration::from_secs(N))
    }

    fn half_second() -> Self {
        Self(Duration::from_millis(500))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as \"500ms\", \"30s\" or \"5m\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                match humantime::parse_duration(text) {
                    Ok(span) if span > Duration::ZERO && span <= Span::MAX => Ok(Span(span)),
                    Ok(_) => Err(E::custom(format!("`{text}` must be above 0 and at most 7days"))),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

fn count<const N: usize>() -> NonZeroUsize {
    NonZeroUsize::new(N).unwrap_or(NonZeroUsize::MIN)
}

fn prefetch() -> NonZeroU16 {
    NonZeroU16::MIN.saturating_add(255)
}

/// Reads, checks, and makes the folders.
pub(super) fn read(file: &Path, text: &str) -> Result<Config, ConfigError> {
    let raw: Raw = parse_config(file, text)?;
    let source = Source { file, text };
    let manager = match &raw.manager {
        Some(manager) => check::manager(&source, manager)?,
        None => MANAGER.to_owned(),
    };
    let agent_type = raw.agent_type.as_ref().map_or("application", |name| name.get_ref());
    let agent_type = AgentType::parse("type", agent_type)
        .map_err(|error| source.refused(raw.agent_type.as_ref().map(Spanned::span), error))?;
    let mut endpoints = BTreeMap::new();
    for (key, endpoint) in raw.endpoints {
        let name = EndpointName::parse("name", key.get_ref())
            .map_err(|error| source.refused(Some(key.span()), error))?;
        if endpoints.contains_key(&name) {
            return Err(source.bad(key.span(), format!("endpoint {name} stands twice")));
        }
        endpoints.insert(name, read_endpoint(&source, endpoint)?);
    }
    if let Some(Err(error)) = raw.broker.as_ref().map(RabbitConfig::check) {
        return Err(source.refused_in("broker", error));
    }
    let ports_ranges = check::port_ranges(&source, &raw.ports_ranges)?;
    let with_ports = |endpoint: &EndpointConfig| {
        endpoint.process.as_ref().is_some_and(|process| !process.ports.is_empty())
    };
    if ports_ranges.count() == 0
        && let Some((name, _)) = endpoints.iter().find(|(_, endpoint)| with_ports(endpoint))
    {
        let message = "no port can be had for it: set ports_ranges";
        let field = format!("endpoints.{name}.process.ports");
        return Err(ConfigError::in_field(file, text, field, message));
    }
    let package = read_package(&source, raw.package)?;
    let metadata = metadata::read(&source, raw.metadata)?;
    let config = Config {
        host: check::host(&source, raw.host.as_ref())?,
        agent_type,
        address: check::address(&source, raw.address.as_ref(), &manager)?,
        manager,
        ports_ranges,
        durability: match raw.durability {
            RawDurability::Crash => Durability::Crash,
            RawDurability::Power => Durability::Power,
        },
        report_interval: raw.report_interval.0,
        precommit_lapse: raw.precommit_lapse.0,
        hold: raw.hold.0,
        drain: raw.drain.0,
        deleted_linger: raw.deleted_linger.0,
        prefetch: raw.prefetch.get(),
        max_in_flight: raw.max_in_flight.get(),
        max_journal: raw.max_journal.get(),
        max_entity_locks: raw.max_entity_locks.get(),
        broker: raw.broker,
        package,
        metadata,
        strays: match raw.strays {
            RawStrays::Report => Strays::Report,
            RawStrays::Kill => Strays::Kill,
        },
        endpoints,
        work_dir: check::folder(
            &source,
            "work_dir",
            raw.work_dir.span(),
            raw.work_dir.get_ref(),
            SHARED,
        )?,
        data_dir: match &raw.data_dir {
            Some(dir) => check::folder(&source, "data_dir", dir.span(), dir.get_ref(), PRIVATE)?,
            None => {
                let dir = raw.work_dir.get_ref().join(".gop");
                check::folder(&source, "data_dir", raw.work_dir.span(), &dir, PRIVATE)?
            }
        },
    };
    Ok(config)
}

fn read_package(source: &Source<'_>, package: RawPackage) -> Result<Package, ConfigError> {
    let default = Package::default();
    Ok(Package {
        command: match package.command {
            Some(command) => check::program(source, &command, None)?,
            // Not looked for: an agent that is never upgraded needs no rpm.
            None => default.command,
        },
        timeout: package.timeout.map_or(default.timeout, |span| span.0),
        restart: match package.restart {
            RawAnew::Exec => Anew::Exec,
            RawAnew::Exit => Anew::Exit,
        },
    })
}

fn read_endpoint(
    source: &Source<'_>,
    endpoint: RawEndpoint,
) -> Result<EndpointConfig, ConfigError> {
    let mut env = BTreeMap::new();
    for (key, value) in endpoint.env {
        check::variable(source, &key, &value)?;
        env.insert(key.into_inner(), value.into_inner());
    }
    let (driver, process) = match (endpoint.driver, endpoint.process) {
        (Some(driver), process) if matches!(driver.get_ref(), RawDriver::Process) => {
            let Some(process) = process else {
                return Err(source.bad(driver.span(), "needs the table process"));
            };
            (Driver::Process, Some(process::read(source, process.into_inner(), &env)?))
        }
        (_, Some(process)) => {
            return Err(source.bad(process.span(), "is for driver = \"process\""));
        }
        (_, None) => (Driver::Script, None),
    };
    let path = env.get("PATH").map(String::as_str);
    let mut methods = BTreeMap::new();
    for (key, method) in endpoint.methods {
        let name = check::method_name(source, &key, driver)?;
        methods.insert(name.clone(), read_method(source, &name, method, path)?);
    }
    Ok(EndpointConfig { driver, process, methods, env, max_entities: endpoint.max_entities.get() })
}

fn read_method(
    source: &Source<'_>,
    name: &MethodName,
    method: RawMethod,
    path: Option<&str>,
) -> Result<MethodSpec, ConfigError> {
    if let Some(read_only) = &method.read_only
        && *read_only.get_ref()
        && ["create", "delete"].contains(&name.as_str())
    {
        return Err(source.bad(read_only.span(), format!("{name} changes things: remove this")));
    }
    if let Some(idempotent) = &method.idempotent
        && *idempotent.get_ref()
        && name.as_str() == "create"
    {
        let message = "an interrupted create is not run again, its entity is FAILED: remove this";
        return Err(source.bad(idempotent.span(), message));
    }
    Ok(MethodSpec {
        program: check::program(source, &method.program, path)?,
        timeout: method.timeout.0,
        read_only: method.read_only.map_or(name.as_str() == "status", Spanned::into_inner),
        idempotent: method.idempotent.is_some_and(Spanned::into_inner),
        max_output: method.max_output.get(),
    })
}
