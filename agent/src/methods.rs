//! The agent's own methods: the namespace `manager`.
//!
//! Invariant: each method is named once, with what it needs; arguments that it does not know are
//! refused by name.

use goperation::{AgentStatus, EndpointName, Error, JsonObject, Reason, Result, Secret};
use goperation_bridge::Message;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    job::Ended,
    journal::Outcome,
    ports::{Protocol, Reserved, Wish},
    state::Pause,
};

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $read_only:literal, $idempotent:literal;)*) => {
        /// A method of the agent itself.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Method {
            $($(#[$doc])* $name,)*
        }

        impl Method {
            /// Every method.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name on the wire.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether it only reads: it is not journaled then.
            #[must_use]
            pub fn is_read_only(self) -> bool {
                match self { $(Self::$name => $read_only,)* }
            }

            /// Whether it may run again after it was interrupted.
            #[must_use]
            pub fn is_idempotent(self) -> bool {
                match self { $(Self::$name => $idempotent,)* }
            }
        }
    };
}

methods! {
    /// `{agent_id, status}`: ACTIVE (1) or UNACTIVE (0).
    ActiveAgent = "active_agent", false, true;
    /// `{}`: SOFTBUSY until it is resumed.
    PauseAgent = "pause_agent", false, true;
    /// `{}`: the status from before.
    ResumeAgent = "resume_agent", false, true;
    /// `{}`: status, lock, counts.
    StatusAgent = "status_agent", true, true;
    /// `{agent_id, secret}`: the first phase of delete.
    DeletePrecommit = "delete_agent_precommit", false, true;
    /// `{agent_id, secret}`: the second phase of delete.
    DeletePostcommit = "delete_agent_postcommit", false, true;
    /// `{file?}`: runs the package command and starts anew.
    UpgradeAgent = "upgrade_agent", false, false;
    /// `{}`: reports facts and a snapshot now.
    FlushReport = "flush_report", false, true;
    /// `{endpoint, entity, ports}`: reserves ports.
    FrozenPort = "frozen_port", false, false;
    /// `{ports, protocol?, endpoint?, entity?, strict?}`: frees ports.
    FreePorts = "free_ports", false, false;
}

impl Method {
    /// The method of that name.
    ///
    /// # Errors
    /// `METHOD_NOT_FOUND` naming it.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|m| m.name() == name).ok_or_else(|| {
            Error::new(Reason::MethodNotFound, format!("agents have no method {name}"))
                .with("method", name)
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Active {
    agent_id: u32,
    status: i32,
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    agent_id: u32,
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Upgrade {
    #[serde(default)]
    file: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Frozen {
    endpoint: String,
    entity: u32,
    ports: Vec<Wish>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Free {
    ports: Vec<u16>,
    #[serde(default)]
    protocol: Option<Protocol>,
    #[serde(default)]
    endpoint: Option<String>,
    #[serde(default)]
    entity: Option<u32>,
    #[serde(default)]
    strict: bool,
}

/// The arguments of a method.
pub(crate) fn parse<T: DeserializeOwned>(args: &JsonObject) -> Result<T> {
    T::deserialize(Value::Object(args.clone())).map_err(|e| Error::invalid("args", e.to_string()))
}

/// Ports as callers get them.
pub(crate) fn ports_json(ports: &[Reserved]) -> Value {
    ports
        .iter()
        .map(|p| {
            json!({
                "port": p.port,
                "protocol": p.protocol.name(),
                "name": p.name,
                "endpoint": p.entity.endpoint.as_str(),
                "entity": p.entity.number,
            })
        })
        .collect()
}

fn object(value: Value) -> Outcome {
    match value {
        Value::Object(object) => Ok(object),
        other => Err(Error::new(Reason::Internal, format!("a result that is no object: {other}"))),
    }
}

impl Agent {
    /// Runs one of the agent's own methods.
    pub(crate) async fn run_manager_method(&self, message: &Message, args: &JsonObject) -> Ended {
        let method = match Method::parse(&message.method) {
            Ok(Method::UpgradeAgent) => {
                return match parse::<Upgrade>(args) {
                    Ok(upgrade) => self.upgrade(&message.id, &upgrade.file).await,
                    Err(error) => Ended::Outcome(Err(error)),
                };
            }
            Ok(method) => method,
            Err(error) => return Ended::Outcome(Err(error)),
        };
        Ended::Outcome(self.run_method(method, args).await)
    }

    async fn run_method(&self, method: Method, args: &JsonObject) -> Outcome {
        match method {
            Method::ActiveAgent => {
                let active: Active = parse(args)?;
                let to = match AgentStatus::from_number(active.status) {
                    Some(to @ (AgentStatus::Active | AgentStatus::Unactive)) => to,
                    _ => return Err(Error::invalid("args.status", "must be 1 or 0")),
                };
                if !active.address.is_empty() && active.address != self.config.address {
                    return Err(Error::new(
                        Reason::StateRefused,
                        format!(
                            "the message is for address {}, this is {}",
                            active.address, self.config.address
                        ),
                    ));
                }
                let status = self.core.active_agent(to, active.agent_id).await?;
                object(json!({"status": status.number()}))
            }
            Method::PauseAgent => {
                let Nothing {} = parse(args)?;
                let status = self.core.pause(Pause::Operator).await?;
                object(json!({"status": status.number()}))
            }
            Method::ResumeAgent => {
                let Nothing {} = parse(args)?;
                let status = self.core.resume(Pause::Operator).await?;
                object(json!({"status": status.number()}))
            }
            Method::StatusAgent => {
                let Nothing {} = parse(args)?;
                self.status().await
            }
            Method::DeletePrecommit => {
                let delete: Delete = parse(args)?;
                let secret = Secret::parse("args.secret", &delete.secret)?;
                let lapse = self.config.precommit_lapse;
                self.core.precommit(delete.agent_id, secret, lapse).await?;
                object(json!({"lapse_seconds": lapse.as_secs_f64()}))
            }
            Method::DeletePostcommit => {
                let delete: Delete = parse(args)?;
                let secret = Secret::parse("args.secret", &delete.secret)?;
                self.core.postcommit(delete.agent_id, &secret).await?;
                object(json!({}))
            }
            Method::FlushReport => {
                let Nothing {} = parse(args)?;
                self.report().await?;
                object(json!({}))
            }
            Method::FrozenPort => {
                let frozen: Frozen = parse(args)?;
                let key = self.entity_key("args.endpoint", &frozen.endpoint, frozen.entity)?;
                let ports = self.core.reserve(&key, &frozen.ports).await?;
                object(json!({"ports": ports_json(&ports)}))
            }
            Method::FreePorts => {
                let free: Free = parse(args)?;
                let endpoint = free
                    .endpoint
                    .map(|name| EndpointName::parse("args.endpoint", &name))
                    .transpose()?;
                let Free { ports, protocol, entity, strict, .. } = free;
                let freed =
                    self.core.free(&ports, protocol, endpoint.as_ref(), entity, strict).await?;
                object(json!({"freed": ports_json(&freed.freed), "unknown": freed.unknown}))
            }
            Method::UpgradeAgent => {
                Err(Error::new(Reason::Internal, "upgrade_agent is run by itself"))
            }
        }
    }

    /// What `status_agent` answers.
    async fn status(&self) -> Outcome {
        let lock = self.core.inspect();
        let (entities, ports) = self
            .core
            .look(crate::lock::Operation::IsActive, |state| {
                let mut entities = std::collections::BTreeMap::<String, usize>::new();
                for key in state.entities.keys() {
                    *entities.entry(key.endpoint.to_string()).or_default() += 1;
                }
                Ok((entities, state.ports.counts()))
            })
            .await?;
        let status = self.core.status();
        object(json!({
            "status": status.number(),
            "state": status.name(),
            "clock_offset_ms": self.core.clock_offset(),
            "working_on": self.waiters.len(),
            "messages": self.counters.to_json(),
            "endpoints": self.endpoints.names(),
            "entities": entities,
            "ports": {
                "reserved": ports.reserved,
                "free_tcp": ports.free_tcp,
                "free_udp": ports.free_udp,
                "free_both": ports.free_both,
            },
            "lock": {
                "holder": lock.holder.map(|(operation, since)| json!({
                    "operation": operation.name(),
                    "since": since,
                })),
                "waiters": lock.waiters.iter().map(|w| json!({
                    "operation": w.operation.name(),
                    "priority": w.priority,
                    "since": w.since,
                })).collect::<Vec<_>>(),
            },
        }))
    }
}
