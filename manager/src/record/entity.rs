//! The record of an entity, with its ports.

use std::collections::BTreeMap;

use goperation::{
    from_timestamp, to_timestamp,
    v1::{Entity, EntityProcess, EntityState, Port, Protocol},
};

use super::agent::int;
use crate::{db::Record, etag};

/// Where an entity is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum State {
    /// Numbered; how its creation ended is not known.
    Creating = 0,
    /// Created.
    Ready = 1,
    /// To be deleted; that it was is not confirmed.
    Deleting = 2,
    /// Its creation was interrupted.
    Failed = 3,
    /// Its agent does not have it any more.
    Lost = 4,
}

impl From<State> for EntityState {
    fn from(state: State) -> Self {
        match state {
            State::Creating => Self::Creating,
            State::Ready => Self::Ready,
            State::Deleting => Self::Deleting,
            State::Failed => Self::Failed,
            State::Lost => Self::Lost,
        }
    }
}

impl State {
    /// Its name, as filters have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Creating => "CREATING",
            Self::Ready => "READY",
            Self::Deleting => "DELETING",
            Self::Failed => "FAILED",
            Self::Lost => "LOST",
        }
    }
}

/// A port of an entity; the agent's store is the authority.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PortRecord {
    #[prost(uint32, tag = "1")]
    pub(crate) port: u32,
    #[prost(enumeration = "Protocol", tag = "2")]
    pub(crate) protocol: i32,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(uint64, tag = "4")]
    pub(crate) create_time: u64,
}

/// An entity.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EntityRecord {
    #[prost(string, tag = "1")]
    pub(crate) endpoint: String,
    #[prost(uint32, tag = "2")]
    pub(crate) number: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) agent: u32,
    #[prost(enumeration = "State", tag = "4")]
    pub(crate) state: i32,
    #[prost(message, repeated, tag = "5")]
    pub(crate) ports: Vec<PortRecord>,
    #[prost(string, tag = "6")]
    pub(crate) description: String,
    #[prost(btree_map = "string, string", tag = "7")]
    pub(crate) labels: BTreeMap<String, String>,
    #[prost(uint64, tag = "8")]
    pub(crate) create_time: u64,
    #[prost(uint64, tag = "9")]
    pub(crate) update_time: u64,
    #[prost(uint64, tag = "10")]
    pub(crate) revision: u64,
    /// Until when what was sent last, a create or a delete, may still be started.
    #[prost(uint64, tag = "11")]
    pub(crate) finish_time: u64,
    /// Id of the last delete whose outcome is unknown: a repeat uses it again.
    #[prost(string, tag = "12")]
    pub(crate) delete_message: String,
    /// When the agent last answered for it; an inventory may be older than that.
    #[prost(uint64, tag = "13")]
    pub(crate) answer_time: u64,
    /// Its process, as the agent last told.
    #[prost(message, optional, tag = "14")]
    pub(crate) process: Option<EntityProcess>,
}

impl Record for EntityRecord {
    const VERSION: u8 = 1;
}

impl EntityRecord {
    /// Marks a change.
    pub(crate) fn touch(&mut self, now: u64) {
        self.revision += 1;
        self.update_time = now;
    }

    /// Takes a state.
    pub(crate) fn set(&mut self, state: State) {
        self.state = state.into();
    }

    /// The etag.
    pub(crate) fn etag(&self) -> String {
        etag::of(self.create_time, self.revision)
    }

    /// Its ports as clients see them.
    pub(crate) fn api_ports(&self) -> impl Iterator<Item = Port> {
        self.ports.iter().map(|port| Port {
            agent_id: int(self.agent),
            port: int(port.port),
            protocol: port.protocol,
            endpoint: self.endpoint.clone(),
            entity: int(self.number),
            name: port.name.clone(),
            create_time: Some(to_timestamp(port.create_time)),
        })
    }

    /// The entity as clients see it.
    pub(crate) fn to_api(&self) -> Entity {
        Entity {
            endpoint: self.endpoint.clone(),
            number: int(self.number),
            agent_id: int(self.agent),
            state: EntityState::from(self.state()).into(),
            ports: self.api_ports().collect(),
            description: self.description.clone(),
            labels: self.labels.clone().into_iter().collect(),
            create_time: Some(to_timestamp(self.create_time)),
            update_time: Some(to_timestamp(self.update_time)),
            etag: self.etag(),
            process: self.process.clone(),
        }
    }
}

/// When a process came to its state, by its agent's clock; 0 of none.
pub(crate) fn since(process: Option<&EntityProcess>) -> u64 {
    process.and_then(|process| process.since.as_ref()).map_or(0, from_timestamp)
}
