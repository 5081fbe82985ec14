//! The gate (contract §4): what happens to a message that arrives, by the agent's status and the
//! class of the method. Pure: who asks does the waiting and the resending.

use std::time::Duration;

use goperation::AgentStatus;
use goperation_bridge::Route;

/// How long a message is held at SOFTBUSY before the gate is asked again.
pub const HOLD: Duration = Duration::from_millis(500);

/// How long a message waits in the broker when it is sent again for the first time.
pub const FIRST_RETRY: Duration = Duration::from_secs(2);

/// Whose method a message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MethodClass {
    /// The agent's own.
    Manager,
    /// An endpoint's.
    Endpoint,
}

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Run it.
    Run,
    /// Answer `AGENT_NOT_ACTIVE`.
    Refuse,
    /// Look again after [`HOLD`], with [`after_hold`].
    Hold,
    /// Send it again: a CALL is answered `AGENT_BUSY`, a CAST goes to a retry step.
    Resend,
}

/// What to do with a message that arrives.
#[must_use]
pub fn gate(status: AgentStatus, class: MethodClass) -> Verdict {
    use AgentStatus as S;
    match (status, class) {
        (S::Active, _) | (S::Unactive | S::PerDelete, MethodClass::Manager) => Verdict::Run,
        (S::Unactive | S::PerDelete, MethodClass::Endpoint) => Verdict::Refuse,
        (S::SoftBusy, _) => Verdict::Hold,
        (S::Initializing | S::HardBusy | S::Deleted, _) => Verdict::Resend,
    }
}

/// What to do with a message that was held: never [`Verdict::Hold`] again.
#[must_use]
pub fn after_hold(status: AgentStatus, class: MethodClass) -> Verdict {
    match gate(status, class) {
        Verdict::Hold => Verdict::Resend,
        verdict => verdict,
    }
}

/// The delay before a CAST is delivered again: 2 s at first, for an agent that is busy only for a
/// moment, then the longest step, so that messages that are held for long cost the broker little
/// (docs/adr/0003). Always one that leaves room before the finish time, or else the first.
#[must_use]
pub fn retry_step(attempt: u32, remaining: Option<Duration>) -> Duration {
    let [first, ..] = Route::STEPS;
    let longest = if attempt == 0 { FIRST_RETRY } else { Duration::MAX };
    // On its way back it may be held once more before it runs.
    let room = remaining.map_or(longest, |remaining| remaining.saturating_sub(HOLD).min(longest));
    Route::STEPS.into_iter().rfind(|step| *step <= room).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_fourteen_combinations() {
        use AgentStatus as S;
        use Verdict::{Hold, Refuse, Resend, Run};
        let table = [
            (S::Active, [Run, Run], [Run, Run]),
            (S::Unactive, [Run, Refuse], [Run, Refuse]),
            (S::SoftBusy, [Hold, Hold], [Resend, Resend]),
            (S::Initializing, [Resend, Resend], [Resend, Resend]),
            (S::HardBusy, [Resend, Resend], [Resend, Resend]),
            (S::Deleted, [Resend, Resend], [Resend, Resend]),
            (S::PerDelete, [Run, Refuse], [Run, Refuse]),
        ];
        assert_eq!(table.map(|row| row.0), S::ALL);
        for (status, arriving, held) in table {
            for (i, class) in [MethodClass::Manager, MethodClass::Endpoint].into_iter().enumerate()
            {
                assert_eq!(gate(status, class), arriving[i], "{status} {class:?}");
                assert_eq!(after_hold(status, class), held[i], "{status} {class:?} held");
            }
        }
    }

    #[test]
    fn the_first_step_is_short_and_then_the_longest() {
        assert_eq!(retry_step(0, None), FIRST_RETRY);
        for attempt in [1, 2, 7, u32::MAX] {
            assert_eq!(retry_step(attempt, None), Duration::from_secs(32));
        }
    }

    #[test]
    fn steps_leave_room_before_the_finish_time() {
        for (attempt, remaining, step) in [
            (0, 60_000, 2_000),
            (1, 60_000, 32_000),
            (1, 32_500, 32_000),
            (1, 32_499, 16_000),
            (6, 3_000, 2_000),
            (0, 2_499, 1_000),
            (6, 600, 500),
            (6, 100, 500),
            (0, 0, 500),
        ] {
            assert_eq!(
                retry_step(attempt, Some(Duration::from_millis(remaining))),
                Duration::from_millis(step),
                "attempt {attempt}, {remaining} ms remain"
            );
        }
    }
}
