//! The seven states of an agent (contract §4), by the numbers that old scripts compare.

use std::fmt;

use crate::v1::AgentState;

/// Status of an agent. The order is that of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i8)]
pub enum AgentStatus {
    /// Waiting for the second phase of delete.
    PerDelete = -128,
    /// Deleted; waiting for its exit.
    Deleted = -127,
    /// Upgrading.
    HardBusy = -30,
    /// Until the agent has started.
    Initializing = -20,
    /// The threshold at and below which messages are held.
    SoftBusy = -10,
    /// Registered, not enabled.
    Unactive = 0,
    /// Endpoint methods run.
    Active = 1,
}

impl AgentStatus {
    /// Every status, highest first.
    pub const ALL: [Self; 7] = [
        Self::Active,
        Self::Unactive,
        Self::SoftBusy,
        Self::Initializing,
        Self::HardBusy,
        Self::Deleted,
        Self::PerDelete,
    ];

    /// Its number.
    #[must_use]
    pub fn number(self) -> i32 {
        self as i32
    }

    /// The status of that number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.number() == number)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Unactive => "UNACTIVE",
            Self::SoftBusy => "SOFTBUSY",
            Self::Initializing => "INITIALIZING",
            Self::HardBusy => "HARDBUSY",
            Self::Deleted => "DELETED",
            Self::PerDelete => "PERDELETE",
        }
    }
}

impl fmt::Display for AgentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<AgentStatus> for AgentState {
    fn from(status: AgentStatus) -> Self {
        match status {
            AgentStatus::Active => Self::Active,
            AgentStatus::Unactive => Self::Unactive,
            AgentStatus::SoftBusy => Self::Softbusy,
            AgentStatus::Initializing => Self::Initializing,
            AgentStatus::HardBusy => Self::Hardbusy,
            AgentStatus::Deleted => Self::Deleted,
            AgentStatus::PerDelete => Self::Perdelete,
        }
    }
}
