//! What went through the agent since its start, for `status_agent` and for those who run it.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

/// Counts that only grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    deliveries: AtomicU64,
    resent: AtomicU64,
    refused: AtomicU64,
    started: AtomicU64,
    done: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Deliveries that were meant for this agent.
    pub deliveries: u64,
    /// Deliveries that were sent again, or answered AGENT_BUSY, because of the status or a bound.
    pub resent: u64,
    /// Deliveries that were refused.
    pub refused: u64,
    /// Methods that were started.
    pub started: u64,
    /// Messages that got their outcome.
    pub done: u64,
}

impl Counters {
    pub(crate) fn delivered(&self) {
        self.deliveries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn resent(&self) {
        self.resent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn started(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Counts {
        Counts {
            deliveries: self.deliveries.load(Ordering::Relaxed),
            resent: self.resent.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            started: self.started.load(Ordering::Relaxed),
            done: self.done.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let counts = self.read();
        json!({
            "deliveries": counts.deliveries,
            "resent": counts.resent,
            "refused": counts.refused,
            "started": counts.started,
            "done": counts.done,
        })
    }
}
