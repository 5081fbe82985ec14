//! The process of an entity as its agent answers it: a JSON object.
//!
//! Invariant: what is missing or cannot be read is left out; an answer is never refused for it.

use std::time::Duration;

use goperation::{
    JsonObject, to_timestamp,
    v1::{BoundPort, EntityProcess, ProcessExit, ProcessState, Protocol},
};
use prost_types::Timestamp;
use serde_json::Value;

/// The process in an agent's answer; nothing when the endpoint's driver starts none.
pub(super) fn process(answer: &JsonObject) -> Option<EntityProcess> {
    let told = answer.get("process")?.as_object()?;
    let bound = told.get("bound").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Some(EntityProcess {
        state: state(told).into(),
        pid: number(told, "pid"),
        since: time(told, "since"),
        restarts: number(told, "restarts"),
        last_exit: told.get("last_exit").and_then(Value::as_object).map(exit),
        message: text(told, "message"),
        cpu_time: whole(told, "cpu_millis")
            .and_then(|millis| prost_types::Duration::try_from(Duration::from_millis(millis)).ok()),
        cpu_percent: told.get("cpu_percent").and_then(Value::as_f64).unwrap_or_default(),
        memory_bytes: whole(told, "memory_bytes")
            .and_then(|bytes| i64::try_from(bytes).ok())
            .unwrap_or_default(),
        processes: number(told, "processes"),
        bound: bound.iter().filter_map(bound_port).collect(),
        start_time: time(told, "start_time"),
    })
}

/// What of a process is kept on record: not what is true only for the moment.
pub(super) fn kept(process: &EntityProcess) -> EntityProcess {
    EntityProcess {
        cpu_time: None,
        cpu_percent: 0.0,
        memory_bytes: 0,
        processes: 0,
        bound: Vec::new(),
        ..process.clone()
    }
}

fn state(told: &JsonObject) -> ProcessState {
    let name = told.get("state").and_then(Value::as_str).unwrap_or_default();
    let state = ProcessState::from_str_name(&format!("PROCESS_STATE_{name}"));
    state.unwrap_or_else(|| {
        tracing::warn!(state = name, "an agent answered with a state that is not known");
        ProcessState::Unspecified
    })
}

fn exit(told: &JsonObject) -> ProcessExit {
    let code = |field| {
        let code = told.get(field).and_then(Value::as_i64)?;
        i32::try_from(code).ok()
    };
    ProcessExit {
        code: code("code"),
        signal: code("signal"),
        time: time(told, "time"),
        cause: text(told, "cause"),
    }
}

fn bound_port(item: &Value) -> Option<BoundPort> {
    let told = item.as_object()?;
    let protocol = match told.get("protocol").and_then(Value::as_str) {
        Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        _ => Protocol::Unspecified,
    };
    Some(BoundPort {
        port: u16::try_from(whole(told, "port")?).ok()?.into(),
        protocol: protocol.into(),
        address: text(told, "address"),
        pid: number(told, "pid"),
        program: text(told, "program"),
        own: flag(told, "own"),
        name: text(told, "name"),
        reserved: flag(told, "reserved"),
    })
}

fn whole(told: &JsonObject, field: &str) -> Option<u64> {
    told.get(field).and_then(Value::as_u64)
}

fn number(told: &JsonObject, field: &str) -> i32 {
    whole(told, field).and_then(|number| i32::try_from(number).ok()).unwrap_or_default()
}

fn time(told: &JsonObject, field: &str) -> Option<Timestamp> {
    whole(told, field).map(to_timestamp)
}

fn text(told: &JsonObject, field: &str) -> String {
    told.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn flag(told: &JsonObject, field: &str) -> bool {
    told.get(field).and_then(Value::as_bool).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(answer: &Value) -> Option<EntityProcess> {
        process(answer.as_object().unwrap())
    }

    #[test]
    fn a_whole_process() {
        let process = read(&json!({"state": "READY", "process": {
            "state": "RUNNING", "pid": 4711, "since": 1_500, "start_time": 1_000, "restarts": 2,
            "last_exit": {"signal": 9, "time": 900, "cause": "kill"}, "message": "ready",
            "cpu_millis": 2_500, "cpu_percent": 12.5, "memory_bytes": 5_000_000_000_u64,
            "processes": 3,
            "bound": [
                {"port": 8303, "protocol": "udp", "address": "0.0.0.0", "pid": 4711,
                 "program": "teeworlds", "own": true, "name": "game", "reserved": true},
                {"port": 8304, "protocol": "tcp"},
                {"protocol": "tcp"}, 7, {"port": 70_000},
            ],
        }}))
        .unwrap();
        let game = BoundPort {
            port: 8303,
            protocol: Protocol::Udp.into(),
            address: "0.0.0.0".to_owned(),
            pid: 4711,
            program: "teeworlds".to_owned(),
            own: true,
            name: "game".to_owned(),
            reserved: true,
        };
        let bare = BoundPort { port: 8304, protocol: Protocol::Tcp.into(), ..BoundPort::default() };
        let whole = EntityProcess {
            state: ProcessState::Running.into(),
            pid: 4711,
            since: Some(to_timestamp(1_500)),
            restarts: 2,
            last_exit: Some(ProcessExit {
                code: None,
                signal: Some(9),
                time: Some(to_timestamp(900)),
                cause: "kill".to_owned(),
            }),
            message: "ready".to_owned(),
            cpu_time: Some(prost_types::Duration { seconds: 2, nanos: 500_000_000 }),
            cpu_percent: 12.5,
            memory_bytes: 5_000_000_000,
            processes: 3,
            bound: vec![game, bare],
            start_time: Some(to_timestamp(1_000)),
        };
        assert_eq!(process, whole);
        let kept = kept(&process);
        assert_eq!((kept.pid, kept.restarts, kept.bound.len()), (4711, 2, 0));
        assert_eq!((kept.memory_bytes, kept.processes, kept.cpu_time), (0, 0, None));
    }

    #[test]
    fn what_is_missing_or_wrong_is_left_out() {
        assert_eq!(read(&json!({"result": {}})), None);
        assert_eq!(read(&json!({"process": null})), None);
        let stopped =
            EntityProcess { state: ProcessState::Stopped.into(), ..EntityProcess::default() };
        assert_eq!(read(&json!({"process": {"state": "STOPPED"}})), Some(stopped));
        let wrong = json!({"process": {
            "state": "DANCING", "pid": -1, "since": "now", "restarts": 1.5, "last_exit": 3,
            "message": 7, "cpu_millis": u64::MAX, "memory_bytes": u64::MAX, "bound": {},
        }});
        assert_eq!(read(&wrong).unwrap().state(), ProcessState::Unspecified);
    }
}
