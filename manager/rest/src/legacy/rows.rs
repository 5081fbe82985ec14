//! Rows of the old REST, from the messages of the services.
//!
//! Invariant: a row has every key that it had, whatever is set.
//!
//! Some had numbers of database rows, which there are not any more and which no path takes. In
//! their place stands what is unique beside the endpoint's name in the same row: for an entity its
//! number, for an endpoint of an agent the agent's number.

use goperation::{
    from_timestamp,
    v1::{Agent, Entity, Port},
};
use prost_types::{Duration, Timestamp};
use serde_json::{Value, json};

/// Hardware in the old units.
pub(super) struct Hardware {
    pub(super) cpu: i32,
    pub(super) memory: i32,
    pub(super) disk: i32,
}

impl Hardware {
    pub(super) fn of(agent: &Agent) -> Self {
        let facts = agent.facts.clone().unwrap_or_default();
        Self { cpu: facts.cpu, memory: facts.memory_mib, disk: facts.disk_mib }
    }
}

/// Seconds since 1970.
pub(super) fn seconds(time: Option<&Timestamp>) -> u64 {
    time.map_or(0, from_timestamp) / 1000
}

/// A duration in seconds; none is 0, and less than one second is one.
pub(super) fn whole_seconds(time: Option<&Duration>) -> i64 {
    time.map_or(0, |time| time.seconds.saturating_add(i64::from(time.nanos > 0)))
}

/// A free text, null when there is none.
pub(super) fn desc(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

/// Numbers of ports, each once.
pub(super) fn numbers(ports: &[Port]) -> Vec<i32> {
    let mut numbers: Vec<_> = ports.iter().map(|port| port.port).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Ports, each number once: `port, desc`.
pub(super) fn ports(ports: &[Port]) -> Vec<Value> {
    let first = |number: i32| ports.iter().find(|port| port.port == number);
    let row = |number: i32| {
        let name = first(number).map(|port| port.name.as_str()).unwrap_or_default();
        json!({ "port": number, "desc": desc(name) })
    };
    numbers(ports).into_iter().map(row).collect()
}

/// An entity in a list; its ports only when they are asked for.
pub(super) fn entity(entity: &Entity, with_ports: bool) -> Value {
    let ports = if with_ports { numbers(&entity.ports) } else { Vec::new() };
    json!({ "entity": entity.number, "ports": ports })
}

/// An endpoint of an agent with everything on it, as its database row was.
pub(super) fn endpoint(agent: &Agent, name: &str, entities: &[Entity]) -> Value {
    let entities = entities.iter().filter(|entity| entity.endpoint == name);
    json!({
        "id": agent.id,
        "endpoint": name,
        "agent_id": agent.id,
        "entitys": entities.map(whole_entity).collect::<Vec<_>>(),
    })
}

fn whole_entity(entity: &Entity) -> Value {
    let port = |port: Value| {
        json!({
            "port": port["port"],
            "agent_id": entity.agent_id,
            "entity_id": entity.number,
            "endpoint_id": entity.agent_id,
            "endpoint": entity.endpoint,
            "entity": entity.number,
            "desc": port["desc"],
        })
    };
    json!({
        "id": entity.number,
        "entity": entity.number,
        "endpoint": entity.endpoint,
        "endpoint_id": entity.agent_id,
        "agent_id": entity.agent_id,
        "desc": desc(&entity.description),
        "ports": ports(&entity.ports).into_iter().map(port).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_on_both_protocols_is_one_port() {
        let port = |port, name: &str| Port { port, name: name.to_owned(), ..Port::default() };
        let all = [port(7002, ""), port(7001, "game"), port(7001, "game")];
        assert_eq!(numbers(&all), [7001, 7002]);
        assert_eq!(
            ports(&all),
            [json!({"port": 7001, "desc": "game"}), json!({"port": 7002, "desc": null})]
        );
    }
}
