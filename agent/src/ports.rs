//! Ports of this host (contract §7): which may be handed out, who has them, and whether something
//! else on the host holds one.
//!
//! Invariant: a (protocol, port) has one owner at most. [`PortTable`] is pure memory; only
//! [`probe`] touches the host.

mod probe;
mod ranges;
mod table;
mod wish;

#[cfg(test)]
mod model;

pub use probe::{Probe, is_bindable, probe};
pub use ranges::PortRanges;
pub use table::{Claim, Claimed, Counts, Freed, PortTable, Reserved};
pub use wish::{Protocol, Wish};
