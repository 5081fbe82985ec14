//! Who has which port of this host: pure memory, guarded by the work lock.
//!
//! Invariants: a (protocol, port) is reserved once at most, and never both reserved and claimed; a
//! reservation is all or nothing; any-N takes the ports longest unused. The index of free ports
//! always agrees with reservations, claims and ranges.

mod free;
mod rows;

use std::collections::{BTreeMap, BTreeSet};

use goperation::{EndpointName, Error, Reason};

use self::free::FreeIndex;
use super::{PortRanges, Protocol, Wish};
use crate::state::EntityKey;

pub use self::rows::{Claim, Claimed, Counts, Freed, Reserved};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Holding {
    entity: EntityKey,
    name: String,
    since: u64,
}

/// Key of a reservation: a number and TCP or UDP.
type Slot = (u16, Protocol);

/// The ports of one agent.
#[derive(Debug)]
pub struct PortTable {
    ranges: PortRanges,
    slots: BTreeMap<Slot, Holding>,
    by_entity: BTreeMap<EntityKey, BTreeSet<Slot>>,
    claimed: BTreeSet<Slot>,
    free: FreeIndex,
    /// The sequence of the next port that is freed.
    next_freed: u64,
}

impl PortTable {
    /// A table with every port of the ranges free and never used.
    #[must_use]
    pub fn new(ranges: PortRanges) -> Self {
        Self {
            free: FreeIndex::new(&ranges),
            ranges,
            slots: BTreeMap::new(),
            by_entity: BTreeMap::new(),
            claimed: BTreeSet::new(),
            next_freed: 1,
        }
    }

    /// Takes up a stored reservation, whole or one slot at a time; one outside of the ranges is
    /// kept until it is freed.
    ///
    /// # Errors
    /// `INTERNAL` when somebody has the port already; nothing is changed then.
    pub fn restore(&mut self, reserved: Reserved) -> Result<(), Error> {
        for (protocol, port) in reserved.slots() {
            if self.slots.contains_key(&(port, protocol))
                || self.claimed.contains(&(port, protocol))
            {
                return Err(Error::new(
                    Reason::Internal,
                    format!("port {port}/{protocol} is stored with two owners"),
                ));
            }
        }
        self.insert(&reserved);
        Ok(())
    }

    /// Takes up a stored freed sequence (see [`PortTable::freed_sequence`]).
    pub fn restore_freed(&mut self, protocol: Protocol, port: u16, sequence: u64) {
        self.next_freed = self.next_freed.max(sequence.saturating_add(1));
        for &protocol in protocol.singles() {
            self.free.set_freed((port, protocol), sequence);
        }
    }

    /// Claims what a reservation asks for, all or nothing. Ports in `skip`, each with TCP, UDP or
    /// both, are held by something else on the host.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming bad fields, `PORT_OUT_OF_RANGE` naming the ranges, `PORT_TAKEN`
    /// naming port and holder, `PORTS_EXHAUSTED` naming how many are asked for and free.
    pub fn claim(
        &mut self,
        wishes: &[Wish],
        skip: &BTreeSet<(Protocol, u16)>,
    ) -> Result<Claim, Error> {
        Wish::check_all(wishes)?;
        let skip: BTreeSet<Slot> = skip
            .iter()
            .flat_map(|&(protocol, port)| protocol.singles().iter().map(move |&p| (port, p)))
            .collect();
        let mut mine = BTreeSet::new();
        for wish in wishes {
            let Some(port) = wish.given() else { continue };
            self.check_given(port, wish.protocol, &skip)?;
            mine.extend(wish.protocol.singles().iter().map(|&p| (port, p)));
        }
        // Both first: what it takes, it takes from TCP and UDP alike, so it is never in vain.
        let mut any: BTreeMap<Protocol, std::vec::IntoIter<u16>> = BTreeMap::new();
        for class in [Protocol::Both, Protocol::Tcp, Protocol::Udp] {
            let asked: u64 = wishes
                .iter()
                .filter(|w| w.given().is_none() && w.protocol == class)
                .map(|w| u64::from(w.wanted()))
                .sum();
            let ports = self.pick(class, asked, &skip, &mine)?;
            mine.extend(ports.iter().flat_map(|&n| class.singles().iter().map(move |&p| (n, p))));
            any.insert(class, ports.into_iter());
        }
        let mut claimed = Vec::new();
        for wish in wishes {
            let numbers: Vec<u16> = match wish.given() {
                Some(port) => vec![port],
                None => any
                    .get_mut(&wish.protocol)
                    .map(|ports| ports.take(usize::try_from(wish.wanted()).unwrap_or(usize::MAX)))
                    .map(Iterator::collect)
                    .unwrap_or_default(),
            };
            claimed.extend(numbers.into_iter().enumerate().map(|(nth, port)| Claimed {
                port,
                protocol: wish.protocol,
                name: wish.name_of(nth),
                given: wish.given().is_some(),
            }));
        }
        for &slot in &mine {
            self.claimed.insert(slot);
            self.free.take(slot);
        }
        Ok(Claim(claimed))
    }

    /// Reserves what was claimed, in the order of the wishes.
    pub fn commit(&mut self, claim: Claim, entity: &EntityKey, since: u64) -> Vec<Reserved> {
        let claimed = claim.0.into_iter().map(|port| Reserved {
            port: port.port,
            protocol: port.protocol,
            entity: entity.clone(),
            name: port.name,
            since,
        });
        let reserved: Vec<_> = claimed.collect();
        for row in &reserved {
            for (protocol, port) in row.slots() {
                self.claimed.remove(&(port, protocol));
            }
            self.insert(row);
        }
        reserved
    }

    /// Gives a claim up: its ports are as free, and as long unused, as before.
    pub fn release_claim(&mut self, claim: Claim) {
        for port in claim.0 {
            for &protocol in port.protocol.singles() {
                self.claimed.remove(&(port.port, protocol));
                self.free.give((port.port, protocol));
            }
        }
    }

    /// Something else on the host has this free port: it is not long unused, so others are tried
    /// before it from now on. Not stored: after a restart it is tried once more.
    pub fn seen_in_use(&mut self, protocol: Protocol, port: u16) {
        for &protocol in protocol.singles() {
            self.free.set_freed((port, protocol), self.next_freed);
        }
        self.next_freed += 1;
    }

    /// The reservations under a number that [`PortTable::free`] means.
    fn meant(
        &self,
        port: u16,
        protocol: Option<Protocol>,
        endpoint: Option<&EndpointName>,
        entity: Option<u32>,
    ) -> Vec<Slot> {
        let slots = protocol.unwrap_or_default().singles().iter().map(|&p| (port, p));
        let is_meant = |holder: &EntityKey| {
            endpoint.is_none_or(|e| *e == holder.endpoint)
                && entity.is_none_or(|n| n == holder.number)
        };
        slots
            .filter(|slot| self.slots.get(slot).is_some_and(|holding| is_meant(&holding.entity)))
            .collect()
    }

    /// The numbers under which nothing that [`PortTable::free`] means is reserved, ascending.
    #[must_use]
    pub fn unknown(
        &self,
        ports: &[u16],
        protocol: Option<Protocol>,
        endpoint: Option<&EndpointName>,
        entity: Option<u32>,
    ) -> Vec<u16> {
        let numbers: BTreeSet<u16> = ports.iter().copied().collect();
        let unknown = |port: &u16| self.meant(*port, protocol, endpoint, entity).is_empty();
        numbers.into_iter().filter(unknown).collect()
    }

    /// Frees ports, on one protocol or (`None`) on both, and only those of an endpoint or entity
    /// where one is given.
    pub fn free(
        &mut self,
        ports: &[u16],
        protocol: Option<Protocol>,
        endpoint: Option<&EndpointName>,
        entity: Option<u32>,
    ) -> Freed {
        let mut freed = Freed::default();
        let numbers: BTreeSet<u16> = ports.iter().copied().collect();
        for port in numbers {
            let meant = self.meant(port, protocol, endpoint, entity);
            if meant.is_empty() {
                freed.unknown.push(port);
            }
            freed.freed.extend(self.remove(&meant));
        }
        freed
    }

    /// Frees every port of an entity.
    pub fn free_entity(&mut self, entity: &EntityKey) -> Vec<Reserved> {
        let slots = self.by_entity.get(entity).cloned().unwrap_or_default();
        self.remove(&slots.into_iter().collect::<Vec<_>>())
    }

    /// The ports of an entity, ascending.
    #[must_use]
    pub fn of_entity(&self, entity: &EntityKey) -> Vec<Reserved> {
        let slots = self.by_entity.get(entity).into_iter().flatten();
        rows(slots.filter_map(|slot| self.slots.get(slot).map(|holding| (*slot, holding))))
    }

    /// Every reservation, ascending by port.
    #[must_use]
    pub fn all(&self) -> Vec<Reserved> {
        rows(self.slots.iter().map(|(slot, holding)| (*slot, holding)))
    }

    /// The place of a slot (TCP or UDP) in the order of everything that was ever freed, to be
    /// stored when it is freed; `None` when it never was.
    #[must_use]
    pub fn freed_sequence(&self, protocol: Protocol, port: u16) -> Option<u64> {
        self.free.freed((port, protocol))
    }

    /// How many ports are in which state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            ports: self.ranges.count(),
            reserved: self.slots.len(),
            claimed: self.claimed.len(),
            free_tcp: self.free.in_order(Protocol::Tcp).len(),
            free_udp: self.free.in_order(Protocol::Udp).len(),
            free_both: self.free.in_order(Protocol::Both).len(),
        }
    }

    /// Which ports may be handed out.
    #[must_use]
    pub fn ranges(&self) -> &PortRanges {
        &self.ranges
    }

    fn check_given(
        &self,
        port: u16,
        protocol: Protocol,
        skip: &BTreeSet<Slot>,
    ) -> Result<(), Error> {
        if !self.ranges.contains(port) {
            return Err(Error::new(
                Reason::PortOutOfRange,
                format!("port {port} is outside of this agent's ranges: {}", self.ranges),
            )
            .with("port", port)
            .with("ranges", &self.ranges));
        }
        for &protocol in protocol.singles() {
            let slot = (port, protocol);
            let holder = if let Some(holding) = self.slots.get(&slot) {
                format!("{} {}", holding.entity.endpoint, holding.entity.number)
            } else if self.claimed.contains(&slot) {
                "a reservation in progress".to_owned()
            } else if skip.contains(&slot) {
                "something else on the host".to_owned()
            } else {
                continue;
            };
            return Err(Error::new(
                Reason::PortTaken,
                format!("port {port}/{protocol} is taken by {holder}"),
            )
            .with("port", port)
            .with("protocol", protocol)
            .with("holder", holder));
        }
        Ok(())
    }

    /// The ports longest unused that are free for `protocol`.
    fn pick(
        &self,
        protocol: Protocol,
        asked: u64,
        skip: &BTreeSet<Slot>,
        mine: &BTreeSet<Slot>,
    ) -> Result<Vec<u16>, Error> {
        let usable = |port: u16| {
            let mut slots = protocol.singles().iter().map(|&p| (port, p));
            slots.all(|slot| !skip.contains(&slot) && !mine.contains(&slot))
        };
        let ports: Vec<u16> = self
            .free
            .in_order(protocol)
            .iter()
            .map(|&(_, port)| port)
            .filter(|&port| usable(port))
            .take(usize::try_from(asked).unwrap_or(usize::MAX))
            .collect();
        let free = ports.len();
        if free as u64 == asked {
            return Ok(ports);
        }
        let what = if protocol == Protocol::Both { "tcp+udp" } else { protocol.name() };
        Err(Error::new(
            Reason::PortsExhausted,
            format!("{asked} {what} ports are asked for, {free} are free in {}", self.ranges),
        )
        .with("asked", asked)
        .with("free", free)
        .with("protocol", protocol)
        .with("ranges", &self.ranges))
    }

    fn insert(&mut self, reserved: &Reserved) {
        for (protocol, port) in reserved.slots() {
            let slot = (port, protocol);
            let holding = Holding {
                entity: reserved.entity.clone(),
                name: reserved.name.clone(),
                since: reserved.since,
            };
            self.slots.insert(slot, holding);
            self.by_entity.entry(reserved.entity.clone()).or_default().insert(slot);
            self.free.take(slot);
        }
    }

    /// Removes reservations; ports of one number that are freed together were last used together.
    fn remove(&mut self, slots: &[Slot]) -> Vec<Reserved> {
        let mut removed = Vec::with_capacity(slots.len());
        for &slot in slots {
            if let Some(holding) = self.slots.remove(&slot) {
                if let Some(of_entity) = self.by_entity.get_mut(&holding.entity) {
                    of_entity.remove(&slot);
                    if of_entity.is_empty() {
                        self.by_entity.remove(&holding.entity);
                    }
                }
                removed.push((slot, holding));
            }
        }
        let rows = rows(removed.iter().map(|(slot, holding)| (*slot, holding)));
        for row in &rows {
            for (protocol, port) in row.slots() {
                self.free.set_freed((port, protocol), self.next_freed);
                self.free.give((port, protocol));
            }
            self.next_freed += 1;
        }
        rows
    }
}

/// Slots in ascending order as reservations: TCP and UDP of one number and holder are one.
fn rows<'a>(slots: impl Iterator<Item = (Slot, &'a Holding)>) -> Vec<Reserved> {
    let mut rows: Vec<Reserved> = Vec::new();
    for ((port, protocol), holding) in slots {
        let Holding { entity, name, since } = holding.clone();
        let row = Reserved { port, protocol, entity, name, since };
        match rows.last_mut() {
            Some(last) if (Reserved { protocol, ..last.clone() }) == row => {
                last.protocol = Protocol::Both;
            }
            _ => rows.push(row),
        }
    }
    rows
}
