//! Whom a command is for: the target of a request, checked, and the route to it.
//!
//! Invariant: a [`Target`] that was read has a route for its kind; every bad field was named.

use goperation::{
    AgentType, EndpointName, Error, HostName, JsonObject, MANAGER_NAMESPACE, MessageId, MethodName,
    Ranges, Reason, struct_to_json, v1,
};

use crate::{Address, QueueName, Route, error::Fields};

/// The type in a topic.
const TOPIC: &str = "agent";

/// Whom a command is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum To {
    /// One agent.
    Agent(Address),
    /// Any one agent of a type.
    Any(AgentType),
    /// All agents, or those of a type.
    All(Option<AgentType>),
}

/// A checked target.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) to: To,
    /// `None` for the agent's own methods.
    pub(crate) endpoint: Option<EndpointName>,
}

/// A checked command.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) target: Target,
    pub(crate) method: MethodName,
    pub(crate) args: JsonObject,
    pub(crate) agents: Option<Ranges>,
    pub(crate) id: MessageId,
}

impl Target {
    /// The namespace as messages carry it.
    pub(crate) fn namespace(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => endpoint.to_string(),
            None => MANAGER_NAMESPACE.to_owned(),
        }
    }

    /// Where a CAST goes.
    pub(crate) fn cast_route(&self) -> Route {
        match (&self.to, &self.endpoint) {
            (To::Agent(agent), _) => Route::Cast(agent.clone()),
            (To::Any(agent_type), _) => Route::Any(agent_type.clone()),
            (To::All(_), None) => Route::FanoutAgents,
            (To::All(_), Some(endpoint)) => Route::FanoutEndpoint(endpoint.clone()),
        }
    }

    /// Where a CALL goes, and the queue that exists while its target is known.
    pub(crate) fn call_route(&self) -> Option<(Route, QueueName)> {
        match &self.to {
            To::Agent(agent) => Some((Route::Call(agent.clone()), QueueName::Cast(agent.clone()))),
            To::Any(kind) => Some((Route::AnyCall(kind.clone()), QueueName::Any(kind.clone()))),
            To::All(_) => None,
        }
    }

    /// The type that a broadcast is for.
    pub(crate) fn broadcast_type(&self) -> Option<String> {
        match &self.to {
            To::All(agent_type) => agent_type.as_ref().map(AgentType::to_string),
            _ => None,
        }
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        match (&self.to, &self.endpoint) {
            (To::Agent(agent), _) => format!("agent {agent}"),
            (To::Any(kind), _) => format!("any agent of type {kind}"),
            (To::All(None), None) => "all agents".to_owned(),
            (To::All(Some(kind)), None) => format!("all agents of type {kind}"),
            (To::All(_), Some(endpoint)) => format!("all agents with endpoint {endpoint}"),
        }
    }
}

/// Reads a target.
fn target(fields: &mut Fields, target: Option<&v1::Target>) -> Option<Target> {
    let Some(target) = target else {
        fields.bad("target", "must be given");
        return None;
    };
    let endpoint = match target.namespace.as_str() {
        "" | MANAGER_NAMESPACE => Some(None),
        name => fields.take(EndpointName::parse("target.namespace", name)).map(Some),
    };
    let host = match target.host.as_str() {
        "" => Some(None),
        _ if target.fanout => {
            fields.bad("target.host", "must be empty with fanout");
            None
        }
        host => fields.take(HostName::parse("target.host", host)).map(Some),
    };
    let agent_type = match target.topic.split_once('.') {
        Some((TOPIC, kind)) => fields.take(AgentType::parse("target.topic", kind)).map(Some),
        None if target.topic == TOPIC && target.fanout => Some(None),
        _ => {
            fields.bad("target.topic", "must be agent.<type>; with fanout also agent");
            None
        }
    };
    let to = match (agent_type?, host?, target.fanout) {
        (agent_type, _, true) => To::All(agent_type),
        (Some(agent_type), Some(host), false) => To::Agent(Address { agent_type, host }),
        (Some(agent_type), None, false) => To::Any(agent_type),
        (None, _, false) => return None,
    };
    Some(Target { to, endpoint: endpoint? })
}

/// The parts that CAST and CALL share.
pub(crate) struct Given<'a> {
    pub(crate) target: Option<&'a v1::Target>,
    pub(crate) method: &'a str,
    pub(crate) args: Option<&'a prost_types::Struct>,
    pub(crate) agents: &'a str,
    pub(crate) message_id: &'a str,
}

/// Reads a command; `fields` may already have bad fields of it.
pub(crate) fn command(mut fields: Fields, given: &Given<'_>) -> Result<Command, Error> {
    let target = target(&mut fields, given.target);
    let method = fields.take(MethodName::parse("method", given.method));
    let args = fields.take(struct_to_json("args", given.args));
    let id = fields.take(MessageId::given_or_new("message_id", given.message_id));
    let fanout = given.target.is_some_and(|target| target.fanout);
    let agents = match given.agents {
        "" => Some(None),
        _ if !fanout => {
            fields.bad("agents", "goes only with target.fanout");
            None
        }
        text => fields.take(Ranges::parse("agents", text)).map(Some),
    };
    if let Some(error) = fields.error() {
        return Err(error);
    }
    let (Some(target), Some(method), Some(args), Some(agents), Some(id)) =
        (target, method, args, agents, id)
    else {
        return Err(Error::new(Reason::Internal, "a bad field was not named"));
    };
    Ok(Command { target, method, args, agents, id })
}

/// Reads the request that a command belongs to; empty for none.
pub(crate) fn request(fields: &mut Fields, text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    // One id has one text: agents and the manager look it up by that.
    let is_id = uuid::Uuid::try_parse(text).is_ok_and(|id| id.to_string() == text);
    if !is_id {
        fields.bad("request_id", "must be a lower-case UUID");
        return None;
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(topic: &str, host: &str, fanout: bool, namespace: &str) -> Result<Target, Error> {
        let given = v1::Target {
            topic: topic.into(),
            host: host.into(),
            fanout,
            namespace: namespace.into(),
        };
        let mut fields = Fields::default();
        let read = target(&mut fields, Some(&given));
        fields.error().map_or_else(|| Ok(read.unwrap()), Err)
    }

    #[test]
    fn targets_have_their_routes() {
        let agent = read("agent.application", "h1", false, "").unwrap();
        let address = Address {
            agent_type: AgentType::parse("t", "application").unwrap(),
            host: HostName::parse("h", "h1").unwrap(),
        };
        assert_eq!(agent.cast_route(), Route::Cast(address.clone()));
        assert_eq!(agent.call_route().unwrap().0, Route::Call(address));
        assert_eq!(read("agent", "", true, "").unwrap().cast_route(), Route::FanoutAgents);
        let game = read("agent.application", "", true, "Game").unwrap();
        assert!(matches!(game.cast_route(), Route::FanoutEndpoint(e) if e.as_str() == "game"));
        assert_eq!(game.broadcast_type().as_deref(), Some("application"));
        let any = read("agent.application", "", false, "manager").unwrap();
        assert!(matches!(any.cast_route(), Route::Any(_)));
    }

    #[test]
    fn a_request_has_one_text() {
        let id = "0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e77";
        let mut fields = Fields::default();
        assert_eq!(request(&mut fields, ""), None);
        assert_eq!(request(&mut fields, id).as_deref(), Some(id));
        assert!(fields.error().is_none());
        for bad in ["r1", &id.to_uppercase(), &id.replace('-', ""), &format!("{{{id}}}")] {
            let mut fields = Fields::default();
            assert_eq!(request(&mut fields, bad), None);
            assert_eq!(fields.error().unwrap().violations[0].field, "request_id", "{bad}");
        }
    }

    #[test]
    fn every_bad_field_of_a_command_is_named() {
        let bad = v1::Target {
            topic: "agents".into(),
            host: "-".into(),
            fanout: false,
            namespace: "1".into(),
        };
        let given =
            Given { target: Some(&bad), method: "", args: None, agents: "1-3", message_id: "a b" };
        let error = command(Fields::default(), &given).unwrap_err();
        let mut fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
        fields.sort_unstable();
        let expected =
            ["agents", "message_id", "method", "target.host", "target.namespace", "target.topic"];
        assert_eq!(fields, expected);
        assert!(read("agent.application", "h1", true, "").is_err(), "host with fanout");
        assert!(read("agent", "", false, "").is_err(), "every type without fanout");
    }
}
