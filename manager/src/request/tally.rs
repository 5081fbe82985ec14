//! Where the rows of a request are: counts, and the orders in which they are looked for.
//!
//! Invariant: it says of the rows that were entered, and not left since, exactly what going over
//! all of them would say.

use std::collections::{BTreeMap, BTreeSet};

use goperation::v1::{RequestCounts, ResponseState};

use crate::record::RowRecord;

/// Counts and orders of rows.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: RequestCounts,
    /// Not sent to yet, in the order of sending: by batch and number.
    unsent: BTreeSet<(u32, u32)>,
    /// How many of them each batch has.
    ready: BTreeMap<u32, usize>,
    /// Sent to or being sent to, by deadline.
    out: BTreeSet<(u64, u32)>,
    /// Rows of each batch that are not final.
    open: BTreeMap<u32, usize>,
    /// Rows of each batch whose sending was begun.
    begun: BTreeMap<u32, usize>,
    /// Rows of each batch of which nobody knows that they were sent.
    pending: BTreeMap<u32, usize>,
}

impl Tally {
    /// Counts a row from here on.
    pub(super) fn enter(&mut self, row: &RowRecord) {
        self.counts.agents += 1;
        self.count(row, true);
    }

    /// Counts a row no more: it is about to change.
    pub(super) fn leave(&mut self, row: &RowRecord) {
        self.counts.agents -= 1;
        self.count(row, false);
    }

    fn count(&mut self, row: &RowRecord, enter: bool) {
        let step = if enter { 1 } else { -1 };
        let counts = &mut self.counts;
        match row.state() {
            ResponseState::Succeeded => counts.succeeded += step,
            ResponseState::Failed => counts.failed += step,
            ResponseState::Silent => counts.silent += step,
            ResponseState::Skipped => counts.skipped += step,
            ResponseState::Sent | ResponseState::Accepted | ResponseState::Running => {
                counts.running += step;
            }
            ResponseState::Pending | ResponseState::Unspecified => {
                counts.pending += step;
                tally(&mut self.pending, row.batch, enter);
            }
        }
        if row.late {
            counts.late += step;
        }
        if row.sending {
            tally(&mut self.begun, row.batch, enter);
        }
        if row.is_final() {
            return;
        }
        tally(&mut self.open, row.batch, enter);
        if row.sending {
            place(&mut self.out, (row.deadline, row.agent), enter);
        } else {
            place(&mut self.unsent, (row.batch, row.agent), enter);
            tally(&mut self.ready, row.batch, enter);
        }
    }

    /// How many agents are where.
    pub(super) fn counts(&self) -> RequestCounts {
        self.counts
    }

    /// The first batch that has not ended.
    pub(super) fn batch(&self) -> Option<u32> {
        self.open.first_key_value().map(|(&batch, _)| batch)
    }

    /// Whether anything was sent of any batch.
    pub(super) fn has_begun(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Whether anything was sent of a batch.
    pub(super) fn has_begun_with(&self, batch: u32) -> bool {
        self.begun.contains_key(&batch)
    }

    /// Agents that were not sent to yet, in order.
    pub(super) fn unsent(&self) -> impl Iterator<Item = u32> {
        self.unsent.iter().map(|&(_, agent)| agent)
    }

    /// Agents of a batch that were not sent to yet, in order.
    pub(super) fn unsent_of(&self, batch: u32) -> impl Iterator<Item = u32> {
        self.unsent.range((batch, 0)..=(batch, u32::MAX)).map(|&(_, agent)| agent)
    }

    /// How many they are.
    pub(super) fn ready_of(&self, batch: u32) -> usize {
        self.ready.get(&batch).copied().unwrap_or_default()
    }

    /// Whether of everyone in a batch it is known that it was sent to, or will not be.
    pub(super) fn was_sent(&self, batch: u32) -> bool {
        !self.pending.contains_key(&batch)
    }

    /// Agents that are sent to or being sent to, with their deadlines, the next one first.
    pub(super) fn out(&self) -> impl Iterator<Item = (u64, u32)> {
        self.out.iter().copied()
    }

    /// How many they are.
    pub(super) fn running(&self) -> usize {
        self.out.len()
    }
}

fn tally(counts: &mut BTreeMap<u32, usize>, batch: u32, enter: bool) {
    let count = counts.entry(batch).or_default();
    *count = if enter { *count + 1 } else { count.saturating_sub(1) };
    if *count == 0 {
        counts.remove(&batch);
    }
}

fn place<T: Ord>(set: &mut BTreeSet<T>, item: T, enter: bool) {
    if enter {
        set.insert(item);
    } else {
        set.remove(&item);
    }
}
