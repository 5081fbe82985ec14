//! What the work lock guards: the agent's status, its identity, its entities and its ports.
//!
//! Invariant: memory is never behind the disk and only ahead of it by writes that are queued; an
//! answer waits for them. Nothing here does I/O or waits.

mod record;
mod upgrade;

use std::collections::{BTreeMap, VecDeque};

use goperation::{AgentStatus, EndpointName, Error, Reason, Secret, v1};
use goperation_store::{Row, Txn};

use crate::{
    ports::{PortRanges, PortTable, Reserved},
    process::ProcessRow,
    token::EntityToken,
};

pub(crate) use record::scan_all;
pub(crate) use upgrade::Upgrade;

/// Transitions that are kept on disk.
const KEPT_TRANSITIONS: u64 = 1000;

/// Names one entity of this agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityKey {
    /// Endpoint.
    pub endpoint: EndpointName,
    /// Number.
    pub number: u32,
}

/// Where an entity is in its life on this agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntityPhase {
    /// Its create method is running.
    Creating,
    /// Created.
    Ready,
    /// Its create method was interrupted: what it left is not known.
    Failed,
}

impl EntityPhase {
    /// Its name, as callers see it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Creating => "CREATING",
            Self::Ready => "READY",
            Self::Failed => "FAILED",
        }
    }
}

/// Why the agent is SOFTBUSY, and what it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// An operator asked for it.
    Operator,
    /// The journal's bound was reached.
    Bound,
}

/// The first phase of a delete, waiting for the second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Precommit {
    /// Who has it may go on.
    pub(crate) secret: Secret,
    /// When it lapses, in milliseconds since 1970 by this host's clock.
    pub(crate) lapses: u64,
}

/// One change of status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transition {
    /// Its place in the order of all of them.
    pub(crate) sequence: u64,
    /// Before.
    pub(crate) from: AgentStatus,
    /// After.
    pub(crate) to: AgentStatus,
    /// What made it.
    pub(crate) cause: String,
    /// Who asked for it.
    pub(crate) actor: String,
    /// When, in milliseconds since 1970 by this host's clock.
    pub(crate) time: u64,
}

impl From<&Transition> for v1::AgentTransition {
    fn from(t: &Transition) -> Self {
        Self {
            from: t.from.number(),
            to: t.to.number(),
            cause: t.cause.clone(),
            actor: t.actor.clone(),
            time: Some(goperation::to_timestamp(t.time)),
        }
    }
}

/// Who changes a status, and why.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Because<'a> {
    /// What makes the change.
    pub(crate) cause: &'a str,
    /// Who asked for it.
    pub(crate) actor: &'a str,
    /// When, in milliseconds since 1970.
    pub(crate) now: u64,
}

/// The guarded state.
#[derive(Debug)]
pub(crate) struct State {
    /// Number, once the manager gave one.
    pub(crate) agent_id: Option<u32>,
    /// Status now.
    pub(crate) status: AgentStatus,
    /// The status to give back when SOFTBUSY, HARDBUSY or PERDELETE ends.
    pub(crate) former: AgentStatus,
    /// Why it is SOFTBUSY, if it is.
    pub(crate) pause: Option<Pause>,
    /// The open precommit, if there is one.
    pub(crate) precommit: Option<Precommit>,
    /// Ports.
    pub(crate) ports: PortTable,
    /// Entities.
    pub(crate) entities: BTreeMap<EntityKey, EntityPhase>,
    /// Tokens of entities that are about to be deleted; expired ones until they are replaced.
    pub(crate) tokens: BTreeMap<EntityKey, EntityToken>,
    /// The last upgrade.
    pub(crate) upgrade: Option<Upgrade>,
    /// Processes of entities that were started once.
    pub(crate) processes: BTreeMap<EntityKey, ProcessRow>,
    /// Raised at each change of entities, ports or processes, and at each start.
    pub(crate) generation: u64,
    /// Transitions that the manager has not seen, oldest first.
    pub(crate) unreported: VecDeque<Transition>,
    next_transition: u64,
}

impl State {
    /// The state of a new agent.
    #[must_use]
    pub(crate) fn new(ranges: PortRanges) -> Self {
        Self {
            agent_id: None,
            status: AgentStatus::Initializing,
            former: AgentStatus::Unactive,
            pause: None,
            precommit: None,
            ports: PortTable::new(ranges),
            entities: BTreeMap::new(),
            tokens: BTreeMap::new(),
            processes: BTreeMap::new(),
            upgrade: None,
            generation: 0,
            unreported: VecDeque::new(),
            next_transition: 1,
        }
    }

    /// The state that the rows of the store hold. The status is the one that was stored.
    ///
    /// # Errors
    /// `INTERNAL` naming the row that cannot be read.
    pub(crate) fn load(ranges: PortRanges, rows: &[Row]) -> Result<Self, Error> {
        record::load(ranges, rows)
    }

    /// Sets the status whatever it is (`force_status`), and records the transition.
    pub(crate) fn force_status(&mut self, to: AgentStatus, because: Because<'_>, txn: &mut Txn) {
        let from = std::mem::replace(&mut self.status, to);
        let transition = Transition {
            sequence: self.next_transition,
            from,
            to,
            cause: because.cause.to_owned(),
            actor: because.actor.to_owned(),
            time: because.now,
        };
        self.next_transition += 1;
        record::put_transition(txn, &transition);
        if let Some(old) = transition.sequence.checked_sub(KEPT_TRANSITIONS) {
            record::delete_transition(txn, old);
        }
        self.unreported.push_back(transition);
        if self.unreported.len() > usize::try_from(KEPT_TRANSITIONS).unwrap_or(usize::MAX) {
            self.unreported.pop_front();
        }
        self.put_status(txn);
    }

    /// Sets the status unless it is below SOFTBUSY (`set_status`).
    ///
    /// # Errors
    /// `STATE_REFUSED` naming the status.
    pub(crate) fn set_status(
        &mut self,
        to: AgentStatus,
        because: Because<'_>,
        txn: &mut Txn,
    ) -> Result<(), Error> {
        if self.status < AgentStatus::SoftBusy {
            return Err(self.refused(&format!("it cannot become {to}")));
        }
        self.force_status(to, because, txn);
        Ok(())
    }

    /// That the status does not allow something.
    #[must_use]
    pub(crate) fn refused(&self, what: &str) -> Error {
        Error::new(Reason::StateRefused, format!("the agent is {}: {what}", self.status))
            .with("state", self.status)
    }

    /// Writes status, former status, pause and precommit.
    pub(crate) fn put_status(&self, txn: &mut Txn) {
        record::put_status(txn, self);
    }

    /// Sets the agent's number once.
    ///
    /// # Errors
    /// `STATE_REFUSED` for another number than the one that it has.
    pub(crate) fn set_agent_id(&mut self, id: u32, txn: &mut Txn) -> Result<(), Error> {
        match self.agent_id {
            Some(known) if known != id => Err(Error::new(
                Reason::StateRefused,
                format!("this agent has number {known}; it cannot become {id}"),
            )
            .with("agent", known)),
            _ => {
                self.agent_id = Some(id);
                record::put_agent_id(txn, id);
                Ok(())
            }
        }
    }

    /// Gives up the agent's number, for `adopt`.
    pub(crate) fn forget_agent_id(&mut self, txn: &mut Txn) {
        self.agent_id = None;
        record::delete_agent_id(txn);
    }

    /// Sets an entity's phase, or makes it.
    pub(crate) fn put_entity(&mut self, key: &EntityKey, phase: EntityPhase, txn: &mut Txn) {
        self.entities.insert(key.clone(), phase);
        record::put_entity(txn, key, phase);
        self.raise_generation(txn);
    }

    /// Sets the token of an entity.
    pub(crate) fn put_token(&mut self, key: &EntityKey, token: EntityToken, txn: &mut Txn) {
        record::put_token(txn, key, &token);
        self.tokens.insert(key.clone(), token);
    }

    /// Notes what the process of an entity does.
    pub(crate) fn put_process(&mut self, key: &EntityKey, row: ProcessRow, txn: &mut Txn) {
        let row = record::put_process(txn, key, row);
        self.processes.insert(key.clone(), row);
        self.raise_generation(txn);
    }

    /// Removes an entity with its token and its process, and frees its ports.
    pub(crate) fn delete_entity(&mut self, key: &EntityKey, txn: &mut Txn) {
        self.entities.remove(key);
        record::delete_entity(txn, key);
        if self.tokens.remove(key).is_some() {
            record::delete_token(txn, key);
        }
        if self.processes.remove(key).is_some() {
            record::delete_process(txn, key);
        }
        let freed = self.ports.free_entity(key);
        self.put_freed(&freed, txn);
        self.raise_generation(txn);
    }

    /// Writes reservations.
    pub(crate) fn put_reserved(&mut self, reserved: &[Reserved], txn: &mut Txn) {
        for port in reserved {
            record::put_port(txn, port);
        }
        self.raise_generation(txn);
    }

    /// Writes that ports are free again.
    pub(crate) fn put_freed(&mut self, freed: &[Reserved], txn: &mut Txn) {
        for port in freed {
            record::put_freed(txn, port, &self.ports);
        }
        if !freed.is_empty() {
            self.raise_generation(txn);
        }
    }

    /// Raises the generation: the manager will ask for the inventory.
    pub(crate) fn raise_generation(&mut self, txn: &mut Txn) {
        self.generation += 1;
        record::put_generation(txn, self.generation);
    }

    /// Forgets transitions that the manager has seen.
    pub(crate) fn reported(&mut self, up_to: u64, txn: &mut Txn) {
        self.unreported.retain(|t| t.sequence > up_to);
        record::put_reported(txn, up_to);
    }
}
