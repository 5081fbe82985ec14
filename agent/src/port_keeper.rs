//! The ports of one agent without the rest of it: the same state, lock, store and probe, and no
//! manager or broker.
//!
//! Invariant: as everywhere in the agent, an answer is durable.

use std::sync::Arc;

use goperation::{EndpointName, Result};
use goperation_store::Store;

use crate::{
    core::Core,
    lock::Operation,
    ports::{Counts, Freed, PortRanges, Protocol, Reserved, Wish},
    state::{EntityKey, EntityPhase, State, scan_all},
};

/// Reserves and frees the ports of one agent.
#[derive(Debug)]
pub struct PortKeeper(Core);

impl PortKeeper {
    /// Takes up what the store holds.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store cannot be read; `INTERNAL` naming a row that makes no sense.
    pub async fn open(store: Arc<dyn Store>, ranges: PortRanges) -> Result<Self> {
        let rows = scan_all(&*store).await.map_err(crate::error::store)?;
        Ok(Self(Core::new(store, State::load(ranges, &rows)?)))
    }

    /// Makes an entity, unless it is there.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store has failed.
    pub async fn add_entity(&self, key: &EntityKey) -> Result<()> {
        self.0
            .change(Operation::CreateEntity, |state, txn| {
                if !state.entities.contains_key(key) {
                    state.put_entity(key, EntityPhase::Ready, txn);
                }
                Ok(())
            })
            .await
    }

    /// Removes an entity and frees its ports.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store has failed.
    pub async fn remove_entity(&self, key: &EntityKey) -> Result<()> {
        self.0
            .change(Operation::DeleteEntity, |state, txn| {
                state.delete_entity(key, txn);
                Ok(())
            })
            .await
    }

    /// Reserves ports for an entity, all or nothing.
    ///
    /// # Errors
    /// `PORT_TAKEN` naming port and holder, `PORTS_EXHAUSTED`, `PORT_OUT_OF_RANGE`,
    /// `INVALID_ARGUMENT`, `ENTITY_NOT_FOUND`; `UNAVAILABLE` when the store has failed.
    pub async fn reserve(&self, key: &EntityKey, wishes: &[Wish]) -> Result<Vec<Reserved>> {
        self.0.reserve(key, wishes).await
    }

    /// Frees ports, of any entity or only of those that are named; what was not reserved is told,
    /// not refused.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store has failed.
    pub async fn free(
        &self,
        ports: &[u16],
        protocol: Option<Protocol>,
        endpoint: Option<&EndpointName>,
        entity: Option<u32>,
    ) -> Result<Freed> {
        self.0.free(ports, protocol, endpoint, entity, false).await
    }

    /// Every reservation, ascending by port.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store has failed.
    pub async fn all(&self) -> Result<Vec<Reserved>> {
        self.0.change(Operation::IsActive, |state, _| Ok(state.ports.all())).await
    }

    /// How many ports are in which state.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store has failed.
    pub async fn counts(&self) -> Result<Counts> {
        self.0.change(Operation::IsActive, |state, _| Ok(state.ports.counts())).await
    }
}
