//! How the guarded state lies in the store: a row per entity, port, transition and setting.
//!
//! Invariant: every row begins with the version of its layout; a row that cannot be read stops
//! the start instead of being guessed.

use goperation::{AgentStatus, EndpointName, Error, MessageId, Reason, Result, Secret};
use goperation_store::{Row, Scan, Store, Txn, Write};
use prost::Message;

use super::{EntityKey, EntityPhase, Pause, Precommit, State, Transition, upgrade};
use crate::{
    ports::{PortRanges, PortTable, Protocol, Reserved},
    process::ProcessRow,
    token::EntityToken,
};

pub(super) const VERSION: u32 = 1;

const AGENT_ID: &[u8] = b"s/agent-id";
const STATUS: &[u8] = b"s/status";
const GENERATION: &[u8] = b"s/generation";
const REPORTED: &[u8] = b"s/reported";
const ENTITY: &[u8] = b"s/entity/";
const PORT: &[u8] = b"s/port/";
const TRANSITION: &[u8] = b"s/transition/";
const TOKEN: &[u8] = b"s/token/";
const PROCESS: &[u8] = b"s/process/";

#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    value: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRow {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(int32, tag = "2")]
    status: i32,
    #[prost(int32, tag = "3")]
    former: i32,
    /// 0 none, 1 by an operator, 2 by a bound.
    #[prost(uint32, tag = "4")]
    pause: u32,
    #[prost(string, optional, tag = "5")]
    precommit_secret: Option<String>,
    #[prost(uint64, tag = "6")]
    precommit_lapses: u64,
}

#[derive(Clone, PartialEq, Message)]
struct EntityRow {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    endpoint: String,
    #[prost(uint32, tag = "3")]
    number: u32,
    /// 1 creating, 2 ready, 3 failed.
    #[prost(uint32, tag = "4")]
    phase: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PortRow {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint32, tag = "2")]
    port: u32,
    #[prost(bool, tag = "3")]
    udp: bool,
    /// Empty once it is free again.
    #[prost(string, tag = "4")]
    endpoint: String,
    #[prost(uint32, tag = "5")]
    entity: u32,
    #[prost(string, tag = "6")]
    name: String,
    #[prost(uint64, tag = "7")]
    since: u64,
    /// Its place in the order in which ports were freed, once it is free again.
    #[prost(uint64, tag = "8")]
    freed: u64,
}

#[derive(Clone, PartialEq, Message)]
struct TransitionRow {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(int32, tag = "2")]
    from: i32,
    #[prost(int32, tag = "3")]
    to: i32,
    #[prost(string, tag = "4")]
    cause: String,
    #[prost(string, tag = "5")]
    actor: String,
    #[prost(uint64, tag = "6")]
    time: u64,
}

#[derive(Clone, PartialEq, Message)]
struct TokenRow {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    endpoint: String,
    #[prost(uint32, tag = "3")]
    number: u32,
    #[prost(string, tag = "4")]
    token: String,
    #[prost(uint64, tag = "5")]
    expires: u64,
    /// Id of the message that deletes with it; empty until one does.
    #[prost(string, tag = "6")]
    used_by: String,
}

pub(super) fn put(txn: &mut Txn, key: Vec<u8>, row: &impl Message) {
    txn.writes.push(Write::Put(key, row.encode_to_vec()));
}

fn delete(txn: &mut Txn, key: Vec<u8>) {
    txn.writes.push(Write::Delete(key));
}

pub(super) fn put_agent_id(txn: &mut Txn, id: u32) {
    put(txn, AGENT_ID.to_vec(), &Number { version: VERSION, value: id.into() });
}

pub(super) fn delete_agent_id(txn: &mut Txn) {
    delete(txn, AGENT_ID.to_vec());
}

pub(super) fn put_generation(txn: &mut Txn, generation: u64) {
    put(txn, GENERATION.to_vec(), &Number { version: VERSION, value: generation });
}

pub(super) fn put_reported(txn: &mut Txn, sequence: u64) {
    put(txn, REPORTED.to_vec(), &Number { version: VERSION, value: sequence });
}

pub(super) fn put_status(txn: &mut Txn, state: &State) {
    let row = StatusRow {
        version: VERSION,
        status: state.status.number(),
        former: state.former.number(),
        pause: match state.pause {
            None => 0,
            Some(Pause::Operator) => 1,
            Some(Pause::Bound) => 2,
        },
        precommit_secret: state.precommit.as_ref().map(|p| p.secret.reveal().to_owned()),
        precommit_lapses: state.precommit.as_ref().map_or(0, |p| p.lapses),
    };
    put(txn, STATUS.to_vec(), &row);
}

fn entity_key(key: &EntityKey) -> Vec<u8> {
    [ENTITY, key.endpoint.as_str().as_bytes(), b"/", &key.number.to_be_bytes()].concat()
}

pub(super) fn put_entity(txn: &mut Txn, key: &EntityKey, phase: EntityPhase) {
    let row = EntityRow {
        version: VERSION,
        endpoint: key.endpoint.to_string(),
        number: key.number,
        phase: match phase {
            EntityPhase::Creating => 1,
            EntityPhase::Ready => 2,
            EntityPhase::Failed => 3,
        },
    };
    put(txn, entity_key(key), &row);
}

pub(super) fn delete_entity(txn: &mut Txn, key: &EntityKey) {
    delete(txn, entity_key(key));
}

fn token_key(key: &EntityKey) -> Vec<u8> {
    [TOKEN, key.endpoint.as_str().as_bytes(), b"/", &key.number.to_be_bytes()].concat()
}

pub(super) fn put_token(txn: &mut Txn, key: &EntityKey, token: &EntityToken) {
    let row = TokenRow {
        version: VERSION,
        endpoint: key.endpoint.to_string(),
        number: key.number,
        token: token.token.clone(),
        expires: token.expires,
        used_by: token.used_by.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    put(txn, token_key(key), &row);
}

pub(super) fn delete_token(txn: &mut Txn, key: &EntityKey) {
    delete(txn, token_key(key));
}

fn process_key(key: &EntityKey) -> Vec<u8> {
    [PROCESS, key.endpoint.as_str().as_bytes(), b"/", &key.number.to_be_bytes()].concat()
}

/// Names the row, and gives it back as it was written.
pub(super) fn put_process(txn: &mut Txn, key: &EntityKey, row: ProcessRow) -> ProcessRow {
    let row = ProcessRow {
        version: VERSION,
        endpoint: key.endpoint.to_string(),
        number: key.number,
        ..row
    };
    put(txn, process_key(key), &row);
    row
}

pub(super) fn delete_process(txn: &mut Txn, key: &EntityKey) {
    delete(txn, process_key(key));
}

fn port_key(protocol: Protocol, port: u16) -> Vec<u8> {
    [PORT, protocol.name().as_bytes(), b"/", &port.to_be_bytes()].concat()
}

/// A reservation for both protocols is two rows: each (protocol, port) has one owner.
pub(super) fn put_port(txn: &mut Txn, reserved: &Reserved) {
    for (protocol, port) in reserved.slots() {
        let row = PortRow {
            version: VERSION,
            port: port.into(),
            udp: protocol == Protocol::Udp,
            endpoint: reserved.entity.endpoint.to_string(),
            entity: reserved.entity.number,
            name: reserved.name.clone(),
            since: reserved.since,
            freed: 0,
        };
        put(txn, port_key(protocol, port), &row);
    }
}

pub(super) fn put_freed(txn: &mut Txn, reserved: &Reserved, table: &PortTable) {
    for (protocol, port) in reserved.slots() {
        let row = PortRow {
            version: VERSION,
            port: port.into(),
            udp: protocol == Protocol::Udp,
            freed: table.freed_sequence(protocol, port).unwrap_or_default(),
            ..PortRow::default()
        };
        put(txn, port_key(protocol, port), &row);
    }
}

fn transition_key(sequence: u64) -> Vec<u8> {
    [TRANSITION, &sequence.to_be_bytes()].concat()
}

pub(super) fn put_transition(txn: &mut Txn, transition: &Transition) {
    let row = TransitionRow {
        version: VERSION,
        from: transition.from.number(),
        to: transition.to.number(),
        cause: transition.cause.clone(),
        actor: transition.actor.clone(),
        time: transition.time,
    };
    put(txn, transition_key(transition.sequence), &row);
}

pub(super) fn delete_transition(txn: &mut Txn, sequence: u64) {
    delete(txn, transition_key(sequence));
}

/// Every row of the state.
pub(crate) async fn scan_all(store: &dyn Store) -> Result<Vec<Row>, goperation_store::Error> {
    store.scan(Scan::prefix(b"s/")).await
}

fn unreadable(key: &[u8], why: impl std::fmt::Display) -> Error {
    Error::new(
        Reason::Internal,
        format!("row {} of the agent's store cannot be read: {why}", key.escape_ascii()),
    )
}

pub(super) fn read<T: Message + Default>(
    key: &[u8],
    value: &[u8],
    version: fn(&T) -> u32,
) -> Result<T> {
    let row = T::decode(value).map_err(|e| unreadable(key, e))?;
    match version(&row) {
        VERSION => Ok(row),
        other => {
            Err(unreadable(key, format!("it has version {other}, this program knows {VERSION}")))
        }
    }
}

fn status(key: &[u8], number: i32) -> Result<AgentStatus> {
    AgentStatus::from_number(number).ok_or_else(|| unreadable(key, format!("status {number}")))
}

pub(super) fn load(ranges: PortRanges, rows: &[Row]) -> Result<State> {
    let mut state = State::new(ranges);
    let mut reported = 0;
    for (key, value) in rows {
        let number = || read::<Number>(key, value, |row| row.version).map(|row| row.value);
        if key == AGENT_ID {
            state.agent_id = u32::try_from(number()?).ok();
        } else if key == GENERATION {
            state.generation = number()?;
        } else if key == REPORTED {
            reported = number()?;
        } else if key == upgrade::KEY {
            upgrade::load(&mut state, key, value)?;
        } else if key == STATUS {
            load_status(&mut state, key, value)?;
        } else if key.starts_with(ENTITY) {
            load_entity(&mut state, key, value)?;
        } else if key.starts_with(PORT) {
            load_port(&mut state, key, value)?;
        } else if key.starts_with(TOKEN) {
            load_token(&mut state, key, value)?;
        } else if key.starts_with(PROCESS) {
            load_process(&mut state, key, value)?;
        } else if key.starts_with(TRANSITION) {
            let transition = load_transition(key, value)?;
            state.next_transition = transition.sequence + 1;
            state.unreported.push_back(transition);
        }
    }
    state.unreported.retain(|t| t.sequence > reported);
    Ok(state)
}

fn load_status(state: &mut State, key: &[u8], value: &[u8]) -> Result<()> {
    let row: StatusRow = read(key, value, |row: &StatusRow| row.version)?;
    state.status = status(key, row.status)?;
    state.former = status(key, row.former)?;
    state.pause = match row.pause {
        1 => Some(Pause::Operator),
        2 => Some(Pause::Bound),
        _ => None,
    };
    state.precommit = row
        .precommit_secret
        .map(|secret| {
            let secret = Secret::parse("secret", &secret).map_err(|e| unreadable(key, e))?;
            Ok::<_, Error>(Precommit { secret, lapses: row.precommit_lapses })
        })
        .transpose()?;
    Ok(())
}

fn load_entity(state: &mut State, key: &[u8], value: &[u8]) -> Result<()> {
    let row: EntityRow = read(key, value, |row: &EntityRow| row.version)?;
    let endpoint =
        EndpointName::parse("endpoint", &row.endpoint).map_err(|e| unreadable(key, e))?;
    let phase = match row.phase {
        1 => EntityPhase::Creating,
        2 => EntityPhase::Ready,
        3 => EntityPhase::Failed,
        other => return Err(unreadable(key, format!("phase {other}"))),
    };
    state.entities.insert(EntityKey { endpoint, number: row.number }, phase);
    Ok(())
}

fn load_token(state: &mut State, key: &[u8], value: &[u8]) -> Result<()> {
    let row: TokenRow = read(key, value, |row: &TokenRow| row.version)?;
    let endpoint =
        EndpointName::parse("endpoint", &row.endpoint).map_err(|e| unreadable(key, e))?;
    let used_by = match row.used_by.as_str() {
        "" => None,
        id => Some(MessageId::parse("used_by", id).map_err(|e| unreadable(key, e))?),
    };
    let token = EntityToken { token: row.token, expires: row.expires, used_by };
    state.tokens.insert(EntityKey { endpoint, number: row.number }, token);
    Ok(())
}

fn load_process(state: &mut State, key: &[u8], value: &[u8]) -> Result<()> {
    let row: ProcessRow = read(key, value, |row: &ProcessRow| row.version)?;
    let endpoint =
        EndpointName::parse("endpoint", &row.endpoint).map_err(|e| unreadable(key, e))?;
    state.processes.insert(EntityKey { endpoint, number: row.number }, row);
    Ok(())
}

fn load_port(state: &mut State, key: &[u8], value: &[u8]) -> Result<()> {
    let row: PortRow = read(key, value, |row: &PortRow| row.version)?;
    let port = u16::try_from(row.port).map_err(|e| unreadable(key, e))?;
    let protocol = if row.udp { Protocol::Udp } else { Protocol::Tcp };
    if row.endpoint.is_empty() {
        state.ports.restore_freed(protocol, port, row.freed);
        return Ok(());
    }
    let endpoint =
        EndpointName::parse("endpoint", &row.endpoint).map_err(|e| unreadable(key, e))?;
    let entity = EntityKey { endpoint, number: row.entity };
    state
        .ports
        .restore(Reserved { port, protocol, entity, name: row.name, since: row.since })
        .map_err(|e| unreadable(key, e))
}

fn load_transition(key: &[u8], value: &[u8]) -> Result<Transition> {
    let row: TransitionRow = read(key, value, |row: &TransitionRow| row.version)?;
    let sequence = key
        .get(TRANSITION.len()..)
        .and_then(|rest| rest.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or_else(|| unreadable(key, "its key has no sequence"))?;
    Ok(Transition {
        sequence,
        from: status(key, row.from)?,
        to: status(key, row.to)?,
        cause: row.cause,
        actor: row.actor,
        time: row.time,
    })
}
