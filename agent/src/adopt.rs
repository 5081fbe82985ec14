//! `gop agent adopt`: makes a deleted agent new.
//!
//! Invariant: entities, ports and the journal stay; only the identity is given up, so the next
//! start registers under a new number and reconciles what is there.

use std::sync::Arc;

use goperation::{AgentStatus, Error, Secret, now_millis};
use goperation_store::{Store, Txn};

use crate::{
    config::Config,
    error::RunError,
    start::{SECRET_KEY, open},
    state::{Because, State, scan_all},
};

/// Why an agent was not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The store cannot be used; a running agent has it open.
    #[error(transparent)]
    Store(#[from] RunError),
    /// What is stored cannot be read.
    #[error("the agent's store cannot be read: {0}")]
    Unreadable(Error),
    /// Only a deleted agent is adopted.
    #[error("the agent is not deleted, its stored status is {0}; there is nothing to adopt")]
    NotDeleted(AgentStatus),
}

/// What was adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adopted {
    /// The number that it had.
    pub former_id: Option<u32>,
    /// Entities that it keeps.
    pub entities: usize,
}

/// Gives up the identity of a deleted agent.
///
/// # Errors
/// See [`AdoptError`].
pub async fn adopt(config: &Config) -> Result<Adopted, AdoptError> {
    let sled = open(config).await?;
    let adopted = in_store(Arc::new(sled.clone()), config).await;
    sled.close().await;
    adopted
}

async fn in_store(store: Arc<dyn Store>, config: &Config) -> Result<Adopted, AdoptError> {
    let rows = scan_all(&*store).await.map_err(RunError::Store)?;
    let mut state =
        State::load(config.ports_ranges.clone(), &rows).map_err(AdoptError::Unreadable)?;
    if state.status != AgentStatus::Deleted {
        return Err(AdoptError::NotDeleted(state.status));
    }
    let adopted = Adopted { former_id: state.agent_id, entities: state.entities.len() };
    let mut txn = Txn::new();
    state.precommit = None;
    state.former = AgentStatus::Unactive;
    let because = Because { cause: "adopt", actor: "operator", now: now_millis() };
    state.force_status(AgentStatus::Initializing, because, &mut txn);
    state.forget_agent_id(&mut txn);
    let txn = txn.put(SECRET_KEY, Secret::generate().reveal());
    store.commit(txn).await.map_err(RunError::Store)?;
    Ok(adopted)
}
