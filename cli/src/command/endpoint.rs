//! `gop endpoint ls|choose`.

use goperation::v1::{Candidate, ChooseRequest, IndexEndpointsRequest, LeftOut};

use crate::{
    args::EndpointCommand,
    client::{Client, PAGE, all_pages},
    error::Error,
    hint::Subject,
    output::{Output, or_dash, table},
};

/// Runs one command.
pub(crate) async fn run(
    client: &Client,
    output: Output,
    command: EndpointCommand,
) -> Result<(), Error> {
    match command {
        EndpointCommand::Ls { agent } => list(client, output, agent).await,
        EndpointCommand::Choose { endpoint, choice, limit, explain } => {
            let request = ChooseRequest {
                name: endpoint,
                includes: choice.includes,
                weighters: choice.weighers,
                limit: limit.unwrap_or_default(),
            };
            choose(client, output, request, explain).await
        }
    }
}

async fn list(client: &Client, output: Output, agent: Option<i32>) -> Result<(), Error> {
    let answer = all_pages(|page_token| {
        let request = client.request(IndexEndpointsRequest {
            page_size: PAGE,
            page_token,
            filter: String::new(),
            agent_id: agent.unwrap_or_default(),
        });
        let mut endpoints = client.endpoints();
        async move { endpoints.index_endpoints(request).await }
    })
    .await
    .map_err(|e| e.about(&Subject { agent, ..Subject::default() }))?;
    output.answer(&answer, |a| {
        table(
            ["NAME", "AGENTS", "ENTITIES", "METHODS"],
            a.endpoints.iter().map(|e| {
                let methods: Vec<_> = e.methods.iter().map(|m| m.name.as_str()).collect();
                [
                    e.name.clone(),
                    e.agents.to_string(),
                    e.entities.to_string(),
                    or_dash(methods.join(",")),
                ]
            }),
        )
    })
}

async fn choose(
    client: &Client,
    output: Output,
    request: ChooseRequest,
    explain: bool,
) -> Result<(), Error> {
    let subject = Subject { endpoint: Some(request.name.clone()), ..Subject::default() };
    let answer = client
        .endpoints()
        .choose(client.request(request))
        .await
        .map_err(|e| Error::from(e).about(&subject))?
        .into_inner();
    output.answer(&answer, |a| {
        let mut text = candidates(&a.candidates);
        if explain && !a.left_out.is_empty() {
            text += "\n";
            text += &left_out(&a.left_out);
        } else if a.candidates.is_empty() {
            text += "no agent suits; --explain says why\n";
        }
        text
    })
}

/// Agents that suit, best first.
pub(super) fn candidates(candidates: &[Candidate]) -> String {
    table(
        ["AGENT", "HOST", "ENTITIES", "WEIGHTS"],
        candidates.iter().map(|c| {
            [
                c.agent_id.to_string(),
                c.host.clone(),
                c.entities.to_string(),
                or_dash(c.weights.join(",")),
            ]
        }),
    )
}

/// Why an agent was left out, or refused.
pub(super) fn why(left: &LeftOut) -> String {
    if left.reason.is_empty() {
        left.why.clone()
    } else {
        format!("{} ({})", left.why, left.reason)
    }
}

fn left_out(left: &[LeftOut]) -> String {
    table(
        ["LEFT OUT", "HOST", "WHY"],
        left.iter().map(|l| [l.agent_id.to_string(), l.host.clone(), or_dash(why(l))]),
    )
}
