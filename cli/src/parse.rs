//! The small languages of the command line: targets, ports, arguments, numbers and durations.
//!
//! Invariant: a text that is accepted means one thing; what is refused says what would be right.

use std::{fmt, fs, io::Read as _, time::Duration};

use goperation::{
    AgentType, EndpointName, JsonObject, MANAGER_NAMESPACE, NoShare, Ranges, Share, json_to_struct,
    v1::{PortWish, Protocol},
};
use prost_types::Struct;
use serde_json::Value;

use crate::{args::Arguments, error::Error};

/// One entity by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntityRef {
    /// Endpoint.
    pub(crate) endpoint: String,
    /// Number.
    pub(crate) number: i32,
}

impl EntityRef {
    /// The entity in `sample:4`, or in `sample` and 4.
    pub(crate) fn of(text: &str, given: Option<i32>) -> Result<Self, String> {
        let (endpoint, number) = match (text.split_once(':'), given) {
            (Some((endpoint, text)), None) => (endpoint, number(text)?),
            (None, Some(number)) => (text, number),
            _ => return Err(format!("`{text}` is not an entity: say `sample:4` or `sample 4`")),
        };
        Ok(Self { endpoint: endpoint_name(endpoint)?, number })
    }

    /// The entities in `sample:4 sample:5`, or in `sample 4`; each once, in their order.
    pub(crate) fn several(texts: &[String]) -> Result<Vec<Self>, String> {
        let mut all: Vec<Self> = Vec::new();
        let mut texts = texts.iter();
        while let Some(text) = texts.next() {
            let given = match texts.as_slice() {
                [next, ..] if !text.contains(':') => next.parse().ok().filter(|&n: &i32| n > 0),
                _ => None,
            };
            if given.is_some() {
                texts.next();
            }
            let entity = Self::of(text, given)?;
            if !all.contains(&entity) {
                all.push(entity);
            }
        }
        Ok(all)
    }
}

impl fmt::Display for EntityRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.endpoint, self.number)
    }
}

/// Whom a command is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// One agent by number; its own methods, or an endpoint's.
    Agent {
        /// Its number.
        id: i32,
        /// `manager` or an endpoint.
        namespace: String,
    },
    /// Every agent, or every one that has the endpoint.
    All {
        /// Only of this type.
        agent_type: Option<String>,
        /// `manager` or an endpoint.
        namespace: String,
    },
    /// Any one agent of a type.
    Any {
        /// The type.
        agent_type: String,
        /// `manager` or an endpoint.
        namespace: String,
    },
    /// The agent of an entity; the entity goes along as an argument.
    Entity(EntityRef),
}

/// The target in a text.
pub(crate) fn target(text: &str) -> Result<Target, String> {
    let (head, namespace) = match text.split_once('/') {
        Some((head, MANAGER_NAMESPACE)) => (head, MANAGER_NAMESPACE.to_owned()),
        Some((head, endpoint)) => (head, endpoint_name(endpoint)?),
        None => (text, MANAGER_NAMESPACE.to_owned()),
    };
    if head == "all" {
        return Ok(Target::All { agent_type: None, namespace });
    }
    match head.split_once(':') {
        None => number(head).map(|id| Target::Agent { id, namespace }).map_err(|_| {
            format!("`{head}` is not an agent number, `all`, `any:TYPE` or `ENDPOINT:NUMBER`")
        }),
        Some(("all", of)) => Ok(Target::All { agent_type: Some(agent_type(of)?), namespace }),
        // A type begins with a letter, so `any:7` can only be an entity of an endpoint `any`.
        Some(("any", of)) if !of.starts_with(|c: char| c.is_ascii_digit()) => {
            Ok(Target::Any { agent_type: agent_type(of)?, namespace })
        }
        Some(_) if text.contains('/') => Err(format!(
            "`{head}` names an entity, whose endpoint is its namespace: leave out `/{namespace}`"
        )),
        Some(_) => EntityRef::of(head, None).map(Target::Entity),
    }
}

/// A port that is wanted: `game`, `game=20000`, `game/udp`, `game=20000/udp`, `20000/tcp`.
pub(crate) fn wish(text: &str) -> Result<PortWish, String> {
    let (head, protocol) = match text.split_once('/') {
        None => (text, Protocol::Both),
        Some((head, "tcp")) => (head, Protocol::Tcp),
        Some((head, "udp")) => (head, Protocol::Udp),
        Some((head, "both")) => (head, Protocol::Both),
        Some((_, other)) => return Err(format!("`{other}` is not tcp, udp or both")),
    };
    let (name, wanted) = match head.split_once('=') {
        Some((name, text)) => (name, port(text)?),
        None if head.starts_with(|c: char| c.is_ascii_digit()) => ("", port(head)?),
        None => (head, 0),
    };
    if name.is_empty() && wanted == 0 {
        return Err("a port needs a name or a number".to_owned());
    }
    Ok(PortWish { port: wanted, protocol: protocol.into(), count: 1, name: name.to_owned() })
}

/// All wishes: the ports given, and `count` ports without a name.
pub(crate) fn wishes(mut given: Vec<PortWish>, count: Option<i32>) -> Vec<PortWish> {
    if let Some(count) = count {
        given.push(PortWish { count, protocol: Protocol::Both.into(), ..PortWish::default() });
    }
    given
}

/// A port number.
pub(crate) fn port(text: &str) -> Result<i32, String> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(i32::from(port)),
        _ => Err(format!("`{text}` is not a port from 1 to 65535")),
    }
}

/// A number from 1 on.
pub(crate) fn number(text: &str) -> Result<i32, String> {
    match text.parse::<i32>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("`{text}` is not a number from 1 on")),
    }
}

/// `KEY=VALUE`, the value being JSON or else text.
pub(crate) fn pair(text: &str) -> Result<(String, Value), String> {
    let (key, value) = label(text)?;
    let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
    Ok((key, value))
}

/// `KEY=VALUE`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

/// A duration above 0, as `15s` or `1h 30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("must be above 0".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

/// How long a stop may take; 0s kills at once.
pub(crate) fn grace(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(grace) if grace <= Duration::from_secs(3600) => Ok(grace),
        Ok(_) => Err("must be at most 1h".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

/// All of something, or some by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Several {
    /// All.
    All,
    /// Ranges of numbers.
    Numbers(String),
}

/// `all`, or ranges as `1-3,7`.
pub(crate) fn several(text: &str) -> Result<Several, String> {
    if text == "all" {
        return Ok(Several::All);
    }
    match Ranges::parse("numbers", text) {
        Ok(ranges) => Ok(Several::Numbers(ranges.to_string())),
        Err(_) => Err(format!("`{text}` is not `all` or numbers as `1-3,7`")),
    }
}

/// A number, or a percentage of all: `2`, `5%`.
pub(crate) fn share(text: &str) -> Result<String, NoShare> {
    text.parse::<Share>().map(|_| text.to_owned())
}

/// Agents as ranges, or none.
pub(crate) fn agents(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    Ranges::parse("agents", text).map(|ranges| ranges.to_string()).map_err(|e| e.to_string())
}

impl Arguments {
    /// The arguments: the object of `--args`, with each `--arg` put over it.
    pub(crate) fn object(&self) -> Result<JsonObject, Error> {
        let mut object = match &self.args {
            None => JsonObject::new(),
            Some(source) => read_object("--args", source)?,
        };
        object.extend(self.pairs.iter().cloned());
        Ok(object)
    }

    /// The same as protobuf.
    pub(crate) fn to_struct(&self) -> Result<Struct, Error> {
        to_struct(&self.object()?)
    }
}

/// An object that was typed, as protobuf.
pub(crate) fn to_struct(object: &JsonObject) -> Result<Struct, Error> {
    json_to_struct("args", object).map_err(|e| Error::Usage(e.to_string()))
}

/// A JSON object that stands in a flag, in the @FILE that it names, or, for `-`, on stdin.
pub(crate) fn read_object(flag: &str, source: &str) -> Result<JsonObject, Error> {
    let unreadable = |name: &str, e| Error::Usage(format!("{flag}: {name}: {e}"));
    let text = if source == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|e| unreadable("stdin", e))?;
        text
    } else if let Some(path) = source.strip_prefix('@') {
        fs::read_to_string(path).map_err(|e| unreadable(path, e))?
    } else {
        source.to_owned()
    };
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::Usage(format!("{flag}: must be a JSON object, as {{\"x\": 1}}"))),
        Err(e) => Err(Error::Usage(format!("{flag}: {e}"))),
    }
}

fn endpoint_name(text: &str) -> Result<String, String> {
    match EndpointName::parse("endpoint", text) {
        Ok(name) => Ok(name.to_string()),
        Err(e) => Err(format!("`{text}`: {e}")),
    }
}

fn agent_type(text: &str) -> Result<String, String> {
    match AgentType::parse("type", text) {
        Ok(name) => Ok(name.to_string()),
        Err(e) => Err(format!("`{text}`: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn targets() {
        let agent = |id, ns: &str| Target::Agent { id, namespace: ns.into() };
        let all = |of: Option<&str>, ns: &str| Target::All {
            agent_type: of.map(Into::into),
            namespace: ns.into(),
        };
        let any = |of: &str, ns: &str| Target::Any { agent_type: of.into(), namespace: ns.into() };
        let entity = |e: &str, number| Target::Entity(EntityRef { endpoint: e.into(), number });
        for (text, want) in [
            ("1", agent(1, "manager")),
            ("1/manager", agent(1, "manager")),
            ("12/Sample", agent(12, "sample")),
            ("all", all(None, "manager")),
            ("all/sample", all(None, "sample")),
            ("all:application/sample", all(Some("application"), "sample")),
            ("any:application", any("application", "manager")),
            ("any:application/sample", any("application", "sample")),
            ("sample:4", entity("sample", 4)),
            ("any:4", entity("any", 4)),
        ] {
            assert_eq!(target(text), Ok(want), "{text}");
        }
        for bad in [
            "",
            "0",
            "-1",
            "x",
            "1/",
            "1/a-b",
            "sample:",
            "sample:0",
            "sample:x",
            "any:",
            "all:",
            "sample:4/sample",
            "1/2/3",
            "manager:1",
        ] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports() {
        let want = |name: &str, port, protocol: Protocol| PortWish {
            port,
            protocol: protocol.into(),
            count: 1,
            name: name.into(),
        };
        for (text, wanted) in [
            ("game", want("game", 0, Protocol::Both)),
            ("game/udp", want("game", 0, Protocol::Udp)),
            ("game=20000", want("game", 20000, Protocol::Both)),
            ("game=20000/tcp", want("game", 20000, Protocol::Tcp)),
            ("20000/both", want("", 20000, Protocol::Both)),
        ] {
            assert_eq!(wish(text), Ok(wanted), "{text}");
        }
        for bad in ["", "/udp", "game/sctp", "game=", "game=0", "game=70000", "20000x", "=0"] {
            assert!(wish(bad).is_err(), "{bad}");
        }
        assert_eq!(wishes(vec![want("a", 0, Protocol::Tcp)], Some(3))[1].count, 3);
    }

    #[test]
    fn arguments() {
        let args = |args: Option<&str>, pairs: &[&str]| Arguments {
            args: args.map(Into::into),
            pairs: pairs.iter().map(|p| pair(p).unwrap()).collect(),
        };
        let object = |a: Arguments| Value::Object(a.object().unwrap());
        assert_eq!(
            object(args(None, &["x=1", "y=one two", "z={\"a\":[true]}", "q=\"1\"", "e="])),
            json!({"x": 1, "y": "one two", "z": {"a": [true]}, "q": "1", "e": ""})
        );
        assert_eq!(object(args(Some("{\"x\":1,\"y\":2}"), &["x=3"])), json!({"x": 3, "y": 2}));
        assert!(args(Some("[1]"), &[]).object().is_err());
        assert!(args(Some("{"), &[]).object().is_err());
        assert!(args(Some("@/nowhere/at/all"), &[]).object().is_err());
        assert!(args(None, &["x=9007199254740993"]).to_struct().is_err());
        assert!(pair("x").is_err());
        assert!(pair("=x").is_err());
    }

    #[test]
    fn all_some_and_shares() {
        assert_eq!(several("all"), Ok(Several::All));
        assert_eq!(several("7,3-1"), Ok(Several::Numbers("1-3,7".to_owned())));
        for bad in ["", "x", "0", "All", "1-"] {
            assert!(several(bad).is_err(), "{bad}");
        }
        for good in ["0", "2", "5%", "5 %", "100%"] {
            assert_eq!(share(good), Ok(good.to_owned()));
        }
        for bad in ["", "%", "-1", "+1", "101%", "x", "1.5%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn entities() {
        let want = EntityRef { endpoint: "sample".into(), number: 4 };
        assert_eq!(EntityRef::of("sample:4", None), Ok(want.clone()));
        assert_eq!(EntityRef::of("sample", Some(4)), Ok(want));
        assert!(EntityRef::of("sample", None).is_err());
        assert!(EntityRef::of("sample:4", Some(4)).is_err());
        let several = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(ToString::to_string).collect();
            let all = EntityRef::several(&texts)?;
            Ok(all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let good = |texts: &[&str], want: &str| assert_eq!(several(texts), Ok(want.to_owned()));
        good(&["sample:4"], "sample:4");
        good(&["sample", "4"], "sample:4");
        good(&["a1:4", "b2", "7", "a1:4", "a1:5"], "a1:4 b2:7 a1:5");
        for bad in [&["sample"][..], &["sample:4", "5"], &["sample", "0"], &["sample", "4", "5"]] {
            let refused: Result<String, String> = several(bad);
            assert!(refused.is_err(), "{bad:?}");
        }
    }
}
