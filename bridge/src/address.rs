//! Where messages go and come from, without a word of AMQP.

use std::{fmt, time::Duration};

use goperation::{AgentType, EndpointName, Error, HostName, NotifyName};

/// One agent: its type and its host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Type.
    pub agent_type: AgentType,
    /// Host.
    pub host: HostName,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.agent_type, self.host)
    }
}

/// Where a message is published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The CALL queue of an agent: there only while the agent is.
    Call(Address),
    /// The durable CAST queue of an agent: there while the agent is known.
    Cast(Address),
    /// The CALL queue shared by the agents of a type that are there.
    AnyCall(AgentType),
    /// The durable CAST queue shared by the agents of a type.
    Any(AgentType),
    /// The CAST queues of all agents.
    FanoutAgents,
    /// The CAST queues of all agents that have an endpoint.
    FanoutEndpoint(EndpointName),
    /// The reply queue of the bridge of that name.
    Reply(String),
    /// Back to the CAST queue of the agent that publishes it, after one of [`Route::STEPS`].
    RetryCast(Address, Duration),
    /// Back to the shared CAST queue of the type, after one of [`Route::STEPS`].
    RetryAny(Address, Duration),
    /// The dead letters, from that agent.
    Dead(Address),
    /// A notify queue.
    Notify(NotifyName),
}

impl Route {
    /// The delays of the delayed retry.
    pub const STEPS: [Duration; 7] = [
        Duration::from_millis(500),
        Duration::from_secs(1),
        Duration::from_secs(2),
        Duration::from_secs(4),
        Duration::from_secs(8),
        Duration::from_secs(16),
        Duration::from_secs(32),
    ];
}

/// What is subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Everything for one agent: its CALL and CAST queues and the shared ones of its type.
    Agent(Address),
    /// The replies for the bridge of that name.
    Replies(String),
    /// A notify queue, made when it does not exist.
    Notify(NotifyName),
}

/// A queue by the name that people use: without the layout's prefix and its queue type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QueueName {
    /// `call.<type>.<host>`
    Call(Address),
    /// `cast.<type>.<host>`
    Cast(Address),
    /// `anycall.<type>`
    AnyCall(AgentType),
    /// `any.<type>`
    Any(AgentType),
    /// `notify.<name>`
    Notify(NotifyName),
    /// `dead`
    Dead,
    /// `reply.<bridge>`: where replies come from; people cannot name it.
    Reply(String),
}

impl QueueName {
    /// The queue of that name.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming `field` and the forms there are.
    pub fn parse(field: &str, text: &str) -> Result<Self, Error> {
        let bad = || {
            Error::invalid(
                field,
                "must be cast.<type>.<host>, call.<type>.<host>, any.<type>, anycall.<type>, \
                 notify.<name> or dead",
            )
        };
        if text == "dead" {
            return Ok(Self::Dead);
        }
        let (kind, rest) = text.split_once('.').ok_or_else(bad)?;
        let address = || {
            let (agent_type, host) = rest.split_once('.').ok_or_else(bad)?;
            Ok::<_, Error>(Address {
                agent_type: AgentType::parse(field, agent_type)?,
                host: HostName::parse(field, host)?,
            })
        };
        match kind {
            "call" => Ok(Self::Call(address()?)),
            "cast" => Ok(Self::Cast(address()?)),
            "anycall" => Ok(Self::AnyCall(AgentType::parse(field, rest)?)),
            "any" => Ok(Self::Any(AgentType::parse(field, rest)?)),
            "notify" => Ok(Self::Notify(NotifyName::parse(field, rest)?)),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(address) => write!(f, "call.{address}"),
            Self::Cast(address) => write!(f, "cast.{address}"),
            Self::AnyCall(agent_type) => write!(f, "anycall.{agent_type}"),
            Self::Any(agent_type) => write!(f, "any.{agent_type}"),
            Self::Notify(name) => write!(f, "notify.{name}"),
            Self::Dead => f.write_str("dead"),
            Self::Reply(bridge) => write!(f, "reply.{bridge}"),
        }
    }
}
