//! What goes into the table and comes out of it.

use super::Protocol;
use crate::state::EntityKey;

/// A reservation: one port, on one protocol or on both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// Number.
    pub port: u16,
    /// Protocol; [`Protocol::Both`] when the same holder has both.
    pub protocol: Protocol,
    /// Who has it.
    pub entity: EntityKey,
    /// Name that the entity knows it by; may be empty.
    pub name: String,
    /// When it was reserved, in milliseconds since 1970.
    pub since: u64,
}

impl Reserved {
    /// Its slots, TCP and UDP apart: what no two reservations share, and so the keys to store.
    pub fn slots(&self) -> impl Iterator<Item = (Protocol, u16)> + use<> {
        let port = self.port;
        self.protocol.singles().iter().map(move |&protocol| (protocol, port))
    }
}

/// One port of a [`Claim`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Number.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Name that the entity will know it by; may be empty.
    pub name: String,
    /// Whether the wish named this port: nothing else will do then.
    pub given: bool,
}

/// Ports that one reservation has claimed while it probes them. Nobody else gets them until it is
/// committed or released; a claim that is merely dropped blocks its ports until a restart.
#[derive(Debug)]
#[must_use = "commit it or release it"]
pub struct Claim(pub(super) Vec<Claimed>);

impl Claim {
    /// The ports, in the order of the wishes.
    #[must_use]
    pub fn ports(&self) -> &[Claimed] {
        &self.0
    }
}

/// What [`PortTable::free`](super::PortTable::free) did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freed {
    /// What was freed.
    pub freed: Vec<Reserved>,
    /// Numbers under which nothing that was meant was reserved, ascending.
    pub unknown: Vec<u16>,
}

/// How many (protocol, port) there are of each kind: a port counts once a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Ports in the ranges.
    pub ports: usize,
    /// Reserved, on TCP and UDP together.
    pub reserved: usize,
    /// Claimed by reservations that are being probed, on TCP and UDP together.
    pub claimed: usize,
    /// Free on TCP.
    pub free_tcp: usize,
    /// Free on UDP.
    pub free_udp: usize,
    /// Free on both under the same number.
    pub free_both: usize,
}
