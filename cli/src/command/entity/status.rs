//! `gop entity status`: what the agent sees of an entity and of its process.

use std::time::Duration;

use goperation::{
    from_timestamp, now_millis, to_duration,
    v1::{
        BoundPort, Entity, EntityProcess, Port, ProcessExit, ProcessState, Protocol,
        StatusEntityRequest,
    },
};

use super::{known, process, rows, state};
use crate::{
    client::Client,
    error::Error,
    output::{Output, fields, or_dash, result, table, time},
    parse::EntityRef,
};

/// Asks and prints.
pub(super) async fn run(client: &Client, output: Output, entity: &EntityRef) -> Result<(), Error> {
    let request = StatusEntityRequest { endpoint: entity.endpoint.clone(), number: entity.number };
    let answer = client.entities().status_entity(client.request(request)).await;
    let answer = known(answer, entity)?;
    output.answer(&answer, |a| {
        let about = match (&a.entity, &a.process) {
            (Some(entity), Some(process)) => details(entity, process, now_millis()),
            _ => rows(a.entity.as_slice()),
        };
        about + &result(a.result.as_ref())
    })
}

fn details(entity: &Entity, process: &EntityProcess, now: u64) -> String {
    let runs = process.pid != 0;
    let only = |text: String| if runs { text } else { String::new() };
    let lines = fields([
        ("entity", format!("{}:{}", entity.endpoint, entity.number)),
        ("agent", entity.agent_id.to_string()),
        ("state", state(entity)),
        ("process", process::state(Some(process))),
        ("message", process.message.clone()),
        ("pid", only(process.pid.to_string())),
        ("since", time(process.since.as_ref())),
        ("uptime", uptime(process, now)),
        ("restarts", process.restarts.to_string()),
        ("last exit", process.last_exit.as_ref().map(exit).unwrap_or_default()),
        ("cpu", only(cpu(process))),
        ("memory", only(bytes(process.memory_bytes))),
        ("processes", only(process.processes.to_string())),
    ]);
    let holders = holders(entity, process);
    if holders.is_empty() {
        return lines;
    }
    let holders = table(["PORT", "PROTOCOL", "NAME", "ADDRESS", "BOUND BY", "NOTE"], holders);
    format!("{lines}\n{holders}")
}

fn uptime(process: &EntityProcess, now: u64) -> String {
    let Some(started) = process.start_time.as_ref().map(from_timestamp) else {
        return String::new();
    };
    let seconds = now.saturating_sub(started) / 1000;
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// `code 1 at 2026-01-01T00:00:00Z (itself)`.
fn exit(exit: &ProcessExit) -> String {
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    };
    let cause = if exit.cause.is_empty() { String::new() } else { format!(" ({})", exit.cause) };
    format!("{how} at {}{cause}", time(exit.time.as_ref()))
}

fn cpu(process: &EntityProcess) -> String {
    let used = process.cpu_time.as_ref().and_then(to_duration).unwrap_or_default();
    format!("{:.1} %, {:.1} s in all", process.cpu_percent, used.as_secs_f64())
}

fn bytes(bytes: i64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let mib = bytes as f64 / f64::from(1 << 20);
    format!("{mib:.1} MiB")
}

/// Who has each port that the entity has reserved or that its processes have bound.
fn holders(entity: &Entity, process: &EntityProcess) -> Vec<[String; 6]> {
    let mut rows = Vec::new();
    for port in &entity.ports {
        for protocol in protocols(port) {
            let mut bound = process
                .bound
                .iter()
                .filter(|bound| bound.port == port.port && bound.protocol() == *protocol)
                .peekable();
            if bound.peek().is_none() {
                let running = process.state() == ProcessState::Running;
                let note = if running { "reserved, bound by nobody" } else { "reserved" };
                rows.push(row(port.port, *protocol, &port.name, None, note));
            }
            for holder in bound {
                let note = if holder.own { "reserved" } else { "RESERVED, HELD BY ANOTHER" };
                rows.push(row(port.port, *protocol, &port.name, Some(holder), note));
            }
        }
    }
    let reserved = |bound: &BoundPort| {
        let same = |port: &&Port| port.port == bound.port;
        let port = entity.ports.iter().find(same);
        port.is_some_and(|port| protocols(port).contains(&bound.protocol()))
    };
    for holder in process.bound.iter().filter(|bound| !reserved(bound)) {
        let note = if holder.own { "not reserved" } else { "held by another" };
        rows.push(row(holder.port, holder.protocol(), &holder.name, Some(holder), note));
    }
    rows
}

/// The protocols of a reservation, each of which has a holder of its own.
fn protocols(port: &Port) -> &'static [Protocol] {
    match port.protocol() {
        Protocol::Tcp => &[Protocol::Tcp],
        Protocol::Udp => &[Protocol::Udp],
        Protocol::Both | Protocol::Unspecified => &[Protocol::Tcp, Protocol::Udp],
    }
}

fn row(
    port: i32,
    protocol: Protocol,
    name: &str,
    holder: Option<&BoundPort>,
    note: &str,
) -> [String; 6] {
    let protocol = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Both | Protocol::Unspecified => "both",
    };
    let (address, by) = match holder {
        None => (String::new(), String::new()),
        Some(holder) if holder.pid == 0 => (holder.address.clone(), "?".to_owned()),
        Some(holder) => (holder.address.clone(), format!("{} {}", holder.pid, holder.program)),
    };
    [
        port.to_string(),
        protocol.to_owned(),
        or_dash(name),
        or_dash(address),
        or_dash(by.trim_end()),
        note.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use goperation::to_timestamp;

    use super::*;

    fn port(port: i32, protocol: Protocol, name: &str) -> Port {
        Port { port, protocol: protocol.into(), name: name.to_owned(), ..Port::default() }
    }

    fn bound(port: i32, protocol: Protocol, pid: i32, own: bool) -> BoundPort {
        let (address, program) = ("0.0.0.0".to_owned(), format!("p{pid}"));
        BoundPort {
            port,
            protocol: protocol.into(),
            address,
            pid,
            program,
            own,
            ..BoundPort::default()
        }
    }

    #[test]
    fn a_running_game_and_who_has_its_ports() {
        let entity = Entity {
            endpoint: "db".to_owned(),
            number: 3,
            agent_id: 1,
            ports: vec![port(7000, Protocol::Both, "game"), port(7001, Protocol::Tcp, "")],
            ..Entity::default()
        };
        let process = EntityProcess {
            state: ProcessState::Running.into(),
            pid: 42,
            since: Some(to_timestamp(10_000)),
            start_time: Some(to_timestamp(5_000)),
            restarts: 1,
            last_exit: Some(ProcessExit {
                signal: Some(9),
                time: Some(to_timestamp(4_000)),
                cause: "kill".to_owned(),
                ..ProcessExit::default()
            }),
            cpu_time: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
            cpu_percent: 12.34,
            memory_bytes: 3 << 19,
            processes: 2,
            bound: vec![
                bound(7000, Protocol::Udp, 42, true),
                bound(7001, Protocol::Tcp, 77, false),
                bound(7002, Protocol::Tcp, 43, true),
            ],
            ..EntityProcess::default()
        };
        assert_eq!(
            details(&entity, &process, 70_500),
            "\
entity:      db:3
agent:       1
state:       UNSPECIFIED
process:     RUNNING
message:     -
pid:         42
since:       1970-01-01T00:00:10Z
uptime:      1m 5s
restarts:    1
last exit:   signal 9 at 1970-01-01T00:00:04Z (kill)
cpu:         12.3 %, 2.0 s in all
memory:      1.5 MiB
processes:   2

PORT   PROTOCOL   NAME   ADDRESS   BOUND BY   NOTE
7000   tcp        game   -         -          reserved, bound by nobody
7000   udp        game   0.0.0.0   42 p42     reserved
7001   tcp        -      0.0.0.0   77 p77     RESERVED, HELD BY ANOTHER
7002   tcp        -      0.0.0.0   43 p43     not reserved
"
        );
        let stopped = EntityProcess { state: ProcessState::Stopped.into(), ..Default::default() };
        let said = details(&entity, &stopped, 0);
        assert!(said.contains("pid:         -\n") && said.contains("uptime:      -\n"), "{said}");
        assert!(!said.contains("nobody"), "{said}");
    }
}
