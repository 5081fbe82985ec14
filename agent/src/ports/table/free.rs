//! The free ports in the order in which any-N takes them.
//!
//! Invariant: `order[p]` has exactly the ports of the ranges that are free for `p`, each under the
//! sequence at which it was last freed there (0: never used); for both, the later of the two.

use std::collections::{BTreeMap, BTreeSet};

use super::{PortRanges, Protocol, Slot};

const CLASSES: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Both];

#[derive(Debug)]
pub(super) struct FreeIndex {
    ranges: PortRanges,
    /// What is reserved or claimed, inside and outside of the ranges.
    taken: BTreeSet<Slot>,
    freed: BTreeMap<Slot, u64>,
    order: [BTreeSet<(u64, u16)>; 3],
}

impl FreeIndex {
    pub(super) fn new(ranges: &PortRanges) -> Self {
        let all: BTreeSet<_> = ranges.iter().map(|port| (0, port)).collect();
        Self {
            ranges: ranges.clone(),
            taken: BTreeSet::new(),
            freed: BTreeMap::new(),
            order: [all.clone(), all.clone(), all],
        }
    }

    /// The free ports of a protocol, those longest unused first.
    pub(super) fn in_order(&self, protocol: Protocol) -> &BTreeSet<(u64, u16)> {
        let [tcp, udp, both] = &self.order;
        match protocol {
            Protocol::Tcp => tcp,
            Protocol::Udp => udp,
            Protocol::Both => both,
        }
    }

    pub(super) fn freed(&self, slot: Slot) -> Option<u64> {
        self.freed.get(&slot).copied()
    }

    pub(super) fn take(&mut self, slot: Slot) {
        self.edit(slot.0, |index| {
            index.taken.insert(slot);
        });
    }

    pub(super) fn give(&mut self, slot: Slot) {
        self.edit(slot.0, |index| {
            index.taken.remove(&slot);
        });
    }

    pub(super) fn set_freed(&mut self, slot: Slot, sequence: u64) {
        self.edit(slot.0, |index| {
            index.freed.insert(slot, sequence);
        });
    }

    fn edit(&mut self, port: u16, change: impl FnOnce(&mut Self)) {
        let before = CLASSES.map(|class| self.entry(class, port));
        change(self);
        let after = CLASSES.map(|class| self.entry(class, port));
        for ((order, before), after) in self.order.iter_mut().zip(before).zip(after) {
            if let Some(entry) = before {
                order.remove(&entry);
            }
            order.extend(after);
        }
    }

    /// How a port stands in the order of a protocol, if it is free there.
    fn entry(&self, protocol: Protocol, port: u16) -> Option<(u64, u16)> {
        let slots = protocol.singles().iter().map(|&p| (port, p));
        if !self.ranges.contains(port) || slots.clone().any(|slot| self.taken.contains(&slot)) {
            return None;
        }
        Some((slots.filter_map(|slot| self.freed(slot)).max().unwrap_or(0), port))
    }
}
