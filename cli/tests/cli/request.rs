//! Requests on `gop dev`: run, watched, planned, and left.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::dev::{Dev, command, text};

const ECHO: [&str; 7] = ["request", "run", "echo", "--namespace", "sample", "--arg", "x=1"];

fn events(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn a_request_tells_of_each_agent_and_ends_with_what_became_of_them() {
    let dev = Dev::start(&["--agents", "3"]);
    dev.ok(&["agent", "activate", "1"]);
    dev.ok(&["agent", "activate", "2"]);
    // The third one is UNACTIVE: it refuses at once, and says why.
    let output = dev.run(&[&ECHO[..], &["--on", "all", "--jsonl"]].concat());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let events = events(&text(&output.stdout));
    let last = |agent: i32| {
        let mut of = events.iter().filter(|event| event["agent"]["agentId"] == agent);
        of.next_back().unwrap_or_else(|| panic!("{events:?}"))["agent"].clone()
    };
    for agent in [1, 2] {
        let last = last(agent);
        assert_eq!(last["state"], "RESPONSE_STATE_SUCCEEDED", "{last}");
        assert_eq!(last["result"]["args"]["x"], 1, "{last}");
    }
    assert_eq!(last(3)["state"], "RESPONSE_STATE_SILENT");
    assert_eq!(last(3)["reason"], "AGENT_NOT_ACTIVE");
    let summary = &events.last().unwrap()["summary"];
    assert_eq!(summary["state"], "REQUEST_STATE_FINISHED", "{events:?}");
    assert_eq!(
        (&summary["counts"]["succeeded"], &summary["counts"]["silent"]),
        (&json!(2), &json!(1))
    );
    let id = summary["id"].as_str().unwrap().to_owned();
    assert!(said.contains("2 succeeded, 1 silent\nhint: `gop request responses"), "{said}");

    // The same from any cursor on; and in words.
    let half = events.len() / 2;
    let cursor = events[half]["cursor"].as_str().unwrap();
    let rest = dev.run(&["request", "watch", &id, "--cursor", cursor, "--jsonl"]);
    assert_eq!(self::events(&text(&rest.stdout)), events[half + 1..]);
    let watched = dev.run(&["request", "watch", &id]);
    assert_eq!(watched.status.code(), Some(1));
    let lines = text(&watched.stdout);
    assert!(lines.contains("3 dev3  SILENT AGENT_NOT_ACTIVE"), "{lines}");
    assert!(lines.contains("\nSILENT   HOST"), "{lines}");
    let rows = dev.ok(&["request", "responses", &id, "--filter", "state = SUCCEEDED"]);
    assert!(rows.contains("dev1") && rows.contains("dev2") && !rows.contains("dev3"), "{rows}");
    assert!(dev.ok(&["request", "show", &id]).contains("2 succeeded, 1 silent"));

    dev.ok(&["agent", "activate", "3"]);
    let ended = dev.ok(&[&ECHO[..], &["--on", "1-3"]].concat());
    assert!(ended.contains("FINISHED") && ended.contains("3 agents, 3 succeeded"), "{ended}");
    assert_eq!(dev.ok(&["request", "ls"]).lines().count(), 3);
    assert!(dev.ok(&["request", "ls", "--filter", "silent > 0"]).contains(&id));
    assert!(dev.ok(&["request", "rm", &id]).contains("removed"));
    let gone = dev.fails(&["request", "watch", &id]);
    assert!(gone.contains("(REQUEST_NOT_FOUND)\nhint: `gop request ls`"), "{gone}");
    dev.stop(Signal::TERM);
}

#[test]
fn a_plan_is_run_as_it_was_seen_and_a_key_begins_once() {
    let dev = Dev::start(&["--agents", "2"]);
    dev.ok(&["agent", "activate", "1"]);
    let on = ["--on", "all", "--batch", "1", "--max-fail", "50%"];
    let plan = dev.json(&[&ECHO[..], &on, &["--plan"]].concat());
    assert_eq!((plan["ready"].as_i64(), plan["agents"].as_array().unwrap().len()), (Some(1), 2));
    let hash = plan["hash"].as_str().unwrap();
    let shown = dev.ok(&[&ECHO[..], &on, &["--plan"]].concat());
    assert!(shown.contains("1 of 2 would run") && shown.contains("AGENT_NOT_ACTIVE"), "{shown}");

    let keyed = [&ECHO[..], &on, &["--plan-hash", hash, "--key", "k1", "--detach"]].concat();
    let begun = dev.json(&keyed);
    assert_eq!(dev.json(&keyed)["request"]["id"], begun["request"]["id"]);
    dev.ok(&["agent", "activate", "2"]);
    let changed = dev.fails(&[&ECHO[..], &on, &["--plan-hash", hash]].concat());
    assert!(changed.contains("(PLAN_CHANGED)"), "{changed}");
    let reused = dev.fails(&[&ECHO[..], &["--on", "1", "--key", "k1"]].concat());
    assert!(reused.contains("(KEY_REUSED)"), "{reused}");
    dev.stop(Signal::TERM);
}

#[test]
fn a_roll_out_that_stopped_is_resumed_and_watched() {
    let dev = Dev::start(&["--agents", "3"]);
    dev.ok(&["agent", "activate", "2"]);
    dev.ok(&["agent", "activate", "3"]);
    // The canary is UNACTIVE and refuses: nobody else is sent to.
    let batches = ["--on", "all", "--canary", "1", "--batch", "1", "--max-fail", "0"];
    let stopped = dev.fails(&[&ECHO[..], &batches].concat());
    let id = stopped.split('`').nth(1).and_then(|hint| hint.split(' ').nth(3)).expect(&stopped);
    assert!(stopped.contains("1 silent, 2 not sent\nhint: `gop request resume "), "{stopped}");

    let resumed = dev.run(&["request", "resume", id, "--watch"]);
    let lines = text(&resumed.stdout);
    assert_eq!(resumed.status.code(), Some(1), "{lines}");
    for line in ["STOPPED, 1 silent, 2 not sent", "2 dev2  SUCCEEDED", "3 dev3  SUCCEEDED"] {
        assert!(lines.contains(line), "{line}\n{lines}");
    }
    assert!(lines.contains("3 agents, 2 succeeded, 1 silent"), "{lines}");
    for verb in ["resume", "cancel"] {
        let over = dev.fails(&["request", verb, id]);
        assert!(over.contains("(STATE_REFUSED)\nhint: it is over: `gop request show"), "{over}");
    }
    dev.stop(Signal::TERM);
}

#[test]
fn many_agents_are_asked_and_upgraded_as_requests() {
    let dev = Dev::start(&["--agents", "2"]);
    let status = dev.ok(&["agent", "status", "--on", "all"]);
    assert!(status.contains("2 agents, 2 succeeded"), "{status}");
    for host in ["dev1", "dev2"] {
        let mut lines = status.lines();
        let line = lines.find(|line| line.contains(host)).unwrap_or_else(|| panic!("{status}"));
        assert!(line.contains("SUCCEEDED"), "{line}");
    }
    let answers = dev.run(&["agent", "status", "--on", "1", "--jsonl"]);
    let answers = events(&text(&answers.stdout));
    let result = answers.iter().find_map(|event| event["agent"]["result"]["state"].as_str());
    assert_eq!(result, Some("UNACTIVE"), "{answers:?}");

    let upgrade = ["agent", "upgrade", "--on", "all", "next.rpm", "--canary", "1"];
    let plan = dev.json(&[&upgrade[..], &["--plan"]].concat());
    assert_eq!(plan["ready"], 2, "{plan}");
    let hash = plan["hash"].as_str().unwrap();
    let keyed = [&upgrade[..], &["--plan-hash", hash, "--key", "up"]].concat();
    let told = dev.ok(&[&keyed[..], &["--watch"]].concat());
    for line in ["1 dev1  SUCCEEDED", "2 dev2  SUCCEEDED", "2 agents, 2 succeeded"] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    let again = dev.json(&[&keyed[..], &["--detach"]].concat());
    assert!(told.contains(again["request"]["id"].as_str().unwrap()), "{again}\n{told}");
    for agent in ["1", "2"] {
        let shown = dev.ok(&["agent", "show", agent]);
        assert!(shown.contains("SUCCEEDED next.rpm"), "{shown}");
    }
    let nobody = dev.fails(&["agent", "status", "--on", "1-9"]);
    assert!(nobody.contains("(AGENT_NOT_FOUND)\nhint: `gop agent ls --all`"), "{nobody}");
    dev.stop(Signal::TERM);
}

#[test]
fn whoever_leaves_is_told_how_to_go_on() {
    let dev = Dev::start(&[]);
    dev.ok(&["agent", "activate", "1"]);
    let mut child = command(&["request", "run", "sleep", "--namespace", "sample", "--on", "all"])
        .args(["--arg", "seconds=600", "--timeout", "1h", "--watch"])
        .env("GOP_SERVER", &dev.server)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It runs when the agent says so.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let seen = lines.find(|line| {
        line.as_ref().unwrap().contains("RUNNING") && line.as_ref().unwrap().contains("dev1")
    });
    assert!(seen.is_some());
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    let command = said.split('`').nth(1).unwrap();
    let words: Vec<_> = command.split(' ').collect();
    assert_eq!((&words[..3], words[4]), (&["gop", "request", "watch"][..], "--cursor"), "{said}");
    let running = dev.json(&["request", "show", words[3]]);
    assert_eq!(running["request"]["state"], "REQUEST_STATE_RUNNING", "{running}");

    // Given up, it ends, and who watches it learns so.
    dev.ok(&["request", "overtime", words[3]]);
    let ended = dev.run(&words[1..]);
    assert_eq!(ended.status.code(), Some(1));
    let lines = text(&ended.stdout);
    assert!(lines.contains("SILENT OUTCOME_UNKNOWN"), "{lines}");
    dev.stop(Signal::TERM);
}
