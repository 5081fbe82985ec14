//! Why an agent has not answered in time (contract §8).
//!
//! Invariant: pure. What was begun, or may have been, is never said not to have been: such a row is
//! OUTCOME_UNKNOWN unless something that is so now explains the silence.

use goperation::{Reason, v1::ResponseState as S};

use super::expect::expect;
use crate::record::{AgentRecord, RowRecord};

/// Why the agent of a row has not answered. `agent` is none when its record is gone.
pub(super) fn silence(
    row: &RowRecord,
    namespace: &str,
    agent: Option<&AgentRecord>,
    online: bool,
) -> (Reason, String) {
    let say = |reason, text: &str| (reason, text.to_owned());
    match row.state() {
        S::Pending => {
            if let Some(unsent) = unsent(row) {
                return unsent;
            }
        }
        S::Accepted => {
            let text = "it has it in its journal, and did not say in time how it ended";
            return say(Reason::OutcomeUnknown, text);
        }
        S::Running => {
            let text = "it has begun, and did not say in time how it ended";
            return say(Reason::OutcomeUnknown, text);
        }
        _ => {}
    }
    let Some(agent) = agent else {
        return say(Reason::QueueNotFound, "it is deleted and has no queue");
    };
    match expect(agent, online, namespace) {
        Some((reason, why)) => (reason, format!("it did not answer in time: {why}")),
        None => say(Reason::OutcomeUnknown, "it was sent to, and did not answer in time"),
    }
}

/// Of one that is known not to have been published to the agent.
fn unsent(row: &RowRecord) -> Option<(Reason, String)> {
    if !row.sending {
        let text = "its time was over before it was sent to";
        return Some((Reason::OverFinishtime, text.to_owned()));
    }
    // Why the last try failed; without one, a try was begun and nobody knows how it ended.
    match Reason::parse(&row.reason)? {
        Reason::OutcomeUnknown => None,
        Reason::Unavailable => Some((Reason::BrokerUnavailable, row.message.clone())),
        reason => Some((reason, row.message.clone())),
    }
}

#[cfg(test)]
mod tests {
    use goperation::{AgentStatus, MANAGER_NAMESPACE, v1::AgentEndpoint};
    use proptest::{prelude::*, sample::select};

    use super::*;

    fn row(state: S) -> RowRecord {
        RowRecord { agent: 1, state: state.into(), ..RowRecord::default() }
    }

    fn agent(status: AgentStatus) -> AgentRecord {
        let arena = AgentEndpoint { name: "arena".to_owned(), ..AgentEndpoint::default() };
        AgentRecord {
            id: 1,
            status: status.number(),
            endpoints: vec![arena],
            ..AgentRecord::default()
        }
    }

    fn reason(row: &RowRecord, namespace: &str, agent: Option<&AgentRecord>, on: bool) -> Reason {
        silence(row, namespace, agent, on).0
    }

    #[test]
    fn one_that_was_not_sent_to() {
        let active = agent(AgentStatus::Active);
        let of = |row: &RowRecord| silence(row, "arena", Some(&active), true);
        let pending = row(S::Pending);
        assert_eq!(of(&pending).0, Reason::OverFinishtime);
        let tried = |reason: &str| RowRecord {
            sending: true,
            reason: reason.to_owned(),
            message: "so it said".to_owned(),
            ..row(S::Pending)
        };
        for (tried_with, is) in [
            ("BROKER_UNAVAILABLE", Reason::BrokerUnavailable),
            ("UNAVAILABLE", Reason::BrokerUnavailable),
            ("QUEUE_FULL", Reason::QueueFull),
            ("OVER_FINISHTIME", Reason::OverFinishtime),
        ] {
            assert_eq!(of(&tried(tried_with)), (is, "so it said".to_owned()), "{tried_with}");
        }
        // It may have been published.
        for tried_with in ["OUTCOME_UNKNOWN", ""] {
            assert_eq!(of(&tried(tried_with)).0, Reason::OutcomeUnknown, "{tried_with}");
            let offline = reason(&tried(tried_with), "arena", Some(&active), false);
            assert_eq!(offline, Reason::AgentOffline, "{tried_with}");
        }
    }

    #[test]
    fn one_that_was_sent_to() {
        use AgentStatus as A;
        let sent = row(S::Sent);
        for (status, manager, endpoint) in [
            (A::Active, Reason::OutcomeUnknown, Reason::OutcomeUnknown),
            (A::Unactive, Reason::OutcomeUnknown, Reason::AgentNotActive),
            (A::SoftBusy, Reason::AgentBusy, Reason::AgentBusy),
            (A::Initializing, Reason::AgentBusy, Reason::AgentBusy),
            (A::HardBusy, Reason::AgentBusy, Reason::AgentBusy),
            (A::PerDelete, Reason::OutcomeUnknown, Reason::AgentNotActive),
        ] {
            let agent = agent(status);
            assert_eq!(reason(&sent, MANAGER_NAMESPACE, Some(&agent), true), manager, "{status}");
            assert_eq!(reason(&sent, "arena", Some(&agent), true), endpoint, "{status}");
            assert_eq!(reason(&sent, "arena", Some(&agent), false), Reason::AgentOffline);
            let deleted = AgentRecord { deleted: true, ..agent };
            assert_eq!(reason(&sent, "arena", Some(&deleted), true), Reason::QueueNotFound);
        }
        assert_eq!(reason(&sent, "arena", None, false), Reason::QueueNotFound);
    }

    proptest! {
        #[test]
        fn what_was_begun_is_unknown_whatever_the_agent_is_now(
            state in select(vec![S::Accepted, S::Running]),
            status in select(AgentStatus::ALL.to_vec()),
            there in any::<bool>(),
            deleted in any::<bool>(),
            online in any::<bool>(),
            namespace in select(vec![MANAGER_NAMESPACE, "arena", "other"]),
        ) {
            let agent = AgentRecord { deleted, ..agent(status) };
            let agent = there.then_some(&agent);
            let (reason, text) = silence(&row(state), namespace, agent, online);
            prop_assert_eq!(reason, Reason::OutcomeUnknown);
            prop_assert!(!text.is_empty());
        }
    }
}
