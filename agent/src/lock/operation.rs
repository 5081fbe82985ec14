//! The table of the work lock: every operation that takes it, and how urgent it is.

use std::fmt;

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $priority:literal;)*) => {
        /// What the work lock is taken for (contract §5).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Operation {
            $($(#[$doc])* $name,)*
        }

        impl Operation {
            /// Every operation, the most urgent first.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name, as people and logs see it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Its priority: 0 is the most urgent, 5 the least.
            #[must_use]
            pub fn priority(self) -> u8 {
                match self { $(Self::$name => $priority,)* }
            }
        }
    };
}

operations! {
    /// The first phase of a delete.
    DeletePrecommit = "delete_agent_precommit", 0;
    /// The second phase of a delete.
    DeletePostcommit = "delete_agent_postcommit", 0;
    /// The number is set.
    AgentId = "agent_id", 0;
    /// The status is set whatever it is.
    ForceStatus = "force_status", 0;
    /// A precommit that was not followed up gives the former status back.
    Lapse = "precommit_lapse", 0;
    /// The first status after a start.
    PostStart = "post_start", 1;
    /// The status is set, unless it is below SOFTBUSY.
    SetStatus = "set_status", 1;
    /// The manager sets ACTIVE or UNACTIVE.
    ActiveAgent = "active_agent", 1;
    /// HARDBUSY, before the package command runs.
    UpgradeAgent = "upgrade_agent", 1;
    /// SOFTBUSY, by an operator or a bound.
    Pause = "pause_agent", 1;
    /// The end of SOFTBUSY.
    Resume = "resume_agent", 1;
    /// Ports are freed.
    FreePorts = "free_ports", 2;
    /// An entity's record is deleted.
    DeleteEntity = "delete_entity", 2;
    /// What an entity's process does, or is wished to do, is noted.
    Process = "process", 2;
    /// Ports are reserved.
    FrozenPort = "frozen_port", 3;
    /// An entity's record is made or changed.
    CreateEntity = "create_entity", 3;
    /// Whether the agent is ACTIVE.
    IsActive = "is_active", 5;
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_the_contract() {
        for (name, priority) in [
            ("delete_agent_precommit", 0),
            ("delete_agent_postcommit", 0),
            ("agent_id", 0),
            ("force_status", 0),
            ("post_start", 1),
            ("set_status", 1),
            ("active_agent", 1),
            ("upgrade_agent", 1),
            ("free_ports", 2),
            ("frozen_port", 3),
            ("is_active", 5),
        ] {
            let rows: Vec<_> = Operation::ALL.iter().filter(|o| o.name() == name).collect();
            assert_eq!(rows.len(), 1, "{name}");
            assert_eq!(rows[0].priority(), priority, "{name}");
        }
        assert!(Operation::ALL.is_sorted_by_key(|o| o.priority()));
    }
}
