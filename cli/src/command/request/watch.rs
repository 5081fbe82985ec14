//! Watching a request to its end, whatever breaks on the way.
//!
//! Invariant: whoever is sent away before the end is told how to go on; 0 is only for a request of
//! which every agent has succeeded.

use std::{pin::pin, time::Duration};

use futures::StreamExt as _;
use goperation::v1::{self, RequestState, WatchRequestRequest, watch_request_response::Event};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::{Response, Status};

use super::{
    feed::{self, Item, Start},
    show, text,
    view::{Form, View},
};
use crate::{client::Client, error::Error, hint::Subject};

/// A stream is there within this time, or it is not.
const OPEN: Duration = Duration::from_secs(15);
/// How often a live view is drawn, at most.
const TICK: Duration = Duration::from_millis(100);
/// Whether a roll-out has stopped for good is asked when so long nothing has happened.
const QUIET: Duration = Duration::from_secs(1);
/// How long that may take.
const ASK: Duration = Duration::from_secs(5);

/// What is watched, and how.
#[derive(Debug)]
pub(super) struct Asked {
    /// How it is shown.
    pub(super) form: Form,
    /// Of lines: only those after it.
    pub(super) cursor: String,
    /// Whether it goes on after the end.
    pub(super) follow: bool,
    /// How long a broken stream is tried again.
    pub(super) wait: Duration,
}

/// Watches a request until it has ended, or has stopped.
pub(super) async fn watch(
    client: &Client,
    request: v1::Request,
    asked: Asked,
) -> Result<(), Error> {
    let id = request.id.clone();
    let follow = asked.follow;
    let mut view = View::new(asked.form, &request);
    // A live view is of the whole request, wherever somebody has stopped to read.
    let mut cursor = if asked.form == Form::Live { String::new() } else { asked.cursor };
    let open = |cursor: String| {
        let mut requests = client.requests();
        let message = WatchRequestRequest { id: id.clone(), cursor, follow };
        async move {
            match timeout(OPEN, requests.watch_request(message)).await {
                Ok(answer) => answer.map(Response::into_inner),
                Err(_) => Err(Status::unavailable("the manager does not answer")),
            }
        }
    };
    let start = Start { cursor: cursor.clone(), follow, wait: asked.wait };
    let mut items = pin!(feed::items(start, open));
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut state = request.state();
    let mut last = Instant::now();

    let ended = loop {
        tokio::select! {
            item = items.next() => {
                last = Instant::now();
                match item.transpose().map_err(|e| e.about(&Subject::request(&id)))? {
                    Some(Item::Event(event)) => {
                        cursor.clone_from(&event.cursor);
                        view.event(&event)?;
                        match event.event {
                            Some(Event::Summary(request)) if !follow => break request,
                            Some(Event::Summary(request) | Event::Request(request)) => {
                                state = request.state();
                            }
                            Some(Event::Agent(_)) | None => {}
                        }
                    }
                    // Nothing more comes of a request whose events were seen, or have expired.
                    Some(Item::Closed) => match timeout(ASK, show(client, &id)).await {
                        Ok(Ok(request)) if has_ended(request.state()) && !follow => break request,
                        _ => view.note("the manager has closed the stream; trying again")?,
                    },
                    Some(Item::Broken(cause)) => {
                        let from = or_begin(&cursor);
                        view.note(&format!("the stream broke ({cause}); going on from {from}"))?;
                    }
                    Some(Item::Back) => view.note("the stream is there again")?,
                    Some(Item::GaveUp(cause)) => {
                        let waited = humantime::format_duration(asked.wait);
                        return Err(left(&id, &cursor, &format!(
                            "{cause}: given up after {waited} (--wait)"
                        )));
                    }
                    None => return Err(left(&id, &cursor, "the stream has ended")),
                }
            }
            _ = tick.tick() => {
                view.tick()?;
                if state == RequestState::Stopped && !follow && last.elapsed() >= QUIET {
                    last = Instant::now();
                    if let Ok(Ok(request)) = timeout(ASK, show(client, &id)).await {
                        state = request.state();
                        let running = request.counts.is_some_and(|counts| counts.running > 0);
                        if state == RequestState::Stopped && !running {
                            break request;
                        }
                    }
                }
            }
            _ = &mut interrupt => {
                if has_ended(state) {
                    break show(client, &id).await?;
                }
                return Err(left(&id, &cursor, "interrupted"));
            }
        }
    };
    view.end(client, &ended).await?;
    verdict(&ended)
}

/// Whether nothing is sent or awaited any more.
pub(super) fn has_ended(state: RequestState) -> bool {
    matches!(state, RequestState::Finished | RequestState::Cancelled | RequestState::Failed)
}

/// It is watched no longer, and goes on.
fn left(id: &str, cursor: &str, why: &str) -> Error {
    let cursor = if cursor.is_empty() { String::new() } else { format!(" --cursor {cursor}") };
    Error::Failed(format!(
        "{why}; the request goes on without you\nhint: `gop request watch {id}{cursor}` goes on \
         watching, `gop request cancel {id}` sends to no further agent"
    ))
}

fn or_begin(cursor: &str) -> String {
    if cursor.is_empty() { "the beginning".to_owned() } else { format!("cursor {cursor}") }
}

/// Whether every agent has succeeded; if not, what to do next.
fn verdict(request: &v1::Request) -> Result<(), Error> {
    let all = request.counts.unwrap_or_default();
    let id = &request.id;
    let (what, hint) = match request.state() {
        RequestState::Finished if all.succeeded == all.agents => return Ok(()),
        RequestState::Stopped => {
            let left = text::agents(all.pending);
            let hint = format!("`gop request resume {id}` goes on with the {left} not sent to");
            ("has stopped at its limit of failures", hint)
        }
        RequestState::Failed => {
            ("failed before anything was sent", format!("`gop request show {id}` has the cause"))
        }
        RequestState::Cancelled => {
            ("was cancelled", format!("`gop request responses {id}` tells of each agent"))
        }
        _ => {
            let hint = format!("`gop request responses {id}` has what each of them said");
            ("has not succeeded on every agent", hint)
        }
    };
    let counts = text::counts(&all);
    let counts = if counts.is_empty() { counts } else { format!(": {counts}") };
    Err(Error::Failed(format!("request {id} {what}{counts}\nhint: {hint}")))
}

#[cfg(test)]
mod tests {
    use goperation::v1::RequestCounts;

    use super::{super::tally::tests::request, *};

    fn ended(state: RequestState, succeeded: i32, silent: i32) -> v1::Request {
        let mut request = request(succeeded + silent);
        request.state = state.into();
        request.counts = Some(RequestCounts {
            agents: succeeded + silent,
            succeeded,
            silent,
            ..RequestCounts::default()
        });
        request
    }

    #[test]
    fn only_a_request_that_all_have_done_is_well() {
        assert!(verdict(&ended(RequestState::Finished, 3, 0)).is_ok());
        assert!(verdict(&ended(RequestState::Finished, 0, 0)).is_ok());
        for (request, said) in [
            (ended(RequestState::Finished, 2, 1), "not succeeded on every agent: 2 succeeded, 1 s"),
            (ended(RequestState::Cancelled, 3, 0), "was cancelled: 3 succeeded"),
            (ended(RequestState::Failed, 0, 0), "failed before anything was sent\nhint: "),
            (ended(RequestState::Stopped, 1, 2), "hint: `gop request resume r1` goes on"),
        ] {
            let error = verdict(&request).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn whoever_leaves_is_told_how_to_go_on() {
        let said = left("r1", "41", "interrupted").to_string();
        assert!(said.contains("`gop request watch r1 --cursor 41` goes on"), "{said}");
        assert!(said.contains("`gop request cancel r1`"), "{said}");
        assert!(left("r1", "", "x").to_string().contains("`gop request watch r1` goes on"));
    }
}
