//! What is emulated.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use goperation_bridge::Transport;
use goperation_store::Durability;
use tonic::transport::Channel;

/// How many agents, and how they behave.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many: 1 to 10,000.
    pub agents: u32,
    /// Number of the first, which stands in the names of the hosts, `emu-00001`: so that several
    /// processes are one fleet.
    pub first: u32,
    /// Folder that keeps store and homes.
    pub folder: PathBuf,
    /// What an answered change survives.
    pub durability: Durability,
    /// By it is chosen who behaves how.
    pub seed: u64,
    /// How long a method takes before it has its effect.
    pub latency: Duration,
    /// How long after its effect a late agent answers.
    pub late_by: Duration,
    /// Agents whose methods fail.
    pub fail: Share,
    /// Agents whose methods have their effect and do not answer while the process lives.
    pub silent: Share,
    /// Agents that answer late.
    pub late: Share,
    /// How many stand where. Others are ACTIVE; or UNACTIVE, when it is said how many are ACTIVE.
    pub status: Vec<(Standing, Share)>,
    /// File to which effects are appended.
    pub ledger: PathBuf,
}

impl Config {
    /// So many agents that do all well, at once, in a folder.
    #[must_use]
    pub fn new(agents: u32, folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self {
            agents,
            first: 1,
            ledger: folder.join("ledger"),
            folder,
            durability: Durability::default(),
            seed: 0,
            latency: Duration::ZERO,
            late_by: Duration::from_secs(30),
            fail: Share::NONE,
            silent: Share::NONE,
            late: Share::NONE,
            status: Vec::new(),
        }
    }
}

/// What the agents work with. Agent after agent, each of several is for an equal share of them.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Ways to the broker, at least one.
    pub transports: Vec<Arc<dyn Transport>>,
    /// Ways to the manager, at least one.
    pub managers: Vec<Channel>,
}

/// A part of the agents: `5` or `2.5%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Count(u32),
    /// So many of a thousand.
    Permille(u32),
}

impl Share {
    /// Nobody.
    pub const NONE: Self = Self::Count(0);

    /// How many of `agents` that are: a share that is not nothing is at least one.
    #[must_use]
    pub fn of(self, agents: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Permille(0) => 0,
            Self::Permille(part) => {
                let exact = (u64::from(agents) * u64::from(part) + 500) / 1000;
                u32::try_from(exact).unwrap_or(u32::MAX).max(1)
            }
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a number of agents or a percentage: say 3 or 2.5%");
        let Some(percent) = text.strip_suffix('%') else {
            return text.parse().map(Self::Count).map_err(|_| bad());
        };
        let (whole, tenth) = percent.split_once('.').unwrap_or((percent, "0"));
        if tenth.len() != 1 {
            return Err(bad());
        }
        let whole: u32 = whole.parse().map_err(|_| bad())?;
        let tenth: u32 = tenth.parse().map_err(|_| bad())?;
        let part = whole.checked_mul(10).and_then(|part| part.checked_add(tenth));
        part.filter(|part| *part <= 1000).map(Self::Permille).ok_or_else(bad)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Permille(part) => write!(f, "{}.{}%", part / 10, part % 10),
        }
    }
}

/// Where an agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its methods run.
    Active,
    /// Registered, and not enabled.
    Unactive,
    /// Paused.
    SoftBusy,
    /// As while it is upgraded.
    HardBusy,
    /// As between the phases of a delete.
    PerDelete,
    /// Deleted, as by an operator.
    Deleted,
    /// ACTIVE on record, and gone.
    Offline,
}

impl Standing {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Active,
        Self::Unactive,
        Self::SoftBusy,
        Self::HardBusy,
        Self::PerDelete,
        Self::Deleted,
        Self::Offline,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Unactive => "unactive",
            Self::SoftBusy => "softbusy",
            Self::HardBusy => "hardbusy",
            Self::PerDelete => "perdelete",
            Self::Deleted => "deleted",
            Self::Offline => "offline",
        }
    }

    /// A standing and its share: `hardbusy=3`, `offline=1%`.
    ///
    /// # Errors
    /// What would be right.
    pub fn share(text: &str) -> Result<(Self, Share), String> {
        let (name, share) = text.split_once('=').ok_or_else(|| {
            format!("`{text}` is no status and number: say hardbusy=3 or offline=1%")
        })?;
        let standing = Self::ALL.into_iter().find(|standing| standing.name() == name);
        let standing = standing.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("`{name}` is none of {names}")
        })?;
        Ok((standing, share.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (text, of_1000, of_30) in
            [("0", 0, 0), ("3", 3, 3), ("0%", 0, 0), ("5%", 50, 2), ("2.5%", 25, 1), ("0.1%", 1, 1)]
        {
            let share: Share = text.parse().unwrap();
            assert_eq!((share.of(1000), share.of(30)), (of_1000, of_30), "{text}");
            assert_eq!(share.to_string().parse(), Ok(share));
        }
        for bad in ["", "%", "-1", "a%", "101%", "1.25%", "1.%", "5 %", "4294967295%"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }

    #[test]
    fn standings() {
        assert_eq!(Standing::share("hardbusy=3"), Ok((Standing::HardBusy, Share::Count(3))));
        assert_eq!(Standing::share("offline=1%"), Ok((Standing::Offline, Share::Permille(10))));
        for bad in ["", "hardbusy", "busy=3", "hardbusy=", "HARDBUSY=3"] {
            assert!(Standing::share(bad).is_err(), "{bad}");
        }
    }
}
