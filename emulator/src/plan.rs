//! Who stands where and who behaves how, chosen by the seed.
//!
//! Invariant: the counts are exact, and only ACTIVE agents are chosen to behave badly: what comes of
//! a request is decided by one thing for each agent.

use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use crate::{Config, Error, Share, Standing};

/// Most agents of one process.
const MOST: u32 = 10_000;

/// How the methods of an agent's endpoint go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    /// They succeed.
    Good,
    /// They fail.
    Failing,
    /// They have their effect and never answer.
    Silent,
    /// They have their effect at once and answer late.
    Late,
}

impl Conduct {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Good, Self::Failing, Self::Silent, Self::Late];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Failing => "failing",
            Self::Silent => "silent",
            Self::Late => "late",
        }
    }
}

/// What one agent is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// Its number, which its host is named by.
    pub number: u32,
    /// Where it stands.
    pub standing: Standing,
    /// How its methods go.
    pub conduct: Conduct,
}

impl Role {
    /// The name of its host.
    #[must_use]
    pub fn host(&self) -> String {
        format!("emu-{:05}", self.number)
    }
}

impl Config {
    /// The agents, in order of their numbers.
    ///
    /// # Errors
    /// [`Error::Config`] when the shares are more than there are.
    pub fn roles(&self) -> Result<Vec<Role>, Error> {
        let refuse = |why: String| Err(Error::Config(why));
        if !(1..=MOST).contains(&self.agents) {
            return refuse(format!("the number of agents must be from 1 to {MOST}"));
        }
        if self.first == 0 || self.first.checked_add(self.agents).is_none() {
            return refuse("the number of the first agent must be at least 1".to_owned());
        }
        let mut free: Vec<u32> = (0..self.agents).collect();
        free.shuffle(&mut StdRng::seed_from_u64(self.seed));
        let said_active = self.status.iter().any(|(standing, _)| *standing == Standing::Active);
        let rest = if said_active { Standing::Unactive } else { Standing::Active };
        let mut roles: Vec<Role> = (0..self.agents)
            .map(|index| Role {
                number: self.first + index,
                standing: rest,
                conduct: Conduct::Good,
            })
            .collect();
        let mut active = Vec::new();
        for (standing, share) in &self.status {
            for index in self.take(&mut free, standing.name(), *share)? {
                roles[index].standing = *standing;
                if *standing == Standing::Active {
                    active.push(u32::try_from(index).unwrap_or(u32::MAX));
                }
            }
        }
        let mut active = if said_active { active } else { free };
        for (conduct, share) in [
            (Conduct::Failing, self.fail),
            (Conduct::Silent, self.silent),
            (Conduct::Late, self.late),
        ] {
            for index in self.take(&mut active, conduct.name(), share)? {
                roles[index].conduct = conduct;
            }
        }
        Ok(roles)
    }

    /// The next of those that are free.
    fn take(&self, free: &mut Vec<u32>, what: &str, share: Share) -> Result<Vec<usize>, Error> {
        let count = share.of(self.agents) as usize;
        let Some(rest) = free.len().checked_sub(count) else {
            return Err(Error::Config(format!(
                "{count} agents shall be {what}, and only {} are left for it",
                free.len()
            )));
        };
        Ok(free.split_off(rest).into_iter().map(|index| index as usize).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(agents: u32, seed: u64) -> Config {
        Config { seed, ..Config::new(agents, "/nowhere") }
    }

    #[test]
    fn all_are_good_unless_said() {
        let roles = config(3, 7).roles().unwrap();
        let good = |role: &Role| role.standing == Standing::Active && role.conduct == Conduct::Good;
        assert!(roles.iter().all(good));
        assert_eq!(roles[2].host(), "emu-00003");
    }

    #[test]
    fn who_is_said_to_be_active_leaves_the_others_unactive() {
        let mut config = config(10, 7);
        config.status =
            vec![(Standing::Active, Share::Count(4)), (Standing::Offline, Share::Count(1))];
        config.silent = Share::Count(4);
        let roles = config.roles().unwrap();
        let count = |standing| roles.iter().filter(|role| role.standing == standing).count();
        assert_eq!(count(Standing::Active), 4);
        assert_eq!(count(Standing::Offline), 1);
        assert_eq!(count(Standing::Unactive), 5);
        let silent = |role: &&Role| role.conduct == Conduct::Silent;
        assert!(roles.iter().filter(silent).all(|role| role.standing == Standing::Active));
        config.late = Share::Count(1);
        assert!(config.roles().unwrap_err().to_string().contains("late"));
    }

    #[test]
    fn more_than_there_are_is_refused() {
        for (agents, first) in [(0, 1), (MOST + 1, 1), (1, 0), (1, u32::MAX)] {
            let config = Config { first, ..config(agents, 0) };
            assert!(config.roles().is_err(), "{agents} from {first}");
        }
    }

    proptest! {
        #[test]
        fn counts_are_exact_and_only_the_seed_decides(
            agents in 1..300_u32, seed: u64, shares in prop::array::uniform5(0..120_u32),
        ) {
            let [fail, silent, late, busy, gone] = shares.map(Share::Permille);
            let config = Config {
                fail, silent, late,
                status: vec![(Standing::HardBusy, busy), (Standing::Offline, gone)],
                ..config(agents, seed)
            };
            let wanted: u32 = [fail, silent, late, busy, gone].map(|s| s.of(agents)).iter().sum();
            prop_assert_eq!(config.roles().is_ok(), wanted <= agents);
            if let Ok(roles) = config.roles() {
                let conduct = |c| roles.iter().filter(|r| r.conduct == c).count() as u32;
                let standing = |s| roles.iter().filter(|r| r.standing == s).count() as u32;
                prop_assert_eq!(conduct(Conduct::Failing), fail.of(agents));
                prop_assert_eq!(conduct(Conduct::Silent), silent.of(agents));
                prop_assert_eq!(conduct(Conduct::Late), late.of(agents));
                prop_assert_eq!(standing(Standing::HardBusy), busy.of(agents));
                prop_assert_eq!(standing(Standing::Offline), gone.of(agents));
                let alone = |r: &Role| {
                    r.conduct == Conduct::Good || r.standing == Standing::Active
                };
                prop_assert!(roles.iter().all(alone));
                prop_assert_eq!(config.roles().ok(), Some(roles));
            }
        }
    }
}
