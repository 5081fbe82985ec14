//! What is to be expected of an agent as it is on record now: that it runs a method, or why it
//! refuses or is silent.
//!
//! Invariant: pure, and it judges in the order in which the message would meet the obstacles: the
//! queue, the lease, the gate, the endpoint, the method.

use goperation::{AgentStatus, MANAGER_NAMESPACE, Reason};

use crate::record::AgentRecord;

/// What is to be expected of an agent now; `None`: it would run.
pub(super) fn expect(
    agent: &AgentRecord,
    online: bool,
    namespace: &str,
) -> Option<(Reason, String)> {
    if agent.deleted {
        return Some((Reason::QueueNotFound, "it is deleted and has no queue".to_owned()));
    }
    if agent.reserved {
        let why = "it is only on record: no agent has registered as it yet";
        return Some((Reason::QueueNotFound, why.to_owned()));
    }
    if !online {
        return Some((Reason::AgentOffline, "it is offline".to_owned()));
    }
    let status = AgentStatus::from_number(agent.status).map_or("unknown", AgentStatus::name);
    let of_endpoint = namespace != MANAGER_NAMESPACE;
    if agent.status <= AgentStatus::SoftBusy.number()
        && agent.status != AgentStatus::PerDelete.number()
    {
        return Some((Reason::AgentBusy, format!("it is {status}")));
    }
    if of_endpoint && agent.status < AgentStatus::Active.number() {
        let why = format!("it is {status}; endpoint methods run only on an ACTIVE one");
        return Some((Reason::AgentNotActive, why));
    }
    if of_endpoint && agent.endpoints.iter().all(|endpoint| endpoint.name != namespace) {
        let why = format!("it does not have the endpoint {namespace}");
        return Some((Reason::NamespaceNotFound, why));
    }
    None
}

/// As [`expect`], and whether its endpoint has the method. Of agents' own methods the manager does
/// not know which ones an agent of another version has.
pub(super) fn expect_method(
    agent: &AgentRecord,
    online: bool,
    namespace: &str,
    method: &str,
) -> Option<(Reason, String)> {
    expect(agent, online, namespace).or_else(|| {
        let endpoint = agent.endpoints.iter().find(|endpoint| endpoint.name == namespace)?;
        let listed = |name: &str| endpoint.methods.iter().any(|method| method.name == name);
        let there = match method.strip_suffix("_entity") {
            // The agent's own work where the endpoint declares no program for it.
            Some("create" | "delete" | "status") => true,
            Some(verb @ ("start" | "stop" | "restart" | "kill")) => listed(verb),
            _ => method == "entity_token" || listed(method),
        };
        if there || endpoint.methods.is_empty() {
            return None;
        }
        let why = format!("its endpoint {namespace} has no method {method}");
        Some((Reason::MethodNotFound, why))
    })
}

#[cfg(test)]
mod tests {
    use goperation::v1::{AgentEndpoint, EndpointMethod};

    use super::*;

    fn agent(status: AgentStatus) -> AgentRecord {
        let methods = ["start", "tell"]
            .map(|name| EndpointMethod { name: name.to_owned(), ..EndpointMethod::default() });
        let arena = AgentEndpoint {
            name: "arena".to_owned(),
            methods: methods.to_vec(),
            ..AgentEndpoint::default()
        };
        let bare = AgentEndpoint { name: "bare".to_owned(), ..AgentEndpoint::default() };
        AgentRecord {
            id: 1,
            status: status.number(),
            endpoints: vec![arena, bare],
            ..AgentRecord::default()
        }
    }

    fn reason(agent: &AgentRecord, online: bool, namespace: &str) -> Option<Reason> {
        expect(agent, online, namespace).map(|(reason, _)| reason)
    }

    #[test]
    fn it_is_as_the_gate_would_have_it() {
        use AgentStatus as S;
        use Reason::{AgentBusy, AgentNotActive};
        for (status, manager, endpoint) in [
            (S::Active, None, None),
            (S::Unactive, None, Some(AgentNotActive)),
            (S::SoftBusy, Some(AgentBusy), Some(AgentBusy)),
            (S::Initializing, Some(AgentBusy), Some(AgentBusy)),
            (S::HardBusy, Some(AgentBusy), Some(AgentBusy)),
            (S::Deleted, Some(AgentBusy), Some(AgentBusy)),
            (S::PerDelete, None, Some(AgentNotActive)),
        ] {
            let agent = agent(status);
            assert_eq!(reason(&agent, true, MANAGER_NAMESPACE), manager, "{status}");
            assert_eq!(reason(&agent, true, "arena"), endpoint, "{status}");
        }
    }

    #[test]
    fn who_is_not_there_is_not_asked_for_its_status() {
        for status in AgentStatus::ALL {
            for namespace in [MANAGER_NAMESPACE, "arena", "other"] {
                let is = agent(status);
                assert_eq!(reason(&is, false, namespace), Some(Reason::AgentOffline));
                let reserved = AgentRecord { reserved: true, ..is.clone() };
                assert_eq!(reason(&reserved, true, namespace), Some(Reason::QueueNotFound));
                let deleted = AgentRecord { deleted: true, reserved: true, ..is };
                assert_eq!(reason(&deleted, true, namespace), Some(Reason::QueueNotFound));
            }
        }
    }

    #[test]
    fn endpoints_and_methods_that_it_lacks() {
        let agent = agent(AgentStatus::Active);
        assert_eq!(reason(&agent, true, "other"), Some(Reason::NamespaceNotFound));
        let method = |namespace, method| {
            expect_method(&agent, true, namespace, method).map(|(reason, _)| reason)
        };
        for runs in ["tell", "create_entity", "status_entity", "start_entity", "entity_token"] {
            assert_eq!(method("arena", runs), None, "{runs}");
        }
        for lacks in ["sing", "stop_entity", "tell_entity"] {
            assert_eq!(method("arena", lacks), Some(Reason::MethodNotFound), "{lacks}");
        }
        // It has not told its methods.
        assert_eq!(method("bare", "sing"), None);
        assert_eq!(method("other", "sing"), Some(Reason::NamespaceNotFound));
        assert_eq!(method(MANAGER_NAMESPACE, "sing"), None);
    }
}
