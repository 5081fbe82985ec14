//! The bridge itself: one cloneable handle over a transport.
//!
//! Invariant: whatever it waits for has a deadline, and what it keeps is bounded: waiting CALLs,
//! streams, and deliveries that are not acknowledged.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    BridgeConfig, QueueName, Transport,
    receive::Streams,
    reply::{self, Calls},
};

/// How long the tasks are given to end.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// Names of queues that are remembered for listing.
const MAX_SEEN: usize = 100_000;

/// Turns commands into messages on a transport, and replies into answers.
#[derive(Debug, Clone)]
pub struct Bridge {
    pub(crate) inner: Arc<Inner>,
}

/// What the handles share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) config: BridgeConfig,
    /// Name of this bridge: replies come to the queue of that name.
    pub(crate) name: String,
    pub(crate) calls: Arc<Calls>,
    pub(crate) streams: Arc<Streams>,
    /// Whether replies arrive now.
    pub(crate) replies: watch::Receiver<bool>,
    pub(crate) stop: CancellationToken,
    seen: Mutex<BTreeSet<QueueName>>,
    tasks: TaskTracker,
}

impl Bridge {
    /// Starts a bridge on that transport: from now on it takes replies. Must be called within a
    /// tokio runtime. The transport stays the caller's: it is not closed with the bridge.
    #[must_use]
    pub fn start(transport: Arc<dyn Transport>, config: BridgeConfig) -> Self {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let calls = Arc::new(Calls::new(config.max_calls));
        let streams = Arc::new(Streams::new(config.max_receive_streams));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (connected, replies) = watch::channel(false);
        tasks.spawn(reply::take_replies(
            transport.clone(),
            name.clone(),
            calls.clone(),
            connected,
            stop.clone(),
        ));
        tasks.close();
        let seen = Mutex::new(BTreeSet::from([QueueName::Dead]));
        Self {
            inner: Arc::new(Inner {
                transport,
                config,
                name,
                calls,
                streams,
                replies,
                stop,
                seen,
                tasks,
            }),
        }
    }

    /// Ends the bridge: CALLs that still wait are answered OUTCOME_UNKNOWN, streams end.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        if timeout(CLOSE_WAIT, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("the bridge did not end in time");
        }
    }

    /// CALLs that wait for their replies now.
    #[must_use]
    pub fn waiting_calls(&self) -> usize {
        self.inner.calls.len()
    }

    /// The transport below.
    #[must_use]
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.inner.transport
    }
}

impl Inner {
    /// Remembers queues for listing.
    pub(crate) fn remember(&self, names: impl IntoIterator<Item = QueueName>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            if seen.len() < MAX_SEEN {
                seen.insert(name);
            }
        }
    }

    /// Forgets queues that were removed.
    pub(crate) fn forget(&self, names: &[QueueName]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            seen.remove(name);
        }
    }

    /// The queues that this bridge knows of.
    pub(crate) fn seen(&self) -> BTreeSet<QueueName> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
