//! The one way to the guarded state: take a place in the store's queue, then the lock, change
//! memory and queue the write, free the lock, and answer when the write is durable (contract §5).
//!
//! Invariant: the lock is never held across a wait. After a failed write the agent stops, because
//! memory may be ahead of the disk; it starts again from disk.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use goperation::{AgentStatus, Error, Reason, Result, now_millis};
use goperation_store::{Store, Txn};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    lock::{Inspection, Operation, WorkLock},
    state::State,
};

/// State, lock, store and clock of one agent.
#[derive(Debug)]
pub(crate) struct Core {
    store: Arc<dyn Store>,
    lock: WorkLock<State>,
    status: watch::Sender<AgentStatus>,
    failed: CancellationToken,
    /// This host's clock minus the manager's, in milliseconds.
    offset: AtomicI64,
}

impl Core {
    /// A core that starts INITIALIZING with the state that was stored.
    #[must_use]
    pub(crate) fn new(store: Arc<dyn Store>, state: State) -> Self {
        Self {
            store,
            status: watch::Sender::new(state.status),
            lock: WorkLock::new(state),
            failed: CancellationToken::new(),
            offset: AtomicI64::new(0),
        }
    }

    /// Changes the state as one operation of the lock's table. `change` checks first and changes
    /// only what it then cannot refuse; the answer comes when it is durable, and so does a refusal,
    /// because it may rest on an earlier change that is still on its way to the disk.
    ///
    /// # Errors
    /// What `change` refuses; `UNAVAILABLE` when the store has failed.
    pub(crate) async fn change<R>(
        &self,
        operation: Operation,
        change: impl FnOnce(&mut State, &mut Txn) -> Result<R>,
    ) -> Result<R> {
        let slot = self.store.reserve().await.map_err(crate::error::store)?;
        let (answer, written) = {
            let mut state = self
                .lock
                .acquire(operation)
                .await
                .map_err(|reentrant| Error::new(Reason::Internal, reentrant.to_string()))?;
            let mut txn = Txn::new();
            let answer = change(&mut state, &mut txn);
            self.publish(state.status);
            (answer, slot.submit(txn))
        };
        if let Err(error) = written.await {
            self.failed.cancel();
            return Err(crate::error::store(error));
        }
        answer
    }

    /// Reads or changes memory alone, as one operation of the lock's table: for what is not
    /// stored, like the claims of ports that are being probed.
    ///
    /// # Errors
    /// What `look` answers.
    pub(crate) async fn look<R>(
        &self,
        operation: Operation,
        look: impl FnOnce(&mut State) -> Result<R>,
    ) -> Result<R> {
        let mut state = self
            .lock
            .acquire(operation)
            .await
            .map_err(|reentrant| Error::new(Reason::Internal, reentrant.to_string()))?;
        look(&mut state)
    }

    fn publish(&self, status: AgentStatus) {
        self.status.send_if_modified(|now| std::mem::replace(now, status) != status);
    }

    /// The published status, which the gate reads.
    #[must_use]
    pub(crate) fn status(&self) -> AgentStatus {
        *self.status.borrow()
    }

    /// Follows the published status.
    #[must_use]
    pub(crate) fn watch_status(&self) -> watch::Receiver<AgentStatus> {
        self.status.subscribe()
    }

    /// Who holds the lock and who waits.
    #[must_use]
    pub(crate) fn inspect(&self) -> Inspection {
        self.lock.inspect()
    }

    /// Cancelled when a write has failed.
    #[must_use]
    pub(crate) fn failed(&self) -> &CancellationToken {
        &self.failed
    }

    /// The manager's time as this host knows it, in milliseconds since 1970.
    #[must_use]
    pub(crate) fn manager_now(&self) -> u64 {
        now_millis().saturating_add_signed(self.clock_offset().saturating_neg())
    }

    /// This host's clock minus the manager's, in milliseconds.
    #[must_use]
    pub(crate) fn clock_offset(&self) -> i64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// Sets what was measured.
    pub(crate) fn set_clock_offset(&self, millis: i64) {
        self.offset.store(millis, Ordering::Relaxed);
    }
}
