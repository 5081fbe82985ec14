//! `gop agent status` and `gop agent upgrade --on`: requests for the agents' own methods, under
//! their own names.
//!
//! Invariant: as with every request, a repeat under the key of the hint begins nothing twice.

use std::time::Duration;

use goperation::{
    MANAGER_NAMESPACE,
    v1::{PlanRequestRequest, RequestSelection, StatusAgentRequest, UpgradeAgentsRequest},
};
use serde_json::json;

use super::request::{
    responses,
    run::{begin, duration, follow, key, plan, rollout, selection},
};
use crate::{
    args::{Selection, Status, Upgrade},
    client::Client,
    error::Error,
    hint::{Repeat, Subject},
    output::Output,
    parse::{Several, to_struct},
};

/// How long a broken stream of an upgrade is tried again.
const WAIT: Duration = Duration::from_secs(60);

/// Asks agents for their status, and shows what each has said.
pub(crate) async fn status(client: &Client, output: Output, args: Status) -> Result<(), Error> {
    let key = key(args.key);
    let message = StatusAgentRequest {
        on: Some(agents(args.on, args.filter)),
        finish_timeout: args.finish.and_then(duration),
        timeout: client.given().and_then(duration),
        expire: None,
        idempotency_key: key.clone(),
    };
    let mut services = client.agents();
    let asked = services.status_agent(client.request(message));
    let request = begin(asked, key, &keyed()).await?.request;
    let id = request.as_ref().map(|request| request.id.clone()).unwrap_or_default();
    let ended = follow(client, output, request, args.follow, args.patience.wait).await;
    // The end alone names only those who have not answered, and what the others say is wanted all
    // the same.
    if !args.follow.jsonl && !args.follow.detach && !output.is_json() {
        let shown = responses(client, output, &id, "").await;
        return ended.and(shown);
    }
    ended
}

/// Upgrades agents, or plans it.
pub(crate) async fn upgrade(
    client: &Client,
    output: Output,
    on: Several,
    file: String,
    args: Upgrade,
) -> Result<(), Error> {
    let on = Some(agents(on, args.filter));
    let rollout = rollout(args.rollout);
    if args.plan {
        let file = serde_json::Map::from_iter([("file".to_owned(), json!(file))]);
        let message = PlanRequestRequest {
            namespace: MANAGER_NAMESPACE.to_owned(),
            method: "upgrade_agent".to_owned(),
            args: Some(to_struct(&file)?),
            on,
            rollout,
        };
        return plan(client, output, message).await;
    }
    let key = key(args.key);
    let message = UpgradeAgentsRequest {
        on,
        file,
        rollout,
        finish_timeout: args.finish.and_then(duration),
        timeout: client.given().and_then(duration),
        plan: args.plan_hash,
        idempotency_key: key.clone(),
        ..UpgradeAgentsRequest::default()
    };
    let mut services = client.agents();
    let begun = begin(services.upgrade_agents(client.request(message)), key, &keyed()).await?;
    follow(client, output, begun.request, args.follow, WAIT).await
}

fn agents(on: Several, filter: String) -> RequestSelection {
    selection(Selection { on: Some(on), filter, ..Selection::default() })
}

fn keyed() -> Subject {
    Subject { repeat: Repeat::Keyed, ..Subject::default() }
}
