//! Ports as they cross to agents and back: JSON objects.

use goperation::{
    JsonObject,
    v1::{PortWish, Protocol},
};
use serde_json::{Value, json};

use crate::record::PortRecord;

/// The name of a protocol in JSON.
pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Unspecified | Protocol::Both => "both",
    }
}

fn parse_protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        Some("tcp") => Some(Protocol::Tcp),
        Some("udp") => Some(Protocol::Udp),
        Some("both") | None => Some(Protocol::Both),
        Some(_) => None,
    }
}

/// The wishes of a reservation.
pub(super) fn wishes(wishes: &[PortWish]) -> Value {
    let wish = |wish: &PortWish| {
        let mut json = JsonObject::new();
        if wish.port != 0 {
            json.insert("port".to_owned(), wish.port.into());
        } else {
            json.insert("count".to_owned(), wish.count.max(1).into());
        }
        json.insert("protocol".to_owned(), protocol(wish.protocol()).into());
        if !wish.name.is_empty() {
            json.insert("name".to_owned(), wish.name.clone().into());
        }
        Value::Object(json)
    };
    wishes.iter().map(wish).collect::<Vec<_>>().into()
}

/// The ports below `field` of an agent's answer. What cannot be read is left out: a sync brings it.
pub(super) fn ports(answer: &JsonObject, field: &str, now: u64) -> Vec<PortRecord> {
    let items = answer.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| {
            let port = read(item, now);
            if port.is_none() {
                tracing::warn!(%item, "an agent answered with a port that cannot be read");
            }
            port
        })
        .collect()
}

fn read(item: &Value, now: u64) -> Option<PortRecord> {
    // A bare number is a port of both protocols.
    let object = match item {
        Value::Number(_) => &json!({ "port": item }),
        other => other,
    };
    let port = u16::try_from(object.get("port")?.as_u64()?).ok()?;
    let protocol = parse_protocol(object.get("protocol").and_then(Value::as_str))?;
    let name = object.get("name").and_then(Value::as_str).unwrap_or_default();
    Some(PortRecord {
        port: port.into(),
        protocol: protocol.into(),
        name: name.to_owned(),
        create_time: now,
    })
}

/// Numbers below `field` of an agent's answer.
pub(super) fn numbers(answer: &JsonObject, field: &str) -> Vec<i32> {
    let items = answer.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| i32::try_from(item.as_i64()?).ok()).collect()
}

/// What is left of a port when a protocol of it is freed; nothing when all of it is.
pub(super) fn without(port: &PortRecord, freed: Protocol) -> Option<PortRecord> {
    let left = match (port.protocol(), freed) {
        (Protocol::Both, Protocol::Tcp) => Protocol::Udp,
        (Protocol::Both, Protocol::Udp) => Protocol::Tcp,
        (Protocol::Tcp, Protocol::Udp) => Protocol::Tcp,
        (Protocol::Udp, Protocol::Tcp) => Protocol::Udp,
        _ => return None,
    };
    Some(PortRecord { protocol: left.into(), ..port.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_cross_as_the_agent_reads_them() {
        let wish = |port, count, protocol: Protocol, name: &str| PortWish {
            port,
            count,
            protocol: protocol.into(),
            name: name.to_owned(),
        };
        assert_eq!(
            wishes(&[
                wish(7000, 0, Protocol::Tcp, "game"),
                wish(0, 0, Protocol::Unspecified, ""),
                wish(0, 3, Protocol::Udp, "q"),
            ]),
            json!([
                {"port": 7000, "protocol": "tcp", "name": "game"},
                {"count": 1, "protocol": "both"},
                {"count": 3, "protocol": "udp", "name": "q"},
            ])
        );
    }

    #[test]
    fn answers_are_read_and_what_is_not_a_port_is_left_out() {
        let answer = json!({"ports": [
            {"port": 7000, "protocol": "tcp", "name": "a"}, 7001, {"port": 70000}, {"x": 1},
            {"port": 1, "protocol": "sctp"},
        ]});
        let ports = ports(answer.as_object().unwrap(), "ports", 9);
        let read: Vec<_> = ports.iter().map(|p| (p.port, p.protocol(), p.name.as_str())).collect();
        assert_eq!(read, [(7000, Protocol::Tcp, "a"), (7001, Protocol::Both, "")]);
    }

    #[test]
    fn freeing_one_protocol_leaves_the_other() {
        let port = |protocol: Protocol| PortRecord {
            port: 1,
            protocol: protocol.into(),
            ..PortRecord::default()
        };
        for (held, freed, left) in [
            (Protocol::Both, Protocol::Tcp, Some(Protocol::Udp)),
            (Protocol::Both, Protocol::Both, None),
            (Protocol::Tcp, Protocol::Tcp, None),
            (Protocol::Tcp, Protocol::Both, None),
            (Protocol::Tcp, Protocol::Udp, Some(Protocol::Tcp)),
        ] {
            let rest = without(&port(held), freed).map(|port| port.protocol());
            assert_eq!(rest, left, "{held:?} without {freed:?}");
        }
    }
}
