//! What other services' messages stand for: `StatusAgent` and `UpgradeAgents` are requests.

use goperation::{
    MANAGER_NAMESPACE,
    v1::{CreateRequestRequest, StatusAgentRequest, UpgradeAgentsRequest},
};
use prost_types::{Struct, Value, value::Kind};

use crate::app::App;

impl App {
    /// The request that asks agents for their status.
    pub(crate) fn status_request(q: StatusAgentRequest) -> CreateRequestRequest {
        CreateRequestRequest {
            namespace: MANAGER_NAMESPACE.to_owned(),
            method: "status_agent".to_owned(),
            on: q.on,
            finish_timeout: q.finish_timeout,
            timeout: q.timeout,
            expire: q.expire,
            idempotency_key: q.idempotency_key,
            ..CreateRequestRequest::default()
        }
    }

    /// The request that upgrades agents.
    pub(crate) fn upgrade_request(q: UpgradeAgentsRequest) -> CreateRequestRequest {
        let file = Value { kind: Some(Kind::StringValue(q.file)) };
        CreateRequestRequest {
            namespace: MANAGER_NAMESPACE.to_owned(),
            method: super::create::UPGRADE.to_owned(),
            args: Some(Struct { fields: [("file".to_owned(), file)].into() }),
            on: q.on,
            rollout: q.rollout,
            finish_timeout: q.finish_timeout,
            timeout: q.timeout,
            expire: q.expire,
            pre_run: q.pre_run,
            after_run: q.after_run,
            post_run: q.post_run,
            plan: q.plan,
            idempotency_key: q.idempotency_key,
        }
    }
}
