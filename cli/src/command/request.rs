//! `gop request`: one method over many agents. How one is run and watched is below.

mod feed;
mod live;
pub(crate) mod run;
mod tally;
mod text;
mod view;
mod watch;

use goperation::v1::{
    self, CancelRequestRequest, DeleteRequestRequest, IndexRequestsRequest, IndexResponsesRequest,
    OvertimeRequest, ResumeRequestRequest, ShowRequestRequest, ShowRequestResponse,
};
use tonic::{Response, Status};

use self::{view::Form, watch::Asked};
use crate::{
    args::RequestCommand,
    client::{Client, PAGE, all_pages},
    error::Error,
    hint::Subject,
    output::Output,
};

/// Runs one command.
pub(crate) async fn run(
    client: &Client,
    output: Output,
    command: RequestCommand,
) -> Result<(), Error> {
    match command {
        RequestCommand::Run(args) => run::run(client, output, *args).await,
        RequestCommand::Ls { filter, limit } => list(client, output, filter, limit).await,
        RequestCommand::Show(request) => {
            let request = show(client, &request.id).await?;
            let answer = ShowRequestResponse { request: Some(request) };
            output.answer(&answer, |a| a.request.as_ref().map(text::details).unwrap_or_default())
        }
        RequestCommand::Responses { request, filter } => {
            responses(client, output, &request.id, &filter).await
        }
        RequestCommand::Watch { request, cursor, follow, jsonl, patience } => {
            let request = show(client, &request.id).await?;
            let form = Form::of_watch(output, jsonl);
            let asked = Asked { form, cursor, follow, wait: patience.wait };
            watch::watch(client, request, asked).await
        }
        RequestCommand::Cancel(request) => {
            let id = request.id;
            let message = CancelRequestRequest { id: id.clone() };
            let answer = client.requests().cancel_request(client.request(message)).await;
            let answer = known(answer, &id)?;
            output.answer(&answer, |a| text::rows(a.request.as_slice()))
        }
        RequestCommand::Resume { request, max_failures, watch, jsonl, patience } => {
            let id = request.id;
            let message = ResumeRequestRequest { id: id.clone(), max_failures };
            let answer = client.requests().resume_request(client.request(message)).await;
            let answer = known(answer, &id)?;
            match answer.request {
                Some(request) if watch || jsonl => {
                    let (form, cursor) = (Form::of_watch(output, jsonl), String::new());
                    let asked = Asked { form, cursor, follow: false, wait: patience.wait };
                    watch::watch(client, request, asked).await
                }
                _ => output.answer(&answer, |a| {
                    let shows = format!("`gop request watch {id}` shows it\n");
                    text::rows(a.request.as_slice()) + &shows
                }),
            }
        }
        RequestCommand::Overtime { request, agents } => {
            let id = request.id;
            let message = OvertimeRequest { id: id.clone(), agents };
            let answer = client.requests().overtime(client.request(message)).await;
            let answer = known(answer, &id)?;
            output.answer(&answer, |a| text::rows(a.request.as_slice()))
        }
        RequestCommand::Rm(request) => {
            let id = request.id;
            let message = DeleteRequestRequest { id: id.clone() };
            let answer = client.requests().delete_request(client.request(message)).await;
            let answer = known(answer, &id)?;
            output.answer(&answer, |_| format!("removed {id}"))
        }
    }
}

/// A request as it is now.
async fn show(client: &Client, id: &str) -> Result<v1::Request, Error> {
    let message = ShowRequestRequest { id: id.to_owned() };
    let answer = client.requests().show_request(client.request(message)).await;
    known(answer, id)?
        .request
        .ok_or_else(|| Error::Failed("the manager's answer has no request".to_owned()))
}

fn known<T>(answer: Result<Response<T>, Status>, id: &str) -> Result<T, Error> {
    match answer {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => Err(Error::from(status).about(&Subject::request(id))),
    }
}

async fn list(client: &Client, output: Output, filter: String, limit: i32) -> Result<(), Error> {
    let message = IndexRequestsRequest { page_size: limit, page_token: String::new(), filter };
    let answer = client.requests().index_requests(client.request(message)).await?.into_inner();
    output.answer(&answer, |a| {
        let shown = a.requests.len();
        let more = usize::try_from(a.total_size).unwrap_or_default().saturating_sub(shown);
        let more =
            if more > 0 { format!("… and {more} older: -n, --filter\n") } else { String::new() };
        text::rows(&a.requests) + &more
    })
}

/// Lists what became of each agent.
pub(crate) async fn responses(
    client: &Client,
    output: Output,
    id: &str,
    filter: &str,
) -> Result<(), Error> {
    let answer = all_pages(|page_token| {
        let request = client.request(IndexResponsesRequest {
            id: id.to_owned(),
            page_size: PAGE,
            page_token,
            filter: filter.to_owned(),
        });
        let mut requests = client.requests();
        async move { requests.index_responses(request).await }
    })
    .await
    .map_err(|error| error.about(&Subject::request(id)))?;
    output.answer(&answer, |a| text::responses(&a.responses))
}
