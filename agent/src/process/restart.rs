//! Whether a process that ended by itself is started again, and when. Pure.
//!
//! Invariant: more than `max` restarts within `within` never happen; the pause doubles with each
//! of them up to `max_delay`.

use std::time::Duration;

use super::row::LastExit;
use crate::config::process::{Restart, RestartPolicy};

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It stays down, as is right.
    Stopped,
    /// It is started again after a pause.
    Again(Duration),
    /// It ended too often: it stays down.
    Crashed,
}

/// Decides, and forgets what is too long ago. `exit` is none when it could not be started.
pub(super) fn decide(
    restart: &Restart,
    history: &mut Vec<u64>,
    exit: Option<&LastExit>,
    now: u64,
) -> Decision {
    let again = match restart.policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit.is_none_or(|exit| !exit.is_good()),
        RestartPolicy::Never => false,
    };
    if !again {
        return Decision::Stopped;
    }
    let within = u64::try_from(restart.within.as_millis()).unwrap_or(u64::MAX);
    history.retain(|&time| time.saturating_add(within) > now);
    if history.len() >= usize::try_from(restart.max).unwrap_or(usize::MAX) {
        return Decision::Crashed;
    }
    let doubled = u32::try_from(history.len()).unwrap_or(u32::MAX);
    history.push(now);
    let factor = 2u32.checked_pow(doubled).unwrap_or(u32::MAX);
    Decision::Again(restart.delay.saturating_mul(factor).min(restart.max_delay))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000;

    fn restart(policy: RestartPolicy) -> Restart {
        Restart {
            policy,
            delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(5),
            max: 4,
            within: Duration::from_secs(600),
        }
    }

    fn exit(code: Option<i32>) -> LastExit {
        LastExit { code, ..LastExit::default() }
    }

    #[test]
    fn the_policy_decides_by_the_exit() {
        use RestartPolicy::{Always, Never, OnFailure};
        let first = Decision::Again(Duration::from_secs(1));
        for (policy, exit, decision) in [
            (Always, Some(exit(Some(0))), &first),
            (Always, None, &first),
            (OnFailure, Some(exit(Some(0))), &Decision::Stopped),
            (OnFailure, Some(exit(Some(3))), &first),
            (OnFailure, Some(exit(None)), &first),
            (OnFailure, None, &first),
            (Never, Some(exit(Some(3))), &Decision::Stopped),
            (Never, None, &Decision::Stopped),
        ] {
            let decided = decide(&restart(policy), &mut Vec::new(), exit.as_ref(), NOW);
            assert_eq!(&decided, decision, "{policy:?} {exit:?}");
        }
    }

    #[test]
    fn the_pause_doubles_and_too_many_are_a_crash_loop() {
        let mut history = Vec::new();
        let restart = restart(RestartPolicy::OnFailure);
        let seconds: Vec<_> = (0..5)
            .map(|n| match decide(&restart, &mut history, None, NOW + n) {
                Decision::Again(pause) => Some(pause.as_secs()),
                _ => None,
            })
            .collect();
        assert_eq!(seconds, [Some(1), Some(2), Some(4), Some(5), None]);
        assert_eq!(decide(&restart, &mut history, None, NOW + 5), Decision::Crashed);
        // The first of them is forgotten now, and the others count.
        let later = decide(&restart, &mut history, None, NOW + 600_000);
        assert_eq!(later, Decision::Again(Duration::from_secs(5)));
        let much_later = decide(&restart, &mut history, None, NOW + 2_000_000);
        assert_eq!(much_later, Decision::Again(Duration::from_secs(1)));
    }

    #[test]
    fn none_at_all_is_a_crash_at_once() {
        let restart = Restart { max: 0, ..restart(RestartPolicy::Always) };
        assert_eq!(decide(&restart, &mut Vec::new(), None, NOW), Decision::Crashed);
    }
}
