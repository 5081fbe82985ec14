//! `gop queue ls|show|dead`.

use goperation::v1::{IndexDeadLettersRequest, IndexQueuesRequest, Queue, ShowQueueRequest};
use serde_json::Value;

use crate::{
    args::QueueCommand,
    client::{Client, PAGE, all_pages},
    error::Error,
    output::{Output, object, or_dash, short, table, time},
};

/// Runs one command.
pub(crate) async fn run(
    client: &Client,
    output: Output,
    command: QueueCommand,
) -> Result<(), Error> {
    match command {
        QueueCommand::Ls { filter } => list(client, output, filter).await,
        QueueCommand::Show { name } => {
            let request = client.request(ShowQueueRequest { name });
            let answer = client.bridge().show_queue(request).await?.into_inner();
            output.answer(&answer, |a| rows(a.queue.as_slice()))
        }
        QueueCommand::Dead { filter } => dead(client, output, filter).await,
    }
}

async fn list(client: &Client, output: Output, filter: Option<String>) -> Result<(), Error> {
    let answer = all_pages(|page_token| {
        let request = client.request(IndexQueuesRequest {
            page_size: PAGE,
            page_token,
            filter: filter.clone().unwrap_or_default(),
        });
        let mut bridge = client.bridge();
        async move { bridge.index_queues(request).await }
    })
    .await?;
    output.answer(&answer, |a| rows(&a.queues))
}

async fn dead(client: &Client, output: Output, filter: Option<String>) -> Result<(), Error> {
    let answer = all_pages(|page_token| {
        let request = client.request(IndexDeadLettersRequest {
            page_size: PAGE,
            page_token,
            filter: filter.clone().unwrap_or_default(),
        });
        let mut bridge = client.bridge();
        async move { bridge.index_dead_letters(request).await }
    })
    .await?;
    output.answer(&answer, |a| {
        table(
            ["TIME", "QUEUE", "REASON", "METHOD", "MESSAGE", "BODY"],
            a.dead_letters.iter().map(|d| {
                [
                    time(d.time.as_ref()),
                    d.queue.clone(),
                    d.reason.clone(),
                    or_dash(format!("{}.{}", d.namespace, d.method).trim_matches('.')),
                    d.message_id.clone(),
                    short(&Value::Object(object(d.body.as_ref())).to_string()),
                ]
            }),
        )
    })
}

fn rows(queues: &[Queue]) -> String {
    table(
        ["NAME", "DEPTH", "CONSUMERS", "EXISTS"],
        queues.iter().map(|q| {
            [
                q.name.clone(),
                q.depth.to_string(),
                q.consumers.to_string(),
                if q.exists { "yes" } else { "no" }.to_owned(),
            ]
        }),
    )
}
