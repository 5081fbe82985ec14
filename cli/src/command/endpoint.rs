//! `gop endpoint ls`.

use goperation::v1::IndexEndpointsRequest;

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
    let EndpointCommand::Ls { agent } = command;
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
