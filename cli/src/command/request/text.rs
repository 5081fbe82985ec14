//! Requests in words: listings, a line for each event, and how one has ended.

use goperation::{
    from_timestamp, to_duration,
    v1::{
        AgentEvent, AgentResponse, PlanRequestResponse, Request, RequestCounts, RequestSelection,
        RequestState, ResponseState, Rollout, WatchRequestResponse, watch_request_response::Event,
    },
};
use prost_types::Struct;
use serde_json::Value;

use crate::output::{fields, object, one_line, or_dash, short, table, time};

/// A state without its prefix.
pub(super) fn state(request: &Request) -> &'static str {
    let name = request.state().as_str_name();
    name.strip_prefix("REQUEST_STATE_").unwrap_or(name)
}

/// A state without its prefix.
pub(super) fn of_agent(state: ResponseState) -> &'static str {
    let name = state.as_str_name();
    name.strip_prefix("RESPONSE_STATE_").unwrap_or(name)
}

/// A method with its namespace, as it is typed.
pub(super) fn method(request: &Request) -> String {
    match request.namespace.as_str() {
        "" | goperation::MANAGER_NAMESPACE => request.method.clone(),
        endpoint => format!("{endpoint}.{}", request.method),
    }
}

/// `3 succeeded, 1 failed`: those that are not 0.
pub(super) fn counts(counts: &RequestCounts) -> String {
    let mut parts: Vec<_> = [
        (counts.succeeded, "succeeded"),
        (counts.failed, "failed"),
        (counts.silent, "silent"),
        (counts.running, "running"),
        (counts.pending, "not sent"),
        (counts.skipped, "skipped"),
    ]
    .into_iter()
    .filter(|(count, _)| *count != 0)
    .map(|(count, word)| format!("{count} {word}"))
    .collect();
    if counts.late != 0 {
        parts.push(format!("{} of them late", counts.late));
    }
    parts.join(", ")
}

/// `1 agent`, `3 agents`.
pub(super) fn agents(count: i32) -> String {
    if count == 1 { "1 agent".to_owned() } else { format!("{count} agents") }
}

/// How long a request has run; until `now` when it has not ended.
pub(super) fn took(request: &Request, now: u64) -> String {
    let begin = request.request_time.as_ref().map_or(now, from_timestamp);
    let end = request.end_time.as_ref().map_or(now, from_timestamp);
    let seconds = end.saturating_sub(begin) / 1000;
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}

/// Requests as a table.
pub(super) fn rows(requests: &[Request]) -> String {
    table(
        ["ID", "METHOD", "STATE", "AGENTS", "SUCCEEDED", "FAILED", "SILENT", "BEGAN"],
        requests.iter().map(|r| {
            let counts = r.counts.unwrap_or_default();
            [
                r.id.clone(),
                method(r),
                state(r).to_owned(),
                counts.agents.to_string(),
                counts.succeeded.to_string(),
                counts.failed.to_string(),
                counts.silent.to_string(),
                time(r.request_time.as_ref()),
            ]
        }),
    )
}

/// One request, a field a line.
pub(super) fn details(r: &Request) -> String {
    let all = r.counts.unwrap_or_default();
    let args = object(r.args.as_ref());
    let hooks: Vec<_> =
        [("pre_run", &r.pre_run), ("after_run", &r.after_run), ("post_run", &r.post_run)]
            .into_iter()
            .filter(|(_, hook)| hook.is_some())
            .map(|(name, _)| name)
            .collect();
    fields([
        ("id", r.id.clone()),
        ("method", method(r)),
        (
            "arguments",
            if args.is_empty() { String::new() } else { Value::Object(args).to_string() },
        ),
        ("on", r.on.as_ref().map(selection).unwrap_or_default()),
        ("roll-out", r.rollout.as_ref().map(rollout).unwrap_or_default()),
        ("hooks", hooks.join(", ")),
        ("state", state(r).to_owned()),
        ("agents", all.agents.to_string()),
        ("of them", counts(&all)),
        ("result", format!("{} {}", r.resultcode, r.result).trim_end().to_owned()),
        ("began", time(r.request_time.as_ref())),
        ("start until", time(r.finish_time.as_ref())),
        ("answer until", time(r.deadline.as_ref())),
        ("ended", time(r.end_time.as_ref())),
        ("answers kept", r.expire.as_ref().and_then(to_duration).map(words).unwrap_or_default()),
        ("plan", r.plan.clone()),
        ("etag", r.etag.clone()),
    ])
}

fn words(duration: std::time::Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn selection(on: &RequestSelection) -> String {
    let mut parts = Vec::new();
    if on.all {
        parts.push("all agents".to_owned());
    }
    if !on.agents.is_empty() {
        parts.push(format!("agents {}", on.agents));
    }
    if !on.endpoint.is_empty() {
        parts.push(format!("agents with endpoint {}", on.endpoint));
    }
    if !on.filter.is_empty() {
        parts.push(format!("where {}", on.filter));
    }
    parts.extend(on.includes.iter().map(|include| format!("with {include}")));
    if !on.entities.is_empty() {
        parts.push(format!("entities {}", on.entities));
    }
    parts.join(", ")
}

fn rollout(rollout: &Rollout) -> String {
    let mut parts = Vec::new();
    if rollout.canary > 0 {
        parts.push(format!("{} first", rollout.canary));
    }
    if !rollout.batch.is_empty() {
        parts.push(format!("batches of {}", rollout.batch));
    }
    if let Some(pause) = rollout.pause.as_ref().and_then(to_duration) {
        parts.push(format!("{} between", words(pause)));
    }
    if rollout.max_parallel > 0 {
        parts.push(format!("{} at a time", rollout.max_parallel));
    }
    if let Some(limit) = &rollout.max_failures {
        parts.push(format!("stops above {limit} failures"));
    }
    parts.join(", ")
}

/// What became of each agent.
pub(super) fn responses(rows: &[AgentResponse]) -> String {
    table(
        ["AGENT", "HOST", "STATE", "CODE", "REASON", "ENDED", "ANSWER"],
        rows.iter().map(|r| {
            let late = if r.late { " (late)" } else { "" };
            [
                r.agent_id.to_string(),
                r.host.clone(),
                of_agent(r.state()).to_owned() + late,
                r.resultcode.to_string(),
                or_dash(r.reason.clone()),
                time(r.end_time.as_ref()),
                or_dash(answer(&r.message, &r.progress, r.result.as_ref())),
            ]
        }),
    )
}

/// What an agent said, in a few words.
fn answer(message: &str, progress: &str, result: Option<&Struct>) -> String {
    let object = object(result);
    if !message.is_empty() {
        message.to_owned()
    } else if !object.is_empty() {
        short(&Value::Object(object).to_string())
    } else {
        progress.to_owned()
    }
}

/// A plan: whom it would touch, and what then.
pub(super) fn plan(plan: &PlanRequestResponse) -> String {
    let all = plan.agents.len();
    let table = table(
        ["BATCH", "AGENT", "HOST", "ENTITIES", "EXPECTED", "WHY"],
        plan.agents.iter().map(|p| {
            [
                if p.batch == 0 { "-".to_owned() } else { p.batch.to_string() },
                p.agent_id.to_string(),
                p.host.clone(),
                or_dash(p.entities.clone()),
                if p.reason.is_empty() { "runs".to_owned() } else { p.reason.clone() },
                or_dash(p.why.clone()),
            ]
        }),
    );
    let hash = &plan.hash;
    format!("{table}{} of {all} would run; --plan-hash {hash} runs just this\n", plan.ready)
}

/// A line for one event.
pub(super) fn line(event: &WatchRequestResponse) -> String {
    let said = match &event.event {
        Some(Event::Agent(agent)) => agent_line(agent),
        Some(Event::Request(request)) => {
            let begin = format!("{} on {}: {}", method(request), request.id, state(request));
            match counts(&request.counts.unwrap_or_default()) {
                counts if counts.is_empty() => begin,
                counts => format!("{begin}, {counts}"),
            }
        }
        Some(Event::Summary(request)) => ending(request),
        None => String::new(),
    };
    one_line(&format!("{}  {said}", time(event.time.as_ref())))
}

fn agent_line(agent: &AgentEvent) -> String {
    let mut line = format!("{} {}  {}", agent.agent_id, agent.host, of_agent(agent.state()));
    if agent.late {
        line += " (late)";
    }
    if !agent.reason.is_empty() {
        line = format!("{line} {}", agent.reason);
    }
    let said = answer(&agent.message, &agent.progress, agent.result.as_ref());
    if said.is_empty() { line } else { format!("{line}: {said}") }
}

/// How a request stands at the end, on one line.
pub(super) fn ending(request: &Request) -> String {
    let all = request.counts.unwrap_or_default();
    let now = goperation::now_millis();
    let mut line = format!("{} {} after {}", request.id, state(request), took(request, now));
    line = format!("{line}: {}", agents(all.agents));
    let counts = counts(&all);
    if !counts.is_empty() {
        line = format!("{line}, {counts}");
    }
    if request.state() == RequestState::Failed && !request.result.is_empty() {
        line = format!("{line}: {}", request.result);
    }
    line
}

/// Who has failed, or is silent, below its ending; `all` when not every one is in the rows.
pub(super) fn wrong(title: &str, rows: &[AgentResponse], all: i32, id: &str) -> String {
    let table = table(
        [title, "HOST", "REASON", "MESSAGE"],
        rows.iter().map(|r| {
            let said = answer(&r.message, &r.progress, r.result.as_ref());
            [r.agent_id.to_string(), r.host.clone(), or_dash(r.reason.clone()), or_dash(said)]
        }),
    );
    let more = usize::try_from(all).unwrap_or_default().saturating_sub(rows.len());
    let more = match more {
        0 => String::new(),
        more => {
            format!("… and {more} more: `gop request responses {id} --filter 'state = {title}'`\n")
        }
    };
    format!("\n{table}{more}")
}

#[cfg(test)]
mod tests {
    use goperation::to_timestamp;

    use super::{
        super::tally::tests::{event, request},
        *,
    };

    #[test]
    fn an_event_is_a_line() {
        let said =
            |event: &WatchRequestResponse| line(event).split_once("  ").unwrap().1.to_owned();
        assert_eq!(said(&event(3, ResponseState::Sent, "", "")), "3 h3  SENT");
        assert_eq!(
            said(&event(3, ResponseState::Silent, "AGENT_OFFLINE", "no\nlease")),
            "3 h3  SILENT AGENT_OFFLINE: no lease"
        );
        let mut late = event(4, ResponseState::Succeeded, "", "");
        late.time = Some(to_timestamp(1_000));
        if let Some(Event::Agent(agent)) = &mut late.event {
            agent.late = true;
            let result = serde_json::json!({"x": 1});
            agent.result =
                Some(goperation::json_to_struct("r", result.as_object().unwrap()).unwrap());
        }
        assert_eq!(line(&late), "1970-01-01T00:00:01Z  4 h4  SUCCEEDED (late): {\"x\":1}");
        let begun = WatchRequestResponse {
            event: Some(Event::Request(request(4))),
            ..WatchRequestResponse::default()
        };
        assert_eq!(said(&begun), "sample.echo on r1: RUNNING, 4 not sent");
    }

    #[test]
    fn an_ending_says_what_became_of_all() {
        let mut request = request(5);
        request.state = RequestState::Finished.into();
        request.request_time = Some(to_timestamp(1_000));
        request.end_time = Some(to_timestamp(63_500));
        request.counts = Some(RequestCounts {
            agents: 5,
            succeeded: 3,
            failed: 1,
            silent: 1,
            late: 1,
            ..RequestCounts::default()
        });
        assert_eq!(
            ending(&request),
            "r1 FINISHED after 1m 2s: 5 agents, 3 succeeded, 1 failed, 1 silent, 1 of them late"
        );
        let row = AgentResponse {
            agent_id: 7,
            host: "h7".to_owned(),
            reason: "AGENT_BUSY".to_owned(),
            ..AgentResponse::default()
        };
        assert_eq!(
            wrong("SILENT", &[row], 3, "r1"),
            "\nSILENT   HOST   REASON       MESSAGE\n7        h7     AGENT_BUSY   -\n\
             … and 2 more: `gop request responses r1 --filter 'state = SILENT'`\n"
        );
        let expired = wrong("FAILED", &[], 2, "r1");
        assert!(expired.contains("… and 2 more"), "{expired}");
    }

    #[test]
    fn a_plan_says_how_it_is_run() {
        let agent = |agent_id, reason: &str| goperation::v1::PlannedAgent {
            agent_id,
            host: format!("h{agent_id}"),
            reason: reason.to_owned(),
            ..Default::default()
        };
        let answer = PlanRequestResponse {
            agents: vec![agent(1, ""), agent(2, "AGENT_OFFLINE")],
            ready: 1,
            hash: "abc".to_owned(),
        };
        let text = plan(&answer);
        let lines: Vec<Vec<_>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["-", "1", "h1", "-", "runs", "-"]);
        assert_eq!(lines[2], ["-", "2", "h2", "-", "AGENT_OFFLINE", "-"]);
        assert!(text.ends_with("1 of 2 would run; --plan-hash abc runs just this\n"), "{text}");
    }

    #[test]
    fn a_request_is_shown_as_it_was_asked_for() {
        let mut request = request(2);
        request.on = Some(RequestSelection {
            endpoint: "sample".to_owned(),
            includes: vec!["cpu>=2".to_owned()],
            ..RequestSelection::default()
        });
        request.rollout = Some(Rollout {
            batch: "10%".to_owned(),
            canary: 1,
            max_failures: Some("0".to_owned()),
            ..Rollout::default()
        });
        let text = details(&request);
        for said in [
            "agents with endpoint sample, with cpu>=2",
            "1 first, batches of 10%, stops above 0 failures",
            "sample.echo",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }
}
