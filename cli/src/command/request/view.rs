//! What is shown of a request that is watched: lines, JSON, a live view, or its end alone.
//!
//! Invariant: stdout has what has happened, stderr what became of the stream.

use std::io::{self, IsTerminal as _, Write as _};

use goperation::{
    now_millis,
    v1::{
        self, AgentResponse, IndexResponsesRequest, ShowRequestResponse, WatchRequestResponse,
        watch_request_response::Event,
    },
};

use super::{
    known,
    live::{self, Screen},
    tally::Tally,
    text,
};
use crate::{
    client::Client,
    error::Error,
    output::{Output, one_line, print},
};

/// Agents that are named at the end, at most, of each kind.
const NAMED: i32 = 1000;

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Only the end.
    End,
    /// Only the request at its end, as JSON.
    EndJson,
    /// A line for each event.
    Lines,
    /// A line of JSON for each event.
    JsonLines,
    /// A few lines that are drawn again.
    Live,
}

impl Form {
    /// Of `gop request watch`, and of `run` with --watch.
    pub(super) fn of_watch(output: Output, jsonl: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if jsonl || output.is_json() {
            Self::JsonLines
        } else if io::stdout().is_terminal() && !dumb {
            Self::Live
        } else {
            Self::Lines
        }
    }
}

/// What is shown on the way.
pub(super) enum View {
    /// Nothing until the end.
    End { json: bool },
    /// A line for each event; whether the summary was one.
    Lines { summed: bool },
    /// A line of JSON for each event.
    JsonLines,
    /// A few lines that are drawn again.
    Live(Box<Live>),
}

/// A live view and its place on the terminal.
pub(super) struct Live {
    tally: Tally,
    screen: Screen,
    changed: bool,
    /// When it was drawn, in seconds: the time that it has run is shown.
    drawn: u64,
}

impl View {
    /// Nothing is shown yet.
    pub(super) fn new(form: Form, request: &v1::Request) -> Self {
        match form {
            Form::End => Self::End { json: false },
            Form::EndJson => Self::End { json: true },
            Form::Lines => Self::Lines { summed: false },
            Form::JsonLines => Self::JsonLines,
            Form::Live => Self::Live(Box::new(Live {
                tally: Tally::new(request.clone()),
                screen: Screen::default(),
                changed: true,
                drawn: 0,
            })),
        }
    }

    /// Something has happened.
    pub(super) fn event(&mut self, event: &WatchRequestResponse) -> Result<(), Error> {
        match self {
            Self::End { .. } => Ok(()),
            Self::Lines { summed } => {
                *summed = matches!(event.event, Some(Event::Summary(_)));
                print(&text::line(event))
            }
            Self::JsonLines => Output::new(true).line(event, |_| String::new()),
            Self::Live(live) => {
                live.tally.take(event);
                live.changed = true;
                Ok(())
            }
        }
    }

    /// Some time has gone by.
    pub(super) fn tick(&mut self) -> Result<(), Error> {
        match self {
            Self::Live(live) => live.draw(),
            Self::End { .. } | Self::Lines { .. } | Self::JsonLines => Ok(()),
        }
    }

    /// Says on stderr what has become of the stream.
    pub(super) fn note(&mut self, note: &str) -> Result<(), Error> {
        if let Self::Live(live) = self {
            live.screen.clear(&mut io::stdout().lock())?;
            live.changed = true;
        }
        // It is no loss of the request's when nobody reads it.
        let _ = io::stderr().write_all(format!("{}\n", one_line(note)).as_bytes());
        Ok(())
    }

    /// How it has ended, with who failed and who is silent.
    pub(super) async fn end(
        &mut self,
        client: &Client,
        request: &v1::Request,
    ) -> Result<(), Error> {
        match self {
            Self::JsonLines => return Ok(()),
            Self::End { json: true } => {
                let answer = ShowRequestResponse { request: Some(request.clone()) };
                return Output::new(true).answer(&answer, |_| String::new());
            }
            Self::Lines { summed: true } => {}
            Self::Lines { summed: false } | Self::End { json: false } => {
                print(&text::ending(request))?;
            }
            Self::Live(live) => {
                live.screen.clear(&mut io::stdout().lock())?;
                print(&text::ending(request))?;
            }
        }
        let all = request.counts.unwrap_or_default();
        for (state, count) in [("FAILED", all.failed), ("SILENT", all.silent)] {
            if count > 0 {
                match rows(client, &request.id, state).await {
                    Ok(rows) => print(&text::wrong(state, &rows, count, &request.id))?,
                    Err(error) => error.report_of(&format!("who is {state}")),
                }
            }
        }
        Ok(())
    }
}

impl Live {
    /// Draws it when something has changed, or the clock.
    fn draw(&mut self) -> Result<(), Error> {
        let now = now_millis();
        if self.changed || self.drawn != now / 1000 {
            let lines = live::frame(&self.tally, now, live::size());
            self.screen.draw(&mut io::stdout().lock(), &lines)?;
            self.changed = false;
            self.drawn = now / 1000;
        }
        Ok(())
    }
}

/// The first agents of a state.
async fn rows(client: &Client, id: &str, state: &str) -> Result<Vec<AgentResponse>, Error> {
    let message = IndexResponsesRequest {
        id: id.to_owned(),
        page_size: NAMED,
        page_token: String::new(),
        filter: format!("state = {state}"),
    };
    let answer = client.requests().index_responses(client.request(message)).await;
    Ok(known(answer, id)?.responses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_lines_of_it() {
        assert_eq!(Form::of_watch(Output::new(true), false), Form::JsonLines);
        assert_eq!(Form::of_watch(Output::new(false), true), Form::JsonLines);
    }
}
