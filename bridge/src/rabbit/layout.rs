//! Every name on the broker, and where each route leads. `gop` stands for the prefix, `T` for an
//! agent's type, `H` for its host, `kind` for `classic` or `quorum`.
//!
//! | what | kind | made by | bound |
//! |---|---|---|---|
//! | `gop.direct` | direct exchange, no alternate | bridge | `cast.T.H` → the CAST queue, `call.T.H` → `gop.agent.T.H`, `any.T` → the shared CAST queue, `anycall.T` → `gop.type.T` |
//! | `gop.agent.T.H` | topic exchange, the agent's own | bridge | `call.T.H` → the CALL queue (by the agent), `*.cast.T.H` and `*.any.T` → `gop.step`, `dead.T.H` → `gop.dead` |
//! | `gop.type.T` | direct exchange | bridge | `anycall.T` → the shared CALL queue (by the agents) |
//! | `gop.fanout.agent`, `gop.fanout.<endpoint>` | fanout exchanges | bridge | the CAST queues |
//! | `gop.step` | topic exchange | bridge | `<ms>.#` → `gop.step.<ms>` |
//! | `gop.return` | topic exchange, alternate `gop.dead` | bridge | `*.cast.T.H` → the CAST queue, `*.any.T` → the shared CAST queue |
//! | `gop.reply` | direct exchange | bridge | `<bridge>` → its reply queue |
//! | `gop.notify` | direct exchange | bridge | `notify.<name>` → that queue |
//! | `gop.dead` | fanout exchange | bridge | the queue `gop.dead` |
//! | `gop.cast.<kind>.T.H` | durable queue, dead letters to `gop.dead` | bridge | exists ⇔ the agent is known |
//! | `gop.any.<kind>.T` | durable queue, dead letters to `gop.dead` | bridge | |
//! | `gop.call.T.H` | exclusive, auto-delete queue | agent | exists ⇔ the agent is there |
//! | `gop.anycall.T` | durable, auto-delete queue | agent | exists while an agent of the type is there |
//! | `gop.reply.<bridge>` | exclusive, auto-delete queue | bridge | |
//! | `gop.step.<ms>` | durable queue, TTL `<ms>`, dead letters to `gop.return` with their own key | bridge | one for each of [`Route::STEPS`] |
//! | `notify.<name>` | durable queue, bounded, refuses when full | bridge | |
//! | `gop.dead` | durable queue, bounded, the oldest give way | bridge | |
//!
//! Invariant: an agent writes to its own exchange and to `gop.reply`, reads its own queues and
//! those of its type, and needs nothing else: [`Layout::agent_rights`] says so to the broker.

use std::time::Duration;

use goperation::{AgentType, EndpointName, NotifyName};

use super::config::{CastQueue, RabbitConfig};
use crate::{Address, QueueName, Route};

/// Where a message is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Exchange.
    pub(super) exchange: String,
    /// Routing key.
    pub(super) key: String,
}

/// What a broker user may do: anchored and escaped regular expressions over names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// Names it may make and remove.
    pub configure: String,
    /// Names it may publish to or bind as a destination.
    pub write: String,
    /// Names it may consume or bind from.
    pub read: String,
}

/// The names of one deployment.
#[derive(Debug, Clone)]
pub struct Layout {
    prefix: String,
    kind: CastQueue,
}

impl Layout {
    /// The names for a configuration.
    #[must_use]
    pub fn new(config: &RabbitConfig) -> Self {
        Self { prefix: config.prefix.clone(), kind: config.cast_queue }
    }

    /// What the broker user of an agent needs. It cannot reach any other agent's queues.
    #[must_use]
    pub fn agent_rights(&self, agent: &Address) -> Rights {
        let agent_type = &agent.agent_type;
        let call = self.call_queue(agent);
        let any_call = self.any_call_queue(agent_type);
        let own = self.agent(agent);
        Rights {
            configure: exactly(&[&call, &any_call]),
            write: exactly(&[&call, &any_call, &own, &self.reply()]),
            read: exactly(&[
                &call,
                &any_call,
                &self.cast_queue(agent),
                &self.any_queue(agent_type),
                &own,
                &self.agent_type(agent_type),
            ]),
        }
    }

    pub(super) fn kind(&self) -> CastQueue {
        self.kind
    }

    fn name(&self, rest: &str) -> String {
        format!("{}.{rest}", self.prefix)
    }

    pub(super) fn direct(&self) -> String {
        self.name("direct")
    }

    pub(super) fn agent(&self, agent: &Address) -> String {
        self.name(&format!("agent.{agent}"))
    }

    pub(super) fn agent_type(&self, agent_type: &AgentType) -> String {
        self.name(&format!("type.{agent_type}"))
    }

    pub(super) fn fanout_agents(&self) -> String {
        self.name("fanout.agent")
    }

    pub(super) fn fanout(&self, endpoint: &EndpointName) -> String {
        self.name(&format!("fanout.{endpoint}"))
    }

    pub(super) fn step(&self) -> String {
        self.name("step")
    }

    pub(super) fn step_queue(&self, step: Duration) -> String {
        self.name(&format!("step.{}", step.as_millis()))
    }

    pub(super) fn returning(&self) -> String {
        self.name("return")
    }

    pub(super) fn reply(&self) -> String {
        self.name("reply")
    }

    pub(super) fn reply_queue(&self, bridge: &str) -> String {
        self.name(&format!("reply.{bridge}"))
    }

    pub(super) fn notify(&self) -> String {
        self.name("notify")
    }

    /// The exchange and the queue of the dead letters.
    pub(super) fn dead(&self) -> String {
        self.name("dead")
    }

    pub(super) fn cast_queue(&self, agent: &Address) -> String {
        self.name(&format!("cast.{}.{agent}", self.kind.as_str()))
    }

    /// The CAST queue as it was, had the configuration another queue type before.
    pub(super) fn other_cast_queue(&self, agent: &Address) -> String {
        self.name(&format!("cast.{}.{agent}", self.kind.other().as_str()))
    }

    pub(super) fn any_queue(&self, agent_type: &AgentType) -> String {
        self.name(&format!("any.{}.{agent_type}", self.kind.as_str()))
    }

    /// The shared CAST queue as it was, had the configuration another queue type before.
    pub(super) fn other_any_queue(&self, agent_type: &AgentType) -> String {
        self.name(&format!("any.{}.{agent_type}", self.kind.other().as_str()))
    }

    pub(super) fn call_queue(&self, agent: &Address) -> String {
        self.name(&format!("call.{agent}"))
    }

    pub(super) fn any_call_queue(&self, agent_type: &AgentType) -> String {
        self.name(&format!("anycall.{agent_type}"))
    }

    /// The broker's name of a queue.
    pub(super) fn queue(&self, name: &QueueName) -> String {
        match name {
            QueueName::Call(agent) => self.call_queue(agent),
            QueueName::Cast(agent) => self.cast_queue(agent),
            QueueName::AnyCall(agent_type) => self.any_call_queue(agent_type),
            QueueName::Any(agent_type) => self.any_queue(agent_type),
            QueueName::Notify(name) => notify_queue(name),
            QueueName::Reply(bridge) => self.reply_queue(bridge),
            QueueName::Dead => self.dead(),
        }
    }

    /// The name that people use for a queue of the broker.
    pub(super) fn for_people(&self, queue: &str) -> String {
        let Some(rest) = queue.strip_prefix(&self.prefix).and_then(|r| r.strip_prefix('.')) else {
            return queue.to_owned();
        };
        for word in ["cast", "any"] {
            for kind in [CastQueue::Classic, CastQueue::Quorum] {
                if let Some(tail) = rest.strip_prefix(&format!("{word}.{}.", kind.as_str())) {
                    return format!("{word}.{tail}");
                }
            }
        }
        rest.to_owned()
    }

    /// Where a route leads.
    pub(super) fn target(&self, route: &Route) -> Target {
        let (exchange, key) = match route {
            Route::Call(agent) => (self.direct(), call_key(agent)),
            Route::Cast(agent) => (self.direct(), cast_key(agent)),
            Route::AnyCall(agent_type) => (self.direct(), any_call_key(agent_type)),
            Route::Any(agent_type) => (self.direct(), any_key(agent_type)),
            Route::FanoutAgents => (self.fanout_agents(), String::new()),
            Route::FanoutEndpoint(endpoint) => (self.fanout(endpoint), String::new()),
            Route::Reply(bridge) => (self.reply(), bridge.clone()),
            Route::RetryCast(agent, step) => {
                (self.agent(agent), format!("{}.{}", step.as_millis(), cast_key(agent)))
            }
            Route::RetryAny(agent, step) => {
                (self.agent(agent), format!("{}.{}", step.as_millis(), any_key(&agent.agent_type)))
            }
            Route::Dead(agent) => (self.agent(agent), dead_key(agent)),
            Route::Notify(name) => (self.notify(), notify_queue(name)),
        };
        Target { exchange, key }
    }
}

pub(super) fn call_key(agent: &Address) -> String {
    format!("call.{agent}")
}

pub(super) fn cast_key(agent: &Address) -> String {
    format!("cast.{agent}")
}

pub(super) fn dead_key(agent: &Address) -> String {
    format!("dead.{agent}")
}

pub(super) fn any_key(agent_type: &AgentType) -> String {
    format!("any.{agent_type}")
}

pub(super) fn any_call_key(agent_type: &AgentType) -> String {
    format!("anycall.{agent_type}")
}

/// The queue of a NOTIFY, and its routing key.
pub(super) fn notify_queue(name: &NotifyName) -> String {
    format!("notify.{name}")
}

/// A key of any step.
pub(super) fn any_step(key: &str) -> String {
    format!("*.{key}")
}

/// A regular expression for exactly these names.
fn exactly(names: &[&str]) -> String {
    let escaped: Vec<_> = names.iter().map(|name| name.replace('.', "\\.")).collect();
    format!("^({})$", escaped.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use goperation::HostName;

    fn agent() -> Address {
        Address {
            agent_type: AgentType::parse("t", "application").unwrap(),
            host: HostName::parse("h", "h1.example").unwrap(),
        }
    }

    fn layout(kind: CastQueue) -> Layout {
        Layout::new(&RabbitConfig { cast_queue: kind, ..RabbitConfig::default() })
    }

    #[test]
    fn names_lead_back_to_what_people_use() {
        let layout = layout(CastQueue::Quorum);
        for name in [
            QueueName::Cast(agent()),
            QueueName::Call(agent()),
            QueueName::Any(agent().agent_type),
            QueueName::AnyCall(agent().agent_type),
            QueueName::Notify(NotifyName::parse("n", "a.b").unwrap()),
            QueueName::Dead,
        ] {
            assert_eq!(layout.for_people(&layout.queue(&name)), name.to_string());
        }
        assert_eq!(layout.cast_queue(&agent()), "gop.cast.quorum.application.h1.example");
    }

    #[test]
    fn a_retry_stays_within_the_agent() {
        let target = layout(CastQueue::Classic).target(&Route::RetryCast(agent(), Route::STEPS[0]));
        assert_eq!(target.exchange, "gop.agent.application.h1.example");
        assert_eq!(target.key, "500.cast.application.h1.example");
    }

    #[test]
    fn rights_are_anchored_and_escaped() {
        let rights = layout(CastQueue::Classic).agent_rights(&agent());
        assert_eq!(
            rights.configure,
            r"^(gop\.call\.application\.h1\.example|gop\.anycall\.application)$"
        );
        for name in ["direct", "dead", "return", "fanout", "notify"] {
            let all = format!("{} {} {}", rights.configure, rights.write, rights.read);
            assert!(!all.contains(&format!(r"gop\.{name}")), "{name}");
        }
    }
}
