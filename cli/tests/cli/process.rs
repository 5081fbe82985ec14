//! Processes of entities, and where entities are placed, on `gop dev`.

use std::process::Stdio;

use goperation_launcher::ProcessId;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::dev::{Dev, command, kill_games, text};

/// The pid that a status tells; 0 when it does not run.
fn pid(dev: &Dev, name: &str) -> u32 {
    let status = dev.json(&["entity", "status", name]);
    status["process"]["pid"].as_u64().unwrap().try_into().unwrap()
}

fn alive(pid: u32) -> bool {
    ProcessId::of(pid).unwrap().is_some_and(|process| process.is_alive())
}

/// A folder whose games end with the test.
struct Kept(TempDir);

impl Drop for Kept {
    fn drop(&mut self) {
        kill_games(self.0.path());
    }
}

#[test]
fn a_process_is_started_looked_at_and_stopped() {
    let dev = Dev::start(&["--no-games"]);
    dev.ok(&["agent", "activate", "1"]);
    for _ in 0..2 {
        dev.ok(&["entity", "create", "clock", "--on", "1", "--port", "game/udp"]);
    }
    let started = dev.ok(&["entity", "start", "clock:1"]);
    assert!(started.starts_with("clock:1 RUNNING pid "), "{started}");
    let first = pid(&dev, "clock:1");
    assert!(alive(first), "{first}");
    // Again: it is left alone.
    assert_eq!(
        dev.ok(&["entity", "start", "clock", "1"]),
        format!("clock:1 RUNNING pid {first}\n")
    );

    let status = dev.ok(&["entity", "status", "clock:1"]);
    for line in [
        "process:     RUNNING".to_owned(),
        format!("pid:         {first}"),
        "restarts:    0".to_owned(),
        "last exit:   -".to_owned(),
    ] {
        assert!(status.contains(&line), "{status}");
    }
    let port = status.lines().find(|line| line.starts_with("20000 ")).unwrap();
    assert!(port.ends_with("reserved, bound by nobody"), "{status}");
    let listed = dev.until(&["entity", "ls"], |v| {
        v["entities"][0]["process"]["state"] == "PROCESS_STATE_RUNNING"
    });
    assert_eq!(listed["entities"][0]["process"]["pid"], first);
    assert!(dev.ok(&["entity", "ls"]).contains("RUNNING"));
    assert!(dev.ok(&["entity", "show", "clock:1"]).contains("RUNNING"));

    let restarted = dev.json(&["entity", "restart", "clock:1", "--grace", "3s"]);
    let second = restarted["process"]["pid"].clone();
    assert_ne!(second, json!(first));
    assert!(!alive(first));

    let delete = dev.fails(&["entity", "delete", "clock:1"]);
    assert!(delete.contains("(STATE_REFUSED)"), "{delete}");
    assert!(delete.contains("`gop entity stop clock 1`"), "{delete}");
    assert_eq!(dev.ok(&["entity", "stop", "clock:1"]), "clock:1 STOPPED\n");
    assert_eq!(dev.ok(&["entity", "stop", "clock:1"]), "clock:1 STOPPED\n");
    let status = dev.ok(&["entity", "status", "clock:1"]);
    assert!(status.contains("last exit:   code 0 at ") && status.contains("(stop)"), "{status}");
    dev.ok(&["entity", "start", "clock:1"]);
    let third = pid(&dev, "clock:1");
    assert_eq!(dev.ok(&["entity", "kill", "clock:1"]), "clock:1 STOPPED\n");
    assert_eq!(dev.ok(&["entity", "kill", "clock:1"]), "clock:1 STOPPED\n");
    assert!(!alive(third));
    assert!(dev.ok(&["entity", "delete", "clock:1"]).contains("deleted clock:1"));
    dev.stop(Signal::TERM);
}

#[test]
fn several_at_once_each_have_a_result() {
    let dev = Dev::start(&["--no-games"]);
    dev.ok(&["agent", "activate", "1"]);
    for _ in 0..3 {
        dev.ok(&["entity", "create", "clock", "--on", "1"]);
    }
    dev.ok(&["entity", "create", "sample", "--on", "1"]);
    let all = ["clock:1", "clock:2", "clock:3"];
    let started = dev.ok(&[&["entity", "start"][..], &all].concat());
    for name in all {
        assert!(started.contains(&format!("{name} RUNNING pid ")), "{started}");
    }
    let stop = dev.run(&["--json", "entity", "stop", "clock:1", "clock:9", "sample:1", "clock:3"]);
    assert_eq!(stop.status.code(), Some(1));
    let stdout = String::from_utf8(stop.stdout).unwrap();
    let mut stopped: Vec<_> = stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|answer| {
            assert_eq!(answer["process"]["state"], "PROCESS_STATE_STOPPED");
            answer["entity"]["number"].as_u64().unwrap()
        })
        .collect();
    stopped.sort_unstable();
    assert_eq!(stopped, [1, 3]);
    let stderr = String::from_utf8(stop.stderr).unwrap();
    let said: Vec<_> = stderr.lines().filter(|line| !line.starts_with("hint: ")).collect();
    assert_eq!(said.len(), 3, "{stderr}");
    assert!(stderr.contains("error: clock:9: there is no entity 9 of clock (ENTITY_NOT_FOUND)\n"));
    assert!(stderr.contains("error: sample:1: ") && stderr.contains("(METHOD_NOT_FOUND)"));
    assert!(stderr.contains("it needs `driver = \"process\"`"), "{stderr}");
    assert_eq!(said[2], "error: 2 of 4 failed");
    assert!(alive(pid(&dev, "clock:2")));
    for wrong in [&["sample"][..], &["sample:1", "2"], &["sample", "0"]] {
        let wrong = dev.run(&[&["entity", "start"], wrong].concat());
        assert_eq!((wrong.status.code(), wrong.stdout.len()), (Some(2), 0));
    }
    dev.stop(Signal::TERM);
}

#[test]
fn a_closed_stdout_leaves_none_out() {
    let dev = Dev::start(&["--no-games"]);
    dev.ok(&["agent", "activate", "1"]);
    // More than are asked for at a time.
    let names: Vec<_> = (1..=10).map(|number| format!("clock:{number}")).collect();
    for _ in &names {
        dev.ok(&["entity", "create", "clock", "--on", "1"]);
    }
    let unread = |names: &[&str]| {
        let mut child = command(&[&["entity", "start"], names].concat())
            .env("GOP_SERVER", &dev.server)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let all: Vec<_> = names.iter().map(String::as_str).collect();
    assert_eq!(unread(&all), (Some(0), String::new()));
    for name in &names {
        assert!(alive(pid(&dev, name)), "{name}");
    }
    // It hides no failure.
    let (code, said) = unread(&["clock:1", "clock:99"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("(ENTITY_NOT_FOUND)"), "{said}");
    assert!(said.ends_with("error: 1 of 2 failed\n"), "{said}");
    dev.stop(Signal::TERM);
}

#[test]
fn the_best_agent_is_chosen() {
    let dev = Dev::start(&["--agents", "3", "--no-games"]);
    let none = dev.ok(&["endpoint", "choose", "clock"]);
    assert!(none.ends_with("no agent suits; --explain says why\n"), "{none}");
    let create = ["entity", "create", "clock", "--choose"];
    let refused = dev.fails(&create);
    assert!(refused.contains("(NO_AGENT_SUITS)\n"), "{refused}");
    assert!(refused.contains("`gop endpoint choose clock --explain`"), "{refused}");
    let refused = dev.fails(&[&create[..], &["--include", "id<9"]].concat());
    assert!(
        refused.contains("`gop endpoint choose clock --include 'id<9' --explain`"),
        "{refused}"
    );
    for agent in ["1", "2"] {
        dev.ok(&["agent", "activate", agent]);
    }
    dev.ok(&["entity", "create", "clock", "--on", "1"]);

    let chosen = dev.ok(&["endpoint", "choose", "clock", "--weigh", "entities", "--explain"]);
    let rows: Vec<Vec<_>> = chosen.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["AGENT", "HOST", "ENTITIES", "WEIGHTS"]);
    assert_eq!(rows[1][..3], ["2", "dev2", "0"]);
    assert_eq!(rows[2][..3], ["1", "dev1", "1"]);
    assert_eq!(rows[4], ["LEFT", "OUT", "HOST", "WHY"]);
    assert_eq!(rows[5][..2], ["3", "dev3"]);
    assert!(rows[5].contains(&"UNACTIVE,"), "{chosen}");
    let one = ["endpoint", "choose", "clock", "--limit", "1", "--include", "id<2"];
    let one = dev.json(&one)["candidates"].clone();
    assert_eq!((&one[0]["agentId"], &one[1]), (&json!(1), &Value::Null), "{one}");

    let dry = dev.ok(&[&create[..], &["--dry-run", "--weigh", "id/-1"]].concat());
    assert_eq!(dry.lines().nth(1).unwrap().split_whitespace().next(), Some("2"), "{dry}");
    assert_eq!(dev.json(&["entity", "ls"])["entities"].as_array().unwrap().len(), 1);
    let keyed = [&create[..], &["--key", "night", "--description", "chosen"]].concat();
    let created = dev.json(&keyed);
    assert_eq!(
        (&created["entity"]["agentId"], &created["entity"]["number"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(dev.json(&keyed)["entity"]["number"], 2);
    let other = dev.fails(&[&create[..], &["--key", "night"]].concat());
    assert!(other.contains("(KEY_REUSED)"), "{other}");
    let wrong = dev.fails(&[&create[..], &["--include", "nonsense>1"]].concat());
    assert!(wrong.contains("(INVALID_ARGUMENT)"), "{wrong}");
    dev.stop(Signal::TERM);
}

#[test]
fn a_game_outlives_gop_dev_only_where_it_is_found_again() {
    let dev = Dev::start(&["--no-games"]);
    dev.ok(&["agent", "activate", "1"]);
    dev.ok(&["entity", "create", "clock", "--on", "1"]);
    dev.ok(&["entity", "start", "clock:1"]);
    let lost = pid(&dev, "clock:1");
    dev.stop(Signal::TERM);
    assert!(!alive(lost), "its folder is removed");

    let folder = Kept(tempfile::tempdir().unwrap());
    let path = folder.0.path().to_str().unwrap();
    let args = ["--no-games", "--data-dir", path];
    let dev = Dev::start(&args);
    dev.ok(&["agent", "activate", "1"]);
    dev.ok(&["entity", "create", "clock", "--on", "1"]);
    dev.ok(&["entity", "start", "clock:1"]);
    let kept = pid(&dev, "clock:1");
    dev.stop_and_leave(Signal::INT);
    assert!(alive(kept), "the next one finds it");

    let dev = Dev::start(&args);
    let adopted = dev.until(&["entity", "status", "clock:1"], |v| {
        v["process"]["state"] == "PROCESS_STATE_RUNNING"
    });
    assert_eq!(adopted["process"]["pid"], kept);
    dev.ok(&["entity", "stop", "clock:1"]);
    assert!(!alive(kept));
    dev.stop(Signal::TERM);
}
