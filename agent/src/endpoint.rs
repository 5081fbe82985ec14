//! The endpoints of an agent and the driver that runs their methods.
//!
//! Invariant: whatever is asked of an endpoint or method that is not declared is a typed refusal,
//! and nothing outside of an endpoint's own folder is made or removed for it.

mod group;
mod home;
mod orphan;
mod script;
mod stub;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use goperation::{Error, Reason, Result, v1};

use crate::{
    config::{Config, EndpointConfig, MethodSpec, ProcessConfig},
    token::TOKEN,
};

pub use orphan::{RunRecord, group_alive, kill_orphan, kill_orphans_of};
pub use script::{Invocation, Running, Subject};
pub use stub::Stub;

pub(crate) use group::{Group, base_environment};
pub(crate) use orphan::{AGENT, MESSAGE_ID, leader_for, leader_runs};
pub(crate) use script::port_variable;

/// Methods of an entity's life, by the name that they are called by and the name by which the
/// operator declares their programs. They are there even without a program.
const LIFE: [(&str, &str); 3] =
    [("create_entity", "create"), ("delete_entity", "delete"), ("status_entity", "status")];

/// The verbs of an entity, in the same way. They are there with a program, or with a process, of
/// which the agent itself sees to it.
const VERBS: [(&str, &str); 4] = [
    ("start_entity", "start"),
    ("stop_entity", "stop"),
    ("restart_entity", "restart"),
    ("kill_entity", "kill"),
];

/// What an agent can run, and what runs it when its programs do not.
#[derive(Debug)]
pub struct Endpoints(BTreeMap<String, Endpoint>, Option<Arc<dyn Stub>>);

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint {
    name: String,
    config: EndpointConfig,
    /// Folder of all endpoints.
    work_dir: PathBuf,
    /// Folder of the agent's own: names it to its programs, and has a place in which those that run
    /// say how far they are.
    data_dir: PathBuf,
    process: Option<Arc<ProcessConfig>>,
}

impl Endpoints {
    /// The endpoints of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let endpoint = |(name, endpoint): (&goperation::EndpointName, &EndpointConfig)| {
            let name = name.as_str().to_owned();
            let config_of = endpoint.clone();
            let work_dir = config.work_dir.clone();
            let data_dir = config.data_dir.clone();
            let process = endpoint.process.clone().map(Arc::new);
            (name.clone(), Endpoint { name, config: config_of, work_dir, data_dir, process })
        };
        Self(config.endpoints.iter().map(endpoint).collect(), None)
    }

    /// The same, run by a stub.
    #[must_use]
    pub fn run_by(self, stub: Arc<dyn Stub>) -> Self {
        Self(self.0, Some(stub))
    }

    /// What runs their methods in place of programs; none in real life.
    pub(crate) fn stub(&self) -> Option<&Arc<dyn Stub>> {
        self.1.as_ref()
    }

    /// The endpoint of a namespace.
    ///
    /// # Errors
    /// `NAMESPACE_NOT_FOUND`.
    pub fn get(&self, namespace: &str) -> Result<&Endpoint> {
        self.0.get(namespace).ok_or_else(|| {
            Error::new(
                Reason::NamespaceNotFound,
                format!("this agent has no endpoint {namespace}; it has: {}", list(self.names())),
            )
            .with("namespace", namespace)
        })
    }

    /// Whether a method, as it is called, only reads.
    ///
    /// # Errors
    /// `NAMESPACE_NOT_FOUND`, `METHOD_NOT_FOUND`.
    pub fn is_read_only(&self, namespace: &str, method: &str) -> Result<bool> {
        Ok(match self.get(namespace)?.called(method)? {
            Called::Program(spec) => spec.read_only,
            Called::Nothing(life) => life == "status",
        })
    }

    /// Whether a method, as it is called, may be run again after it was interrupted. One that is
    /// not declared is not. Where the operator declares no program it is the agent's own work:
    /// deleting may be done again, creating not, because the entity is on record then. The verbs
    /// of a process reach a state that is wished, and may.
    #[must_use]
    pub fn is_idempotent(&self, namespace: &str, method: &str) -> bool {
        match self.get(namespace).and_then(|endpoint| endpoint.called(method)) {
            Ok(Called::Program(spec)) => spec.idempotent || spec.read_only,
            Ok(Called::Nothing(life)) => life != "create",
            Err(_) => false,
        }
    }

    /// Their names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// Endpoints and methods as the manager is told of them.
    #[must_use]
    pub fn to_wire(&self) -> Vec<v1::AgentEndpoint> {
        self.0
            .values()
            .map(|endpoint| v1::AgentEndpoint {
                name: endpoint.name.clone(),
                driver: endpoint.config.driver.as_str().to_owned(),
                methods: endpoint.methods_to_wire(),
            })
            .collect()
    }
}

/// What a called method runs.
enum Called<'a> {
    Program(&'a MethodSpec),
    /// A method about an entity that has no program.
    Nothing(&'static str),
}

impl Endpoint {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many entities of it the agent has at most.
    #[must_use]
    pub fn max_entities(&self) -> usize {
        self.config.max_entities
    }

    /// Whether it declares a program for a method; those of an entity's life are `create`,
    /// `delete` and `status`.
    #[must_use]
    pub fn has_method(&self, method: &str) -> bool {
        self.spec(method).is_some()
    }

    /// What the process of an entity is; none when its driver starts none.
    #[must_use]
    pub(crate) fn process(&self) -> Option<Arc<ProcessConfig>> {
        self.process.clone()
    }

    fn methods_to_wire(&self) -> Vec<v1::EndpointMethod> {
        let mut methods: Vec<_> = self
            .config
            .methods
            .iter()
            .map(|(name, spec)| v1::EndpointMethod {
                name: name.as_str().to_owned(),
                read_only: spec.read_only,
                idempotent: spec.idempotent,
            })
            .collect();
        if self.process.is_some() {
            methods.extend(VERBS.iter().map(|(_, verb)| v1::EndpointMethod {
                name: (*verb).to_owned(),
                read_only: false,
                idempotent: true,
            }));
            methods.sort_by(|a, b| a.name.cmp(&b.name));
        }
        methods
    }

    fn data_folder(&self) -> &Path {
        &self.data_dir
    }

    /// Settings of its programs' environment.
    fn env(&self) -> &BTreeMap<String, String> {
        &self.config.env
    }

    fn spec(&self, method: &str) -> Option<&MethodSpec> {
        self.config.methods.iter().find(|(name, _)| name.as_str() == method).map(|(_, spec)| spec)
    }

    fn called(&self, method: &str) -> Result<Called<'_>> {
        if method == TOKEN {
            return Ok(Called::Nothing(TOKEN));
        }
        if let Some((_, life)) = LIFE.iter().find(|(called, _)| *called == method) {
            return Ok(self.spec(life).map_or(Called::Nothing(life), Called::Program));
        }
        if let Some((_, verb)) = VERBS.iter().find(|(called, _)| *called == method) {
            return match (self.spec(verb), &self.process) {
                (_, Some(_)) => Ok(Called::Nothing(verb)),
                (Some(spec), None) => Ok(Called::Program(spec)),
                (None, None) => Err(self.not_found(method, "its driver starts no process")),
            };
        }
        match self.spec(method) {
            // They are about an entity, and come with its number, ports and record.
            Some(_) if LIFE.iter().chain(&VERBS).any(|(_, life)| *life == method) => {
                Err(self.not_found(method, "it is run through the entity"))
            }
            Some(spec) => Ok(Called::Program(spec)),
            None => {
                let own = self.config.methods.keys().map(goperation::MethodName::as_str);
                let own =
                    own.filter(|name| LIFE.iter().chain(&VERBS).all(|(_, life)| life != name));
                Err(self.not_found(method, &format!("it has: {}", list(own.collect()))))
            }
        }
    }

    fn not_found(&self, method: &str, hint: &str) -> Error {
        let message = format!("endpoint {} has no method {method}: {hint}", self.name);
        Error::new(Reason::MethodNotFound, message)
            .with("namespace", &self.name)
            .with("method", method)
    }
}

fn list(names: Vec<&str>) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
